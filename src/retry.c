/*
 * retry.c
 *		Try again the events that were put aside.
 *
 * A key's queue is applied again in position order, up to the first event that
 * fails again, under the projection's lock: events of the key that come
 * meanwhile are handled after that, behind what is left of the queue. Once it is
 * empty, they are handled as ever. What is applied is told as a batch is. Events that
 * were skipped hold up nobody, here neither.
 *
 * Events whose keys could not be computed are in the queue of the key NULL. One whose
 * key can be, by now, moves to that key's queue if there is one.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "dead_letter.h"
#include "guc.h"
#include "handler.h"
#include "notify.h"
#include "outbox.h"
#include "outbox_read.h"
#include "retry.h"

/* events of a queue that are applied at once */
#define PART_SIZE 1000

/* generations of events that handlers, inline, may put behind those that they handle */
#define MAX_ROUNDS 1000

/* the retry of a key's queue, a part at a time */
typedef struct Retry
{
	CqrsProjection *projection;
	const CqrsCheckpoint *checkpoint;
	const text *key;
	CqrsPatience patience;
	CqrsRetryOutcome *outcome;
	bool		stopped;		/* at one that failed */
	CqrsQueued	queue[PART_SIZE];
	int			length;
	CqrsBatch  *batch;			/* the events, as far as they are there */

	/* what was applied of the part */
	int			nevents;
	int64		last;			/* position */
	List	   *keys;			/* of text, as they are told; NULL is a key */
	bool		unknown;		/* keys has not all of them */
} Retry;

static void retry_queue(Retry *retry, bool skipped);
static void retry_part(Retry *retry);
static void retry_one_by_one(Retry *retry);
static void retry_one(Retry *retry, const CqrsQueued *queued, int event);
static bool retry_moves(Retry *retry, int event, ErrorData **error);
static ErrorData *retry_apply(Retry *retry, int first, int nevents);
static bool retry_counts(const Retry *retry, int64 position);
static bool retry_may_fail(const Retry *retry, const ErrorData *error);
static void retry_settle(Retry *retry, const CqrsQueued *queued, int n);
static void retry_failed(Retry *retry, const CqrsQueued *queued, ErrorData *error);
static void retry_tell(const Retry *retry);
static ErrorData *endless_error(void);

/*
 * Apply a key's parked events in position order, those that were skipped if asked
 * for, in the current transaction, up to the first that fails again, and what
 * handlers put behind them meanwhile. Adds to the outcome how many left the queue and
 * how many of these are to be counted as applied now: others are not wanted any more,
 * or are, inline, beyond the checkpoint, where they are counted yet. Its error is set to
 * why it could not go on for a reason that is not the event's; what was applied before
 * stays so if the transaction commits.
 */
void
cqrs_retry_key(CqrsProjection *projection, const CqrsCheckpoint *checkpoint, const text *key,
			   bool skipped, CqrsPatience patience, CqrsRetryOutcome *outcome)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views retry",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Retry	   *retry = palloc0(sizeof(Retry));

	retry->projection = projection;
	retry->checkpoint = checkpoint;
	retry->key = key;
	retry->patience = patience;
	retry->outcome = outcome;
	retry_queue(retry, skipped);
	MemoryContextSwitchTo(old);

	/* the error is in there */
	if (outcome->error == NULL)
		MemoryContextDelete(context);
}

/*
 * The same for all keys whose time has come, those first that wait for longest; for
 * some of them only where handlers run into the timeout, so that it ends, and what is
 * new has its turn.
 */
void
cqrs_retry_due(CqrsProjection *projection, const CqrsCheckpoint *checkpoint,
			   CqrsPatience patience, CqrsRetryOutcome *outcome)
{
	TimestampTz started = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, cqrs_dead_letter_keys(projection->id, started))
	{
		cqrs_retry_key(projection, checkpoint, lfirst(lc), false, patience, outcome);
		if (outcome->error != NULL)
		{
			/* others first, next time */
			cqrs_dead_letter_reschedule(projection->id, lfirst(lc), 0, cqrs_park_next_retry(1));
			break;
		}
		if (cqrs_guc_handler_timeout > 0 &&
			TimestampDifferenceExceeds(started, GetCurrentTimestamp(), cqrs_guc_handler_timeout))
			break;
	}
}

