/*
 * sql_fold.c
 *		SQL functions that compute a state without a read table: fold, in its
 *		four forms.
 *
 * They are the caller's: the reducer runs as whoever calls, under the settings
 * of the moment, and the outbox is read with the caller's rights. VOLATILE,
 * because the reducer may be, which nobody knows when the call is planned; and
 * because a command handler must see what it has published itself, and, once it
 * has locked its aggregate, what others have committed since its statement began.
 *
 * The state that the function leaves without a key gets one, so that it is what
 * a projection with the default key would have in its read table.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/typcache.h"

#include "event.h"
#include "handler.h"
#include "outbox.h"
#include "outbox_read.h"
#include "reducer.h"
#include "sql_fold.h"

/* a fold under way */
typedef struct Fold
{
	MemoryContext context;		/* the caller's, where the state is */
	ErrorContextCallback *error_context;	/* the caller's */
	CqrsReducer reducer;
	TupleDesc	desc;			/* of T */
	AttrNumber	key_column;		/* InvalidAttrNumber = T has none */
	Datum		state;			/* 0 = NULL */
	int64		nevents;		/* folded so far */
	int64		position;		/* of the event being folded; 0 = unknown */
	Datum		aggregate_id;	/* of the event being folded; 0 = NULL */
} Fold;

PG_FUNCTION_INFO_V1(cqrs_sql_fold_events);
PG_FUNCTION_INFO_V1(cqrs_sql_fold_events_from);
PG_FUNCTION_INFO_V1(cqrs_sql_fold_aggregate);
PG_FUNCTION_INFO_V1(cqrs_sql_fold_aggregate_from);

static void fold_begin(Fold *fold, FunctionCallInfo fcinfo);
static void fold_begin_from(Fold *fold, FunctionCallInfo fcinfo);
static Datum fold_events(Fold *fold, FunctionCallInfo fcinfo, int argno);
static Datum fold_aggregate(Fold *fold, FunctionCallInfo fcinfo, int argno, int64 after);
static void fold_element(Fold *fold, Datum event, TupleDesc desc);
static void fold_stored(const CqrsEvent *event, TupleDesc desc, void *arg);
static void fold_one(Fold *fold, Datum event);
static Datum fold_end(Fold *fold, FunctionCallInfo fcinfo);
static void fold_error_callback(void *arg);

/*
 * cqrs.fold(handler regprocedure, VARIADIC events cqrs.event[]) RETURNS record
 *
 * The state after the events, in their order in the array, beginning with NULL.
 * The array may be NULL, which is what array_agg makes of no events.
 */
Datum
cqrs_sql_fold_events(PG_FUNCTION_ARGS)
{
	Fold		fold;

	fold_begin(&fold, fcinfo);
	return fold_events(&fold, fcinfo, 1);
}

/*
 * cqrs.fold(handler regprocedure, state anyelement, VARIADIC events cqrs.event[])
 * RETURNS anyelement
 *
 * The same, beginning with a state, such as a snapshot, or NULL::T.
 */
Datum
cqrs_sql_fold_events_from(PG_FUNCTION_ARGS)
{
	Fold		fold;

	fold_begin_from(&fold, fcinfo);
	return fold_events(&fold, fcinfo, 2);
}

/*
 * cqrs.fold(handler regprocedure, aggregate_id text, aggregate_type text)
 * RETURNS record
 *
 * The state after the aggregate's events in the outbox, in position order; those
 * that the caller's transaction has published are among them. Without an
 * aggregate_type, those of all types.
 */
Datum
cqrs_sql_fold_aggregate(PG_FUNCTION_ARGS)
{
	Fold		fold;

	fold_begin(&fold, fcinfo);
	return fold_aggregate(&fold, fcinfo, 1, 0);
}

/*
 * cqrs.fold(handler regprocedure, state anyelement, aggregate_id text,
 * aggregate_type text, after_position bigint) RETURNS anyelement
 *
 * The same, beginning with a state, and with the events beyond a position.
 */
Datum
cqrs_sql_fold_aggregate_from(PG_FUNCTION_ARGS)
{
	Fold		fold;

	fold_begin_from(&fold, fcinfo);
	return fold_aggregate(&fold, fcinfo, 2, PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4));
}

/* Begin with NULL. The first argument is the reducer; it is checked here. */
static void
fold_begin(Fold *fold, FunctionCallInfo fcinfo)
{
	Oid			function;
	Oid			relid;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("handler must not be null")));
	function = PG_GETARG_OID(0);
	cqrs_reducer_require(function);
	cqrs_handler_check_execute(function, GetUserId());

	memset(fold, 0, sizeof(Fold));
	fold->context = CurrentMemoryContext;
	fold->error_context = error_context_stack;
	cqrs_reducer_begin(&fold->reducer, function);
	fold->desc = lookup_rowtype_tupdesc_copy(fold->reducer.rowtype, -1);
	relid = get_typ_typrelid(fold->reducer.rowtype);
	fold->key_column = cqrs_reducer_key_column(relid, true);
}

