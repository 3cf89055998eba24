/*
 * catchup.c
 *		One pass: lock checkpoints, read, apply, advance, notify.
 *
 * A pass is part of one transaction, which is the caller's. Projections that
 * stand at the same checkpoint share a fetch; those that do not still share the
 * pass's snapshot, so that once they have caught up they stand at the same
 * checkpoint. A backlog larger than one batch is taken by itself, one batch to
 * a pass: projections that have caught up must not wait for it, and it must not
 * wait for them for ever, so the two take turns.
 *
 * Views with a backlog read their events by themselves, as a range of positions:
 * a batch in memory would only be a detour, for each of them. One that fails is
 * given the batch after all, in which the event that is to blame can be found.
 *
 * For an inline projection the publishers have applied the events; the pass
 * moves its checkpoint, counts, and sends the notifications.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "catchup.h"
#include "checkpoint.h"
#include "guc.h"
#include "handler.h"
#include "horizon.h"
#include "lock.h"
#include "notify.h"
#include "outbox_range.h"
#include "outbox_read.h"
#include "park.h"
#include "registry.h"
#include "restore.h"

/* bounds the memory of a batch, whatever the size of the events */
#define MAX_BATCH_BYTES (16 * 1024 * 1024)

/* what takes large batches takes so many times as much, in events and in bytes */
#define LARGE_EVENTS 10
#define LARGE_BYTES 2

/*
 * As many events as it takes for a statement to read them by itself; fewer are
 * cheaper to have in memory than to freeze an interval for.
 */
#define MIN_RANGE 1000

/* whether a dump has been restored is looked at so often; ms */
#define RESTORE_POLL 1000

/* one call of cqrs_catchup_pass */
typedef struct Pass
{
	CqrsErrorPolicy policy;
	Datum		current;		/* the pass's snapshot */
	int64		settled;		/* of it: see horizon.c */
} Pass;

/* projections at one checkpoint; the arrays have room for all members */
typedef struct PassGroup
{
	CqrsCheckpoint *checkpoint; /* the first one's */
	int			nmembers;
	CqrsMember *members[CQRS_CATCHUP_MAX_PROJECTIONS];
	CqrsProjection *projections[CQRS_CATCHUP_MAX_PROJECTIONS];
	CqrsCheckpoint *checkpoints[CQRS_CATCHUP_MAX_PROJECTIONS];
} PassGroup;

static int	catchup_lock(CqrsMember *members, int nmembers, bool wait, Pass *pass,
						 PassGroup *groups);
static bool catchup_lock_members(CqrsMember *members, int nmembers, bool wait, Pass *pass);
static bool catchup_read_checkpoints(CqrsMember *members, int nmembers, const Pass *pass,
									 CqrsCheckpoint **checkpoints);
static bool catchup_read_restored(CqrsMember *member, CqrsProjection *projection,
								  CqrsCheckpoint *checkpoint, const Pass *pass);
static int	catchup_group_members(CqrsMember *members, int nmembers, CqrsCheckpoint **checkpoints,
								  PassGroup *groups);
static int	catchup_turn(const PassGroup *groups, int ngroups);
static bool catchup_group(PassGroup *group, const Pass *pass, bool small_only);
static bool catchup_batch(PassGroup *group, CqrsBatch *batch, const Pass *pass, bool small_only);
static void catchup_find_whole(const PassGroup *group, const Pass *pass, CqrsWalk *walk);
static int64 catchup_settled(const CqrsCheckpoint *checkpoint, const Pass *pass);
static void catchup_place(CqrsCheckpoint *checkpoint, CqrsBatch *batch, const Pass *pass);
static CqrsReadLimit catchup_limit(const PassGroup *group);
static bool catchup_takes_range(const CqrsProjection *projection);
static void catchup_split(const PassGroup *group, PassGroup *readers, PassGroup *others);
static void catchup_join(PassGroup *group, CqrsMember *member, CqrsProjection *projection,
						 CqrsCheckpoint *checkpoint);
