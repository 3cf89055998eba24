/*
 * view_cache.c
 *		The views that this process knows: parsed, and with their statements.
 *
 * What a view's query says is parsed once in a process, and its statements are
 * planned once for each order of magnitude of batches. They are made anew when
 * the query's projection, the definition of one of its tables, or a schema's name
 * has changed; what functions the query calls, and whose they and its types are,
 * is looked at again when any function, role or type has changed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "function.h"
#include "handler.h"
#include "outbox_range.h"
#include "read_table.h"
#include "settings.h"
#include "steady.h"
#include "view_cache.h"
#include "view_sql.h"
#include "view_table.h"

/* the event of a statement for one */
#define ONE_EVENT \
	"(SELECT $3 AS \"position\", $4 AS event_id, $5 AS source, $6 AS aggregate_type," \
	" $7 AS aggregate_id, $8 AS aggregate_version, $9 AS event_type, $10 AS payload," \
	" $11 AS metadata, $12 AS occurred_at) AS events"

static HTAB *views = NULL;

static bool view_is_filtered_so(const CqrsMaintained *maintained, const CqrsProjection *projection);
static void views_sweep(void);
static void view_forget(CqrsMaintained *maintained);
static void view_clear(CqrsMaintained *maintained);
static void view_make(CqrsMaintained *maintained, const CqrsProjection *projection);
static void view_make_queries(CqrsMaintained *maintained, CqrsQuery *batches, CqrsQuery *merge,
							  CqrsQuery (*ranges)[2], bool tell);
static void view_relation_changed(Oid relid, void *arg);
static void view_syscache_callback(Datum arg, int cacheid, uint32 hashvalue);

/* Called once per process, from _PG_init. */
void
cqrs_view_cache_init(void)
{
	HASHCTL		info = {.keysize = sizeof(int32),.entrysize = sizeof(CqrsMaintained)};

	views = hash_create("cqrs_views views", 16, &info, HASH_ELEM | HASH_BLOBS);
	cqrs_catalog_watch_relations(view_relation_changed, NULL);
	CacheRegisterSyscacheCallback(NAMESPACEOID, view_syscache_callback, (Datum) 0);
}

/* The projection's view, parsed and checked as its owner, who is the current user. */
CqrsMaintained *
cqrs_view_cache_get(const CqrsProjection *projection)
{
	uint64		changes = cqrs_function_changes();
	uint64		type_changes = cqrs_function_type_changes();
	bool		found;
	CqrsMaintained *maintained = hash_search(views, &projection->id, HASH_ENTER, &found);

	/* before anything can throw: whoever finds it next takes it for one that was made */
	if (!found)
		view_clear(maintained);
	if (maintained->context != NULL &&
		(!maintained->valid || maintained->tables.read_table != projection->tables[0] ||
		 strcmp(maintained->query, projection->query) != 0 ||
		 !view_is_filtered_so(maintained, projection)))
		view_forget(maintained);
	if (maintained->context == NULL)
	{
		cqrs_settings_put(&projection->settings);
		if (!found)
			views_sweep();
		view_clear(maintained);
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

		/* what is ready to be evaluated may no longer be the owner's to call */
		cqrs_steady_doubt(&maintained->apply[0]);
		cqrs_steady_doubt(&maintained->apply_telling[0]);
		maintained->checked = changes;
	}
	if (maintained->types_checked != type_changes)
	{
		cqrs_view_check_owners(maintained->view);
		maintained->types_checked = type_changes;
	}
	return maintained;
}

/* The filters of a projection, in the order of the statements' arguments. */
void
cqrs_view_cache_filters(const CqrsProjection *projection, const CqrsFilter *filters[CQRS_VIEW_NFILTERS])
{
	filters[0] = &projection->event_types;
	filters[1] = &projection->aggregate_types;
	filters[2] = &projection->sources;
}

/* Does the projection have the filters that statements were made for? */
static bool
view_is_filtered_so(const CqrsMaintained *maintained, const CqrsProjection *projection)
{
	const CqrsFilter *filters[CQRS_VIEW_NFILTERS];
	bool		same = true;

	cqrs_view_cache_filters(projection, filters);
	for (int i = 0; i < CQRS_VIEW_NFILTERS; i++)
		same &= maintained->filtered[i] == !filters[i]->all;
	return same;
}

/* Forget the views whose projections are gone. */
static void
views_sweep(void)
{
	HASH_SEQ_STATUS status;
	CqrsMaintained *maintained;

	hash_seq_init(&status, views);
	while ((maintained = hash_seq_search(&status)) != NULL)
		if (cqrs_projection_get(maintained->projection) == NULL)
		{
			view_forget(maintained);
			hash_search(views, &maintained->projection, HASH_REMOVE, NULL);
		}
}

