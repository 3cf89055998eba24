/*
 * checkpoint.c
 *		The table cqrs.checkpoint: what a projection has processed.
 *
 * Lock rules
 * ----------
 * A projection's lock is a heavyweight lock on the object (cqrs.registry, id),
 * in EXCLUSIVE mode, until the end of the transaction. It takes no transaction
 * id and leaves no trace on disk, which a row lock would. Whoever processes a
 * batch or changes the projection holds it. The order is: lock, then a snapshot,
 * then the checkpoint and the events under that snapshot, then work. A
 * checkpoint that was read before the lock may be one that another process has
 * moved past.
 *
 * The row is rewritten by each batch, and while an old transaction is open its
 * dead versions pile up: finding the live one through the index gets slower
 * with each of them. So this process remembers where it last wrote the row, and
 * reads and updates it there, by ctid and id; if it has moved, the index finds
 * it. Updating anything but one row is an error.
 *
 * Eras
 * ----
 * A checkpoint is of one era (era.c), and what is in older ones is processed. That
 * of a restored projection is of an older era, as is that of a new one that begins
 * with the first event. Nothing is added to such an era any more: a walk that was
 * begun goes on to its target, and another one, from there to a snapshot that sees
 * everything, is what is left of the era. Then the checkpoint enters the next era,
 * with nothing of it processed.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "catalog.h"
#include "checkpoint.h"
#include "outbox.h"
#include "outbox_read.h"
#include "query.h"

/* where this process last saw a projection's row */
typedef struct RowPlace
{
	int32		projection;		/* hash key */
	ItemPointerData ctid;
} RowPlace;

static HTAB *places = NULL;

#define CHECKPOINT_COLUMNS \
	"c.projection, c.ctid, c.done, c.target, c.low, c.high, c.last_position," \
	" c.peak, c.settled, c.events_processed, c.batches, c.first_position, c.incarnation," \
	" c.incarnation <> " CQRS_ERA_INCARNATION

/* sees all transactions that a cluster will ever have */
#define WHOLE_ERA "9223372036854775807:9223372036854775807:"

/* a snapshot on its way out of a query */
typedef struct SnapshotResult
{
	MemoryContext context;
	Datum		snapshot;
} SnapshotResult;

/* the same for a row */
typedef struct RowResult
{
	MemoryContext context;
	CqrsCheckpoint *checkpoint;
} RowResult;

static Datum checkpoint_whole_era(void);
static int64 checkpoint_era_end(const CqrsCheckpoint *checkpoint);
static void pending_add(CqrsPending *pending, CqrsPending more);
static CqrsCheckpoint *checkpoint_read(int32 projection, bool latest);
static RowPlace *checkpoint_place(int32 projection, HASHACTION action);
static bool checkpoint_read_row(TupleTableSlot *slot, void *arg);
static bool checkpoint_read_ctid(TupleTableSlot *slot, void *arg);
static bool checkpoint_read_snapshot(TupleTableSlot *slot, void *arg);

/*
 * Lock a projection until the end of the transaction. Without wait, returns
 * false at once where somebody else holds it. Processes pending invalidations,
 * so that what is looked up afterwards is current.
 */
bool
cqrs_checkpoint_lock(int32 projection, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, cqrs_catalog_relation("registry", false),
					   projection, 0);
	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}

/*
 * Read a checkpoint under the active snapshot, taken after the lock. Returns
 * NULL where the projection is gone.
 */
CqrsCheckpoint *
cqrs_checkpoint_read(int32 projection)
{
	return checkpoint_read(projection, false);
}

/* Read a checkpoint as it is now, without a lock: to look at only. */
CqrsCheckpoint *
cqrs_checkpoint_peek(int32 projection)
{
	return checkpoint_read(projection, true);
}

/* Throw where the checkpoint is missing (NULL). */
void
cqrs_checkpoint_refuse_missing(const CqrsCheckpoint *checkpoint)
{
	if (checkpoint == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the projection has no row in cqrs.checkpoint"),
				 errhint("Drop the projection and create it again.")));
}

/* Throw also where it is not known which era it is of. */
void
cqrs_checkpoint_refuse_unusable(const CqrsCheckpoint *checkpoint)
{
	CqrsEra		next;

	cqrs_checkpoint_refuse_missing(checkpoint);
	if (checkpoint->restored)
		(void) cqrs_era_after(&checkpoint->incarnation, false, &next);
}

