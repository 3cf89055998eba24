/*
 * view_cache.h
 *		The views that this process knows: parsed, and with their statements.
 */
#ifndef CQRS_VIEW_CACHE_H
#define CQRS_VIEW_CACHE_H

#include "event.h"
#include "projection.h"
#include "query.h"
#include "view.h"
#include "view_merge.h"

/* the arguments of a statement that reads the outbox: peak, settled, range, filters */
#define CQRS_VIEW_NFILTERS 3
#define CQRS_VIEW_NRANGE_ARGS (4 + CQRS_VIEW_NFILTERS)

/* of a statement for one event: peak, settled, and the event's columns, from $3 on */
#define CQRS_VIEW_NEVENT_ARGS (2 + CQRS_EVENT_NCOLUMNS)

/* a view as this process knows it */
typedef struct CqrsMaintained
{
	int32		projection;		/* hash key */
	bool		valid;			/* else it is to be made anew */
	char	   *query;			/* what it was made from */
	CqrsViewTables tables;
	bool		filtered[CQRS_VIEW_NFILTERS];	/* by event_types, aggregate_types, sources */
	uint64		checked;		/* the functions, at this count of their changes */
	uint64		types_checked;	/* the types, at this count of their changes */
	MemoryContext context;		/* of all that is below */
	CqrsView   *view;
	bool		may_pass_over;	/* may a trigger keep a row from being written? */
	CqrsQuery	apply[CQRS_QUERY_SIZE_CLASSES];
	CqrsQuery	apply_telling[CQRS_QUERY_SIZE_CLASSES]; /* the keys */
	CqrsQuery	merge;			/* rows that a batch proposes */
	CqrsQuery	merge_telling;
	CqrsQuery	range[2][2];	/* of any rows, and whole; long, and short */
	CqrsQuery	range_telling[2][2];
} CqrsMaintained;

extern void cqrs_view_cache_init(void);
extern CqrsMaintained *cqrs_view_cache_get(const CqrsProjection *projection);
extern void cqrs_view_cache_filters(const CqrsProjection *projection,
									const CqrsFilter *filters[CQRS_VIEW_NFILTERS]);

#endif							/* CQRS_VIEW_CACHE_H */
