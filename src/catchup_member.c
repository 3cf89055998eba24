/*
 * catchup_member.c
 *		One projection in a pass: apply to it, move its checkpoint, and say what
 *		becomes of its errors.
 *
 * For an inline projection the publishers have applied the events; the pass
 * moves its checkpoint, counts, and sends the notifications.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "catchup_member.h"
#include "dead_letter.h"
#include "guc.h"
#include "lock.h"
#include "notify.h"
#include "park.h"
#include "registry.h"
#include "retry.h"

/* a batch on its way to a projection */
typedef struct Work
{
	CqrsMember *member;
	CqrsProjection *projection;
	CqrsBatch  *batch;
	CqrsErrorPolicy policy;
	CqrsApplied *applied;		/* selected before, applied after */
	bool		call_handler;
} Work;

/* events on their way out of a batch, both in the order of positions */
typedef struct Leaving
{
	CqrsApplied *applied;
	int			next;
	int			kept;
} Leaving;

static void member_retry_later(CqrsMember *member, CqrsProjection *projection,
							   const ErrorData *error);
static ErrorData *member_work(void *arg);
static void member_leave_out_parked(const CqrsProjection *projection, CqrsApplied *applied);
static bool leave_out(TupleTableSlot *slot, void *arg);
static void leave_upto(Leaving *leaving, int64 position);
static void member_settle(const CqrsProjection *projection, CqrsBatch *batch);
static void member_advance(CqrsMember *member, CqrsProjection *projection,
						   CqrsCheckpoint *checkpoint, const CqrsCheckpoint *next,
						   const CqrsApplied *applied, int64 nevents, int64 last);
static CqrsPatience member_patience(CqrsErrorPolicy policy);

/*
 * Try again what was put aside, where its time has come, before anything that
 * comes after it. Publishers of an inline projection must be out of the way: what
 * one has put behind can't be seen before it commits, and would be left there.
 * Where they can't be locked out, there is another time, which the member is told.
 */
void
cqrs_catchup_member_retry(CqrsMember *member, CqrsProjection *projection,
						  CqrsCheckpoint *checkpoint, CqrsErrorPolicy policy)
{
	CqrsRetryOutcome outcome = {0};

	if (member->no_retry_before != 0 && member->no_retry_before > GetCurrentTimestamp())
		return;
	member->no_retry_before = 0;
	if (projection->parked_retry_at == 0 || policy == CQRS_ERROR_THROW ||
		projection->parked_retry_at > GetCurrentTimestamp())
		return;
	if (cqrs_projection_is_inline(projection) && !cqrs_lock_gate_briefly(projection->id))
	{
		member->no_retry_before = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
															  cqrs_guc_retry_delay);
		return;
	}

	cqrs_retry_due(projection, checkpoint, member_patience(policy), &outcome);
	cqrs_park_note(projection, NULL);
	if (outcome.applied > 0)
		cqrs_checkpoint_advance(checkpoint, outcome.applied);
	if (outcome.error != NULL && cqrs_projection_is_inline(projection) &&
		!cqrs_apply_error_is_transient(outcome.error))
	{
		member_retry_later(member, projection, outcome.error);
		return;
	}
	member->error = outcome.error;
	if (member->error != NULL)
	{
		member->more = false;
		cqrs_catchup_member_fail(member, projection, policy);
	}
}

/*
 * Apply a batch, which says where it is among all events, to one projection, and
 * move its checkpoint to next.
 */
void
cqrs_catchup_member_apply(CqrsMember *member, CqrsProjection *projection,
						  CqrsCheckpoint *checkpoint, const CqrsCheckpoint *next,
						  CqrsBatch *batch, CqrsErrorPolicy policy)
{
	bool		call_handler = !cqrs_projection_is_inline(projection);
	CqrsApplied applied;
	int64		last;
	TimestampTz started = GetCurrentTimestamp();
	Work		work = {
		.member = member,.projection = projection,.batch = batch,.policy = policy,
		.applied = &applied,.call_handler = call_handler
	};

	member->by_publishers = !call_handler;

	/* what was put behind others comes again with a batch that fails: it may not stay there */
	cqrs_apply_select(projection, batch, &applied);
	last = applied.nevents > 0 ? applied.events[applied.nevents - 1]->position : 0;
	if (call_handler && policy != CQRS_ERROR_THROW && cqrs_projection_get(projection->id)->parked)
		member->error = cqrs_apply_as_whole(member_work, &work);
	else
		member->error = member_work(&work);
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
		cqrs_catchup_member_fail(member, projection, policy);
		return;
	}

	if (batch->nevents > 0)
		checkpoint->peak = Max(checkpoint->peak, batch->events[batch->nevents - 1].position);
	if (applied.nevents > 0)
		last = applied.events[applied.nevents - 1]->position;
	member_advance(member, projection, checkpoint, next, &applied,
				   applied.nevents + applied.nrejected, last);
}