/* Do two projections have exactly the same to do next? */
bool
cqrs_checkpoint_equal(const CqrsCheckpoint *a, const CqrsCheckpoint *b)
{
	if (a->frozen != b->frozen || !datumIsEqual(a->walk.done, b->walk.done, false, -1) ||
		memcmp(&a->incarnation, &b->incarnation, sizeof(pg_uuid_t)) != 0)
		return false;
	return !a->frozen ||
		(datumIsEqual(a->walk.target, b->walk.target, false, -1) &&
		 a->walk.low == b->walk.low && a->walk.high == b->walk.high &&
		 a->walk.last == b->walk.last);
}

/*
 * Write back what the caller has changed, and count a batch of so many events,
 * unless it is of none. The caller holds the lock.
 */
void
cqrs_checkpoint_advance(CqrsCheckpoint *checkpoint, int64 events)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.checkpoint SET done = $3, target = $4, low = $5, high = $6,"
		" last_position = $7, events_processed = events_processed + $8,"
		" batches = batches + CASE WHEN $8 > 0 THEN 1 ELSE 0 END,"
		" peak = $9, settled = $10, incarnation = $11, first_position = $12"
		" WHERE ctid = $1 AND projection = $2 RETURNING ctid",
		.nargs = 12,
		.argtypes = {TIDOID, INT4OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID,
		INT8OID, INT8OID, INT8OID, INT8OID, UUIDOID, INT8OID}
	};
	ItemPointerData old = checkpoint->ctid;
	Datum		args[12] = {
		PointerGetDatum(&old), Int32GetDatum(checkpoint->projection),
		checkpoint->walk.done, checkpoint->walk.target, Int64GetDatum(checkpoint->walk.low),
		Int64GetDatum(checkpoint->walk.high), Int64GetDatum(checkpoint->walk.last),
		Int64GetDatum(events), Int64GetDatum(checkpoint->peak),
		Int64GetDatum(checkpoint->settled), UUIDPGetDatum(&checkpoint->incarnation),
		Int64GetDatum(checkpoint->walk.first)
	};
	char		nulls[12];

	memset(nulls, ' ', sizeof(nulls));
	if (!checkpoint->frozen)
		nulls[3] = 'n';
	if (cqrs_query_run(&query, args, nulls, checkpoint_read_ctid, &checkpoint->ctid) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the checkpoint of projection %d was moved by somebody else",
						checkpoint->projection)));
	checkpoint_place(checkpoint->projection, HASH_ENTER)->ctid = checkpoint->ctid;
}

/*
 * Look up which era follows a restored checkpoint's, recording where the current one
 * begins if nobody has. Returns false where that is not known.
 */
bool
cqrs_checkpoint_find_next_era(CqrsCheckpoint *checkpoint)
{
	cqrs_outbox_begin_era();
	return cqrs_era_after(&checkpoint->incarnation, true, &checkpoint->next_era);
}

/* Count all of an older era as processed. */
void
cqrs_checkpoint_skip_era(CqrsCheckpoint *checkpoint)
{
	checkpoint->frozen = false;
	checkpoint->walk.done = checkpoint_whole_era();
	checkpoint->walk.last = checkpoint->next_era.first_position - 1;
	checkpoint->peak = Max(checkpoint->peak, checkpoint->walk.last);
}

/* Freeze what is left of an older era, which ends where the next one begins. */
void
cqrs_checkpoint_finish_era(CqrsCheckpoint *checkpoint)
{
	checkpoint->frozen = true;
	checkpoint->walk.target = checkpoint_whole_era();
	checkpoint->walk.last = 0;
	cqrs_outbox_read_bounds(&checkpoint->walk, 0, checkpoint->next_era.first_position - 1);
}

/* Enter the next era if nothing is left of an older one. */
void
cqrs_checkpoint_enter_era(CqrsCheckpoint *checkpoint)
{
	if (checkpoint->frozen ||
		!datumIsEqual(checkpoint->walk.done, checkpoint_whole_era(), false, -1))
		return;
	checkpoint->incarnation = checkpoint->next_era.incarnation;
	checkpoint->walk.first = checkpoint->next_era.first_position;
	checkpoint->walk.done = cqrs_checkpoint_empty_snapshot();
	checkpoint->walk.low = checkpoint->walk.high = 0;
}

