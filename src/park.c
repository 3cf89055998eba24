/*
 * park.c
 *		Put failing events aside, and those of the same key behind them.
 *
 * A batch that fails is rolled back, and applied again in halves, each in a
 * subtransaction of its own: what works stays, what fails is halved again. So
 * one culprit among n events costs about 2 log n further calls of the handler,
 * over 4 n events in all at most. The culprit is parked, and what follows of its
 * key in the batch, and in later ones, is parked behind it; other keys go on.
 * Errors that are nobody's fault, and such that no event is to blame for (a
 * handler that is not there, say), park nothing.
 *
 * What takes longer than handler_timeout may be too many events only, or one
 * with which the handler never returns. To find out is what costs time here, so
 * the parts are small, and there are only so many attempts: a handler that runs
 * into the timeout again and again has its projection stopped. The parts are
 * tried on_error => 'stop', too.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "dead_letter.h"
#include "guc.h"
#include "handler.h"
#include "park.h"
#include "registry.h"

/* into so many parts goes a batch that ran into the timeout, */
#define TIMEOUT_PARTS 16

/* so many keys are looked up one by one; for more, all that are blocked are read */
#define FEW_KEYS 10

/* so often may one batch do so: enough for several culprits */
#define MAX_TIMEOUTS_OF_BATCH 20

/* keys with the same hash */
typedef struct BlockedKeys
{
	uint64		hash;			/* hash key */
	List	   *keys;			/* of text; NULL is a key */
} BlockedKeys;

/* one batch, of which something is put aside */
typedef struct Parking
{
	CqrsProjection *projection;
	CqrsBatch  *batch;
	CqrsPatience patience;
	bool		skip;			/* others need not wait */
	int			ntimeouts;
	HTAB	   *blocked;
	CqrsEvent **given;			/* events to be isolated */
	int			ngiven;
	CqrsEvent **events;			/* all of them, with their keys */
	text	  **keys;
	int			nevents;
	int			nrejected;		/* that can't change anything */
	CqrsEvent **done;			/* what was applied */
	text	  **done_keys;
	int			ndone;
	int			nparked;
	int64		position;		/* of the first that failed, */
	ErrorData  *cause;			/* and why */
	ErrorData  *error;			/* no event's fault: give the batch up */
} Parking;

static Parking *parking_begin(CqrsProjection *projection, CqrsBatch *batch,
							  const CqrsApplied *applied, CqrsPatience patience);
static ErrorData *parking_isolate(void *arg);
static void parking_find_blocked(Parking *parking);
static void parking_compute_keys(Parking *parking, CqrsEvent **events, int nevents);
static void parking_apply(Parking *parking, int first, int nevents);
static int	parking_parts(const ErrorData *error, int nevents, int *next);
static bool parking_has_enough(Parking *parking, ErrorData *error);
static void parking_note(Parking *parking);
static ErrorData *parking_try_keys(Parking *parking, CqrsEvent **events, int nevents);
static ErrorData *parking_try(Parking *parking, CqrsEvent **events, text **keys, int nevents);
static void parking_one(Parking *parking, CqrsEvent *event, bool keyed, text *key,
						ErrorData *error);
static void parking_park(Parking *parking, const CqrsEvent *event, text *key, ErrorData *error,
						 int attempts);
static void parking_behind(Parking *parking, const CqrsEvent *event, text *key);
static int	parking_hold_back(Parking *parking, int first, int nevents);
static BlockedKeys *blocked_entry(HTAB *blocked, const text *key, HASHACTION action);
static bool blocked_has(HTAB *blocked, const text *key);
static void blocked_add(HTAB *blocked, text *key);

/*
 * When to try again what has failed so often: the delay doubles from retry_delay
 * to max_retry_delay, and varies by a quarter, so that what failed together does
 * not come again together.
 */
TimestampTz
cqrs_park_next_retry(int attempts)
{
	double		delay = (double) cqrs_guc_retry_delay * ((int64) 1 << Min(Max(attempts - 1, 0), 40));

	delay = Min(delay, cqrs_guc_max_retry_delay);
	delay *= 0.75 + 0.5 * pg_prng_double(&pg_global_prng_state);
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), (int64) delay);
}

/*
 * May events be put aside for an error that the projection's handler has just
 * thrown?
 */
bool
cqrs_park_may(const CqrsProjection *projection, const ErrorData *error)
{
	return strcmp(projection->on_error, "stop") != 0 &&
		!cqrs_apply_error_is_transient(error) && cqrs_handler_was_running();
}

