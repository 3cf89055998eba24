/*
 * inline_trigger.c
 *		Apply inline projections inside the publisher's transaction, at the end
 *		of the publishing statement.
 *
 * Contention
 * ----------
 * Publishers of one key exclude each other from here to the end of their
 * transactions, by a lock for each projection and key (lock.c). The handler
 * runs after the lock is had, so under read committed its statements see what
 * the publisher before did, and a handler may as well read, compute and write
 * as upsert. One statement takes its locks in one global order: projection by
 * id, then the keys' hashes; thus single statements never deadlock among
 * themselves. Two keys with the same hash wait for each other without need,
 * which costs time and nothing else.
 *
 * Where an event is merged into one row by one upsert, the row's lock does as well,
 * and is better under load: a lock of ours goes to who has waited longest, and rests
 * until he gets a processor; a row is taken by who is there first.
 *
 * Handlers that publish
 * ---------------------
 * What a handler publishes was caused by the event that it handles, so every
 * projection handles it after all events of the publisher's statement: nested
 * calls of the trigger only say that there is something, and the outermost one
 * reads it from the outbox, which knows what of it was rolled back. A handler
 * does not see the effect of what it publishes.
 *
 * Isolation
 * ---------
 * Under repeatable read, the handler's statements see the transaction's snapshot,
 * which may be older than the lock. An update of a row that has changed since
 * fails by itself; what only reads it would be computed from the past, and nobody
 * would know. So if events of the same keys have been applied since, be it that they
 * were published, or retried, or processed while it was paused or async, the publisher
 * gets a serialization failure, to be retried. Under serializable the server sees
 * to that, among serializable transactions, as for any SQL.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "apply.h"
#include "catalog.h"
#include "checkpoint.h"
#include "dead_letter.h"
#include "era.h"
#include "handler.h"
#include "inline_trigger.h"
#include "lock.h"
#include "notify.h"
#include "outbox.h"
#include "outbox_read.h"
#include "park.h"
#include "projection.h"
#include "registry.h"

/* events of a statement that are in memory at once */
#define MAX_CHUNK_EVENTS 10000
#define MAX_CHUNK_BYTES (16 * 1024 * 1024)

/* generations of events that one statement may cause */
#define MAX_ROUNDS 1000

PG_FUNCTION_INFO_V1(cqrs_inline_trigger_apply);

/* is the outermost call at work, and from which position on have handlers published? */
static bool inside = false;
static int64 published_inside = PG_INT64_MAX;

/* what a snapshot shows of a projection */
typedef struct Standing
{
	Datum		snapshot;		/* itself */
	bool		is_inline;
	int64		files;			/* that the read tables are in */
	int64	   *parked;			/* positions, in their order */
	int			nparked;
} Standing;

static List *inline_projections(void);
static void inline_apply(TriggerData *trigdata, List *projections);
static int64 inline_lowest_position(TriggerData *trigdata);
static int	inline_read_from_start(TriggerData *trigdata);
static void inline_apply_statement(TriggerData *trigdata, List *projections);
static void inline_apply_nested(List *projections, int64 last);
static void inline_apply_chunk(CqrsProjection *projection, CqrsBatch *batch, bool only_chunk);
static bool inline_row_lock_does(const CqrsProjection *projection, const CqrsApplied *applied);
static void inline_lock(CqrsProjection *projection, const CqrsApplied *applied, bool many);
static void inline_check_snapshot(CqrsProjection *projection, const CqrsApplied *applied);
static Standing inline_standing(const CqrsProjection *projection);
static bool inline_has_moved(const Standing *then, const Standing *now);
static bool inline_shares_keys(CqrsProjection *projection, CqrsBatch *batch,
							   const CqrsApplied *applied);
static int	hash_keys(CqrsProjection *projection, const CqrsApplied *applied, uint32 **hashes);
static int	hash_compare(const void *a, const void *b);

/*
 * cqrs.apply_inline() RETURNS trigger
 *
 * AFTER INSERT ON cqrs.outbox FOR EACH STATEMENT, with a transition table. It
 * exists while there are inline projections. What a handler throws, the
 * publisher gets.
 */
Datum
cqrs_inline_trigger_apply(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;
	List	   *projections;

	if (!CALLED_AS_TRIGGER(fcinfo) || trigdata->tg_newtable == NULL ||
		RelationGetRelid(trigdata->tg_relation) != cqrs_catalog_relation("outbox", false))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("cqrs.apply_inline can only be called as the trigger of cqrs.outbox")));

	if (inside)
	{
		published_inside = Min(published_inside, inline_lowest_position(trigdata));
		PG_RETURN_POINTER(NULL);
	}
	projections = inline_projections();
	if (projections == NIL)
		PG_RETURN_POINTER(NULL);

	inline_apply(trigdata, projections);
	PG_RETURN_POINTER(NULL);
}

/* The outermost call: the statement's events, and all that they cause. */
static void
inline_apply(TriggerData *trigdata, List *projections)
{
	inside = true;
	published_inside = PG_INT64_MAX;
	PG_TRY();
	{
		inline_apply_statement(trigdata, projections);
		if (published_inside < PG_INT64_MAX)
			inline_apply_nested(projections, published_inside - 1);
	}
	PG_FINALLY();
	{
		inside = false;
	}
	PG_END_TRY();
}

