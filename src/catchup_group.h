/*
 * catchup_group.h
 *		The projections of a pass that stand at one checkpoint: lock them, read
 *		where they stand, and put those together that have the same to do next.
 */
#ifndef CQRS_CATCHUP_GROUP_H
#define CQRS_CATCHUP_GROUP_H

#include "catchup_member.h"
#include "checkpoint.h"
#include "projection.h"

/*
 * Projections at one checkpoint; the arrays have room for all members. Members are
 * their caller's, projections the cache's, and checkpoints in the memory context
 * that was current in cqrs_catchup_group_lock. Each one's lock is held until the end
 * of the transaction.
 */
typedef struct CqrsPassGroup
{
	CqrsCheckpoint *checkpoint; /* the first one's */
	int			nmembers;
	CqrsMember *members[CQRS_CATCHUP_MAX_PROJECTIONS];
	CqrsProjection *projections[CQRS_CATCHUP_MAX_PROJECTIONS];
	CqrsCheckpoint *checkpoints[CQRS_CATCHUP_MAX_PROJECTIONS];
} CqrsPassGroup;

extern int	cqrs_catchup_group_lock(CqrsMember *members, int nmembers, bool wait,
									CqrsErrorPolicy policy, CqrsPassGroup *groups,
									int64 *settled);
extern void cqrs_catchup_group_add(CqrsPassGroup *group, CqrsMember *member,
								   CqrsProjection *projection, CqrsCheckpoint *checkpoint);

#endif							/* CQRS_CATCHUP_GROUP_H */