/*
 * May so many events that failed with such an error be applied in parts? Beyond
 * what may be parked, those that took too long, even if it ends in a stop.
 */
bool
cqrs_park_may_isolate(const CqrsProjection *projection, const ErrorData *error, int nevents)
{
	return cqrs_park_may(projection, error) ||
		(nevents > 1 && cqrs_apply_error_is_timeout(error));
}

/*
 * Take the events out of a batch whose keys have events parked, and park them
 * behind those. Afterwards, applied has the keys of what is left. Returns NULL, or
 * the error why a key can't be computed, if no event is to blame for it: then nothing
 * of this is to stay.
 */
ErrorData *
cqrs_park_hold_back(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied,
					CqrsPatience patience)
{
	Parking    *parking;

	/* it may have changed in this transaction */
	projection = cqrs_projection_get(projection->id);
	if (!projection->parked || applied->nevents == 0)
		return NULL;
	parking = parking_begin(projection, batch, applied, patience);
	parking_compute_keys(parking, applied->events, applied->nevents);
	if (parking->error != NULL)
		return parking->error;
	parking_find_blocked(parking);
	applied->nevents = parking_hold_back(parking, 0, parking->nevents);
	applied->nrejected += parking->nrejected;
	applied->events = parking->events;
	applied->keys = parking->keys;
	applied->nkeys = applied->nevents;
	parking_note(parking);
	return NULL;
}

/*
 * Find what makes a batch fail that has failed as a whole, put it aside, and
 * apply the rest, in the current transaction. Afterwards, applied has what was
 * applied. Returns NULL, or the error that no event is to blame for, which outlives the
 * batch: then the caller's transaction is not to commit.
 */
ErrorData *
cqrs_park_isolate(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied,
				  CqrsPatience patience)
{
	Parking    *parking = parking_begin(projection, batch, applied, patience);
	ErrorData  *error;

	/* whichever is put aside is yet to come, for those behind it */
	batch->settled = Min(batch->settled, applied->events[0]->position - 1);
	parking->given = applied->events;
	parking->ngiven = applied->nevents;
	error = cqrs_apply_as_whole(parking_isolate, parking);
	if (error != NULL)
		return error;

	applied->events = parking->done;
	applied->nevents = parking->ndone;
	applied->nrejected += parking->nrejected;
	applied->keys = parking->done_keys;
	applied->nkeys = parking->ndone;
	parking_note(parking);
	return NULL;
}

/* For ereport: the hint of whatever says that events stay aside. */
int
cqrs_park_errhint(const CqrsProjection *projection)
{
	return errhint("Mend the cause, then run: SELECT cqrs.retry_dead_letters(%s);",
				   quote_literal_cstr(NameStr(projection->name)));
}

/*
 * Bring the registry's note of what is parked up to date, after parking or
 * retrying; error is to be shown as the last one, NULL = leave it.
 */
void
cqrs_park_note(CqrsProjection *projection, const ErrorData *error)
{
	CqrsParked	parked = cqrs_dead_letter_summary(projection->id);

	projection = cqrs_projection_get(projection->id);
	if (error != NULL || parked.blocks != projection->parked ||
		parked.next_retry_at != projection->parked_retry_at)
		cqrs_registry_set_parked(projection->id, parked.blocks, parked.next_retry_at,
								 error == NULL ? NULL : cqrs_apply_error_text(error));
}

/* -------------------------------------------------------------- a batch */

static Parking *
parking_begin(CqrsProjection *projection, CqrsBatch *batch, const CqrsApplied *applied,
			  CqrsPatience patience)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	Parking    *parking = palloc0(sizeof(Parking));
	HASHCTL		info = {
		.keysize = sizeof(uint64),.entrysize = sizeof(BlockedKeys),.hcxt = batch->context
	};

	parking->projection = projection;
	parking->batch = batch;
	parking->patience = patience;
	parking->skip = strcmp(projection->on_error, "skip") == 0;
	parking->events = palloc(applied->nevents * sizeof(CqrsEvent *));
	parking->keys = palloc(applied->nevents * sizeof(text *));
	parking->done = palloc(applied->nevents * sizeof(CqrsEvent *));
	parking->done_keys = palloc(applied->nevents * sizeof(text *));
	parking->blocked = hash_create("cqrs_views blocked keys", 64, &info,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	MemoryContextSwitchTo(old);
	return parking;
}

/* What cqrs_park_isolate does that is to be undone if it has to be given up. */
static ErrorData *
parking_isolate(void *arg)
{
	Parking    *parking = (Parking *) arg;

	parking_compute_keys(parking, parking->given, parking->ngiven);
	if (parking->error != NULL)
		return parking->error;
	parking_find_blocked(parking);
	parking_apply(parking, 0, parking_hold_back(parking, 0, parking->nevents));
	return parking->error;
}