static void
view_forget(CqrsMaintained *maintained)
{
	if (maintained->context == NULL)
		return;
	for (int i = 0; i < CQRS_QUERY_SIZE_CLASSES; i++)
	{
		cqrs_query_forget(&maintained->apply[i]);
		cqrs_query_forget(&maintained->apply_telling[i]);
	}
	cqrs_query_forget(&maintained->merge);
	cqrs_query_forget(&maintained->merge_telling);
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < 2; j++)
		{
			cqrs_query_forget(&maintained->range[i][j]);
			cqrs_query_forget(&maintained->range_telling[i][j]);
		}
	MemoryContextDelete(maintained->context);
	maintained->context = NULL;
}

/* Leave nothing but the hash key. */
static void
view_clear(CqrsMaintained *maintained)
{
	memset(&maintained->valid, 0, sizeof(CqrsMaintained) - offsetof(CqrsMaintained, valid));
}

/* Parse the query and make the statements. After an error there is nothing. */
static void
view_make(CqrsMaintained *maintained, const CqrsProjection *projection)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views view",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	const CqrsFilter *filters[CQRS_VIEW_NFILTERS];

	/* keys may be computed before anybody else looks at the tables */
	for (int i = 0; i < projection->ntables; i++)
		cqrs_read_table_verify(projection->tables[i], projection->owner);

	/* what changes while we look makes the result invalid again */
	maintained->valid = true;
	maintained->query = pstrdup(projection->query);
	maintained->tables.read_table = projection->tables[0];
	maintained->tables.state_table = projection->state_table;
	cqrs_view_cache_filters(projection, filters);
	for (int i = 0; i < CQRS_VIEW_NFILTERS; i++)
		maintained->filtered[i] = !filters[i]->all;
	maintained->view = cqrs_view_parse(projection->query);
	cqrs_view_table_check(maintained->view, &maintained->tables);
	maintained->may_pass_over = cqrs_view_table_has_deciding_triggers(maintained->tables.read_table);
	view_make_queries(maintained, maintained->apply, &maintained->merge, maintained->range, false);
	view_make_queries(maintained, maintained->apply_telling, &maintained->merge_telling,
					  maintained->range_telling, true);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, CacheMemoryContext);
	maintained->context = context;
}

/*
 * A statement for each size of batches, of which the smallest has one event; for rows
 * that one of these proposes; and for ranges. Of these, long ones are planned for each anew: whether to go through the
 * outbox by position or as it lies depends on how much of it a range is. How many
 * events that is, statistics often don't know yet, so it is never taken for so few
 * as to sort. Events are counted one by one where some are passed over, else by groups.
 */
static void
view_make_queries(CqrsMaintained *maintained, CqrsQuery *batches, CqrsQuery *merge,
				  CqrsQuery (*ranges)[2], bool tell)
{
	const CqrsView *view = maintained->view;
	const CqrsViewTables *tables = &maintained->tables;
	const bool *filtered = maintained->filtered;
	char	   *many = cqrs_view_sql_apply(view, tables, tell);

	batches[0] = (CqrsQuery)
	{
		.sql = cqrs_view_sql_apply_one(view, tables, ONE_EVENT, tell),
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_BY_KEY,
		.nargs = CQRS_VIEW_NEVENT_ARGS,
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
	*merge = (CqrsQuery)
	{
		.sql = cqrs_view_sql_merge(view, tables, tell),
		.flags = CQRS_QUERY_IN_PLACE
	};
	for (int i = 0; i < 2; i++)
	{
		char	   *condition = cqrs_outbox_range_condition(i == 1, filtered[0], filtered[1],
																 filtered[2]);
		bool		by_groups = i == 1 && view->grouped && view->where == NULL &&
			!filtered[0] && !filtered[1] && !filtered[2];

		ranges[i][0] = (CqrsQuery)
		{
			.sql = cqrs_view_sql_apply_from(view, tables, cqrs_outbox_range_source(),
											by_groups ? NULL : condition,
											by_groups ? cqrs_outbox_range_having() : NULL, tell),
			.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_CUSTOM | CQRS_QUERY_NO_JIT |
			CQRS_QUERY_HASHED,
			.nargs = CQRS_VIEW_NRANGE_ARGS,
			.argtypes = {
				INT8OID, INT8OID, INT8OID, INT8OID,
				TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID
			}
		};
		ranges[i][1] = ranges[i][0];
		ranges[i][1].flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_BY_KEY | CQRS_QUERY_HASHED;
	}
}

/* A table's definition has changed: statements name its columns. */
static void
view_relation_changed(Oid relid, void *arg)
{
	HASH_SEQ_STATUS status;
	CqrsMaintained *maintained;

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
	view_relation_changed(InvalidOid, NULL);
}