static void
retry_queue(Retry *retry, bool skipped)
{
	int64		after = 0;
	int64		drawn = cqrs_outbox_drawn();
	int			rounds = 0;

	while (!retry->stopped &&
		   (retry->length = cqrs_dead_letter_queue(retry->projection->id, retry->key, skipped,
												   after, PART_SIZE, retry->queue)) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (retry->queue[0].position > drawn)
		{
			drawn = cqrs_outbox_drawn();
			rounds++;
		}
		if (rounds > MAX_ROUNDS)
		{
			retry->outcome->error = endless_error();
			return;
		}
		after = retry->queue[retry->length - 1].position;
		retry_part(retry);
	}
}

/* One by one only where it is to be found out which of them fails, or moves. */
static void
retry_part(Retry *retry)
{
	int64	   *positions = palloc(retry->length * sizeof(int64));
	ErrorData  *error = NULL;
	bool		at_once = retry->length > 1 && retry->key != NULL;

	for (int i = 0; i < retry->length; i++)
		positions[i] = retry->queue[i].position;
	retry->nevents = 0;
	retry->keys = NIL;
	retry->unknown = false;
	retry->batch = cqrs_event_batch_create(false);
	cqrs_outbox_read_positions(retry->batch, positions, retry->length);
	if (at_once)
		error = retry_apply(retry, 0, retry->batch->nevents);
	if (at_once && error == NULL)
		retry_settle(retry, retry->queue, retry->length);
	else if (at_once && !retry_may_fail(retry, error))
	{
		retry->outcome->error = error;
		retry->stopped = true;
	}
	else
		retry_one_by_one(retry);
	retry_tell(retry);
	cqrs_event_batch_free(retry->batch);
	pfree(positions);
}

static void
retry_one_by_one(Retry *retry)
{
	int			event = 0;

	for (int i = 0; i < retry->length && !retry->stopped; i++)
	{
		const CqrsQueued *queued = &retry->queue[i];

		CHECK_FOR_INTERRUPTS();
		if (event < retry->batch->nevents &&
			retry->batch->events[event].position == queued->position)
			retry_one(retry, queued, event++);
		else
			retry_settle(retry, queued, 1);
	}
}

static void
retry_one(Retry *retry, const CqrsQueued *queued, int event)
{
	ErrorData  *error = NULL;

	if (retry->key == NULL && retry_moves(retry, event, &error))
		return;
	if (error == NULL)
		error = retry_apply(retry, event, 1);
	if (error == NULL)
		retry_settle(retry, queued, 1);
	else if (retry_may_fail(retry, error))
		retry_failed(retry, queued, error);
	else
	{
		retry->outcome->error = error;
		retry->stopped = true;
	}
}

/*
 * Is the event's key one by now whose events wait? Then it waits with them. Sets *error
 * where the key can't be computed.
 */
static bool
retry_moves(Retry *retry, int event, ErrorData **error)
{
	int32		projection = retry->projection->id;
	CqrsEvent  *moving = &retry->batch->events[event];
	CqrsApplied part = {.events = &moving,.nevents = 1};

	if (!cqrs_projection_wants(retry->projection, moving, retry->batch->desc))
		return false;
	*error = cqrs_apply_contained_keys(retry->projection, retry->batch, &part);
	if (*error != NULL || part.nevents == 0 || part.keys[0] == NULL ||
		!cqrs_dead_letter_blocks(projection, part.keys[0]))
		return false;
	cqrs_dead_letter_move(projection, moving->position, part.keys[0]);
	return true;
}

/*
 * Apply some of the events of the batch, all or none; those that are still wanted.
 * Adds them to what was applied, with keys that live as long as the batch.
 */