/*
 * Make the row of a new projection, which has processed, or passes over, what is of
 * older eras or visible in done, none of it above position peak. What it processed
 * ends at last. Without done (0) it is to begin with the first event.
 */
void
cqrs_checkpoint_insert(int32 projection, Datum done, int64 last, int64 peak)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.checkpoint (projection, incarnation, first_position, done,"
		" last_position, peak) VALUES ($1, $2, $3, $4, $5, $6)",
		.nargs = 6,
		.argtypes = {INT4OID, UUIDOID, INT8OID, PG_SNAPSHOTOID, INT8OID, INT8OID}
	};
	CqrsEra		era;
	Datum		args[6] = {
		Int32GetDatum(projection), UUIDPGetDatum(&era.incarnation), (Datum) 0, done,
		Int64GetDatum(last), Int64GetDatum(peak)
	};

	cqrs_outbox_begin_era();
	if (done == (Datum) 0)
	{
		era = cqrs_era_oldest();
		args[3] = cqrs_checkpoint_empty_snapshot();
	}
	else
		era = cqrs_era_current();
	args[2] = Int64GetDatum(era.first_position);
	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* Go back to the first event. The counters go on. The caller holds the lock. */
void
cqrs_checkpoint_reset(int32 projection)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.checkpoint SET done = $2, target = NULL, low = 0, high = 0,"
		" last_position = 0, peak = 0, settled = 0, incarnation = $3, first_position = $4"
		" WHERE projection = $1",
		.nargs = 4,
		.argtypes = {INT4OID, PG_SNAPSHOTOID, UUIDOID, INT8OID}
	};
	CqrsEra		era;
	Datum		args[4] = {Int32GetDatum(projection), cqrs_checkpoint_empty_snapshot()};

	cqrs_outbox_begin_era();
	era = cqrs_era_oldest();
	args[2] = UUIDPGetDatum(&era.incarnation);
	args[3] = Int64GetDatum(era.first_position);
	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* Count from zero again. The caller holds the lock. */
void
cqrs_checkpoint_reset_counters(int32 projection)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.checkpoint SET events_processed = 0, batches = 0"
		" WHERE projection = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(projection);

	cqrs_query_run(&query, &arg, NULL, NULL, NULL);
}

void
cqrs_checkpoint_delete(int32 projection)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.checkpoint WHERE projection = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(projection);

	cqrs_query_run(&query, &arg, NULL, NULL, NULL);
}

/* ------------------------------------------------------------- snapshots */

/* a snapshot that no transaction is visible in */
Datum
cqrs_checkpoint_empty_snapshot(void)
{
	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum("1:1:"));
}

/* The active snapshot as a checkpoint's. */
Datum
cqrs_checkpoint_current_snapshot(void)
{
	return cqrs_checkpoint_snapshot_without_self(DirectFunctionCall1(pg_current_snapshot,
																	 (Datum) 0));
}

/*
 * A snapshot of this transaction as a checkpoint's. If the transaction has an
 * id, that counts as in flight, like the id of any other that has not committed:
 * what it publishes, before or after, is still to be processed.
 */
Datum
cqrs_checkpoint_snapshot_without_self(Datum snapshot)
{
	static CqrsQuery query = {
		.sql = "SELECT (pg_snapshot_xmin($2)::text || ':' || pg_snapshot_xmax($2)::text || ':'"
		" || coalesce((SELECT string_agg(x::text, ',' ORDER BY x) FROM"
		"  (SELECT pg_snapshot_xip($2) AS x UNION SELECT $1"
		"   WHERE $1 >= pg_snapshot_xmin($2) AND $1 < pg_snapshot_xmax($2)) AS u), ''))"
		"::pg_snapshot",
		.flags = CQRS_QUERY_ACTIVE,
		.nargs = 2,
		.argtypes = {XID8OID, PG_SNAPSHOTOID}
	};
	FullTransactionId own = GetTopFullTransactionIdIfAny();
	SnapshotResult result = {.context = CurrentMemoryContext};
	Datum		args[2] = {FullTransactionIdGetDatum(own), snapshot};

	if (!FullTransactionIdIsValid(own))
		return snapshot;
	cqrs_query_run(&query, args, NULL, checkpoint_read_snapshot, &result);
	return result.snapshot;
}