/*
 * The lowest position among the rows of a nested statement. Those below it were
 * published by the publisher, and applied, before: a function in its VALUES, or
 * another trigger, may have drawn positions beyond those of its own rows.
 */
static int64
inline_lowest_position(TriggerData *trigdata)
{
	CqrsReadLimit limit = {.events = MAX_CHUNK_EVENTS,.bytes = MAX_CHUNK_BYTES};
	int64		lowest = PG_INT64_MAX;
	bool		end;

	inline_read_from_start(trigdata);
	do
	{
		CqrsBatch  *batch = cqrs_event_batch_create(false);

		end = cqrs_outbox_read_inserted(batch, trigdata, limit);
		if (batch->nevents > 0)
			lowest = Min(lowest, batch->events[0].position);
		cqrs_event_batch_free(batch);
	} while (!end);
	return lowest;
}

/* Begin to read the transition table, with a read pointer of our own. */
static int
inline_read_from_start(TriggerData *trigdata)
{
	int			read_pointer = tuplestore_alloc_read_pointer(trigdata->tg_newtable,
															 EXEC_FLAG_REWIND);

	tuplestore_select_read_pointer(trigdata->tg_newtable, read_pointer);
	tuplestore_rescan(trigdata->tg_newtable);
	return read_pointer;
}

/* Apply the rows of the publisher's statement. */
static void
inline_apply_statement(TriggerData *trigdata, List *projections)
{
	CqrsReadLimit limit = {.events = MAX_CHUNK_EVENTS,.bytes = MAX_CHUNK_BYTES};
	int			read_pointer = inline_read_from_start(trigdata);
	bool		first = true;
	bool		end;

	do
	{
		CqrsBatch  *batch = cqrs_event_batch_create(false);
		ListCell   *lc;

		/* another trigger's function may have moved to a pointer of its own */
		tuplestore_select_read_pointer(trigdata->tg_newtable, read_pointer);
		end = cqrs_outbox_read_inserted(batch, trigdata, limit);
		foreach(lc, projections)
			inline_apply_chunk(lfirst(lc), batch, first && end);
		cqrs_event_batch_free(batch);
		first = false;
	} while (!end);
}

/*
 * Apply what handlers have published beyond a position, and what handlers publish
 * while they handle that, and so on.
 */
static void
inline_apply_nested(List *projections, int64 last)
{
	CqrsReadLimit limit = {.events = MAX_CHUNK_EVENTS,.bytes = MAX_CHUNK_BYTES};
	bool		more = true;

	for (int round = 0; more; round++)
	{
		CqrsBatch  *batch = cqrs_event_batch_create(false);
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		if (round >= MAX_ROUNDS)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("handlers of inline projections keep publishing events"),
					 errdetail("Each of %d rounds of events has led to another one.", MAX_ROUNDS),
					 errhint("See that a handler does not publish what makes it publish again.")));
		cqrs_outbox_read_own(batch, last, limit);
		more = batch->nevents > 0;
		foreach(lc, projections)
			inline_apply_chunk(lfirst(lc), batch, true);
		if (more)
			last = batch->events[batch->nevents - 1].position;
		cqrs_event_batch_free(batch);
	}
}

/* Those that publishers apply, by id. */
static List *
inline_projections(void)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
		if (cqrs_projection_is_inline(lfirst(lc)))
			result = lappend(result, lfirst(lc));
	return result;
}

/* Apply a part of a statement, or all of it, to one projection. */
static void
inline_apply_chunk(CqrsProjection *projection, CqrsBatch *batch, bool only_chunk)
{
	CqrsApplied applied;
	ErrorData  *error;

	cqrs_apply_select(projection, batch, &applied);
	if (applied.nevents == 0)
		return;

	/* where there are workers, one of them tells after commit */
	applied.untold = cqrs_outbox_has_waker();
	if (only_chunk && inline_row_lock_does(projection, &applied))
		cqrs_lock_keys(projection->id, NULL, 0, false);
	else
	{
		cqrs_apply_hash_keys(projection, batch, &applied);
		if (applied.nkeys == 0)
			return;
		inline_lock(projection, &applied, !only_chunk);

		/* our reading would make serializable publishers conflict, whatever their keys */
		if (IsolationUsesXactSnapshot() && !IsolationIsSerializable())
			inline_check_snapshot(projection, &applied);
		error = cqrs_park_hold_back(projection, batch, &applied, CQRS_PATIENCE_NONE);
		if (error != NULL)
			ReThrowError(error);

		/* what a worker would tell, not what a view's statement does: its keys may differ as texts */
		if (!applied.untold && applied.keys == NULL)
			cqrs_apply_compute_keys(projection, batch, &applied);
	}
	cqrs_apply_run(projection, batch, &applied, true);
	if (applied.nevents > 0 && !applied.untold)
		cqrs_notify_send(projection, applied.events[applied.nevents - 1]->position,
						 applied.nevents, applied.keys, applied.nkeys);
}

