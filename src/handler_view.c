/*
 * handler_view.c
 *		The kind without a function: a query over the events, merged batch by
 *		batch.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "common/hashfn.h"
#include "storage/lmgr.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "handler_view.h"
#include "outbox_range.h"
#include "query.h"
#include "settings.h"
#include "steady.h"
#include "upsert_batch.h"
#include "view_cache.h"
#include "view_depend.h"

/* as many bytes of keys do not fit into a notification */
#define MAX_KEY_BYTES 8000

/*
 * Up to so many positions, a range is so small a part of any outbox of a size that
 * matters that going by position is right, and planning would take a good part of
 * the time.
 */
#define SHORT_RANGE 10000

/* keys on their way out of a statement */
typedef struct Keys
{
	MemoryContext context;
	const CqrsMaintained *maintained;
	bool		kept;			/* does the statement say whether it wrote all? */
	int			nkeys;
	int			capacity;
	Size		bytes;
	text	  **keys;
} Keys;

/* events that WHERE is looking at; the first are those that it accepts */
typedef struct Narrowing
{
	CqrsEvent **events;
	int			nkept;
} Narrowing;

/* hashes of groups, of which one column is being added */
typedef struct Hashing
{
	const CqrsViewColumn *column;
	TypeCacheEntry *type;
	uint64	   *hashes;
} Hashing;

static void handler_view_apply(CqrsHandlerCall *call);
static void view_lock_tables(const CqrsProjection *projection);
static void view_apply_batch(CqrsMaintained *maintained, CqrsHandlerCall *call, bool tell,
							 CqrsRowFn row_fn, Keys *keys);
static void view_apply_one(CqrsMaintained *maintained, CqrsHandlerCall *call, bool tell,
						   CqrsRowFn row_fn, Keys *keys);
static void view_apply_range(CqrsMaintained *maintained, CqrsHandlerCall *call, bool tell,
							 CqrsRowFn row_fn, Keys *keys);
static void view_run(CqrsMaintained *maintained, CqrsQuery *query, const CqrsRows *rows,
					 Datum *args, const char *nulls, bool tell, CqrsRowFn row_fn, Keys *keys);
static void handler_view_begin(CqrsProjection *projection);
static void handler_view_restored(CqrsProjection *projection);
static int	handler_view_narrow(CqrsProjection *projection, CqrsEvent **events, int nevents,
								TupleDesc desc);
static int	view_narrow(const CqrsView *view, CqrsEvent **events, int nevents, TupleDesc desc);
static void narrow_keep(int i, Datum value, bool isnull, void *arg);
static uint64 *handler_view_hash_keys(CqrsProjection *projection, CqrsEvent **events,
									  int nevents, TupleDesc desc);
static void hash_add(int i, Datum value, bool isnull, void *arg);
static bool view_collect_key(TupleTableSlot *slot, void *arg);

const CqrsHandlerKind cqrs_handler_view_kind = {
	.name = "view",
	.tells_keys = true,
	.handles_large_batches = true,
	.reads_ranges = true,
	.merges_rows = true,
	.puts_settings = true,
	.apply = handler_view_apply,
	.begin = handler_view_begin,
	.restored = handler_view_restored,
	.hash_keys = handler_view_hash_keys,
	.narrow = handler_view_narrow
};

/* What needs the projection's settings puts them in force: see steady.c. */
static void
handler_view_apply(CqrsHandlerCall *call)
{
	CqrsMaintained *maintained = cqrs_view_cache_get(call->projection);
	bool		tell = call->tell && maintained->view->shows_key;
	MemoryContext old = MemoryContextSwitchTo(call->batch->context);
	Keys		keys = {
		.context = call->batch->context,.maintained = maintained,.capacity = 64
	};
	CqrsRowFn	row_fn;

	keys.keys = palloc(keys.capacity * sizeof(text *));
	MemoryContextSwitchTo(old);
	keys.kept = maintained->view->nkept > 0;
	row_fn = tell || keys.kept ? view_collect_key : NULL;
	cqrs_handler_blame_events();
	if (call->nevents == 1)
		view_apply_one(maintained, call, tell, row_fn, &keys);
	else
	{
		view_lock_tables(call->projection);
		cqrs_settings_put(&call->projection->settings);
		if (call->range != NULL)
			view_apply_range(maintained, call, tell, row_fn, &keys);
		else
			view_apply_batch(maintained, call, tell, row_fn, &keys);
	}
	if (tell && keys.bytes <= MAX_KEY_BYTES)
	{
		call->keys = keys.keys;
		call->nkeys = keys.nkeys;
	}
}

/*
 * Lock the view's tables as its statements will, and have these made for what the
 * tables are by then: who waits for somebody to rename a column must not ask for the
 * old one. What the cache gave before has its new contents.
 */
static void
view_lock_tables(const CqrsProjection *projection)
{
	for (int i = 0; i < projection->ntables; i++)
		LockRelationOid(projection->tables[i], RowExclusiveLock);
	cqrs_view_cache_get(projection);
}

/*
 * Have the statement read the events as rows in memory. Where somebody has them so
 * already, with columns behind that are none of a view's, these do, if their groups
 * are all that comes out of it.
 */
