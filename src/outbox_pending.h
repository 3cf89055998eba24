/*
 * outbox_pending.h
 *		The table cqrs.outbox, counted: how much is to come, and since when.
 */
#ifndef CQRS_OUTBOX_PENDING_H
#define CQRS_OUTBOX_PENDING_H

#include "datatype/timestamp.h"

#include "outbox_walk.h"

/* what is not processed yet, counted up to a limit */
typedef struct CqrsPending
{
	int64		events;
	TimestampTz oldest;			/* finite occurred_at; PG_INT64_MAX = none */
} CqrsPending;

extern CqrsPending cqrs_outbox_pending_interval(const CqrsWalk *walk, Datum upto, int64 last,
												int limit);
extern CqrsPending cqrs_outbox_pending_walk(const CqrsWalk *walk, int limit);

#endif							/* CQRS_OUTBOX_PENDING_H */