static bool catchup_read(CqrsBatch *batch, CqrsCheckpoint *next, const Pass *pass,
						 CqrsReadLimit limit);
static void catchup_end_walk(CqrsCheckpoint *next);
static void catchup_ranges(const PassGroup *readers, PassGroup *others,
						   const CqrsCheckpoint *from, CqrsBatch *batch, const Pass *pass);
static bool catchup_range(const PassGroup *readers, int i, CqrsRange *range,
						  const CqrsCheckpoint *next, CqrsBatch *batch, const Pass *pass);
static bool catchup_apply(PassGroup *group, const CqrsCheckpoint *next, CqrsBatch *batch,
						  const Pass *pass);
static void catchup_member(CqrsMember *member, CqrsProjection *projection,
						   CqrsCheckpoint *checkpoint, const CqrsCheckpoint *next,
						   CqrsBatch *batch, CqrsErrorPolicy policy);
static void catchup_advance(CqrsMember *member, CqrsProjection *projection,
							CqrsCheckpoint *checkpoint, const CqrsCheckpoint *next,
							const CqrsApplied *applied, int64 nevents, int64 last);
static TimestampTz catchup_retry(CqrsMember *member, CqrsProjection *projection,
								 CqrsCheckpoint *checkpoint, CqrsErrorPolicy policy);
static CqrsPatience catchup_patience(CqrsErrorPolicy policy);
static void catchup_failed(CqrsMember *member, CqrsProjection *projection,
						   CqrsErrorPolicy policy);
static void catchup_unusable(CqrsMember *member, CqrsProjection *projection,
							 const CqrsCheckpoint *checkpoint, CqrsErrorPolicy policy);
static void catchup_arrived(CqrsMember *member, CqrsProjection *projection);

/*
 * Process the next batch of each of up to CQRS_CATCHUP_MAX_PROJECTIONS
 * projections, in the order of ids, in the current transaction, which is read
 * committed and under which nothing has been published. Waits for their locks,
 * or passes over those that are not to be had.
 */
void
cqrs_catchup_pass(CqrsMember *members, int nmembers, bool wait, CqrsErrorPolicy policy)
{
	PassGroup  *groups = palloc(nmembers * sizeof(PassGroup));
	int			ngroups;
	int			turn;
	bool		found = false;
	Pass		pass = {.policy = policy};

	Assert(nmembers <= CQRS_CATCHUP_MAX_PROJECTIONS);
	Assert(XactIsoLevel == XACT_READ_COMMITTED);

	/* the locks first, then the snapshot: what others did before is in it */
	ngroups = catchup_lock(members, nmembers, wait, &pass, groups);
	if (ngroups == 0)
		return;
	pass.current = cqrs_checkpoint_current_snapshot();
	turn = catchup_turn(groups, ngroups);
	if (turn >= 0)
		(void) catchup_group(&groups[turn], &pass, false);
	for (int i = 0; i < ngroups; i++)
	{
		if (turn < 0)
			found |= catchup_group(&groups[i], &pass, found);
		else if (i != turn)
			for (int j = 0; j < groups[i].nmembers; j++)
				groups[i].members[j]->more = true;
	}
	PopActiveSnapshot();
}

/*
 * Lock the members, push a new active snapshot if there are any left, read
 * their checkpoints and group them. Returns the number of groups.
 */
static int
catchup_lock(CqrsMember *members, int nmembers, bool wait, Pass *pass, PassGroup *groups)
{
	CqrsCheckpoint **checkpoints = palloc(nmembers * sizeof(CqrsCheckpoint *));
	int			ngroups;

	if (!catchup_lock_members(members, nmembers, wait, pass))
		return 0;
	PushActiveSnapshot(GetTransactionSnapshot());
	if (catchup_read_checkpoints(members, nmembers, pass, checkpoints))
	{
		/* in the snapshot, what was restored may not have been complete */
		PopActiveSnapshot();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	ngroups = catchup_group_members(members, nmembers, checkpoints, groups);
	if (ngroups == 0)
		PopActiveSnapshot();
	return ngroups;
}

/* Lock the members that there is something to do for. Returns whether there are any. */
static bool
catchup_lock_members(CqrsMember *members, int nmembers, bool wait, Pass *pass)
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
	if (any)
		pass->settled = cqrs_horizon_settled();
	return any;
}