static ErrorData *
retry_apply(Retry *retry, int first, int nevents)
{
	CqrsBatch  *batch = retry->batch;
	CqrsApplied part = {0};
	ErrorData  *error;

	part.events = palloc(Max(nevents, 1) * sizeof(CqrsEvent *));
	for (int i = first; i < first + nevents; i++)
		if (cqrs_projection_wants(retry->projection, &batch->events[i], batch->desc))
			part.events[part.nevents++] = &batch->events[i];
	if (part.nevents == 0)
		return NULL;
	error = cqrs_apply_contained(retry->projection, batch, &part, true);
	if (error != NULL)
		return error;

	for (int i = 0; i < part.nevents; i++)
		retry->outcome->applied += retry_counts(retry, part.events[i]->position);
	retry->nevents += part.nevents;
	retry->last = part.events[part.nevents - 1]->position;
	retry->unknown |= part.keys == NULL;
	for (int i = 0; i < part.nkeys; i++)
		retry->keys = lappend(retry->keys, part.keys[i]);
	return NULL;
}

/* Is an event counted when it is retried, or when the checkpoint passes it? */
static bool
retry_counts(const Retry *retry, int64 position)
{
	FullTransactionId xid;

	return !cqrs_projection_is_inline(retry->projection) ||
		!cqrs_outbox_read_xid(position, &xid) ||
		cqrs_checkpoint_covers_event(retry->checkpoint, position, xid);
}

/*
 * May events stay aside for the error? Where on_error has become "stop", an inline
 * projection can't stop instead: publishers have gone on.
 */
static bool
retry_may_fail(const Retry *retry, const ErrorData *error)
{
	return cqrs_park_may(retry->projection, error) ||
		(cqrs_projection_is_inline(retry->projection) && cqrs_handler_was_running() &&
		 !cqrs_apply_error_is_transient(error));
}

/* Some were applied, or are not wanted, or there, any more. */
static void
retry_settle(Retry *retry, const CqrsQueued *queued, int n)
{
	cqrs_dead_letter_remove(retry->projection->id, queued, n);
	retry->outcome->left += n;
}

/*
 * An event has failed again: note that, and whether there is another time, which is
 * its whole queue's. Whoever asks for a retry does not take workers' retries away.
 */
static void
retry_failed(Retry *retry, const CqrsQueued *queued, ErrorData *error)
{
	CqrsProjection *projection = retry->projection;
	CqrsDeadLetter letter = {
		.position = queued->position,.key = retry->key,.blocks = queued->blocks,
		.error = error,.attempts = queued->attempts + 1
	};
	bool		again = queued->blocks && letter.attempts <= cqrs_guc_max_retries;

	if (again)
		letter.next_retry_at = cqrs_park_next_retry(letter.attempts);
	cqrs_dead_letter_park(projection->id, &letter);
	if (!queued->blocks)
		return;
	retry->stopped = true;
	cqrs_dead_letter_reschedule(projection->id, retry->key, queued->position, 0);
	if (!again && retry->patience == CQRS_PATIENCE_WORKER)
		ereport(LOG,
				(errmsg("projection \"%s\" gives up the event at position " INT64_FORMAT " after %d attempts: %s",
						NameStr(projection->name), letter.position, letter.attempts,
						error->message),
				 cqrs_park_errhint(projection),
				 errhidestmt(true)));
}

static void
retry_tell(const Retry *retry)
{
	text	  **keys = palloc(Max(list_length(retry->keys), 1) * sizeof(text *));
	ListCell   *lc;

	foreach(lc, retry->keys)
		keys[foreach_current_index(lc)] = lfirst(lc);
	if (retry->nevents > 0)
		cqrs_notify_send(retry->projection, retry->last, retry->nevents,
						 retry->unknown ? NULL : keys, list_length(retry->keys));
}

/* A handler keeps publishing what comes behind the event that it handles. */
static ErrorData *
endless_error(void)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->output_to_server = error->output_to_client = true;
	error->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
	error->message = "handlers of inline projections keep publishing events";
	error->hint = "See that a handler does not publish what makes it publish again.";
	return error;
}
