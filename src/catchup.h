/*
 * catchup.h
 *		One pass: lock checkpoints, read, apply, advance, notify.
 */
#ifndef CQRS_CATCHUP_H
#define CQRS_CATCHUP_H

#include "datatype/timestamp.h"

/*
 * Projections in one pass at most: each costs a subtransaction, and with 64 of
 * them a transaction becomes a burden to every snapshot in the cluster.
 */
#define CQRS_CATCHUP_MAX_PROJECTIONS 32

/* what becomes of errors */
typedef enum CqrsErrorPolicy
{
	CQRS_ERROR_THROW,			/* throw: the caller's transaction depends on it */
	CQRS_ERROR_STOP,			/* stop the projection; throw transient ones */
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
	bool		locked;			/* out: it took part */
	int			nevents;		/* out: events read, wanted or not */
	long		duration;		/* out: of its own work; ms */
	bool		more;			/* out: there is more to read */
	bool		postponed;		/* out: a large batch gave way to small ones */
	bool		wants_switch;	/* out: caught up, to become inline */
	ErrorData  *error;			/* out: why it stopped, or will retry; or NULL */
	TimestampTz next_retry_at;	/* out: 0 where it need not wait */
} CqrsMember;

extern void cqrs_catchup_pass(CqrsMember *members, int nmembers, bool wait,
							  CqrsErrorPolicy policy);

#endif							/* CQRS_CATCHUP_H */
