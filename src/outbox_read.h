/*
 * outbox_read.h
 *		The table cqrs.outbox, read: the next bounded batch.
 *
 * Snapshots are values of SQL's type pg_snapshot.
 */
#ifndef CQRS_OUTBOX_READ_H
#define CQRS_OUTBOX_READ_H

#include "access/transam.h"
#include "commands/trigger.h"

#include "event.h"
#include "outbox_walk.h"

/* how much to read at once */
typedef struct CqrsReadLimit
{
	int			events;
	Size		bytes;			/* exceeded by one event at most */
} CqrsReadLimit;

extern bool cqrs_outbox_read_is_long(const CqrsWalk *walk, CqrsReadLimit limit);
extern bool cqrs_outbox_read_interval(CqrsBatch *batch, const CqrsWalk *walk, Datum current,
									  CqrsReadLimit limit);
extern void cqrs_outbox_read_bounds(CqrsWalk *walk, int events, int64 upto);
extern bool cqrs_outbox_read_walk(CqrsBatch *batch, const CqrsWalk *walk,
								  CqrsReadLimit limit);

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