/*
 * Have one projection read a range and apply it, and move its checkpoint to next.
 * The batch is empty, and says where the range is among all events. Returns false,
 * with nothing done, if it fails by an error that may be one event's.
 */
bool
cqrs_catchup_member_apply_range(CqrsMember *member, CqrsProjection *projection,
								CqrsCheckpoint *checkpoint, const CqrsCheckpoint *next,
								CqrsRange *range, CqrsBatch *batch, CqrsErrorPolicy policy)
{
	CqrsApplied applied = {.range = range};
	TimestampTz started = GetCurrentTimestamp();

	member_settle(projection, batch);
	if (policy == CQRS_ERROR_THROW)
		cqrs_apply_run(projection, batch, &applied, true);
	else
		member->error = cqrs_apply_contained(projection, batch, &applied, true);
	member->duration = TimestampDifferenceMilliseconds(started, GetCurrentTimestamp());
	if (member->error == NULL)
	{
		member->nevents = range->nevents;
		member->more = true;
		checkpoint->peak = Max(checkpoint->peak, range->upto);
		member_advance(member, projection, checkpoint, next, &applied, range->nevents,
					   range->last);
		return true;
	}
	if (cqrs_apply_error_is_transient(member->error))
	{
		cqrs_catchup_member_fail(member, projection, policy);
		return true;
	}
	member->error = NULL;
	return false;
}

/*
 * A member's own work is undone; say what becomes of it, in the transaction that
 * the others commit in. Whoever asked for it is told of an error that is nobody's fault,
 * and may ask again; who has cancelled it does not want the rest, either.
 */