bool
cqrs_checkpoint_snapshot_sees(Datum snapshot, FullTransactionId xid)
{
	return DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
											FullTransactionIdGetDatum(xid), snapshot));
}

/*
 * Has the projection processed every event that is visible in the snapshot? An
 * older era has to be walked to its end first. A frozen interval counts when it is,
 * too; but what it begins from may be all that is asked for.
 */
bool
cqrs_checkpoint_covers(const CqrsCheckpoint *checkpoint, Datum snapshot)
{
	return !checkpoint->restored &&
		cqrs_outbox_pending_interval(&checkpoint->walk, snapshot, PG_INT64_MAX,
										  1).events == 0;
}

/* Has it processed the event at a position, of such a transaction? */
bool
cqrs_checkpoint_covers_event(const CqrsCheckpoint *checkpoint, int64 position,
							 FullTransactionId xid)
{
	const CqrsWalk *walk = &checkpoint->walk;

	if (position < walk->first)
		return true;
	if (position > checkpoint_era_end(checkpoint))
		return false;
	return cqrs_checkpoint_snapshot_sees(walk->done, xid) ||
		(checkpoint->frozen && position <= walk->last &&
		 cqrs_checkpoint_snapshot_sees(walk->target, xid));
}

/*
 * Count up to some more than limit events that are committed and not processed,
 * filtered out or not, and tell when the oldest of those counted occurred.
 */
CqrsPending
cqrs_checkpoint_pending(const CqrsCheckpoint *checkpoint, int limit)
{
	CqrsWalk	walk = checkpoint->walk;
	int64		end = checkpoint_era_end(checkpoint);
	CqrsPending pending = {.oldest = PG_INT64_MAX};
	Datum		now;

	if (checkpoint->restored)
		now = checkpoint_whole_era();
	else
	{
		PushActiveSnapshot(GetLatestSnapshot());
		now = cqrs_checkpoint_current_snapshot();
		PopActiveSnapshot();
	}
	if (checkpoint->frozen)
	{
		pending = cqrs_outbox_pending_walk(&walk, limit + 1);
		walk.done = walk.target;
	}
	pending_add(&pending, cqrs_outbox_pending_interval(&walk, now, end, limit + 1));
	if (end < PG_INT64_MAX && pending.events <= limit)
	{
		/* all of the eras that follow */
		walk = (CqrsWalk)
		{
			.first = end + 1,
			.done = cqrs_checkpoint_empty_snapshot(),
			.target = now,
			.low = end + 1,
			.high = PG_INT64_MAX
		};
		pending_add(&pending, cqrs_outbox_pending_walk(&walk, limit + 1));
	}
	return pending;
}

/* --------------------------------------------------------------- helpers */

/* a snapshot that every transaction is visible in */
static Datum
checkpoint_whole_era(void)
{
	return DirectFunctionCall1(pg_snapshot_in, CStringGetDatum(WHOLE_ERA));
}

/* The last position of the checkpoint's era; PG_INT64_MAX = there is no end. */
static int64
checkpoint_era_end(const CqrsCheckpoint *checkpoint)
{
	CqrsEra		next;

	if (!checkpoint->restored || !cqrs_era_after(&checkpoint->incarnation, true, &next))
		return PG_INT64_MAX;
	return next.first_position - 1;
}

static void
pending_add(CqrsPending *pending, CqrsPending more)
{
	pending->events += more.events;
	pending->oldest = Min(pending->oldest, more.oldest);
}