static void
view_apply_batch(CqrsMaintained *maintained, CqrsHandlerCall *call, bool tell, CqrsRowFn row_fn,
				 Keys *keys)
{
	int			size = cqrs_query_size_class(call->nevents);
	bool		lent = maintained->view->grouped && call->batch->rows != NULL &&
		call->nevents == call->batch->nevents;
	MemoryContext old = MemoryContextSwitchTo(call->batch->context);
	CqrsRows	rows = {
		.name = "events",
		.relid = cqrs_catalog_relation("events", false),
		.store = lent ? call->batch->rows : cqrs_event_store(call->events, call->nevents),
		.nrows = call->nevents
	};
	Datum		args[2] = {
		Int64GetDatum(call->batch->peak), Int64GetDatum(call->batch->settled)
	};

	MemoryContextSwitchTo(old);
	view_run(maintained, tell ? &maintained->apply_telling[size] : &maintained->apply[size],
			 &rows, args, NULL, tell, row_fn, keys);
	if (!lent)
		tuplestore_end(rows.store);
}

/* Give the statement the only event as its arguments: rows in memory are costlier. */
static void
view_apply_one(CqrsMaintained *maintained, CqrsHandlerCall *call, bool tell, CqrsRowFn row_fn,
			   Keys *keys)
{
	Datum		args[CQRS_VIEW_NEVENT_ARGS];
	bool		isnull[CQRS_EVENT_NCOLUMNS];
	char		nulls[CQRS_VIEW_NEVENT_ARGS];
	CqrsEvent  *event = call->events[0];
	CqrsQuery  *query = tell ? &maintained->apply_telling[0] : &maintained->apply[0];
	bool		steady = cqrs_steady_expected(query);

	if (!steady)
		cqrs_settings_put(&call->projection->settings);

	/* to ask first is cheaper than a statement that does nothing, and locks nothing */
	if (view_narrow(maintained->view, &event, 1, call->batch->desc) == 0)
		return;
	memset(nulls, ' ', sizeof(nulls));
	args[0] = Int64GetDatum(call->batch->peak);
	args[1] = Int64GetDatum(call->batch->settled);
	heap_deform_tuple(event->tuple, call->batch->desc, &args[2], isnull);
	for (int i = 0; i < CQRS_EVENT_NCOLUMNS; i++)
		if (isnull[i])
			nulls[2 + i] = 'n';
	if (steady && cqrs_steady_run(query, args, nulls, row_fn, keys))
		return;
	view_lock_tables(call->projection);
	if (steady)
		cqrs_settings_put(&call->projection->settings);
	cqrs_query_run(query, args, nulls, row_fn, keys);
	cqrs_steady_judge(query);
}

/* Have the statement find the events in the outbox. */
static void
view_apply_range(CqrsMaintained *maintained, CqrsHandlerCall *call, bool tell, CqrsRowFn row_fn,
				 Keys *keys)
{
	const CqrsFilter *filters[CQRS_VIEW_NFILTERS];
	bool		is_short = call->range->upto - call->range->after <= SHORT_RANGE;
	bool		is_whole = call->range->is_whole;
	CqrsQuery  *query = tell ? &maintained->range_telling[is_whole][is_short] :
		&maintained->range[is_whole][is_short];
	Datum		args[CQRS_VIEW_NRANGE_ARGS];
	char		nulls[CQRS_VIEW_NRANGE_ARGS];

	memset(nulls, ' ', sizeof(nulls));
	args[0] = Int64GetDatum(call->batch->peak);
	args[1] = Int64GetDatum(call->batch->settled);
	args[2] = Int64GetDatum(call->range->after);
	args[3] = Int64GetDatum(call->range->upto);
	cqrs_view_cache_filters(call->projection, filters);
	for (int i = 0; i < CQRS_VIEW_NFILTERS; i++)
	{
		args[CQRS_VIEW_NRANGE_ARGS - CQRS_VIEW_NFILTERS + i] = filters[i]->array;
		if (filters[i]->all)
			nulls[CQRS_VIEW_NRANGE_ARGS - CQRS_VIEW_NFILTERS + i] = 'n';
	}

	cqrs_outbox_range_count(call->range);
	PG_TRY();
	{
		view_run(maintained, query, NULL, args, nulls, tell, row_fn, keys);
	}
	PG_FINALLY();
	{
		cqrs_outbox_range_count(NULL);
	}
	PG_END_TRY();
	cqrs_outbox_range_find_last(call->range);
}

/*
 * Run the statement for many events: as one that merges the rows that it makes, or else
 * as it is.
 */
