/*
 * catchup.c
 *		One pass: who reads what, together or alone.
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
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "catchup.h"
#include "catchup_group.h"
#include "catchup_member.h"
#include "checkpoint.h"
#include "guc.h"
#include "handler.h"
#include "outbox_range.h"
#include "outbox_read.h"

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

/* one call of cqrs_catchup_pass */
typedef struct Pass
{
	CqrsErrorPolicy policy;
	Datum		current;		/* the pass's snapshot */
	int64		settled;		/* of it: see horizon.c */
} Pass;

static int	catchup_turn(const CqrsPassGroup *groups, int ngroups);
static bool catchup_group(CqrsPassGroup *group, const Pass *pass, bool small_only);
static bool catchup_batch(CqrsPassGroup *group, CqrsBatch *batch, const Pass *pass,
						  bool small_only);
static void catchup_find_whole(const CqrsPassGroup *group, const Pass *pass, CqrsWalk *walk);
static int64 catchup_settled(const CqrsCheckpoint *checkpoint, const Pass *pass);
static void catchup_place(CqrsCheckpoint *checkpoint, CqrsBatch *batch, const Pass *pass);
static CqrsReadLimit catchup_limit(const CqrsPassGroup *group);
static bool catchup_takes_range(const CqrsProjection *projection);
static void catchup_split(const CqrsPassGroup *group, CqrsPassGroup *readers,
						  CqrsPassGroup *others);
static bool catchup_read(CqrsBatch *batch, CqrsCheckpoint *next, const Pass *pass,
						 CqrsReadLimit limit);
static void catchup_end_walk(CqrsCheckpoint *next);
static void catchup_ranges(const CqrsPassGroup *readers, CqrsPassGroup *others,
						   const CqrsCheckpoint *from, CqrsBatch *batch, const Pass *pass);
static bool catchup_apply(CqrsPassGroup *group, const CqrsCheckpoint *next, CqrsBatch *batch,
						  const Pass *pass);

/*
 * Process the next batch of each of up to CQRS_CATCHUP_MAX_PROJECTIONS
 * projections, in the order of ids, in the current transaction, which is read
 * committed and under which nothing has been published. Waits for their locks,
 * or passes over those that are not to be had.
 */
void
cqrs_catchup_pass(CqrsMember *members, int nmembers, bool wait, CqrsErrorPolicy policy)
{
	CqrsPassGroup *groups = palloc(nmembers * sizeof(CqrsPassGroup));
	int			ngroups;
	int			turn;
	bool		found = false;
	Pass		pass = {.policy = policy};

	Assert(nmembers <= CQRS_CATCHUP_MAX_PROJECTIONS);
	Assert(XactIsoLevel == XACT_READ_COMMITTED);

	/* the locks first, then the snapshot: what others did before is in it */
	ngroups = cqrs_catchup_group_lock(members, nmembers, wait, policy, groups, &pass.settled);
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

/* The first group with a member whose turn it is; -1 = none. */
static int
catchup_turn(const CqrsPassGroup *groups, int ngroups)
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
catchup_group(CqrsPassGroup *group, const Pass *pass, bool small_only)
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
catchup_batch(CqrsPassGroup *group, CqrsBatch *batch, const Pass *pass, bool small_only)
{
	CqrsCheckpoint next = *group->checkpoint;
	CqrsReadLimit limit = catchup_limit(group);
	CqrsPassGroup	readers;
	CqrsPassGroup	others;

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
catchup_apply(CqrsPassGroup *group, const CqrsCheckpoint *next, CqrsBatch *batch,
			  const Pass *pass)
{
	bool		was_part = group->checkpoint->frozen || group->checkpoint->restored;
	bool		moved = batch->nevents > 0 || was_part;

	for (int i = 0; i < group->nmembers; i++)
	{
		CqrsMember *member = group->members[i];
		CqrsProjection *projection = group->projections[i];
		CqrsCheckpoint *checkpoint = group->checkpoints[i];

		member->nevents = batch->nevents;
		cqrs_catchup_member_retry(member, projection, checkpoint, pass->policy);
		if (member->error != NULL)
			continue;

		/* at the end of a frozen interval, or an era, there may be what came after it */
		member->more = next->frozen || was_part;
		if (moved)
		{
			catchup_place(checkpoint, batch, pass);
			cqrs_catchup_member_apply(member, projection, checkpoint, next, batch, pass->policy);
			if (member->error != NULL)
				continue;
		}
		else if (member->no_retry_before == 0 && pass->policy != CQRS_ERROR_THROW)
			cqrs_catchup_member_recover(projection, checkpoint);
		member->next_retry_at = cqrs_projection_get(member->projection)->parked_retry_at;
		if (member->next_retry_at != 0)
			member->next_retry_at = Max(member->next_retry_at, member->no_retry_before);
		if (!member->more)
			cqrs_catchup_member_arrive(member, projection);
	}
	return moved;
}

/*
 * Say where there are no other rows than those of the group's walk. A walk's
 * snapshot, with what was settled then, may be older than this pass's.
 */
static void
catchup_find_whole(const CqrsPassGroup *group, const Pass *pass, CqrsWalk *walk)
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
catchup_limit(const CqrsPassGroup *group)
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
catchup_split(const CqrsPassGroup *group, CqrsPassGroup *readers, CqrsPassGroup *others)
{
	readers->nmembers = others->nmembers = 0;
	for (int i = 0; i < group->nmembers; i++)
		cqrs_catchup_group_add(catchup_takes_range(group->projections[i]) ? readers : others,
							   group->members[i], group->projections[i],
							   group->checkpoints[i]);
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
catchup_ranges(const CqrsPassGroup *readers, CqrsPassGroup *others, const CqrsCheckpoint *from,
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
	{
		CqrsCheckpoint *checkpoint = readers->checkpoints[i];

		if (found)
			catchup_place(checkpoint, batch, pass);
		if (!found ||
			!cqrs_catchup_member_apply_range(readers->members[i], readers->projections[i],
											 checkpoint, &next, &range, batch, pass->policy))
			cqrs_catchup_group_add(others, readers->members[i], readers->projections[i],
								   checkpoint);
	}
}