/*
 * Read the checkpoints of members that are locked, under the active snapshot; NULL
 * where one is not to be processed. Returns whether there are restored ones to be
 * processed.
 */
static bool
catchup_read_checkpoints(CqrsMember *members, int nmembers, const Pass *pass,
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
		else if (catchup_read_restored(&members[i], projection, checkpoint, pass))
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
catchup_read_restored(CqrsMember *member, CqrsProjection *projection,
					  CqrsCheckpoint *checkpoint, const Pass *pass)
{
	if (!cqrs_restore_is_complete(projection, pass->policy == CQRS_ERROR_RETRY) ||
		(checkpoint == NULL && cqrs_checkpoint_peek(member->projection) != NULL))
	{
		member->locked = false;
		member->next_retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															RESTORE_POLL);
		return false;
	}
	if (checkpoint == NULL || !cqrs_checkpoint_find_next_era(checkpoint))
	{
		catchup_unusable(member, projection, checkpoint, pass->policy);
		return false;
	}
	member->error = cqrs_apply_restored(projection);
	if (member->error != NULL && pass->policy == CQRS_ERROR_THROW)
		ReThrowError(member->error);
	if (member->error != NULL)
	{
		catchup_failed(member, projection, pass->policy);
		return false;
	}

	/* its checkpoint was behind what its publishers had done, to notify */
	if (cqrs_projection_was_inline(projection, &checkpoint->incarnation))
		cqrs_checkpoint_skip_era(checkpoint);
	return true;
}

/* Put members that have the same to do next into one group. Returns the number of groups. */
static int
catchup_group_members(CqrsMember *members, int nmembers, CqrsCheckpoint **checkpoints,
					  PassGroup *groups)
{
	int			ngroups = 0;

	for (int i = 0; i < nmembers; i++)
	{
		CqrsProjection *projection = cqrs_projection_get(members[i].projection);
		CqrsCheckpoint *checkpoint = checkpoints[i];
		PassGroup  *group = groups;

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
		catchup_join(group, &members[i], projection, checkpoint);
	}
	return ngroups;
}

/* The first group with a member whose turn it is; -1 = none. */
static int
catchup_turn(const PassGroup *groups, int ngroups)
{
	for (int i = 0; i < ngroups; i++)
		for (int j = 0; j < groups[i].nmembers; j++)
			if (groups[i].members[j]->turn)
				return i;
	return -1;
}

/*
 * Process one batch of a group, or, with small_only, see that it is left for the
 * next pass if it is not small. Returns true if there was something.
 */
static bool
catchup_group(PassGroup *group, const Pass *pass, bool small_only)
{
	CqrsBatch  *batch = cqrs_event_batch_create(true);
	bool		found = false;

	PG_TRY();
	{
		found = catchup_batch(group, batch, pass, small_only);
	}
	PG_FINALLY();
	{
		cqrs_event_batch_free(batch);
	}
	PG_END_TRY();
	return found;
}

/* The same with an empty batch to use. */
static bool
catchup_batch(PassGroup *group, CqrsBatch *batch, const Pass *pass, bool small_only)
{
	CqrsCheckpoint next = *group->checkpoint;
	CqrsReadLimit limit = catchup_limit(group);
	PassGroup	readers;
	PassGroup	others;

	catchup_find_whole(group, pass, &next.walk);
	catchup_split(group, &readers, &others);
	if (readers.nmembers > 0)
		limit.events = Min(limit.events, MIN_RANGE);
	if (!next.frozen && !next.restored && catchup_read(batch, &next, pass, limit))
		return catchup_apply(group, &next, batch, pass);
	if (small_only)
	{
		for (int i = 0; i < group->nmembers; i++)
			group->members[i]->more = group->members[i]->postponed = true;
		return true;
	}
	if (!next.frozen && next.restored)
		cqrs_checkpoint_finish_era(&next);
	else if (!next.frozen)
	{
		next.frozen = true;
		next.walk.target = pass->current;
		next.walk.last = 0;
		cqrs_outbox_read_bounds(&next.walk, limit.events, PG_INT64_MAX);
	}
	catchup_ranges(&readers, &others, &next, batch, pass);
	if (others.nmembers == 0)
		return true;
	if (cqrs_outbox_read_walk(batch, &next.walk, catchup_limit(&others)))
		catchup_end_walk(&next);
	if (batch->nevents > 0)
		next.walk.last = batch->events[batch->nevents - 1].position;
	return catchup_apply(&others, &next, batch, pass) || others.nmembers < group->nmembers;
}