void
cqrs_catchup_member_fail(CqrsMember *member, CqrsProjection *projection, CqrsErrorPolicy policy)
{
	const char *name = NameStr(projection->name);
	char	   *text = cqrs_apply_error_text(member->error);
	bool		transient = cqrs_apply_error_is_transient(member->error);

	if (policy == CQRS_ERROR_STOP && ERRCODE_TO_CATEGORY(member->error->sqlerrcode) ==
		ERRCODE_OPERATOR_INTERVENTION)
		ReThrowError(member->error);
	if (transient && policy == CQRS_ERROR_STOP)
		return;
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

/* Whatever it failed by is over, at a checkpoint, where it has failed before. */
void
cqrs_catchup_member_recover(CqrsProjection *projection, const CqrsCheckpoint *checkpoint)
{
	if (projection->retries == 0)
		return;
	cqrs_registry_record_recovery(projection->id);
	ereport(LOG,
			(errmsg("projection \"%s\" recovered after " INT64_FORMAT " retries, at position " INT64_FORMAT,
					NameStr(projection->name), projection->retries, checkpoint->walk.last),
			 errhidestmt(true)));
}

/* A checkpoint that can't be gone on from stops its projection. */
void
cqrs_catchup_member_refuse(CqrsMember *member, CqrsProjection *projection,
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
	cqrs_catchup_member_fail(member, projection, policy);
}

/* A projection has read all there was: what it was catching up for can follow. */
void
cqrs_catchup_member_arrive(CqrsMember *member, CqrsProjection *projection)
{
	if (projection->state == CQRS_STATE_REBUILDING)
		cqrs_registry_set_state(projection->id, projection->mode == CQRS_MODE_INLINE ?
								  CQRS_STATE_SWITCHING : CQRS_STATE_RUNNING);
	member->wants_switch = projection->mode == CQRS_MODE_INLINE &&
		projection->state != CQRS_STATE_RUNNING;
}

/* --------------------------------------------------------------- helpers */

/*
 * A retry could not go on for a reason that is not the events'. Publishers do: a stop
 * would have what they apply meanwhile applied again.
 */
static void
member_retry_later(CqrsMember *member, CqrsProjection *projection, const ErrorData *error)
{
	member->no_retry_before = cqrs_park_next_retry(1);
	cqrs_park_note(projection, error);
	ereport(LOG,
			(errmsg("projection \"%s\" could not retry dead letters: %s",
					NameStr(projection->name), error->message),
			 error->context ? errdetail_log("%s", error->context) : 0,
			 errhidestmt(true)));
}

/* Hold back what has to wait, and apply the rest. Returns NULL or the error. */
static ErrorData *
member_work(void *arg)
{
	Work	   *work = (Work *) arg;
	CqrsProjection *projection = work->projection;
	CqrsApplied *applied = work->applied;
	ErrorData  *error = NULL;

	if (work->call_handler)
		error = cqrs_park_hold_back(projection, work->batch, applied,
									member_patience(work->policy));
	else
		member_leave_out_parked(projection, applied);
	if (error != NULL)
		return error;
	member_settle(projection, work->batch);
	if (work->member->begins != NULL && applied->nevents > 0)
		work->member->begins(NameStr(projection->name), applied->nevents,
							 applied->events[0]->position);
	if (work->policy == CQRS_ERROR_THROW && work->call_handler)
		cqrs_apply_run(projection, work->batch, applied, work->call_handler);
	else if (applied->nevents > 0)
		error = cqrs_apply_contained(projection, work->batch, applied, work->call_handler);
	if (error != NULL && work->call_handler &&
		cqrs_park_may_isolate(projection, error, applied->nevents))
		error = cqrs_park_isolate(projection, work->batch, applied, member_patience(work->policy));
	return error;
}

/*
 * Leave out of the events that publishers have seen to those that they put aside:
 * these are told, and counted, when they are retried.
 */
static void
member_leave_out_parked(const CqrsProjection *projection, CqrsApplied *applied)
{
	Leaving		leaving = {.applied = applied};

	if (applied->nevents == 0 || !cqrs_projection_get(projection->id)->parked)
		return;
	cqrs_dead_letter_visit(projection->id, applied->events[0]->position,
						   applied->events[applied->nevents - 1]->position, leave_out, &leaving);
	leave_upto(&leaving, PG_INT64_MAX);
	applied->nevents = leaving.kept;
}

/* The next event that was put aside. */
static bool
leave_out(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	leave_upto((Leaving *) arg, DatumGetInt64(slot_getattr(slot, 1, &isnull)));
	return true;
}

/* Keep all events before a position, and leave out that one. */
static void
leave_upto(Leaving *leaving, int64 position)
{
	CqrsApplied *applied = leaving->applied;

	for (; leaving->next < applied->nevents; leaving->next++)
	{
		CqrsEvent  *event = applied->events[leaving->next];

		if (event->position > position)
			break;
		if (event->position < position)
			applied->events[leaving->kept++] = event;
	}
}

/* What a view was to keep the order of, and was put aside, is yet to come, wherever it is. */
static void
member_settle(const CqrsProjection *projection, CqrsBatch *batch)
{
	int64		first = 0;

	if (OidIsValid(projection->state_table))
		first = cqrs_dead_letter_first(projection->id);
	if (first != 0)
		batch->settled = Min(batch->settled, first - 1);
}

/*
 * Move a projection's checkpoint to next, and tell of the events that were
 * applied, of which "last" has the highest position.
 */
static void
member_advance(CqrsMember *member, CqrsProjection *projection, CqrsCheckpoint *checkpoint,
			   const CqrsCheckpoint *next, const CqrsApplied *applied, int64 nevents,
			   int64 last)
{
	checkpoint->frozen = next->frozen;
	checkpoint->walk = next->walk;
	checkpoint->incarnation = next->incarnation;
	cqrs_checkpoint_advance(checkpoint, nevents);
	if (nevents > 0)
		cqrs_notify_send(projection, last, nevents, applied->keys, applied->nkeys);
	cqrs_catchup_member_recover(projection, next);

	if (cqrs_guc_log_min_batch_duration >= 0 && nevents > 0 &&
		member->duration >= cqrs_guc_log_min_batch_duration)
		ereport(LOG,
				(errmsg("projection \"%s\": " INT64_FORMAT " events up to position " INT64_FORMAT " in %ld ms",
						NameStr(projection->name), nevents, next->walk.last, member->duration),
				 errhidestmt(true)));
}

/* Who tries again what fails? */
static CqrsPatience
member_patience(CqrsErrorPolicy policy)
{
	return policy == CQRS_ERROR_RETRY ? CQRS_PATIENCE_WORKER : CQRS_PATIENCE_NONE;
}
