/*
 * sql_args.c
 *		Arguments of SQL-callable functions: the checks that several share.
 *
 * All throw ERRCODE_NULL_VALUE_NOT_ALLOWED for a NULL that can't be, and
 * ERRCODE_INVALID_PARAMETER_VALUE for a value that can't be.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "apply.h"
#include "checkpoint.h"
#include "sql_args.h"

#define MAX_BATCH_SIZE 1000000

static void refuse_null(const char *what);

/* An argument of type name, not empty; what it is called in messages. */
const char *
cqrs_sql_arg_name(FunctionCallInfo fcinfo, int argno, const char *what)
{
	const char *name;

	if (PG_ARGISNULL(argno))
		refuse_null(what);
	name = NameStr(*PG_GETARG_NAME(argno));
	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("%s must not be empty", what),
				 errhint("Give a name.")));
	return name;
}

/*
 * The projection that the first argument names, the caller's to manage, locked
 * until the end of the transaction, and as it is under that lock.
 */
CqrsProjection *
cqrs_sql_arg_projection(FunctionCallInfo fcinfo)
{
	const char *name = cqrs_sql_arg_name(fcinfo, 0, "projection name");
	CqrsProjection *projection;

	cqrs_apply_refuse_handler("manage a projection");

	/* what has the name by now may be another one, which somebody else holds, too */
	do
	{
		int32		id;

		projection = cqrs_projection_find(name, false);
		cqrs_projection_check_owner(projection);
		id = projection->id;
		cqrs_checkpoint_lock(id, true);
		projection = cqrs_projection_get(id);
	} while (projection == NULL || strcmp(NameStr(projection->name), name) != 0);
	cqrs_projection_check_owner(projection);
	return projection;
}

/* An argument of type text; NULL stands for NULL where that is allowed. */
const char *
cqrs_sql_arg_text(FunctionCallInfo fcinfo, int argno, const char *what, bool null_ok)
{
	if (PG_ARGISNULL(argno))
	{
		if (!null_ok)
			refuse_null(what);
		return NULL;
	}
	return text_to_cstring(PG_GETARG_TEXT_PP(argno));
}

/*
 * A filter (text[], or the Datum 0 for none) with those values left out that are
 * not in the list; a list of NIL is unknown. Where nothing would be left, the
 * filter stays: an empty one would be none.
 */
Datum
cqrs_sql_arg_narrow_filter(Datum filter, List *values)
{
	Datum	   *given = NULL;
	int			ngiven = 0;
	Datum	   *kept;
	int			nkept = 0;
	ListCell   *lc;

	if (values == NIL)
		return filter;
	if (filter != (Datum) 0)
		deconstruct_array(DatumGetArrayTypeP(filter), TEXTOID, -1, false, TYPALIGN_INT,
						  &given, NULL, &ngiven);
	kept = palloc(list_length(values) * sizeof(Datum));
	foreach(lc, values)
	{
		bool		wanted = filter == (Datum) 0;

		for (int i = 0; i < ngiven && !wanted; i++)
			wanted = strcmp(TextDatumGetCString(given[i]), strVal(lfirst(lc))) == 0;
		if (wanted)
			kept[nkept++] = CStringGetTextDatum(strVal(lfirst(lc)));
	}
	return nkept == 0 ? filter :
		PointerGetDatum(construct_array(kept, nkept, TEXTOID, -1, false, TYPALIGN_INT));
}

/* on_error: "park", "stop" or "skip". */
const char *
cqrs_sql_arg_on_error(FunctionCallInfo fcinfo, int argno)
{
	const char *value = cqrs_sql_arg_text(fcinfo, argno, "on_error", false);

	if (strcmp(value, "park") != 0 && strcmp(value, "stop") != 0 && strcmp(value, "skip") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for on_error: \"%s\"", value),
				 errhint("Use \"park\", \"stop\" or \"skip\".")));
	return value;
}

/* start_at: "beginning" or "now". */
const char *
cqrs_sql_arg_start_at(FunctionCallInfo fcinfo, int argno)
{
	const char *value = cqrs_sql_arg_text(fcinfo, argno, "start_at", false);

	if (strcmp(value, "beginning") != 0 && strcmp(value, "now") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for start_at: \"%s\"", value),
				 errhint("Use \"beginning\" or \"now\".")));
	return value;
}

/* batch_size: events; 0 stands for NULL. */
int
cqrs_sql_arg_batch_size(FunctionCallInfo fcinfo, int argno)
{
	int			value = PG_ARGISNULL(argno) ? 0 : PG_GETARG_INT32(argno);

	if (!PG_ARGISNULL(argno) && (value < 1 || value > MAX_BATCH_SIZE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size must be between 1 and %d", MAX_BATCH_SIZE),
				 errhint("Leave it out to use cqrs_views.batch_size.")));
	return value;
}

/* segments: only 1, so far. */
void
cqrs_sql_arg_segments(FunctionCallInfo fcinfo, int argno)
{
	int			value;

	if (PG_ARGISNULL(argno))
		refuse_null("segments");
	value = PG_GETARG_INT32(argno);
	if (value < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("segments must be at least 1"),
				 errhint("Use segments => 1.")));
	if (value > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("more than one segment is not supported yet"),
				 errhint("Use segments => 1.")));
}

/*
 * A filter: text[], where NULL and '{}' both mean no filter, as the Datum 0.
 * given tells them apart; it may be NULL.
 */
Datum
cqrs_sql_arg_filter(FunctionCallInfo fcinfo, int argno, const char *what, bool *given)
{
	ArrayType  *array;

	if (given)
		*given = !PG_ARGISNULL(argno);
	if (PG_ARGISNULL(argno))
		return (Datum) 0;
	array = PG_GETARG_ARRAYTYPE_P(argno);
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain nulls", what),
				 errhint("Leave them out of the array.")));
	if (ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array)) == 0)
		return (Datum) 0;
	return PointerGetDatum(array);
}

/*
 * An array of OIDs, not empty and without repetitions. Returns their number;
 * *oids points into the argument.
 */
int
cqrs_sql_arg_oids(FunctionCallInfo fcinfo, int argno, const char *what, Oid **oids)
{
	ArrayType  *array;
	int			n;

	if (PG_ARGISNULL(argno))
		refuse_null(what);
	array = PG_GETARG_ARRAYTYPE_P(argno);
	if (array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain nulls", what),
				 errhint("Leave them out of the array.")));
	n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what),
				 errhint("A projection maintains at least one table: ARRAY['my_table']::regclass[]")));
	*oids = (Oid *) ARR_DATA_PTR(array);
	for (int i = 1; i < n; i++)
		for (int j = 0; j < i; j++)
			if ((*oids)[i] == (*oids)[j])
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("%s must not contain a table twice", what),
						 errhint("Name each table once.")));
	return n;
}

/* A procedure that commits as it goes can't be part of a transaction. */
void
cqrs_sql_arg_refuse_atomic(FunctionCallInfo fcinfo, const char *what)
{
	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("CALL %s cannot run inside a transaction block", what),
				 errdetail("It commits as it goes."),
				 errhint("Commit first, or run it outside of BEGIN and of functions.")));
}

static void
refuse_null(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", what),
			 errhint("Give a value.")));
}
