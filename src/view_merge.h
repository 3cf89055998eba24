/*
 * view_merge.h
 *		How the rows of a view's table and those of a batch are matched and merged,
 *		as parts of SQL statements.
 */
#ifndef CQRS_VIEW_MERGE_H
#define CQRS_VIEW_MERGE_H

#include "access/attnum.h"
#include "lib/stringinfo.h"

#include "view.h"

/* operators, whatever the search_path */
#define CQRS_VIEW_PLUS "OPERATOR(pg_catalog.+)"
#define CQRS_VIEW_LESS "OPERATOR(pg_catalog.<)"
#define CQRS_VIEW_EQUAL "OPERATOR(pg_catalog.=)"
#define CQRS_VIEW_MORE "OPERATOR(pg_catalog.>)"

/* of any value, also a row, whose IS NULL would be about its fields; indexes serve it */
#define CQRS_VIEW_IS_NULL "IS NOT DISTINCT FROM NULL"
#define CQRS_VIEW_NOT_NULL "IS DISTINCT FROM NULL"

/* where the statements go; InvalidOid = there is none (yet) */
typedef struct CqrsViewTables
{
	Oid			read_table;
	Oid			state_table;
} CqrsViewTables;

/* a statement in the making; what follows appends to its text */
typedef struct CqrsViewSql
{
	const CqrsView *view;
	const CqrsViewTables *tables;
	bool		one_event;		/* at the most: no need to aggregate */
	const char *source;			/* what the events are selected from, as "events" */
	const char *condition;		/* of the source, asked before the query's own; or NULL */
	const char *having;			/* of the groups; or NULL */
	StringInfoData text;
} CqrsViewSql;

extern void cqrs_view_merge_conflict(CqrsViewSql *sql);
extern void cqrs_view_merge_columns(CqrsViewSql *sql, bool special);
extern void cqrs_view_merge_match(CqrsViewSql *sql, const char *left, bool left_is_read,
								  const char *right);
extern bool cqrs_view_merge_may_be_unset(const CqrsView *view, const CqrsViewColumn *column);
extern char *cqrs_view_merge_column(Oid relid, AttrNumber number);
extern char *cqrs_view_merge_relation(Oid relid);

#endif							/* CQRS_VIEW_MERGE_H */
