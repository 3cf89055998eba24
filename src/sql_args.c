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
#include "utils/array.h"
#include "utils/builtins.h"

#include "sql_args.h"

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
				 errmsg("%s must not be empty", what)));
	return name;
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
				 errmsg("%s must not contain nulls", what)));
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
				 errmsg("%s must not contain nulls", what)));
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
						 errmsg("%s must not contain a table twice", what)));
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
			 errmsg("%s must not be null", what)));
}
