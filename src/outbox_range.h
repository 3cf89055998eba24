/*
 * outbox_range.h
 *		The table cqrs.outbox, read in place: a part of a walk that a statement of
 *		somebody else's reads by itself.
 */
#ifndef CQRS_OUTBOX_RANGE_H
#define CQRS_OUTBOX_RANGE_H

#include "access/transam.h"

#include "outbox_walk.h"

/*
 * Events of a walk that a statement is to read by itself: those with positions
 * beyond "after" and up to "upto". "nevents" and "last" are known once it has.
 */
typedef struct CqrsRange
{
	CqrsWalk	walk;
	int64		after;
	int64		upto;
	bool		is_end;			/* is the walk at its end then? */
	bool		is_whole;		/* is every row that is visible there of the walk? */
	int64		nevents;		/* those that the filters let through, */
	int64		last;			/* and the highest position of them */
} CqrsRange;

extern bool cqrs_outbox_range_next(CqrsRange *range, const CqrsWalk *walk, int limit);
extern const char *cqrs_outbox_range_source(void);
extern char *cqrs_outbox_range_condition(bool whole, bool event_types, bool aggregate_types,
										 bool sources);
extern const char *cqrs_outbox_range_having(void);
extern void cqrs_outbox_range_count(CqrsRange *range);
extern bool cqrs_outbox_range_count_event(int64 position);
extern bool cqrs_outbox_range_count_events(int64 nevents);
extern bool cqrs_outbox_range_pick_event(int64 position, FullTransactionId xid);
extern void cqrs_outbox_range_find_last(CqrsRange *range);

#endif							/* CQRS_OUTBOX_RANGE_H */
