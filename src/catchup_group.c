/*
 * catchup_group.c
 *		The projections of a pass that stand at one checkpoint: lock them, read
 *		where they stand, and put those together that have the same to do next.
 *
 * A checkpoint that a dump has restored is of an older era (era.c). It is gone on
 * from when all is restored, which is looked at once more in each pass.
 */
#include "postgres.h"

#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "catchup_group.h"
#include "horizon.h"
#include "outbox.h"
#include "restore.h"

/* whether a dump has been restored is looked at so often; ms */
#define RESTORE_POLL 1000

static bool group_lock_members(CqrsMember *members, int nmembers, bool wait);
static bool group_read_checkpoints(CqrsMember *members, int nmembers, CqrsErrorPolicy policy,
								   CqrsCheckpoint **checkpoints);
static bool group_read_restored(CqrsMember *member, CqrsProjection *projection,
								CqrsCheckpoint *checkpoint, CqrsErrorPolicy policy);
static int	group_members(CqrsMember *members, int nmembers, CqrsCheckpoint **checkpoints,
						  CqrsPassGroup *groups);

/*
 * Lock the members, push a new active snapshot if there are any left, read
 * their checkpoints and group them, into an array with room for nmembers groups.
 * Returns the number of groups; where it is 0, no snapshot is pushed. Says up to
 * which position everything was settled before the snapshot: see horizon.c.
 */
int
cqrs_catchup_group_lock(CqrsMember *members, int nmembers, bool wait, CqrsErrorPolicy policy,
						CqrsPassGroup *groups, int64 *settled)
{
	CqrsCheckpoint **checkpoints = palloc(nmembers * sizeof(CqrsCheckpoint *));
	int			ngroups;

	if (!group_lock_members(members, nmembers, wait))
		return 0;
	cqrs_outbox_lock_to_read();
	*settled = cqrs_horizon_settled();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (group_read_checkpoints(members, nmembers, policy, checkpoints))
	{
		/* in the snapshot, what was restored may not have been complete */
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	ngroups = group_members(members, nmembers, checkpoints, groups);
	if (ngroups == 0)
		PopActiveSnapshot();
	return ngroups;
}

/* Add a member, which stands where the others of the group do. */
void
cqrs_catchup_group_add(CqrsPassGroup *group, CqrsMember *member, CqrsProjection *projection,
					   CqrsCheckpoint *checkpoint)
{
	if (group->nmembers == 0)
		group->checkpoint = checkpoint;
	group->members[group->nmembers] = member;
	group->projections[group->nmembers] = projection;
	group->checkpoints[group->nmembers] = checkpoint;
	group->nmembers++;
}

/* Lock the members that there is something to do for. Returns whether there are any. */
static bool
group_lock_members(CqrsMember *members, int nmembers, bool wait)
{
	bool		any = false;
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < nmembers; i++)
	{
		CqrsMember *member = &members[i];
		CqrsProjection *projection;

		member->locked = cqrs_checkpoint_lock(member->projection, wait);
		if (!member->locked)
			continue;
		projection = cqrs_projection_get(member->projection);
		member->locked = projection != NULL && cqrs_projection_is_active(projection);

		/* whoever waits for the lock does not wait for the time */
		if (member->locked && !wait && projection->next_retry_at > now)
		{
			member->next_retry_at = projection->next_retry_at;
			member->locked = false;
		}
		any |= member->locked;
	}
	return any;
}

/*
 * Read the checkpoints of members that are locked, under the active snapshot; NULL
 * where one is not to be processed. Returns whether there are restored ones to be
 * processed.
 */
static bool
group_read_checkpoints(CqrsMember *members, int nmembers, CqrsErrorPolicy policy,
					   CqrsCheckpoint **checkpoints)
{
	bool		restored = false;

	for (int i = 0; i < nmembers; i++)
	{
		CqrsCheckpoint *checkpoint;
		CqrsProjection *projection;

		checkpoints[i] = NULL;
		if (!members[i].locked)
			continue;
		checkpoint = cqrs_checkpoint_read(members[i].projection);

		/*
		 * What a commit has changed is told in several steps: an extension that was
		 * dropped and made anew in one transaction may have been seen halfway.
		 */
		projection = cqrs_projection_get(members[i].projection);
		if (projection == NULL)
			members[i].locked = false;
		else if (checkpoint != NULL && !checkpoint->restored)
			checkpoints[i] = checkpoint;
		else if (group_read_restored(&members[i], projection, checkpoint, policy))
		{
			checkpoints[i] = checkpoint;
			restored = true;
		}
	}
	return restored;
}

/*
 * Can a member be processed whose checkpoint is of an older era, or is not there
 * (NULL), perhaps not yet? If not, it has to wait until all is restored, or stops.
 */
static bool
group_read_restored(CqrsMember *member, CqrsProjection *projection,
					CqrsCheckpoint *checkpoint, CqrsErrorPolicy policy)
{
	if (!cqrs_restore_is_complete(projection, policy == CQRS_ERROR_RETRY) ||
		(checkpoint == NULL && cqrs_checkpoint_peek(member->projection) != NULL))
	{
		member->locked = false;
		member->next_retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															RESTORE_POLL);
		return false;
	}
	if (checkpoint == NULL || !cqrs_checkpoint_find_next_era(checkpoint))
	{
		cqrs_catchup_member_refuse(member, projection, checkpoint, policy);
		return false;
	}
	member->error = cqrs_apply_restored(projection);
	if (member->error != NULL && policy == CQRS_ERROR_THROW)
		ReThrowError(member->error);
	if (member->error != NULL)
	{
		cqrs_catchup_member_fail(member, projection, policy);
		return false;
	}

	/* its checkpoint was behind what its publishers had done, to notify */
	if (cqrs_projection_was_inline(projection, &checkpoint->incarnation))
		cqrs_checkpoint_skip_era(checkpoint);
	return true;
}

/* Put members that have the same to do next into one group. Returns the number of groups. */
static int
group_members(CqrsMember *members, int nmembers, CqrsCheckpoint **checkpoints,
			  CqrsPassGroup *groups)
{
	int			ngroups = 0;

	for (int i = 0; i < nmembers; i++)
	{
		CqrsProjection *projection = cqrs_projection_get(members[i].projection);
		CqrsCheckpoint *checkpoint = checkpoints[i];
		CqrsPassGroup *group = groups;

		if (projection == NULL)
			members[i].locked = false;
		if (projection == NULL || checkpoint == NULL)
			continue;
		while (group < groups + ngroups &&
			   !cqrs_checkpoint_equal(group->checkpoint, checkpoint))
			group++;
		if (group == groups + ngroups)
		{
			ngroups++;
			group->nmembers = 0;
		}
		cqrs_catchup_group_add(group, &members[i], projection, checkpoint);
	}
	return ngroups;
}