/* Begin with the state that is the second argument. */
static void
fold_begin_from(Fold *fold, FunctionCallInfo fcinfo)
{
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 1);

	fold_begin(fold, fcinfo);
	if (type != fold->reducer.rowtype)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("the state is of type %s, reducer %s is for %s", format_type_be(type),
						format_procedure(fold->reducer.function),
						format_type_be(fold->reducer.rowtype)),
				 errhint("Begin with NULL::%s, or with a value of that type.",
						 format_type_be(fold->reducer.rowtype))));
	if (!PG_ARGISNULL(1))
		fold->state = PointerGetDatum(PG_GETARG_HEAPTUPLEHEADER_COPY(1));
}

/* Fold the events of an argument that is an array of them, or NULL. */
static Datum
fold_events(Fold *fold, FunctionCallInfo fcinfo, int argno)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(cqrs_event_type(), -1);
	ArrayIterator iterator;
	Datum		event;
	bool		isnull;

	if (PG_ARGISNULL(argno))
		return fold_end(fold, fcinfo);
	iterator = array_create_iterator(PG_GETARG_ARRAYTYPE_P(argno), 0, NULL);
	while (array_iterate(iterator, &event, &isnull))
	{
		if (isnull)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("events must not contain nulls")));
		fold_element(fold, event, desc);
	}
	return fold_end(fold, fcinfo);
}

/* Fold the events of the aggregate that two arguments name. */
static Datum
fold_aggregate(Fold *fold, FunctionCallInfo fcinfo, int argno, int64 after)
{
	text	   *aggregate_type = NULL;

	if (PG_ARGISNULL(argno))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("aggregate_id must not be null"),
				 errhint("If NULL is the state to begin with, write NULL::%s.",
						 format_type_be(fold->reducer.rowtype))));
	if (!PG_ARGISNULL(argno + 1))
		aggregate_type = PG_GETARG_TEXT_PP(argno + 1);
	fold->aggregate_id = PG_GETARG_DATUM(argno);
	cqrs_outbox_check_select(GetUserId(), "To fold an aggregate is to read its events.");
	cqrs_outbox_read_aggregate(PG_GETARG_TEXT_PP(argno), aggregate_type, after, fold_stored,
							   fold);
	return fold_end(fold, fcinfo);
}

static void
fold_element(Fold *fold, Datum event, TupleDesc desc)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(event);
	HeapTupleData tuple = {
		.t_len = HeapTupleHeaderGetDatumLength(header),
		.t_data = header
	};
	bool		isnull;
	Datum		value = heap_getattr(&tuple, CQRS_EVENT_POSITION, desc, &isnull);

	fold->position = isnull ? 0 : DatumGetInt64(value);
	value = heap_getattr(&tuple, CQRS_EVENT_AGGREGATE_ID, desc, &isnull);
	fold->aggregate_id = isnull ? (Datum) 0 : value;
	fold_one(fold, event);
}

/* Called from within the statement that reads the outbox. */
static void
fold_stored(const CqrsEvent *event, TupleDesc desc, void *arg)
{
	Fold	   *fold = (Fold *) arg;
	MemoryContext old = MemoryContextSwitchTo(fold->reducer.context);

	fold->position = event->position;
	fold_one(fold, cqrs_event_datum(event, desc));
	MemoryContextSwitchTo(old);
}

static void
fold_one(Fold *fold, Datum event)
{
	MemoryContext old = MemoryContextSwitchTo(fold->context);
	Datum		last = fold->state;
	bool		expanded = cqrs_reducer_is_expanded(last);
	bool		isnull;
	ErrorContextCallback *previous = error_context_stack;

	/* without the statement that reads the outbox, which is not what failed */
	ErrorContextCallback callback = {
		.previous = fold->error_context,
		.callback = fold_error_callback,
		.arg = fold
	};

	error_context_stack = &callback;
	fold->nevents++;
	fold->state = cqrs_reducer_call(&fold->reducer, last, event);
	if (!expanded && last != (Datum) 0)
		pfree(DatumGetPointer(last));
	if (fold->state != (Datum) 0 && fold->key_column != InvalidAttrNumber &&
		fold->aggregate_id != (Datum) 0)
	{
		(void) cqrs_reducer_get(fold->state, fold->desc, fold->key_column, &isnull);
		if (isnull)
			fold->state = cqrs_reducer_set(fold->state, fold->desc, fold->key_column,
										   fold->aggregate_id, false);
	}
	error_context_stack = previous;
	MemoryContextSwitchTo(old);
}

/* The result of the SQL function. */
static Datum
fold_end(Fold *fold, FunctionCallInfo fcinfo)
{
	cqrs_reducer_end(&fold->reducer);
	if (fold->state == (Datum) 0)
		PG_RETURN_NULL();
	return cqrs_reducer_flatten(fold->state);
}

static void
fold_error_callback(void *arg)
{
	const Fold *fold = (const Fold *) arg;

	if (fold->position > 0)
		errcontext("cqrs.fold, event at position " INT64_FORMAT, fold->position);
	else
		errcontext("cqrs.fold, event " INT64_FORMAT, fold->nevents);
}