/*
 * Is the lock of the row that the events are merged into all that is needed? Keys
 * are needed to put events behind others, and to tell them where no worker does.
 */
static bool
inline_row_lock_does(const CqrsProjection *projection, const CqrsApplied *applied)
{
	return applied->nevents == 1 && cqrs_handler_kind(projection)->merges_rows &&
		!OidIsValid(projection->state_table) && !IsolationUsesXactSnapshot() &&
		!cqrs_projection_get(projection->id)->parked && applied->untold;
}

/*
 * Exclude other publishers of these keys, or of any where there are many, until
 * the end of the transaction.
 */
static void
inline_lock(CqrsProjection *projection, const CqrsApplied *applied, bool many)
{
	uint32	   *hashes;
	int			nhashes;

	if (cqrs_lock_gate_held(projection->id))
		return;
	nhashes = hash_keys(projection, applied, &hashes);
	cqrs_lock_keys(projection->id, hashes, nhashes, many);
	pfree(hashes);
}

/*
 * Throw a serialization failure if events of these keys, or very many events,
 * were applied by others since the transaction's snapshot. The keys are locked:
 * none can be added.
 */
static void
inline_check_snapshot(CqrsProjection *projection, const CqrsApplied *applied)
{
	CqrsReadLimit limit = {.events = MAX_CHUNK_EVENTS,.bytes = MAX_CHUNK_BYTES};
	CqrsBatch  *batch = cqrs_event_batch_create(false);
	bool		conflict;
	CqrsWalk	walk = {.first = cqrs_era_first_position()};
	Standing	then;
	Standing	now;

	PushActiveSnapshot(GetTransactionSnapshot());
	then = inline_standing(projection);
	PopActiveSnapshot();
	PushActiveSnapshot(GetLatestSnapshot());
	now = inline_standing(projection);
	walk.done = then.snapshot;
	conflict = inline_has_moved(&then, &now) ||
		!cqrs_outbox_read_interval(batch, &walk, now.snapshot, limit) ||
		inline_shares_keys(projection, batch, applied);
	PopActiveSnapshot();
	if (conflict)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent events"),
				 errdetail("Projection \"%s\" has handled events of the same key since this transaction's snapshot.",
						   NameStr(projection->name)),
				 errhint("The transaction might succeed if retried.")));
	cqrs_event_batch_free(batch);
}

/* Where a projection stands under the active snapshot. */
static Standing
inline_standing(const CqrsProjection *projection)
{
	Standing	standing = {.snapshot = cqrs_checkpoint_current_snapshot()};

	standing.is_inline = cqrs_registry_was_inline(projection->id, &standing.files);
	standing.parked = cqrs_dead_letter_positions(projection->id, &standing.nparked);
	return standing;
}

/*
 * Have others applied events that had been published before? While publishers apply
 * them none are left but those that were put aside. A rebuild has other files.
 */
static bool
inline_has_moved(const Standing *then, const Standing *now)
{
	int			found = 0;

	if (!then->is_inline || then->files != now->files)
		return true;
	for (int i = 0; i < now->nparked && found < then->nparked; i++)
		found += now->parked[i] == then->parked[found];
	return found < then->nparked;
}

/* Do any events have keys that the applied ones have? */
static bool
inline_shares_keys(CqrsProjection *projection, CqrsBatch *batch, const CqrsApplied *applied)
{
	CqrsApplied concurrent;
	bool		shares = false;
	uint32	   *hashes;
	uint32	   *others;
	int			nhashes = hash_keys(projection, applied, &hashes);
	int			nothers;

	cqrs_apply_select(projection, batch, &concurrent);
	if (concurrent.nevents == 0)
		return false;
	cqrs_apply_hash_keys(projection, batch, &concurrent);
	nothers = hash_keys(projection, &concurrent, &others);
	for (int i = 0; i < nothers && !shares; i++)
		shares = bsearch(&others[i], hashes, nhashes, sizeof(uint32), hash_compare) != NULL;
	return shares;
}

/* The distinct hashes of keys, sorted, in *hashes. Returns their number. */
static int
hash_keys(CqrsProjection *projection, const CqrsApplied *applied, uint32 **hashes)
{
	uint32	   *result = palloc(Max(applied->nkeys, 1) * sizeof(uint32));
	int			n = 0;

	for (int i = 0; i < applied->nkeys; i++)
	{
		if (applied->hashes != NULL)
			result[i] = (uint32) hash_combine64(applied->hashes[i], projection->id);
		else
			result[i] = (uint32) cqrs_event_hash_text(applied->keys[i], projection->id);
	}
	qsort(result, applied->nkeys, sizeof(uint32), hash_compare);
	for (int i = 0; i < applied->nkeys; i++)
		if (n == 0 || result[i] != result[n - 1])
			result[n++] = result[i];
	*hashes = result;
	return n;
}

static int
hash_compare(const void *a, const void *b)
{
	uint32		left = *(const uint32 *) a;
	uint32		right = *(const uint32 *) b;

	return left < right ? -1 : left > right;
}
