/*
 * catchup_member.h
 *		One projection in a pass: apply to it, move its checkpoint, and say what
 *		becomes of its errors.
 */
#ifndef CQRS_CATCHUP_MEMBER_H
#define CQRS_CATCHUP_MEMBER_H

#include "datatype/timestamp.h"

#include "checkpoint.h"
#include "event.h"
#include "outbox_range.h"
#include "projection.h"

/*
 * Projections in one pass at most: each costs a subtransaction, and with 64 of
 * them a transaction becomes a burden to every snapshot in the cluster.
 */
#define CQRS_CATCHUP_MAX_PROJECTIONS 32

/* what becomes of errors */
typedef enum CqrsErrorPolicy
{
	CQRS_ERROR_THROW,			/* throw: the caller's transaction depends on it */
	CQRS_ERROR_STOP,			/* stop the projection; transient ones are for the caller */
	CQRS_ERROR_RETRY			/* stop the projection; retry transient ones later */
} CqrsErrorPolicy;

/* hears that so many events of a projection are applied, the first at a position */
typedef void (*CqrsBegins) (const char *projection, int nevents, int64 position);

/* one projection in a pass */
typedef struct CqrsMember
{
	int32		projection;		/* in: its id */
	int			limit;			/* in: events to read at once; 0 = its batch_size */
	bool		turn;			/* in: postponed in the last pass, so take it now */
	CqrsBegins	begins;			/* in: told of each batch before it is applied; or NULL */
	TimestampTz no_retry_before;	/* in, out: of what was put aside, when one could not be made */
	bool		locked;			/* out: it took part */
	int			nevents;		/* out: events read, wanted or not */
	bool		by_publishers;	/* out: they have applied them already */
	long		duration;		/* out: of its own work; ms */
	bool		more;			/* out: there is more to read */
	bool		postponed;		/* out: a large batch gave way to small ones */
	bool		wants_switch;	/* out: caught up, to become inline */
	ErrorData  *error;			/* out: why it stopped, or will retry; or NULL */
	TimestampTz next_retry_at;	/* out: 0 where it need not wait */
} CqrsMember;

extern void cqrs_catchup_member_retry(CqrsMember *member, CqrsProjection *projection,
									  CqrsCheckpoint *checkpoint, CqrsErrorPolicy policy);
extern void cqrs_catchup_member_apply(CqrsMember *member, CqrsProjection *projection,
									  CqrsCheckpoint *checkpoint, const CqrsCheckpoint *next,
									  CqrsBatch *batch, CqrsErrorPolicy policy);
extern bool cqrs_catchup_member_apply_range(CqrsMember *member, CqrsProjection *projection,
											CqrsCheckpoint *checkpoint,
											const CqrsCheckpoint *next, CqrsRange *range,
											CqrsBatch *batch, CqrsErrorPolicy policy);
extern void cqrs_catchup_member_fail(CqrsMember *member, CqrsProjection *projection,
									 CqrsErrorPolicy policy);
extern void cqrs_catchup_member_recover(CqrsProjection *projection,
										const CqrsCheckpoint *checkpoint);
extern void cqrs_catchup_member_refuse(CqrsMember *member, CqrsProjection *projection,
									   const CqrsCheckpoint *checkpoint,
									   CqrsErrorPolicy policy);
extern void cqrs_catchup_member_arrive(CqrsMember *member, CqrsProjection *projection);

#endif							/* CQRS_CATCHUP_MEMBER_H */