static CqrsCheckpoint *
checkpoint_read(int32 projection, bool latest)
{
	static CqrsQuery by_place[2] = {
		{
			.sql = "SELECT " CHECKPOINT_COLUMNS " FROM cqrs.checkpoint AS c"
			" WHERE c.ctid = $1 AND c.projection = $2",
			.flags = CQRS_QUERY_ACTIVE,
			.nargs = 2,
			.argtypes = {TIDOID, INT4OID}
		},
		{
			.sql = "SELECT " CHECKPOINT_COLUMNS " FROM cqrs.checkpoint AS c"
			" WHERE c.ctid = $1 AND c.projection = $2",
			.flags = CQRS_QUERY_LATEST,
			.nargs = 2,
			.argtypes = {TIDOID, INT4OID}
		}
	};
	static CqrsQuery by_id[2] = {
		{
			.sql = "SELECT " CHECKPOINT_COLUMNS " FROM cqrs.checkpoint AS c"
			" WHERE c.projection = $1",
			.flags = CQRS_QUERY_ACTIVE,
			.nargs = 1,
			.argtypes = {INT4OID}
		},
		{
			.sql = "SELECT " CHECKPOINT_COLUMNS " FROM cqrs.checkpoint AS c"
			" WHERE c.projection = $1",
			.flags = CQRS_QUERY_LATEST,
			.nargs = 1,
			.argtypes = {INT4OID}
		}
	};
	RowPlace   *place = checkpoint_place(projection, HASH_FIND);
	RowResult	result = {.context = CurrentMemoryContext};

	if (place != NULL)
	{
		ItemPointerData ctid = place->ctid;
		Datum		args[2] = {PointerGetDatum(&ctid), Int32GetDatum(projection)};

		cqrs_query_run(&by_place[latest], args, NULL, checkpoint_read_row, &result);
	}
	if (result.checkpoint == NULL)
	{
		Datum		arg = Int32GetDatum(projection);

		cqrs_query_run(&by_id[latest], &arg, NULL, checkpoint_read_row, &result);
	}
	if (result.checkpoint == NULL)
		return NULL;
	checkpoint_place(projection, HASH_ENTER)->ctid = result.checkpoint->ctid;
	return result.checkpoint;
}

static RowPlace *
checkpoint_place(int32 projection, HASHACTION action)
{
	if (places == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(int32),.entrysize = sizeof(RowPlace)};

		places = hash_create("cqrs_views checkpoint rows", 16, &info, HASH_ELEM | HASH_BLOBS);
	}
	return hash_search(places, &projection, action, NULL);
}

static bool
checkpoint_read_row(TupleTableSlot *slot, void *arg)
{
	RowResult *result = (RowResult *) arg;
	MemoryContext old = MemoryContextSwitchTo(result->context);
	CqrsCheckpoint *checkpoint = palloc0(sizeof(CqrsCheckpoint));

	slot_getallattrs(slot);
	checkpoint->projection = DatumGetInt32(slot->tts_values[0]);
	checkpoint->ctid = *(ItemPointer) DatumGetPointer(slot->tts_values[1]);
	checkpoint->walk.done = PointerGetDatum(PG_DETOAST_DATUM_COPY(slot->tts_values[2]));
	checkpoint->frozen = !slot->tts_isnull[3];
	if (checkpoint->frozen)
		checkpoint->walk.target = PointerGetDatum(PG_DETOAST_DATUM_COPY(slot->tts_values[3]));
	checkpoint->walk.low = DatumGetInt64(slot->tts_values[4]);
	checkpoint->walk.high = DatumGetInt64(slot->tts_values[5]);
	checkpoint->walk.last = DatumGetInt64(slot->tts_values[6]);
	checkpoint->peak = DatumGetInt64(slot->tts_values[7]);
	checkpoint->settled = DatumGetInt64(slot->tts_values[8]);
	checkpoint->events_processed = DatumGetInt64(slot->tts_values[9]);
	checkpoint->batches = DatumGetInt64(slot->tts_values[10]);
	checkpoint->walk.first = DatumGetInt64(slot->tts_values[11]);
	checkpoint->incarnation = *DatumGetUUIDP(slot->tts_values[12]);
	checkpoint->restored = DatumGetBool(slot->tts_values[13]);
	result->checkpoint = checkpoint;
	MemoryContextSwitchTo(old);
	return true;
}

static bool
checkpoint_read_ctid(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(ItemPointer) arg = *(ItemPointer) DatumGetPointer(slot_getattr(slot, 1, &isnull));
	return true;
}

static bool
checkpoint_read_snapshot(TupleTableSlot *slot, void *arg)
{
	SnapshotResult *result = (SnapshotResult *) arg;
	bool		isnull;
	Datum		value = slot_getattr(slot, 1, &isnull);
	MemoryContext old = MemoryContextSwitchTo(result->context);

	result->snapshot = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	MemoryContextSwitchTo(old);
	return true;
}
