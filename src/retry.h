/*
 * retry.h
 *		Try again the events that were put aside.
 */
#ifndef CQRS_RETRY_H
#define CQRS_RETRY_H

#include "checkpoint.h"
#include "park.h"

typedef struct CqrsRetryOutcome
{
	int64		left;			/* events that are parked no longer */
	int64		applied;		/* of them, that count now */
	ErrorData  *error;			/* why it could not go on, if no event is to blame; or NULL */
} CqrsRetryOutcome;

extern void cqrs_retry_key(CqrsProjection *projection, const CqrsCheckpoint *checkpoint,
						   const text *key, bool skipped, CqrsPatience patience,
						   CqrsRetryOutcome *outcome);
extern void cqrs_retry_due(CqrsProjection *projection, const CqrsCheckpoint *checkpoint,
						   CqrsPatience patience, CqrsRetryOutcome *outcome);

#endif							/* CQRS_RETRY_H */
