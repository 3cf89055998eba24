/*
 * table_cache.c
 *		All rows of one of our tables, kept in this process.
 *
 * Every change of the table sends, by a trigger, a relcache invalidation for it, so
 * a copy is right from the next lock on that its process takes. Rows are read under
 * a snapshot of their own: a transaction under repeatable read must know today's,
 * too.
 *
 * What changes are heard of is counted, and a copy is right while it has them all.
 * They are counted before reading: what changes while we read, and that the read
 * may have missed, makes its result stale again. If reading fails, the copy before
 * stays as stale as it was.
 *
 * A copy that was replaced lives to the end of the transaction, since code further
 * up the stack may be using it: whatever takes a lock may make it stale, and whoever
 * asks next replaces it.
 */
#include "postgres.h"

#include "utils/inval.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "table_cache.h"

/* a copy that is being read */
typedef struct Reading
{
	CqrsTableCacheLoadFn load;
	MemoryContext context;
	List	   *rows;
} Reading;

static void cache_relation_changed(Oid relid, void *arg);
static bool cache_add_row(TupleTableSlot *slot, void *arg);

/* Called once per process and table, from _PG_init. Reads nothing yet. */
void
cqrs_table_cache_init(CqrsTableCache *cache)
{
	cqrs_catalog_watch_relations(cache_relation_changed, cache);
}

/*
 * All rows, in the query's order. They are the cache's, and valid until the end of
 * the current top-level transaction, even if the table changes meanwhile. Throws
 * where the extension is not installed.
 */
List *
cqrs_table_cache_rows(CqrsTableCache *cache)
{
	Reading		reading = {.load = cache->load};
	uint64		changes;

	if (cache->context != NULL && cache->changes_read == cache->changes)
		return cache->rows;

	/* before reading, see above */
	cache->relid = cqrs_catalog_relation(cache->relname, false);
	changes = cache->changes;

	/* the abort of the (sub)transaction frees it if an error is thrown */
	reading.context = AllocSetContextCreate(CurTransactionContext, "cqrs_views table",
											ALLOCSET_SMALL_SIZES);
	MemoryContextSetIdentifier(reading.context, cache->relname);
	cqrs_query_run(&cache->query, NULL, NULL, cache_add_row, &reading);

	if (cache->context != NULL)
		MemoryContextSetParent(cache->context, TopTransactionContext);
	MemoryContextSetParent(reading.context, TopMemoryContext);
	cache->context = reading.context;
	cache->rows = reading.rows;
	cache->changes_read = changes;
	return cache->rows;
}

/* Something else changed that what is kept of the rows depends on: read them anew. */
void
cqrs_table_cache_expire(CqrsTableCache *cache)
{
	cache->changes++;
}

/*
 * A row of the table was changed by the current statement: tell all processes,
 * when the transaction commits, and this one. Called by a trigger, so that no
 * way of changing it is missed, a restore included.
 */
void
cqrs_table_cache_changed(const CqrsTableCache *cache)
{
	CacheInvalidateRelcacheByRelid(cqrs_catalog_relation(cache->relname, false));
}

static void
cache_relation_changed(Oid relid, void *arg)
{
	CqrsTableCache *cache = (CqrsTableCache *) arg;

	if (!OidIsValid(relid) || relid == cache->relid ||
		(cache->concerns != NULL && cache->concerns(cache->rows, relid)))
		cqrs_table_cache_expire(cache);
}

static bool
cache_add_row(TupleTableSlot *slot, void *arg)
{
	Reading    *reading = (Reading *) arg;
	MemoryContext old = MemoryContextSwitchTo(reading->context);

	reading->rows = lappend(reading->rows, reading->load(slot));
	MemoryContextSwitchTo(old);
	return true;
}
