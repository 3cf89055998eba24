/*
 * handler_view.c
 *		The kind without a function: a query over the events, merged batch by
 *		batch.
 *
 * What a view's query says is parsed once in a process, and its statements are
 * planned once for each order of magnitude of batches. They are made anew when
 * the query's projection, the definition of one of its tables, or a schema's name
 * has changed; what functions the query calls, and whose they and its types are,
 * is looked at again when any function, role or type has changed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "handler_view.h"
#include "outbox_range.h"
#include "query.h"
#include "read_table.h"
#include "settings.h"
#include "steady.h"
#include "view.h"
#include "view_depend.h"
#include "view_sql.h"
#include "view_table.h"

/* as many bytes of keys do not fit into a notification */
#define MAX_KEY_BYTES 8000

/* of a statement that reads the outbox: peak, settled, the range, the filters */
#define NFILTERS 3
#define NRANGE_ARGS (4 + NFILTERS)

/* of a statement for one event: peak, settled, and the event's columns, from $3 on */
#define NEVENT_ARGS (2 + CQRS_EVENT_NCOLUMNS)
#define ONE_EVENT \
	"(SELECT $3 AS \"position\", $4 AS event_id, $5 AS source, $6 AS aggregate_type," \
	" $7 AS aggregate_id, $8 AS aggregate_version, $9 AS event_type, $10 AS payload," \
	" $11 AS metadata, $12 AS occurred_at) AS events"

/*
 * Up to so many positions, a range is so small a part of any outbox of a size that
 * matters that going by position is right, and planning would take a good part of
 * the time.
 */
#define SHORT_RANGE 10000

/* a view as this process knows it */
typedef struct Maintained
{
	int32		projection;		/* hash key */
	bool		valid;			/* else it is to be made anew */
	char	   *query;			/* what it was made from */
	CqrsViewTables tables;
	bool		filtered[NFILTERS]; /* by event_types, aggregate_types, sources */
	uint64		checked;		/* the functions, at this count of catalog changes */
	uint64		types_checked;	/* the types, at this count of their changes */
	MemoryContext context;		/* of all that is below */
	CqrsView   *view;
	CqrsQuery	apply[CQRS_QUERY_SIZE_CLASSES];
	CqrsQuery	apply_telling[CQRS_QUERY_SIZE_CLASSES]; /* the keys */
	CqrsQuery	range[2][2];	/* of any rows, and whole; long, and short */
	CqrsQuery	range_telling[2][2];
} Maintained;