/*
 * Give a batch to all members of a group, and move their checkpoints to next.
 * Returns whether there was something.
 */
static bool
catchup_apply(PassGroup *group, const CqrsCheckpoint *next, CqrsBatch *batch,
			  const Pass *pass)
{
	bool		was_part = group->checkpoint->frozen || group->checkpoint->restored;
	bool		moved = batch->nevents > 0 || was_part;

	for (int i = 0; i < group->nmembers; i++)
	{
		CqrsMember *member = group->members[i];
		CqrsProjection *projection = group->projections[i];
		TimestampTz not_before;

		member->nevents = batch->nevents;
		not_before = catchup_retry(member, projection, group->checkpoints[i], pass->policy);
		if (member->error != NULL)
			continue;

		/* at the end of a frozen interval, or an era, there may be what came after it */
		member->more = next->frozen || was_part;
		if (moved)
		{
			catchup_place(group->checkpoints[i], batch, pass);
			catchup_member(member, projection, group->checkpoints[i], next, batch, pass->policy);
			if (member->error != NULL)
				continue;
		}
		member->next_retry_at = cqrs_projection_get(member->projection)->parked_retry_at;
		if (member->next_retry_at != 0)
			member->next_retry_at = Max(member->next_retry_at, not_before);
		if (!member->more)
			catchup_arrived(member, projection);
	}
	return moved;
}

/*
 * Say where there are no other rows than those of the group's walk. A walk's
 * snapshot, with what was settled then, may be older than this pass's.
 */
static void
catchup_find_whole(const PassGroup *group, const Pass *pass, CqrsWalk *walk)
{
	walk->whole_after = walk->first - 1;
	walk->whole_upto = catchup_settled(group->checkpoint, pass);
	for (int i = 0; i < group->nmembers; i++)
		walk->whole_after = Max(walk->whole_after, group->checkpoints[i]->peak);
}

/*
 * What was settled when the snapshot was taken that a checkpoint is walking to, or
 * will: all of an older era.
 */
static int64
catchup_settled(const CqrsCheckpoint *checkpoint, const Pass *pass)
{
	if (checkpoint->frozen)
		return checkpoint->settled;
	return checkpoint->restored ? checkpoint->next_era.first_position - 1 : pass->settled;
}

/* Say in the batch where it is among all events. */
static void
catchup_place(CqrsCheckpoint *checkpoint, CqrsBatch *batch, const Pass *pass)
{
	checkpoint->settled = catchup_settled(checkpoint, pass);
	batch->peak = checkpoint->peak;
	batch->settled = checkpoint->settled;
}

/*
 * The smallest limit among the members. Where the limit is the default one, those
 * that handle large batches take many times as much.
 */
static CqrsReadLimit
catchup_limit(const PassGroup *group)
{
	CqrsReadLimit limit = {.events = INT_MAX - 1,.bytes = MAX_BATCH_BYTES * LARGE_BYTES};

	for (int i = 0; i < group->nmembers; i++)
	{
		int			own = group->projections[i]->batch_size;
		bool		large = own == 0 &&
			cqrs_handler_kind(group->projections[i])->handles_large_batches;

		if (own == 0)
			own = Min((int64) cqrs_guc_batch_size * (large ? LARGE_EVENTS : 1), INT_MAX - 1);
		if (!large)
			limit.bytes = MAX_BATCH_BYTES;
		if (group->members[i]->limit > 0)
			own = Min(own, group->members[i]->limit);
		limit.events = Min(limit.events, own);
	}
	return limit;
}

