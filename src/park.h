/*
 * park.h
 *		Put failing events aside, and those of the same key behind them.
 */
#ifndef CQRS_PARK_H
#define CQRS_PARK_H

#include "apply.h"

/* who tries again, and when */
typedef enum CqrsPatience
{
	CQRS_PATIENCE_NONE,			/* at once, in this session, and then nobody */
	CQRS_PATIENCE_WORKER		/* a worker, after a while */
} CqrsPatience;

extern TimestampTz cqrs_park_next_retry(int attempts);
extern bool cqrs_park_may(const CqrsProjection *projection, const ErrorData *error);
extern bool cqrs_park_may_isolate(const CqrsProjection *projection, const ErrorData *error,
								  int nevents);
extern ErrorData *cqrs_park_hold_back(CqrsProjection *projection, CqrsBatch *batch,
									  CqrsApplied *applied, CqrsPatience patience);
extern ErrorData *cqrs_park_isolate(CqrsProjection *projection, CqrsBatch *batch,
									CqrsApplied *applied, CqrsPatience patience);
extern int	cqrs_park_errhint(const CqrsProjection *projection);
extern void cqrs_park_note(CqrsProjection *projection, const ErrorData *error);

#endif							/* CQRS_PARK_H */
