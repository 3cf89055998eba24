/*
 * retry.c
 *		Try again the events that were put aside.
 *
 * A key's queue is applied again in position order, up to the first event that
 * fails again, under the projection's lock: events of the key that come
 * meanwhile are handled after that, behind what is left of the queue. Once it is
 * empty, they are handled as ever.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/timestamp.h"

#include "dead_letter.h"
#include "guc.h"
#include "outbox_read.h"
#include "retry.h"

/* events of a queue that are applied at once */
#define QUEUE_CHUNK 1000

static int64 retry_one_by_one(CqrsProjection *projection, const text *key, CqrsBatch *batch,
							  const int *attempts, CqrsPatience patience, ErrorData **error);
static void retry_failed(const CqrsProjection *projection, CqrsDeadLetter *letter,
						 CqrsPatience patience);
static ErrorData *retry_apply(CqrsProjection *projection, CqrsBatch *batch, int first,
							  int nevents);

/*
 * Apply a key's parked events in position order, those that were skipped if asked
 * for, in the current transaction, up to the first that fails again. Returns how
 * many were applied, or are not wanted any more; they are parked no longer. *error
 * is set to why it could not go on for a reason that is not the event's: the
 * transaction is not to commit.
 */
int64
cqrs_retry_key(CqrsProjection *projection, const text *key, bool skipped,
			   CqrsPatience patience, ErrorData **error)
{
	int64	   *positions = palloc(QUEUE_CHUNK * sizeof(int64));
	int		   *attempts = palloc(QUEUE_CHUNK * sizeof(int));
	int64		total = 0;
	int			length;
	int64		applied;

	*error = NULL;
	do
	{
		CqrsBatch  *batch = cqrs_event_batch_create(false);

		CHECK_FOR_INTERRUPTS();
		length = cqrs_dead_letter_queue(projection->id, key, skipped, QUEUE_CHUNK, positions,
										attempts);
		cqrs_outbox_read_positions(batch, positions, length);
		if (retry_apply(projection, batch, 0, batch->nevents) == NULL)
		{
			cqrs_dead_letter_remove(projection->id, positions, length);
			applied = length;
		}
		else
			applied = retry_one_by_one(projection, key, batch, attempts, patience, error);
		total += applied;
		cqrs_event_batch_free(batch);
	} while (length == QUEUE_CHUNK && applied == length && *error == NULL);
	return total;
}

/*
 * The same for all keys whose time has come; for some of them only where handlers
 * run into the timeout, so that it ends, and what is new has its turn.
 */
int64
cqrs_retry_due(CqrsProjection *projection, CqrsPatience patience, ErrorData **error)
{
	int64		total = 0;
	TimestampTz started = GetCurrentTimestamp();
	ListCell   *lc;

	*error = NULL;
	foreach(lc, cqrs_dead_letter_keys(projection->id, started))
	{
		total += cqrs_retry_key(projection, lfirst(lc), false, patience, error);
		if (*error != NULL)
			return total;
		if (cqrs_guc_handler_timeout > 0 &&
			TimestampDifferenceExceeds(started, GetCurrentTimestamp(), cqrs_guc_handler_timeout))
			break;
	}
	return total;
}

static int64
retry_one_by_one(CqrsProjection *projection, const text *key, CqrsBatch *batch,
				 const int *attempts, CqrsPatience patience, ErrorData **error)
{
	int			applied = 0;

	while (applied < batch->nevents)
	{
		int64		position = batch->events[applied].position;
		ErrorData  *failure = retry_apply(projection, batch, applied, 1);

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

/* An event has failed again: note that, and whether there is another time. */
static void
retry_failed(const CqrsProjection *projection, CqrsDeadLetter *letter, CqrsPatience patience)
{
	bool		again = patience == CQRS_PATIENCE_WORKER &&
		letter->attempts <= cqrs_guc_max_retries;

	if (again)
		letter->next_retry_at = cqrs_park_next_retry(letter->attempts);
	cqrs_dead_letter_park(projection->id, letter);
	if (!again && patience == CQRS_PATIENCE_WORKER)
		ereport(LOG,
				(errmsg("projection \"%s\" gives up the event at position " INT64_FORMAT " after %d attempts: %s",
						NameStr(projection->name), letter->position, letter->attempts,
						letter->error->message),
				 cqrs_park_errhint(projection),
				 errhidestmt(true)));
}

/* Apply some of the events of a batch, all or none; those that are still wanted. */
static ErrorData *
retry_apply(CqrsProjection *projection, CqrsBatch *batch, int first, int nevents)
{
	CqrsApplied part = {0};

	part.events = palloc(Max(nevents, 1) * sizeof(CqrsEvent *));
	for (int i = first; i < first + nevents; i++)
		if (cqrs_projection_wants(projection, &batch->events[i], batch->desc))
			part.events[part.nevents++] = &batch->events[i];
	if (part.nevents == 0)
		return NULL;
	return cqrs_apply_contained(projection, batch, &part, true);
}
