/*
 * retry.c
 *		Try again the events that were put aside.
 *
 * A key's queue is applied again in position order, up to the first event that
 * fails again, under the projection's lock: events of the key that come
 * meanwhile are handled after that, behind what is left of the queue. Once it is
 * empty, they are handled as ever. What is applied is told as a batch is.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "dead_letter.h"
#include "guc.h"
#include "notify.h"
#include "outbox_read.h"
#include "retry.h"

/* events of a queue that are applied at once */
#define QUEUE_CHUNK 1000

/* generations of events that handlers, inline, may put behind those that they handle */
#define MAX_ROUNDS 1000

/* what was applied of a part of a queue */
typedef struct Retried
{
	int			nevents;
	int64		last;			/* position */
	List	   *keys;			/* of text, as they are told; NULL is a key */
	bool		unknown;		/* keys has not all of them */
} Retried;

static int64 retry_one_by_one(CqrsProjection *projection, const text *key, CqrsBatch *batch,
							  const int *attempts, CqrsPatience patience, Retried *retried,
							  ErrorData **error);
static void retry_failed(const CqrsProjection *projection, CqrsDeadLetter *letter,
						 CqrsPatience patience);
static ErrorData *retry_apply(CqrsProjection *projection, CqrsBatch *batch, int first,
							  int nevents, Retried *retried);
static void retry_tell(const CqrsProjection *projection, const Retried *retried);

/*
 * Apply a key's parked events in position order, those that were skipped if asked
 * for, in the current transaction, up to the first that fails again, and what
 * handlers put behind them meanwhile. Adds to the outcome how many left the queue and
 * how many of these were applied: others are not wanted any more. Its error is
 * set to why it could not go on for a reason that is not the event's; what was
 * applied before stays so if the transaction commits.
 */
void
cqrs_retry_key(CqrsProjection *projection, const text *key, bool skipped,
			   CqrsPatience patience, CqrsRetryOutcome *outcome)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views retry",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	int64	   *positions = palloc(QUEUE_CHUNK * sizeof(int64));
	int		   *attempts = palloc(QUEUE_CHUNK * sizeof(int));
	int			length;
	int64		left;

	for (int round = 0; round < MAX_ROUNDS; round += length < QUEUE_CHUNK)
	{
		CqrsBatch  *batch;
		Retried		retried = {0};

		CHECK_FOR_INTERRUPTS();
		length = cqrs_dead_letter_queue(projection->id, key, skipped, QUEUE_CHUNK, positions,
										attempts);
		if (length == 0)
			break;
		batch = cqrs_event_batch_create(false);
		cqrs_outbox_read_positions(batch, positions, length);
		if (length > 1 &&
			retry_apply(projection, batch, 0, batch->nevents, &retried) == NULL)
		{
			cqrs_dead_letter_remove(projection->id, positions, length);
			left = length;
		}
		else
			left = retry_one_by_one(projection, key, batch, attempts, patience, &retried,
									&outcome->error);
		retry_tell(projection, &retried);
		outcome->left += left;
		outcome->applied += retried.nevents;
		cqrs_event_batch_free(batch);
		if (left < length || outcome->error != NULL)
			break;
	}
	MemoryContextSwitchTo(old);

	/* the error is in there */
	if (outcome->error == NULL)
		MemoryContextDelete(context);
}

/*
 * The same for all keys whose time has come; for some of them only where handlers
 * run into the timeout, so that it ends, and what is new has its turn.
 */
void
cqrs_retry_due(CqrsProjection *projection, CqrsPatience patience, CqrsRetryOutcome *outcome)
{
	TimestampTz started = GetCurrentTimestamp();
	ListCell   *lc;

	foreach(lc, cqrs_dead_letter_keys(projection->id, started))
	{
		cqrs_retry_key(projection, lfirst(lc), false, patience, outcome);
		if (outcome->error != NULL ||
			(cqrs_guc_handler_timeout > 0 &&
			 TimestampDifferenceExceeds(started, GetCurrentTimestamp(),
										cqrs_guc_handler_timeout)))
			break;
	}
}

/* Returns how many left the queue. */
static int64
retry_one_by_one(CqrsProjection *projection, const text *key, CqrsBatch *batch,
				 const int *attempts, CqrsPatience patience, Retried *retried,
				 ErrorData **error)
{
	int			applied = 0;

	while (applied < batch->nevents)
	{
		int64		position = batch->events[applied].position;
		ErrorData  *failure = retry_apply(projection, batch, applied, 1, retried);

		if (failure != NULL && !cqrs_park_may(projection, failure))
		{
			*error = failure;
			break;
		}
		if (failure != NULL)
		{
			CqrsDeadLetter letter = {
				.position = position,.key = key,.blocks = true,.error = failure,
				.attempts = attempts[applied] + 1
			};

			retry_failed(projection, &letter, patience);
			break;
		}
		cqrs_dead_letter_remove(projection->id, &position, 1);
		applied++;
	}
	return applied;
}

/*
 * An event has failed again: note that, and whether there is another time, which is
 * its whole queue's. Whoever asks for a retry does not take workers' retries away.
 */
static void
retry_failed(const CqrsProjection *projection, CqrsDeadLetter *letter, CqrsPatience patience)
{
	bool		again = letter->attempts <= cqrs_guc_max_retries;

	if (again)
		letter->next_retry_at = cqrs_park_next_retry(letter->attempts);
	cqrs_dead_letter_park(projection->id, letter);
	cqrs_dead_letter_wait(projection->id, letter->key, letter->position);
	if (!again && patience == CQRS_PATIENCE_WORKER)
		ereport(LOG,
				(errmsg("projection \"%s\" gives up the event at position " INT64_FORMAT " after %d attempts: %s",
						NameStr(projection->name), letter->position, letter->attempts,
						letter->error->message),
				 cqrs_park_errhint(projection),
				 errhidestmt(true)));
}

/*
 * Apply some of the events of a batch, all or none; those that are still wanted.
 * Adds them to what was retried, with keys that live as long as the batch.
 */
static ErrorData *
retry_apply(CqrsProjection *projection, CqrsBatch *batch, int first, int nevents,
			Retried *retried)
{
	CqrsApplied part = {0};
	ErrorData  *error;

	part.events = palloc(Max(nevents, 1) * sizeof(CqrsEvent *));
	for (int i = first; i < first + nevents; i++)
		if (cqrs_projection_wants(projection, &batch->events[i], batch->desc))
			part.events[part.nevents++] = &batch->events[i];
	if (part.nevents == 0)
		return NULL;
	error = cqrs_apply_contained(projection, batch, &part, true);
	if (error != NULL)
		return error;

	retried->nevents += part.nevents;
	retried->last = part.events[part.nevents - 1]->position;
	retried->unknown |= part.keys == NULL;
	for (int i = 0; i < part.nkeys; i++)
		retried->keys = lappend(retried->keys, part.keys[i]);
	return NULL;
}

static void
retry_tell(const CqrsProjection *projection, const Retried *retried)
{
	text	  **keys = palloc(Max(list_length(retried->keys), 1) * sizeof(text *));
	ListCell   *lc;

	foreach(lc, retried->keys)
		keys[foreach_current_index(lc)] = lfirst(lc);
	if (retried->nevents > 0)
		cqrs_notify_send(projection, retried->last, retried->nevents,
						 retried->unknown ? NULL : keys, list_length(retried->keys));
}