/*
 * May the projection read its next events by itself? One that has put events aside
 * has to look at each event's key.
 */
static bool
catchup_takes_range(const CqrsProjection *projection)
{
	return cqrs_handler_kind(projection)->reads_ranges &&
		!cqrs_projection_is_inline(projection) &&
		!projection->parked && projection->parked_retry_at == 0;
}

/* Part a group into those who may read ranges, and the others. */
static void
catchup_split(const PassGroup *group, PassGroup *readers, PassGroup *others)
{
	readers->nmembers = others->nmembers = 0;
	for (int i = 0; i < group->nmembers; i++)
		catchup_join(catchup_takes_range(group->projections[i]) ? readers : others,
					 group->members[i], group->projections[i], group->checkpoints[i]);
}

/* Add a member, which stands where the others of the group do. */
static void
catchup_join(PassGroup *group, CqrsMember *member, CqrsProjection *projection,
			 CqrsCheckpoint *checkpoint)
{
	if (group->nmembers == 0)
		group->checkpoint = checkpoint;
	group->members[group->nmembers] = member;
	group->projections[group->nmembers] = projection;
	group->checkpoints[group->nmembers] = checkpoint;
	group->nmembers++;
}

/*
 * Read all that follows next, and move next to the pass's snapshot. Returns false,
 * with nothing read, if there is more than the limit allows.
 */
static bool
catchup_read(CqrsBatch *batch, CqrsCheckpoint *next, const Pass *pass, CqrsReadLimit limit)
{
	if (cqrs_outbox_read_is_long(&next->walk, limit) ||
		!cqrs_outbox_read_interval(batch, &next->walk, pass->current, limit))
		return false;
	next->walk.done = pass->current;
	if (batch->nevents > 0)
		next->walk.last = Max(next->walk.last, batch->events[batch->nevents - 1].position);
	return true;
}

/* The frozen interval is read; and the older era, if it was what was left of one. */
static void
catchup_end_walk(CqrsCheckpoint *next)
{
	next->frozen = false;
	next->walk.done = next->walk.target;
	if (next->restored)
		cqrs_checkpoint_enter_era(next);
}

/*
 * Have readers read the next range of a frozen interval, each by itself. They join
 * the others if there is none, and so does one whose statement fails by an error
 * that may be one event's: which, a batch can tell.
 */
static void
catchup_ranges(const PassGroup *readers, PassGroup *others, const CqrsCheckpoint *from,
			   CqrsBatch *batch, const Pass *pass)
{
	CqrsCheckpoint next = *from;
	CqrsRange	range = {0};
	bool		found = readers->nmembers > 0 &&
		cqrs_outbox_range_next(&range, &from->walk, catchup_limit(readers).events);

	next.walk.last = range.upto;
	if (range.is_end)
		catchup_end_walk(&next);
	for (int i = 0; i < readers->nmembers; i++)
		if (!found || !catchup_range(readers, i, &range, &next, batch, pass))
			catchup_join(others, readers->members[i], readers->projections[i],
						 readers->checkpoints[i]);
}

/*
 * Have one of them read a range and apply it, and move its checkpoint to next.
 * Returns false, with nothing done, if it fails by an error that may be one event's.
 */
static bool
catchup_range(const PassGroup *readers, int i, CqrsRange *range, const CqrsCheckpoint *next,
			  CqrsBatch *batch, const Pass *pass)
{
	CqrsMember *member = readers->members[i];
	CqrsProjection *projection = readers->projections[i];
	CqrsCheckpoint *checkpoint = readers->checkpoints[i];
	CqrsApplied applied = {.range = range};
	TimestampTz started = GetCurrentTimestamp();

	catchup_place(checkpoint, batch, pass);
	if (pass->policy == CQRS_ERROR_THROW)
		cqrs_apply_run(projection, batch, &applied, true);
	else
		member->error = cqrs_apply_contained(projection, batch, &applied, true);
	member->duration = TimestampDifferenceMilliseconds(started, GetCurrentTimestamp());
	if (member->error == NULL)
	{
		member->nevents = range->nevents;
		member->more = true;
		checkpoint->peak = Max(checkpoint->peak, range->upto);
		catchup_advance(member, projection, checkpoint, next, &applied, range->nevents,
						range->last);
		return true;
	}
	if (cqrs_apply_error_is_transient(member->error))
	{
		catchup_failed(member, projection, pass->policy);
		return true;
	}
	member->error = NULL;
	return false;
}

