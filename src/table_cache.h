/*
 * table_cache.h
 *		All rows of one of our tables, kept in this process.
 */
#ifndef CQRS_TABLE_CACHE_H
#define CQRS_TABLE_CACHE_H

#include "nodes/pg_list.h"

#include "query.h"

/*
 * Makes of a row what is kept of it, in the current memory context, that of the
 * copy. The slot is valid during the call only.
 */
typedef void *(*CqrsTableCacheLoadFn) (TupleTableSlot *slot);

/* Does what was read say anything of another table? rows are what the load function made. */
typedef bool (*CqrsTableCacheConcernsFn) (const List *rows, Oid relid);

/*
 * Objects of this type are static variables of the file that owns the table, which
 * fills in the first part; the second one is table_cache.c's.
 */
typedef struct CqrsTableCache
{
	const char *relname;		/* in our schema; a constant */
	CqrsQuery	query;			/* reads the rows */
	CqrsTableCacheLoadFn load;
	CqrsTableCacheConcernsFn concerns;	/* NULL = of no other table */

	Oid			relid;			/* whose changes are awaited; InvalidOid before a read */
	MemoryContext context;		/* owns the current copy; NULL = none was read */
	List	   *rows;			/* in context, as what they point to */
	uint64		changes;		/* heard of by this process */
	uint64		changes_read;	/* of them, those that the copy has */
} CqrsTableCache;

extern void cqrs_table_cache_init(CqrsTableCache *cache);
extern List *cqrs_table_cache_rows(CqrsTableCache *cache);
extern void cqrs_table_cache_expire(CqrsTableCache *cache);
extern void cqrs_table_cache_changed(const CqrsTableCache *cache);

#endif							/* CQRS_TABLE_CACHE_H */
