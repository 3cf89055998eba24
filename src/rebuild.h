/*
 * rebuild.h
 *		Compute read tables again from the first event.
 */
#ifndef CQRS_REBUILD_H
#define CQRS_REBUILD_H

#include "datatype/timestamp.h"

#include "projection.h"

/* how far a rebuild is; events are estimated from positions */
typedef struct CqrsRebuildProgress
{
	const char *phase;
	int64		events_done;
	int64		events_total;
	double		rate;			/* events per second */
	int64		eta_us;			/* -1 = unknown */
} CqrsRebuildProgress;

extern void cqrs_rebuild_start(CqrsProjection *projection);
extern bool cqrs_rebuild_progress(const CqrsProjection *projection,
								  CqrsRebuildProgress *progress);

#endif							/* CQRS_REBUILD_H */