/*
 * Try again what was put aside, where its time has come, before anything that
 * comes after it. Publishers of an inline projection must be out of the way: what
 * one has put behind can't be seen before it commits, and would be left there.
 * Where they can't be locked out, there is another time: returns that, or 0.
 */
static TimestampTz
catchup_retry(CqrsMember *member, CqrsProjection *projection, CqrsCheckpoint *checkpoint,
			  CqrsErrorPolicy policy)
{
	int64		applied;

	if (projection->parked_retry_at == 0 || policy == CQRS_ERROR_THROW ||
		projection->parked_retry_at > GetCurrentTimestamp())
		return 0;
	if (cqrs_projection_is_inline(projection) && !cqrs_lock_gate_briefly(projection->id))
		return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), cqrs_guc_retry_delay);

	applied = cqrs_park_retry_due(projection, catchup_patience(policy), &member->error);
	if (member->error != NULL)
	{
		member->more = false;
		catchup_failed(member, projection, policy);
		return 0;
	}
	cqrs_park_note(projection, NULL);
	if (applied > 0)
		cqrs_checkpoint_advance(checkpoint, applied);
	return 0;
}

/* Who tries again what fails? */
static CqrsPatience
catchup_patience(CqrsErrorPolicy policy)
{
	return policy == CQRS_ERROR_RETRY ? CQRS_PATIENCE_WORKER : CQRS_PATIENCE_NONE;
}

/* Apply a batch to one projection, and move its checkpoint to next. */
static void
catchup_member(CqrsMember *member, CqrsProjection *projection, CqrsCheckpoint *checkpoint,
			   const CqrsCheckpoint *next, CqrsBatch *batch, CqrsErrorPolicy policy)
{
	bool		call_handler = !cqrs_projection_is_inline(projection);
	CqrsApplied applied;
	TimestampTz started = GetCurrentTimestamp();

	cqrs_apply_select(projection, batch, &applied);
	if (call_handler)
		cqrs_park_hold_back(projection, batch, &applied);
	if (member->begins != NULL && applied.nevents > 0)
		member->begins(NameStr(projection->name), applied.nevents, applied.events[0]->position);
	if (policy == CQRS_ERROR_THROW && call_handler)
		cqrs_apply_run(projection, batch, &applied, call_handler);
	else if (applied.nevents > 0)
		member->error = cqrs_apply_contained(projection, batch, &applied, call_handler);
	if (member->error != NULL && call_handler &&
		cqrs_park_may_isolate(projection, member->error, applied.nevents))
		member->error = cqrs_park_isolate(projection, batch, &applied,
										  catchup_patience(policy));
	member->duration = TimestampDifferenceMilliseconds(started, GetCurrentTimestamp());

	/*
	 * What publishers have applied is processed, whatever happens here: a stop
	 * would have it applied again. Listeners have to do without the keys.
	 */
	if (member->error != NULL && !call_handler &&
		!cqrs_apply_error_is_transient(member->error))
	{
		ereport(LOG,
				(errmsg("projection \"%s\" notifies without keys: %s",
						NameStr(projection->name), member->error->message),
				 errhidestmt(true)));
		member->error = NULL;
		applied.keys = NULL;
	}
	if (member->error != NULL && policy == CQRS_ERROR_THROW)
		ReThrowError(member->error);
	if (member->error != NULL)
	{
		member->more = false;
		catchup_failed(member, projection, policy);
		return;
	}

	if (batch->nevents > 0)
		checkpoint->peak = Max(checkpoint->peak, batch->events[batch->nevents - 1].position);
	catchup_advance(member, projection, checkpoint, next, &applied, applied.nevents,
					applied.nevents > 0 ?
					applied.events[applied.nevents - 1]->position : 0);
}