/* keys on their way out of a statement */
typedef struct Keys
{
	MemoryContext context;
	bool		kept;			/* does the statement say whether it kept all? */
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

static HTAB *views = NULL;

/* counts changes of types that this process heard of */
static uint64 type_changes = 0;

static void handler_view_apply(CqrsHandlerCall *call);
static void view_apply_batch(Maintained *maintained, CqrsHandlerCall *call, bool tell,
							 CqrsRowFn row_fn, Keys *keys);
static void view_apply_one(Maintained *maintained, CqrsHandlerCall *call, bool tell,
						   CqrsRowFn row_fn, Keys *keys);
static void view_apply_range(Maintained *maintained, CqrsHandlerCall *call, bool tell,
							 CqrsRowFn row_fn, Keys *keys);
static void handler_view_begin(CqrsProjection *projection);
static void handler_view_restored(CqrsProjection *projection);
static int	handler_view_narrow(CqrsProjection *projection, CqrsEvent **events, int nevents,
								TupleDesc desc);
static void narrow_keep(int i, Datum value, bool isnull, void *arg);
static uint64 *handler_view_hash_keys(CqrsProjection *projection, CqrsEvent **events,
									  int nevents, TupleDesc desc);
static void hash_add(int i, Datum value, bool isnull, void *arg);
static Maintained *view_get(const CqrsProjection *projection);
static void view_filters(const CqrsProjection *projection, const CqrsFilter *filters[NFILTERS]);
static bool view_is_filtered_so(const Maintained *maintained, const CqrsProjection *projection);
static void views_sweep(void);
static void view_forget(Maintained *maintained);
static void view_make(Maintained *maintained, const CqrsProjection *projection);
static void view_make_queries(Maintained *maintained, CqrsQuery *batches,
							  CqrsQuery (*ranges)[2], bool tell);
static bool view_collect_key(TupleTableSlot *slot, void *arg);
static void view_relcache_callback(Datum arg, Oid relid);
static void view_syscache_callback(Datum arg, int cacheid, uint32 hashvalue);
static void view_type_callback(Datum arg, int cacheid, uint32 hashvalue);

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

/* Called once per process, from _PG_init. */
void
cqrs_handler_view_init(void)
{
	HASHCTL		info = {.keysize = sizeof(int32),.entrysize = sizeof(Maintained)};

	views = hash_create("cqrs_views views", 16, &info, HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(view_relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, view_syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, view_type_callback, (Datum) 0);
}

/* What needs the projection's settings puts them in force: see steady.c. */
static void
handler_view_apply(CqrsHandlerCall *call)
{
	Maintained *maintained = view_get(call->projection);
	bool		tell = call->tell && maintained->view->shows_key;
	MemoryContext old = MemoryContextSwitchTo(call->batch->context);
	Keys		keys = {.context = call->batch->context,.capacity = 64};
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

/* Have the statement read the events as rows in memory. */
static void
view_apply_batch(Maintained *maintained, CqrsHandlerCall *call, bool tell, CqrsRowFn row_fn,
				 Keys *keys)
{
	int			size = cqrs_query_size_class(call->nevents);
	MemoryContext old = MemoryContextSwitchTo(call->batch->context);
	CqrsRows	rows = {
		.name = "events",
		.relid = cqrs_query_relation("events", false),
		.store = cqrs_event_store(call->events, call->nevents),
		.nrows = call->nevents
	};
	Datum		args[2] = {
		Int64GetDatum(call->batch->peak), Int64GetDatum(call->batch->settled)
	};

	MemoryContextSwitchTo(old);
	cqrs_query_run_on(tell ? &maintained->apply_telling[size] : &maintained->apply[size],
					  &rows, args, NULL, row_fn, keys);
	tuplestore_end(rows.store);
}

/* Give the statement the only event as its arguments: rows in memory are costlier. */
static void
view_apply_one(Maintained *maintained, CqrsHandlerCall *call, bool tell, CqrsRowFn row_fn,
			   Keys *keys)
{
	Datum		args[NEVENT_ARGS];
	bool		isnull[CQRS_EVENT_NCOLUMNS];
	char		nulls[NEVENT_ARGS];
	CqrsEvent  *event = call->events[0];
	CqrsQuery  *query = tell ? &maintained->apply_telling[0] : &maintained->apply[0];
	bool		steady = cqrs_steady_lock(query);

	if (!steady)
		cqrs_settings_put(&call->projection->settings);

	/* to ask first is cheaper than a statement that does nothing */
	if (handler_view_narrow(call->projection, &event, 1, call->batch->desc) == 0)
		return;
	memset(nulls, ' ', sizeof(nulls));
	args[0] = Int64GetDatum(call->batch->peak);
	args[1] = Int64GetDatum(call->batch->settled);
	heap_deform_tuple(event->tuple, call->batch->desc, &args[2], isnull);
	for (int i = 0; i < CQRS_EVENT_NCOLUMNS; i++)
		if (isnull[i])
			nulls[2 + i] = 'n';
	if (steady)
		cqrs_steady_run(query, args, nulls, row_fn, keys);
	else
		cqrs_query_run(query, args, nulls, row_fn, keys);
}

/* Have the statement find the events in the outbox. */
static void
view_apply_range(Maintained *maintained, CqrsHandlerCall *call, bool tell, CqrsRowFn row_fn,
				 Keys *keys)
{
	const CqrsFilter *filters[NFILTERS];
	bool		is_short = call->range->upto - call->range->after <= SHORT_RANGE;
	bool		is_whole = call->range->is_whole;
	CqrsQuery  *query = tell ? &maintained->range_telling[is_whole][is_short] :
		&maintained->range[is_whole][is_short];
	Datum		args[NRANGE_ARGS];
	char		nulls[NRANGE_ARGS];

	memset(nulls, ' ', sizeof(nulls));
	args[0] = Int64GetDatum(call->batch->peak);
	args[1] = Int64GetDatum(call->batch->settled);
	args[2] = Int64GetDatum(call->range->after);
	args[3] = Int64GetDatum(call->range->upto);
	view_filters(call->projection, filters);
	for (int i = 0; i < NFILTERS; i++)
	{
		args[NRANGE_ARGS - NFILTERS + i] = filters[i]->array;
		if (filters[i]->all)
			nulls[NRANGE_ARGS - NFILTERS + i] = 'n';
	}

	cqrs_outbox_range_count(call->range);
	PG_TRY();
	{
		cqrs_query_run(query, args, nulls, row_fn, keys);
	}
	PG_FINALLY();
	{
		cqrs_outbox_range_count(NULL);
	}
	PG_END_TRY();
}

/* A query without groups has one row before any event. */
static void
handler_view_begin(CqrsProjection *projection)
{
	Maintained *maintained = view_get(projection);
	CqrsRows	rows = {
		.name = "events",
		.relid = cqrs_query_relation("events", false),
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
	Maintained *maintained = view_get(projection);

	cqrs_view_depend_record(maintained->view, &maintained->tables);
}

/* Keep the events that WHERE accepts. */
static int
handler_view_narrow(CqrsProjection *projection, CqrsEvent **events, int nevents, TupleDesc desc)
{
	const CqrsView *view = view_get(projection)->view;
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
	const CqrsView *view = view_get(projection)->view;
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

/* The projection's view, parsed and checked as its owner, who is the current user. */
static Maintained *
view_get(const CqrsProjection *projection)
{
	uint64		changes = cqrs_handler_catalog_changes();
	bool		found;
	Maintained *maintained = hash_search(views, &projection->id, HASH_ENTER, &found);

	if (found && maintained->context != NULL &&
		(!maintained->valid || maintained->tables.read_table != projection->tables[0] ||
		 strcmp(maintained->query, projection->query) != 0 ||
		 !view_is_filtered_so(maintained, projection)))
		view_forget(maintained);
	if (!found || maintained->context == NULL)
	{
		cqrs_settings_put(&projection->settings);
		if (!found)
			views_sweep();
		memset(&maintained->valid, 0, sizeof(Maintained) - offsetof(Maintained, valid));
		view_make(maintained, projection);
		maintained->checked = changes;
	}
	if (maintained->checked != changes)
	{
		cqrs_settings_put(&projection->settings);
		cqrs_view_check_owners(maintained->view);

		/* a name may mean another function by now, or none */
		if (!equal(cqrs_view_parse(projection->query)->functions, maintained->view->functions))
		{
			view_forget(maintained);
			view_make(maintained, projection);
		}
		maintained->checked = changes;
	}
	if (maintained->types_checked != type_changes)
	{
		cqrs_view_check_owners(maintained->view);
		maintained->types_checked = type_changes;
	}
	return maintained;
}

static void
view_filters(const CqrsProjection *projection, const CqrsFilter *filters[NFILTERS])
{
	filters[0] = &projection->event_types;
	filters[1] = &projection->aggregate_types;
	filters[2] = &projection->sources;
}

/* Does the projection have the filters that statements were made for? */
static bool
view_is_filtered_so(const Maintained *maintained, const CqrsProjection *projection)
{
	const CqrsFilter *filters[NFILTERS];
	bool		same = true;

	view_filters(projection, filters);
	for (int i = 0; i < NFILTERS; i++)
		same &= maintained->filtered[i] == !filters[i]->all;
	return same;
}

/* Forget the views whose projections are gone. */
static void
views_sweep(void)
{
	HASH_SEQ_STATUS status;
	Maintained *maintained;

	hash_seq_init(&status, views);
	while ((maintained = hash_seq_search(&status)) != NULL)
		if (cqrs_projection_get(maintained->projection) == NULL)
		{
			view_forget(maintained);
			hash_search(views, &maintained->projection, HASH_REMOVE, NULL);
		}
}

static void
view_forget(Maintained *maintained)
{
	if (maintained->context == NULL)
		return;
	for (int i = 0; i < CQRS_QUERY_SIZE_CLASSES; i++)
	{
		cqrs_query_forget(&maintained->apply[i]);
		cqrs_query_forget(&maintained->apply_telling[i]);
	}
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++)
		{
			cqrs_query_forget(&maintained->range[i][j]);
			cqrs_query_forget(&maintained->range_telling[i][j]);
		}
	MemoryContextDelete(maintained->context);
	maintained->context = NULL;
}

/* Parse the query and make the statements. After an error there is nothing. */
static void
view_make(Maintained *maintained, const CqrsProjection *projection)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views view",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	const CqrsFilter *filters[NFILTERS];

	/* keys may be computed before anybody else looks at the tables */
	for (int i = 0; i < projection->ntables; i++)
		cqrs_read_table_verify(projection->tables[i], projection->owner);

	/* what changes while we look makes the result invalid again */
	maintained->valid = true;
	maintained->query = pstrdup(projection->query);
	maintained->tables.read_table = projection->tables[0];
	maintained->tables.state_table = projection->state_table;
	view_filters(projection, filters);
	for (int i = 0; i < NFILTERS; i++)
		maintained->filtered[i] = !filters[i]->all;
	maintained->view = cqrs_view_parse(projection->query);
	cqrs_view_table_check(maintained->view, &maintained->tables);
	view_make_queries(maintained, maintained->apply, maintained->range, false);
	view_make_queries(maintained, maintained->apply_telling, maintained->range_telling, true);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	maintained->context = context;
}

/*
 * A statement for each size of batches, of which the smallest has one event; and for
 * ranges. Of these, long ones are planned for each anew: whether to go through the
 * outbox by position or as it lies depends on how much of it a range is. How many
 * events that is, statistics often don't know yet, so it is never taken for so few
 * as to sort.
 */
static void
view_make_queries(Maintained *maintained, CqrsQuery *batches, CqrsQuery (*ranges)[2], bool tell)
{
	const CqrsView *view = maintained->view;
	const CqrsViewTables *tables = &maintained->tables;
	const bool *filtered = maintained->filtered;
	char	   *many = cqrs_view_sql_apply(view, tables, tell);

	batches[0] = (CqrsQuery)
	{
		.sql = cqrs_view_sql_apply_one(view, tables, ONE_EVENT, tell),
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_BY_KEY,
		.nargs = NEVENT_ARGS,
		.argtypes = {
			INT8OID, INT8OID,
			INT8OID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID,
			TIMESTAMPTZOID
		}
	};
	for (int i = 1; i < CQRS_QUERY_SIZE_CLASSES; i++)
		batches[i] = (CqrsQuery)
	{
		.sql = many,
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_BY_KEY,
		.nargs = view->nkept > 0 ? 2 : 0,
		.argtypes = {INT8OID, INT8OID}
	};
	for (int i = 0; i < 2; i++)
	{
		char	   *condition = cqrs_outbox_range_condition(i == 1, filtered[0], filtered[1],
																 filtered[2]);

		ranges[i][0] = (CqrsQuery)
		{
			.sql = cqrs_view_sql_apply_from(view, tables, cqrs_outbox_range_source(),
											condition, tell),
			.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_CUSTOM | CQRS_QUERY_NO_JIT |
			CQRS_QUERY_HASHED,
			.nargs = NRANGE_ARGS,
			.argtypes = {
				INT8OID, INT8OID, INT8OID, INT8OID,
				TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID
			}
		};
		ranges[i][1] = ranges[i][0];
		ranges[i][1].flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_BY_KEY | CQRS_QUERY_HASHED;
	}
}

/*
 * Remember a key, until there are more than can be told. Throws where somebody has
 * written to a group at the same time, which locks should have kept him from.
 */
static bool
view_collect_key(TupleTableSlot *slot, void *arg)
{
	Keys	   *keys = (Keys *) arg;
	MemoryContext old;
	bool		isnull;
	Datum		value;

	if (keys->kept && keys->nkeys == 0 && !DatumGetBool(slot_getattr(slot, 2, &isnull)))
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

/* A table's definition has changed: statements name its columns. */
static void
view_relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS status;
	Maintained *maintained;

	if (views == NULL)
		return;
	hash_seq_init(&status, views);
	while ((maintained = hash_seq_search(&status)) != NULL)
		if (!OidIsValid(relid) || maintained->tables.read_table == relid ||
			maintained->tables.state_table == relid)
			maintained->valid = false;
}

/* A schema may have another name: statements name that, too. */
static void
view_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	view_relcache_callback(arg, InvalidOid);
}

static void
view_type_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	type_changes++;
}