/* Which of the keys have events that were put aside before? */
static void
parking_find_blocked(Parking *parking)
{
	int32		projection = parking->projection->id;
	ListCell   *lc;

	if (!parking->projection->parked)
		return;
	if (parking->nevents <= FEW_KEYS)
	{
		for (int i = 0; i < parking->nevents; i++)
			if (cqrs_dead_letter_blocks(projection, parking->keys[i]))
				blocked_add(parking->blocked, parking->keys[i]);
	}
	else
		foreach(lc, cqrs_dead_letter_blocked_keys(projection))
			blocked_add(parking->blocked, lfirst(lc));
}

/*
 * Compute the keys of events, and keep both. An event whose key can't be
 * computed is parked under the key NULL, found as any culprit is.
 */
static void
parking_compute_keys(Parking *parking, CqrsEvent **events, int nevents)
{
	ErrorData  *error;

	if (nevents == 0 || parking->error != NULL)
		return;
	error = parking_try_keys(parking, events, nevents);
	if (error == NULL)
		return;
	if (nevents == 1)
		parking_one(parking, events[0], false, NULL, error);
	else if (!cqrs_park_may_isolate(parking->projection, error, nevents) ||
			 parking_has_enough(parking, error))
		parking->error = error;
	else
	{
		int			size = cqrs_apply_error_is_timeout(error) ?
			Max(nevents / TIMEOUT_PARTS, 1) : (nevents + 1) / 2;

		for (int i = 0; i < nevents; i += size)
			parking_compute_keys(parking, events + i, Min(size, nevents - i));
	}
}

/* Apply part of the events, and put aside what fails. */
static void
parking_apply(Parking *parking, int first, int nevents)
{
	ErrorData  *error;
	int			part;
	int			next_part;

	if (nevents == 0 || parking->error != NULL)
		return;
	CHECK_FOR_INTERRUPTS();
	error = parking_try(parking, parking->events + first, parking->keys + first, nevents);
	if (error == NULL)
		return;
	if (nevents == 1)
	{
		parking_one(parking, parking->events[first], true, parking->keys[first], error);
		return;
	}
	if (!cqrs_park_may_isolate(parking->projection, error, nevents) ||
		parking_has_enough(parking, error))
	{
		parking->error = error;
		return;
	}

	part = parking_parts(error, nevents, &next_part);
	while (nevents > 0)
	{
		parking_apply(parking, first, part);
		first += part;
		nevents = parking_hold_back(parking, first, nevents - part);
		part = Min(next_part, nevents);
	}
}

/*
 * How large are the parts in which to try again events that failed together?
 * Returns that of the first; the last is what is left. A handler for single
 * events has said which it was.
 */
static int
parking_parts(const ErrorData *error, int nevents, int *next)
{
	int			at = cqrs_handler_failed_at();

	*next = nevents;
	if (at > 0 && at < nevents)
		return at;
	if (!cqrs_apply_error_is_timeout(error))
		return nevents / 2;
	if (at == 0)
		return 1;
	return *next = Max(nevents / TIMEOUT_PARTS, 1);
}

/* Has the batch run into the timeout too often? Counts this error, too. */
static bool
parking_has_enough(Parking *parking, ErrorData *error)
{
	if (!cqrs_apply_error_is_timeout(error) ||
		++parking->ntimeouts < MAX_TIMEOUTS_OF_BATCH)
		return false;
	error->hint = psprintf("The handler does so again and again. Mend it, raise cqrs_views.handler_timeout, or take smaller batches: SELECT cqrs.alter_projection(%s, batch_size => 1);",
						   quote_literal_cstr(NameStr(parking->projection->name)));
	return true;
}

/* Note, and say, what was put aside for an error. */
static void
parking_note(Parking *parking)
{
	CqrsProjection *projection = parking->projection;

	if (parking->cause == NULL)
		return;
	cqrs_park_note(projection, parking->cause);
	ereport(LOG,
			(errmsg("projection \"%s\" put %d events aside, first that at position " INT64_FORMAT ": %s",
					NameStr(projection->name), parking->nparked, parking->position,
					parking->cause->message),
			 cqrs_park_errhint(projection),
			 errhidestmt(true)));
}

