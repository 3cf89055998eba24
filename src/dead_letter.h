/*
 * dead_letter.h
 *		The table cqrs.parked: events that were put aside, and why.
 */
#ifndef CQRS_DEAD_LETTER_H
#define CQRS_DEAD_LETTER_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "query.h"

/* an event to put aside */
typedef struct CqrsDeadLetter
{
	int64		position;
	const text *key;			/* NULL is a key like any other */
	bool		blocks;			/* later events of the key have to wait for it */
	const ErrorData *error;		/* NULL = it is behind another one */
	int			attempts;		/* that failed so far */
	TimestampTz next_retry_at;	/* 0 = only by request */
} CqrsDeadLetter;

/* one that was, in its key's queue */
typedef struct CqrsQueued
{
	int64		position;
	int			attempts;
	bool		blocks;			/* it was not skipped */
} CqrsQueued;

/* what a projection has put aside */
typedef struct CqrsParked
{
	int64		events;
	bool		blocks;			/* does any event have to wait? */
	int			attempts;		/* the most of an event that will be tried again */
	TimestampTz next_retry_at;	/* the first of them; 0 = none */
} CqrsParked;

extern void cqrs_dead_letter_park(int32 projection, const CqrsDeadLetter *letter);
extern void cqrs_dead_letter_reschedule(int32 projection, const text *key, int64 but,
										TimestampTz next_retry_at);
extern void cqrs_dead_letter_error_args(const ErrorData *error, Datum *args, char *nulls);
extern bool cqrs_dead_letter_blocks(int32 projection, const text *key);
extern List *cqrs_dead_letter_blocked_keys(int32 projection);
extern List *cqrs_dead_letter_keys(int32 projection, TimestampTz due);
extern int	cqrs_dead_letter_queue(int32 projection, const text *key, bool skipped,
								   int64 after, int limit, CqrsQueued *events);
extern void cqrs_dead_letter_move(int32 projection, int64 position, const text *key);
extern int64 cqrs_dead_letter_first(int32 projection);
extern void cqrs_dead_letter_visit(int32 projection, int64 from, int64 upto, CqrsRowFn row_fn,
								   void *arg);
extern int64 *cqrs_dead_letter_positions(int32 projection, int *npositions);
extern void cqrs_dead_letter_remove(int32 projection, const CqrsQueued *events, int nevents);
extern int64 cqrs_dead_letter_discard(int32 projection, const text *key, int64 up_to,
									  int max_attempts);
extern void cqrs_dead_letter_forget(int32 projection);
extern CqrsParked cqrs_dead_letter_summary(int32 projection);

#endif							/* CQRS_DEAD_LETTER_H */