/*
 * Move a projection's checkpoint to next, and tell of the events that were
 * applied, of which "last" has the highest position.
 */
static void
catchup_advance(CqrsMember *member, CqrsProjection *projection, CqrsCheckpoint *checkpoint,
				const CqrsCheckpoint *next, const CqrsApplied *applied, int64 nevents,
				int64 last)
{
	checkpoint->frozen = next->frozen;
	checkpoint->walk = next->walk;
	checkpoint->incarnation = next->incarnation;
	cqrs_checkpoint_advance(checkpoint, nevents);
	if (nevents > 0)
		cqrs_notify_send(projection, last, nevents, applied->keys, applied->nkeys);
	if (projection->retries > 0)
	{
		cqrs_registry_record_recovery(projection->id);
		ereport(LOG,
				(errmsg("projection \"%s\" recovered after " INT64_FORMAT " retries, at position " INT64_FORMAT,
						NameStr(projection->name), projection->retries, next->walk.last),
				 errhidestmt(true)));
	}

	if (cqrs_guc_log_min_batch_duration >= 0 && nevents > 0 &&
		member->duration >= cqrs_guc_log_min_batch_duration)
		ereport(LOG,
				(errmsg("projection \"%s\": " INT64_FORMAT " events up to position " INT64_FORMAT " in %ld ms",
						NameStr(projection->name), nevents, next->walk.last, member->duration),
				 errhidestmt(true)));
}

/*
 * A member's own work is undone; say what becomes of it, in the transaction that
 * the others commit in.
 */
static void
catchup_failed(CqrsMember *member, CqrsProjection *projection, CqrsErrorPolicy policy)
{
	const char *name = NameStr(projection->name);
	char	   *text = cqrs_apply_error_text(member->error);
	bool		transient = cqrs_apply_error_is_transient(member->error);

	if (transient && policy == CQRS_ERROR_STOP)
		ReThrowError(member->error);
	if (transient)
	{
		member->next_retry_at = cqrs_park_next_retry(projection->retries + 1);
		cqrs_registry_record_retry(projection->id, text, member->next_retry_at);
		ereport(LOG,
				(errmsg("projection \"%s\" will be retried: %s", name, member->error->message),
				 errhidestmt(true)));
	}
	else
	{
		cqrs_registry_record_stop(projection->id, text);
		ereport(LOG,
				(errmsg("projection \"%s\" stopped: %s", name, member->error->message),
				 member->error->context ? errdetail_log("%s", member->error->context) : 0,
				 errhint("Mend the cause, then run: SELECT cqrs.resume_projection(%s);",
						 quote_literal_cstr(name)),
				 errhidestmt(true)));
	}
}

/* A checkpoint that can't be gone on from stops its projection. */
static void
catchup_unusable(CqrsMember *member, CqrsProjection *projection,
				 const CqrsCheckpoint *checkpoint, CqrsErrorPolicy policy)
{
	MemoryContext context = CurrentMemoryContext;

	/* nothing to roll back: it looks at the checkpoint only */
	PG_TRY();
	{
		cqrs_checkpoint_refuse_unusable(checkpoint);
	}
	PG_CATCH();
	{
		if (policy == CQRS_ERROR_THROW)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		member->error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	catchup_failed(member, projection, policy);
}

/* A projection has read all there was: what it was catching up for can follow. */
static void
catchup_arrived(CqrsMember *member, CqrsProjection *projection)
{
	if (projection->state == CQRS_STATE_REBUILDING)
		cqrs_registry_set_state(projection->id, projection->mode == CQRS_MODE_INLINE ?
								  CQRS_STATE_SWITCHING : CQRS_STATE_RUNNING);
	member->wants_switch = projection->mode == CQRS_MODE_INLINE &&
		projection->state != CQRS_STATE_RUNNING;
}