static void
view_run(CqrsMaintained *maintained, CqrsQuery *query, const CqrsRows *rows, Datum *args,
		 const char *nulls, bool tell, CqrsRowFn row_fn, Keys *keys)
{
	const CqrsView *view = maintained->view;
	CqrsUpsertLeft left;
	CqrsRows	proposed = {
		.name = "proposed",
		.relid = maintained->tables.read_table
	};

	if (!view->grouped || view->nkept > 0 ||
		!cqrs_upsert_batch_run(query, maintained->tables.read_table, rows, args, nulls, row_fn,
							   keys, &left))
	{
		cqrs_query_run_on(query, rows, args, nulls, row_fn, keys);
		return;
	}
	proposed.store = left.store;
	proposed.nrows = left.nrows;
	if (left.nrows > 0)
		cqrs_query_run_on(tell ? &maintained->merge_telling : &maintained->merge, &proposed, NULL,
						  NULL, row_fn, keys);
	tuplestore_end(left.store);
}

/* A query without groups has one row before any event. */
static void
handler_view_begin(CqrsProjection *projection)
{
	CqrsMaintained *maintained = cqrs_view_cache_get(projection);
	CqrsRows	rows = {
		.name = "events",
		.relid = cqrs_catalog_relation("events", false),
		.store = cqrs_event_store(NULL, 0)
	};
	Datum		args[2] = {Int64GetDatum(0), Int64GetDatum(PG_INT64_MAX)};

	/* the one for a single event takes no rows */
	cqrs_query_run_on(&maintained->apply[1], &rows, args, NULL, NULL, NULL);
	tuplestore_end(rows.store);
}

static void
handler_view_restored(CqrsProjection *projection)
{
	CqrsMaintained *maintained = cqrs_view_cache_get(projection);

	cqrs_view_depend_record(maintained->view, &maintained->tables);
}

/* Keep the events that WHERE accepts. */
static int
handler_view_narrow(CqrsProjection *projection, CqrsEvent **events, int nevents, TupleDesc desc)
{
	return view_narrow(cqrs_view_cache_get(projection)->view, events, nevents, desc);
}

static int
view_narrow(const CqrsView *view, CqrsEvent **events, int nevents, TupleDesc desc)
{
	Narrowing	narrowing = {.events = events};

	if (view->where_expr == NULL)
		return nevents;
	cqrs_event_evaluate((Expr *) view->where_expr, events, nevents, desc,
						cqrs_handler_blame_events, narrow_keep, &narrowing);
	return narrowing.nkept;
}

static void
narrow_keep(int i, Datum value, bool isnull, void *arg)
{
	Narrowing  *narrowing = (Narrowing *) arg;

	if (!isnull && DatumGetBool(value))
		narrowing->events[narrowing->nkept++] = narrowing->events[i];
}

/*
 * Hash the groups of events by the values, since values that are equal to the
 * read table's index may differ as text. A type that can't be hashed is left out
 * of it: then more groups than need be have the same hash.
 */
static uint64 *
handler_view_hash_keys(CqrsProjection *projection, CqrsEvent **events, int nevents,
					   TupleDesc desc)
{
	const CqrsView *view = cqrs_view_cache_get(projection)->view;
	Hashing		hashing = {.hashes = palloc0(Max(nevents, 1) * sizeof(uint64))};

	for (int k = 0; k < view->ncolumns; k++)
	{
		hashing.column = &view->columns[k];
		if (hashing.column->role != CQRS_VIEW_KEY)
			continue;
		hashing.type = lookup_type_cache(hashing.column->type,
										 TYPECACHE_HASH_EXTENDED_PROC_FINFO);
		if (OidIsValid(hashing.type->hash_extended_proc))
			cqrs_event_evaluate((Expr *) hashing.column->expr, events, nevents, desc, NULL,
								hash_add, &hashing);
	}
	return hashing.hashes;
}

static void
hash_add(int i, Datum value, bool isnull, void *arg)
{
	Hashing    *hashing = (Hashing *) arg;
	uint64		hash = 0;

	if (!isnull)
		hash = DatumGetUInt64(FunctionCall2Coll(&hashing->type->hash_extended_proc_finfo,
												hashing->column->collation, value,
												Int64GetDatum(0)));
	hashing->hashes[i] = hash_combine64(hashing->hashes[i], hash);
}

/*
 * Remember a key, until there are more than can be told. Throws where somebody has
 * written to a group at the same time, which locks should have kept him from; where
 * triggers keep rows from being written, that can't be told.
 */
static bool
view_collect_key(TupleTableSlot *slot, void *arg)
{
	Keys	   *keys = (Keys *) arg;
	MemoryContext old;
	bool		isnull;
	Datum		value;

	if (keys->kept && keys->nkeys == 0 && !keys->maintained->may_pass_over &&
		!DatumGetBool(slot_getattr(slot, 2, &isnull)))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent events"),
				 errhint("The transaction might succeed if retried.")));
	if (keys->bytes > MAX_KEY_BYTES)
		return true;
	old = MemoryContextSwitchTo(keys->context);
	value = slot_getattr(slot, 1, &isnull);
	if (keys->nkeys == keys->capacity)
	{
		keys->capacity *= 2;
		keys->keys = repalloc(keys->keys, keys->capacity * sizeof(text *));
	}
	keys->keys[keys->nkeys] = isnull ? NULL : DatumGetTextPCopy(value);
	keys->bytes += isnull ? 1 : VARSIZE_ANY(keys->keys[keys->nkeys]);
	keys->nkeys++;
	MemoryContextSwitchTo(old);
	return true;
}
