/*
 * apply.h
 *		Give one batch to one projection; contain its errors; decide retry or
 *		stop.
 */
#ifndef CQRS_APPLY_H
#define CQRS_APPLY_H

#include "event.h"
#include "outbox_range.h"
#include "projection.h"

/* what a projection took out of a batch; lives in the batch's context */
typedef struct CqrsApplied
{
	CqrsEvent **events;			/* those that pass the filters */
	int			nevents;
	int			nrejected;		/* that were taken out, since they can't change anything */
	CqrsRange  *range;			/* instead of them: events that the handler is to read */
	CqrsEvent **keyed;			/* those of them whose keys were computed, */
	text	  **keys;			/* or what changed; NULL where not computed */
	int			nkeys;
	uint64	   *hashes;			/* of the keys, where their texts don't tell; or NULL */
	bool		untold;			/* nobody is to be told from here what changed */
} CqrsApplied;

extern void cqrs_apply_select(CqrsProjection *projection, CqrsBatch *batch,
							  CqrsApplied *applied);
extern void cqrs_apply_compute_keys(CqrsProjection *projection, CqrsBatch *batch,
									CqrsApplied *applied);
extern void cqrs_apply_hash_keys(CqrsProjection *projection, CqrsBatch *batch,
								 CqrsApplied *applied);
extern void cqrs_apply_run(CqrsProjection *projection, CqrsBatch *batch,
						   CqrsApplied *applied, bool call_handler);
extern ErrorData *cqrs_apply_contained(CqrsProjection *projection, CqrsBatch *batch,
									   CqrsApplied *applied, bool call_handler);
extern ErrorData *cqrs_apply_contained_keys(CqrsProjection *projection, CqrsBatch *batch,
											CqrsApplied *applied);
extern ErrorData *cqrs_apply_as_whole(ErrorData *(*action) (void *arg), void *arg);
extern ErrorData *cqrs_apply_try(void (*action) (void *arg), void *arg);
extern void cqrs_apply_begin(CqrsProjection *projection);
extern ErrorData *cqrs_apply_restored(CqrsProjection *projection);
extern void cqrs_apply_refuse_handler(const char *what);
extern bool cqrs_apply_error_is_timeout(const ErrorData *error);
extern bool cqrs_apply_error_is_transient(const ErrorData *error);
extern char *cqrs_apply_error_text(const ErrorData *error);
extern ErrorData *cqrs_apply_error_parse(const char *text);

#endif							/* CQRS_APPLY_H */