/* Compute the keys of some events, of all or none. Returns NULL or the error. */
static ErrorData *
parking_try_keys(Parking *parking, CqrsEvent **events, int nevents)
{
	CqrsApplied part = {.events = events,.nevents = nevents};
	ErrorData  *error = cqrs_apply_contained_keys(parking->projection, parking->batch, &part);

	if (error != NULL)
		return error;
	for (int i = 0; i < part.nevents; i++)
	{
		parking->events[parking->nevents] = part.events[i];
		parking->keys[parking->nevents++] = part.keys[i];
	}
	parking->nrejected += nevents - part.nevents;
	return NULL;
}

/* Apply some events, all or none. Returns NULL or the error. */
static ErrorData *
parking_try(Parking *parking, CqrsEvent **events, text **keys, int nevents)
{
	CqrsApplied part = {.events = events,.nevents = nevents,.keys = keys,.nkeys = nevents};
	ErrorData  *error = cqrs_apply_contained(parking->projection, parking->batch, &part, true);

	for (int i = 0; i < nevents && error == NULL; i++)
	{
		parking->done[parking->ndone] = events[i];
		parking->done_keys[parking->ndone++] = keys[i];
	}
	return error;
}

/*
 * An event has failed by itself, or its key (NULL then) could not be computed: do it
 * again if that is for us to do, and else park the event.
 */
static void
parking_one(Parking *parking, CqrsEvent *event, bool keyed, text *key, ErrorData *error)
{
	int			attempts = 1;

	while (cqrs_park_may(parking->projection, error) && !parking_has_enough(parking, error))
	{
		/* what took so long is not worth the time to try again at once */
		if (parking->patience == CQRS_PATIENCE_WORKER || parking->skip ||
			cqrs_apply_error_is_timeout(error) || attempts > cqrs_guc_max_retries)
		{
			parking_park(parking, event, key, error, attempts);
			return;
		}
		CHECK_FOR_INTERRUPTS();
		error = keyed ? parking_try(parking, &event, &key, 1) :
			parking_try_keys(parking, &event, 1);
		if (error == NULL)
			return;
		attempts++;
	}
	parking->error = error;
}

static void
parking_park(Parking *parking, const CqrsEvent *event, text *key, ErrorData *error,
			 int attempts)
{
	CqrsDeadLetter letter = {
		.position = event->position,.key = key,.blocks = !parking->skip,.error = error,
		.attempts = attempts
	};

	if (parking->patience == CQRS_PATIENCE_WORKER && !parking->skip && cqrs_guc_max_retries > 0)
		letter.next_retry_at = cqrs_park_next_retry(1);
	cqrs_dead_letter_park(parking->projection->id, &letter);
	if (!parking->skip)
		blocked_add(parking->blocked, key);
	parking->nparked++;
	if (parking->cause == NULL)
	{
		parking->cause = error;
		parking->position = event->position;
	}
}

static void
parking_behind(Parking *parking, const CqrsEvent *event, text *key)
{
	CqrsDeadLetter letter = {.position = event->position,.key = key,.blocks = true};

	cqrs_dead_letter_park(parking->projection->id, &letter);
	parking->nparked++;
}

/*
 * Park those of the events whose keys are blocked, and close up the others in
 * their place. Returns how many are left.
 */
static int
parking_hold_back(Parking *parking, int first, int nevents)
{
	int			kept = first;

	for (int i = first; i < first + nevents; i++)
	{
		if (blocked_has(parking->blocked, parking->keys[i]))
		{
			parking_behind(parking, parking->events[i], parking->keys[i]);
			continue;
		}
		parking->events[kept] = parking->events[i];
		parking->keys[kept++] = parking->keys[i];
	}
	return kept - first;
}

/* --------------------------------------------------------- blocked keys */

static BlockedKeys *
blocked_entry(HTAB *blocked, const text *key, HASHACTION action)
{
	uint64		hash = cqrs_event_hash_text(key, 0);
	bool		found;
	BlockedKeys *entry = hash_search(blocked, &hash, action, &found);

	if (entry != NULL && !found)
		entry->keys = NIL;
	return entry;
}

static bool
blocked_has(HTAB *blocked, const text *key)
{
	BlockedKeys *entry;
	ListCell   *lc;

	if (hash_get_num_entries(blocked) == 0 ||
		(entry = blocked_entry(blocked, key, HASH_FIND)) == NULL)
		return false;
	foreach(lc, entry->keys)
		if (cqrs_event_same_text(key, lfirst(lc)))
			return true;
	return false;
}

static void
blocked_add(HTAB *blocked, text *key)
{
	BlockedKeys *entry;

	if (blocked_has(blocked, key))
		return;
	entry = blocked_entry(blocked, key, HASH_ENTER);
	entry->keys = lappend(entry->keys, key);
}
