/*
 * view.h
 *		A view's query: parse it, and see that it can be maintained.
 */
#ifndef CQRS_VIEW_H
#define CQRS_VIEW_H

#include "nodes/pg_list.h"
#include "nodes/primnodes.h"

#include "view_aggregate.h"

typedef struct CqrsViewColumn
{
	char	   *name;
	CqrsViewRole role;
	Oid			type;
	int32		typmod;
	Oid			collation;
	Expr	   *expr;			/* over attributes of varno 1 */
	char	   *sql;			/* the same, over "events" */
	bool		is_position;	/* appended: the position itself */
	bool		nullable;		/* of a key: may a group be NULL? */

	/* of an aggregate */
	char	   *argument;		/* NULL for count(*) */
	char	   *filter;			/* NULL = none */

	/* for first and last */
	int			shown_position; /* the column that has the value's position; -1 = none, */
	int			kept_position;	/* then the column of the state table; else -1 */
} CqrsViewColumn;

/* All of it lives in the memory context that was current in cqrs_view_parse. */
typedef struct CqrsView
{
	int			ncolumns;
	CqrsViewColumn *columns;
	int			nkeys;
	bool		grouped;		/* else events are appended */
	bool		nullable_key;
	int			nkept;			/* columns of the state table, keys aside */
	char	   *where;			/* NULL = none */
	Expr	   *where_expr;		/* the same, over attributes of varno 1 */
	char	   *key;			/* the projection's key */
	bool		shows_key;		/* do the columns have it? */

	/* lists of text: what else can't change anything; NIL = unknown */
	List	   *event_types;
	List	   *aggregate_types;
	List	   *sources;

	List	   *functions;		/* OIDs of those that users made */
	List	   *types;			/* the same */
} CqrsView;

extern CqrsView *cqrs_view_parse(const char *query);
extern void cqrs_view_check_owners(const CqrsView *view);

#endif							/* CQRS_VIEW_H */
