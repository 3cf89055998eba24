/*
 * sql_aggregate.c
 *		The aggregates first and last, of one argument and of two.
 *
 * With one argument, input order decides; with two, the second does, and any
 * order of input gives the same result as long as positions differ. NULL is a
 * value like any other: what was NULL last is NULL.
 *
 * last(x) needs no state but the value, which the executor keeps for us. The
 * others keep a KeptValue in the aggregate's memory context. A value is copied
 * only when it wins; what is copied is flat, so expanded objects shrink to
 * their plain form. What is stored out of line stays there: the statement's
 * snapshot keeps it, and losers are never fetched.
 */
#include "postgres.h"

#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"

#include "sql_aggregate.h"

/* a value that won so far; lives in the aggregate's memory context */
typedef struct KeptValue
{
	Datum		value;			/* owned, in "room" bytes, unless by value */
	Size		room;			/* 0 where nothing is allocated */
	int64		position;		/* not set by first(x) */
	int16		typlen;
	bool		typbyval;
	bool		isnull;
} KeptValue;

/* of a call site: the type that the aggregate is used with */
typedef struct ValueType
{
	int16		typlen;
	bool		typbyval;
} ValueType;

PG_FUNCTION_INFO_V1(cqrs_sql_last_transition);
PG_FUNCTION_INFO_V1(cqrs_sql_first_transition);
PG_FUNCTION_INFO_V1(cqrs_sql_last_at_transition);
PG_FUNCTION_INFO_V1(cqrs_sql_first_at_transition);
PG_FUNCTION_INFO_V1(cqrs_sql_kept_value);

static Datum keep_at(FunctionCallInfo fcinfo, bool last);
static MemoryContext aggregate_context(FunctionCallInfo fcinfo);
static KeptValue *create_kept(FunctionCallInfo fcinfo, MemoryContext context);
static void keep(KeptValue *kept, MemoryContext context, Datum value, bool isnull);

/*
 * cqrs.last_transition(state anyelement, x anyelement) RETURNS anyelement
 *
 * The later value wins, NULL or not. The executor copies it.
 */
Datum
cqrs_sql_last_transition(PG_FUNCTION_ARGS)
{
	(void) aggregate_context(fcinfo);
	if (PG_ARGISNULL(1))
		PG_RETURN_NULL();
	PG_RETURN_DATUM(PG_GETARG_DATUM(1));
}

/*
 * cqrs.first_transition(state internal, x anyelement) RETURNS internal
 *
 * The first value wins, NULL or not.
 */
Datum
cqrs_sql_first_transition(PG_FUNCTION_ARGS)
{
	MemoryContext context = aggregate_context(fcinfo);
	KeptValue  *kept;

	if (!PG_ARGISNULL(0))
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));

	kept = create_kept(fcinfo, context);
	keep(kept, context, PG_GETARG_DATUM(1), PG_ARGISNULL(1));
	PG_RETURN_POINTER(kept);
}

/*
 * cqrs.last_transition(state internal, x anyelement, at_position bigint)
 * RETURNS internal
 *
 * The value at the greatest position wins, of several there the later one. A
 * row without a position is passed over.
 */
Datum
cqrs_sql_last_at_transition(PG_FUNCTION_ARGS)
{
	return keep_at(fcinfo, true);
}

/*
 * cqrs.first_transition(state internal, x anyelement, at_position bigint)
 * RETURNS internal
 *
 * The value at the smallest position wins, of several there the earlier one. A
 * row without a position is passed over.
 */
Datum
cqrs_sql_first_at_transition(PG_FUNCTION_ARGS)
{
	return keep_at(fcinfo, false);
}

/*
 * cqrs.kept_value(state internal, x anyelement) RETURNS anyelement
 * cqrs.kept_value(state internal, x anyelement, at_position bigint)
 * RETURNS anyelement
 *
 * The final function of all that have a KeptValue. Only reads it, so that a
 * window may go on from there; only the first argument is ever set.
 */
Datum
cqrs_sql_kept_value(PG_FUNCTION_ARGS)
{
	KeptValue  *kept;

	(void) aggregate_context(fcinfo);
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	kept = (KeptValue *) PG_GETARG_POINTER(0);
	if (kept->isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(kept->value);
}

/* A transition by position: keep the value if it wins. Returns the state. */
static Datum
keep_at(FunctionCallInfo fcinfo, bool last)
{
	MemoryContext context = aggregate_context(fcinfo);
	KeptValue  *kept = PG_ARGISNULL(0) ? NULL : (KeptValue *) PG_GETARG_POINTER(0);

	if (!PG_ARGISNULL(2) &&
		(kept == NULL ||
		 (last ? PG_GETARG_INT64(2) >= kept->position : PG_GETARG_INT64(2) < kept->position)))
	{
		if (kept == NULL)
			kept = create_kept(fcinfo, context);
		keep(kept, context, PG_GETARG_DATUM(1), PG_ARGISNULL(1));
		kept->position = PG_GETARG_INT64(2);
	}
	if (kept == NULL)
		PG_RETURN_NULL();
	PG_RETURN_POINTER(kept);
}

/* Where the state lives. Throws when called as anything but part of an aggregate. */
static MemoryContext
aggregate_context(FunctionCallInfo fcinfo)
{
	MemoryContext context;

	if (!AggCheckCallContext(fcinfo, &context))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("function can only be called by an aggregate"),
				 errhint("Call cqrs.first or cqrs.last.")));
	return context;
}

/* A state without a value, for the type of the second argument. */
static KeptValue *
create_kept(FunctionCallInfo fcinfo, MemoryContext context)
{
	KeptValue  *kept = MemoryContextAllocZero(context, sizeof(KeptValue));
	ValueType  *type = fcinfo->flinfo->fn_extra;

	if (type == NULL)
	{
		Oid			typid = get_fn_expr_argtype(fcinfo->flinfo, 1);

		if (!OidIsValid(typid))
			elog(ERROR, "could not determine the type of an aggregate's argument");
		type = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(ValueType));
		get_typlenbyval(typid, &type->typlen, &type->typbyval);
		fcinfo->flinfo->fn_extra = type;
	}
	kept->typlen = type->typlen;
	kept->typbyval = type->typbyval;
	kept->isnull = true;
	return kept;
}

/* Copies the value into the state, over the one before where there is room. */
static void
keep(KeptValue *kept, MemoryContext context, Datum value, bool isnull)
{
	MemoryContext caller;
	Size		size;

	kept->isnull = isnull;
	if (isnull)
		return;
	if (kept->typbyval)
	{
		kept->value = value;
		return;
	}

	/* of an expanded object this is the pointer's size, and only datumCopy copies it */
	size = datumGetSize(value, false, kept->typlen);
	if (size <= kept->room &&
		!(kept->typlen == -1 && VARATT_IS_EXTERNAL_EXPANDED(DatumGetPointer(value))))
	{
		memcpy(DatumGetPointer(kept->value), DatumGetPointer(value), size);
		return;
	}

	if (kept->room > 0)
	{
		kept->room = 0;
		pfree(DatumGetPointer(kept->value));
	}
	caller = MemoryContextSwitchTo(context);
	kept->value = datumCopy(value, false, kept->typlen);
	MemoryContextSwitchTo(caller);
	kept->room = datumGetSize(kept->value, false, kept->typlen);
}
