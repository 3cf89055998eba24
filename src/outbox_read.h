/*
 * outbox_read.h
 *		The table cqrs.outbox, read: the next bounded batch, and how much there
 *		is to come.
 *
 * Snapshots are values of SQL's type pg_snapshot.
 */
#ifndef CQRS_OUTBOX_READ_H
#define CQRS_OUTBOX_READ_H

#include "access/transam.h"
#include "commands/trigger.h"
#include "datatype/timestamp.h"

#include "event.h"

/* how much to read at once */
typedef struct CqrsReadLimit
{
	int			events;
	Size		bytes;			/* exceeded by one event at most */
} CqrsReadLimit;

/* what a batch is read from: see outbox_read.c */
typedef struct CqrsWalk
{
	int64		first;			/* the transaction ids are of events from here on */
	Datum		done;
	Datum		target;
	int64		low;
	int64		high;
	int64		last;
	int64		whole_after;	/* beyond this position, and up to that, there are */
	int64		whole_upto;		/* no other rows than the walk's; not stored */
} CqrsWalk;

extern bool cqrs_outbox_read_is_long(const CqrsWalk *walk, CqrsReadLimit limit);
extern bool cqrs_outbox_read_interval(CqrsBatch *batch, const CqrsWalk *walk, Datum current,
									  CqrsReadLimit limit);
extern void cqrs_outbox_read_bounds(CqrsWalk *walk, int events, int64 upto);
extern bool cqrs_outbox_read_walk(CqrsBatch *batch, const CqrsWalk *walk,
								  CqrsReadLimit limit);

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

extern bool cqrs_outbox_read_range(CqrsRange *range, const CqrsWalk *walk, int limit);
extern const char *cqrs_outbox_read_range_source(void);
extern char *cqrs_outbox_read_range_condition(bool whole, bool event_types,
											  bool aggregate_types, bool sources);
extern void cqrs_outbox_read_range_count(CqrsRange *range);
extern bool cqrs_outbox_read_count_event(int64 position);
extern bool cqrs_outbox_read_pick_event(int64 position, FullTransactionId xid);

/* what is not processed yet, counted up to a limit */
typedef struct CqrsPending
{
	int64		events;
	TimestampTz oldest;			/* finite occurred_at; PG_INT64_MAX = none */
} CqrsPending;

extern CqrsPending cqrs_outbox_read_pending_interval(const CqrsWalk *walk, Datum upto,
													 int64 last, int limit);
extern CqrsPending cqrs_outbox_read_pending_walk(const CqrsWalk *walk, int limit);
extern const char *cqrs_outbox_read_all(void);
extern bool cqrs_outbox_read_xid(int64 position, FullTransactionId *xid);

/* Called for each event, which is valid during the call only. */
typedef void (*CqrsEventFn) (const CqrsEvent *event, TupleDesc desc, void *arg);

extern void cqrs_outbox_read_aggregate(text *aggregate_id, text *aggregate_type, int64 after,
									   CqrsEventFn event_fn, void *arg);

extern void cqrs_outbox_read_positions(CqrsBatch *batch, const int64 *positions,
										int npositions);
extern void cqrs_outbox_read_own(CqrsBatch *batch, int64 last, CqrsReadLimit limit);
extern bool cqrs_outbox_read_inserted(CqrsBatch *batch, TriggerData *trigdata,
									  CqrsReadLimit limit);

#endif							/* CQRS_OUTBOX_READ_H */
