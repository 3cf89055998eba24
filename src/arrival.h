/*
 * arrival.h
 *		The table cqrs.arrival: how much attached tables have brought.
 */
#ifndef CQRS_ARRIVAL_H
#define CQRS_ARRIVAL_H

#include "datatype/timestamp.h"
#include "utils/uuid.h"

/* what has arrived in an attached table; last is about the event of highest position */
typedef struct CqrsArrival
{
	int64		events;
	int64		duplicates;
	int64		last_position;	/* 0 = no event */
	pg_uuid_t	last_event_id;
	TimestampTz last_event_at;
} CqrsArrival;

extern void cqrs_arrival_init(void);
extern void cqrs_arrival_prune(void);
extern void cqrs_arrival_note(Oid relid, const char *source, const CqrsArrival *arrival);

#endif							/* CQRS_ARRIVAL_H */
