/*
 * retry.h
 *		Try again the events that were put aside.
 */
#ifndef CQRS_RETRY_H
#define CQRS_RETRY_H

#include "park.h"

extern int64 cqrs_retry_key(CqrsProjection *projection, const text *key, bool skipped,
							CqrsPatience patience, ErrorData **error);
extern int64 cqrs_retry_due(CqrsProjection *projection, CqrsPatience patience,
							ErrorData **error);

#endif							/* CQRS_RETRY_H */
