/*
 * outbox_read.c
 *		The table cqrs.outbox, read: the next bounded batch.
 *
 * Which events come next
 * ----------------------
 * Positions are drawn before they commit, so "position > last" skips events;
 * transaction ids are taken before they publish, so their order is not causal
 * either. What is right is the difference of two snapshots (the idea of PgQ's
 * ticks): the next interval is what is visible in a new snapshot and was not
 * in the one that the checkpoint remembers, in position order. Snapshots of one
 * cluster partition its transactions, and if T2 saw T1's commit then every
 * snapshot that sees T2 sees T1, and T2 drew its positions after T1. The last
 * step needs a sequence without a cache; cqrs_outbox_stamp sees to that.
 *
 * The rows of an interval come in two branches over the index (xid, position):
 *
 *	A	xid >= xmax(done) and xid < xmax(current)
 *	B	xid was in flight in done
 *
 * each filtered by visibility, so an old transaction costs one index probe and
 * not a scan from its id on. An interval that fits into a batch is read whole
 * and sorted. Where it does not, the current snapshot is frozen as target and
 * the interval is walked in position order: A through the primary key between
 * low and high, B per transaction through the index, merged. An interval is
 * never split by transaction id; that would break the order.
 *
 * Transaction ids and snapshots are of one era (era.c), so only positions of that
 * are looked at: from the walk's first on. In an older era there are also later
 * positions; its events are walked, up to high.
 *
 * Reads are ordinary queries under the active snapshot, so that a partitioned
 * outbox needs no change here.
 *
 * Above all that was processed, and as far as positions were settled when the
 * walk's snapshot was taken (horizon.c), the outbox is whole: it has no rows but
 * the walk's, of both branches, so nobody need look at their transaction ids,
 * which are at the far end of each row. That is so of nearly all of a backlog.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"
#include "utils/xid8.h"

#include "outbox.h"
#include "outbox_read.h"
#include "query.h"

/*
 * All columns of the table, so that a row is handed over as it is on its page,
 * not column by column. See read_add_row.
 */
#define ROW_COLUMN_LIST CQRS_EVENT_COLUMN_LIST ", xid"

/*
 * To look for the next transaction in the index costs as much as some entries, so
 * one for so many entries is worth a try; and so many in any case.
 */
#define FEW_TRANSACTIONS 32
#define FEW_TRANSACTIONS_MIN 100

/* where the rows of a read go */
typedef struct ReadState
{
	CqrsBatch  *batch;
	int			first;			/* events that were in the batch before, */
	Size		bytes;			/* and what they have */
	CqrsReadLimit limit;
	bool		cut;			/* there is more than the limit allows */
	TupleTableSlot *slot;		/* the one whose descriptor was looked at */
	bool		as_is;			/* its rows can be copied as they are */
} ReadState;

/* whom to give each event to, and no more than one in the batch */
typedef struct HandOver
{
	ReadState	read;
	CqrsEventFn event_fn;
	void	   *arg;
} HandOver;

static void walk_read_whole(ReadState *state, int64 after, int64 upto);
static void walk_read_later(ReadState *state, const CqrsWalk *walk, int64 after);
static void walk_read_in_flight(ReadState *state, const CqrsWalk *walk, int64 whole_after,
								int64 whole_end);
static AttrNumber read_xid_attnum(TupleDesc desc);
static bool read_add_row(TupleTableSlot *slot, void *arg);
static bool read_hand_over(TupleTableSlot *slot, void *arg);

/*
 * Does what follows walk->done exceed the limit by far, so that there is no need to
 * try? Known from how far the outbox is whole, or, for the empty snapshot, from the
 * highest position. Half of the positions may have been rolled back.
 */
bool
cqrs_outbox_read_is_long(const CqrsWalk *walk, CqrsReadLimit limit)
{
	return (walk->whole_upto - walk->whole_after) / 2 > limit.events ||
		(cqrs_outbox_walk_is_empty(walk->done) && cqrs_outbox_last_position() / 2 > limit.events);
}

/*
 * Read what is visible in the active snapshot, whose value is current, and was
 * not in walk->done, but for the current transaction's own events, which count as
 * in flight. The era is the current one. Returns true if that was everything, now
 * in the batch in position order; false, with an empty batch, if it exceeds the
 * limit.
 */
bool
cqrs_outbox_read_interval(CqrsBatch *batch, const CqrsWalk *walk, Datum current,
						  CqrsReadLimit limit)
{
	static CqrsQuery later = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE xid >= $1 AND xid < $2 AND xid <> $3 AND position >= $4",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 4,
		.argtypes = {XID8OID, XID8OID, XID8OID, INT8OID}
	};
	static CqrsQuery in_flight = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM unnest(ARRAY(SELECT pg_snapshot_xip($1))) AS x,"
		" LATERAL (SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox"
		"  WHERE " CQRS_OUTBOX_OF("x") " AND position >= $3 ORDER BY xid, position) AS o"
		" WHERE x <> $2",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 3,
		.argtypes = {PG_SNAPSHOTOID, XID8OID, INT8OID}
	};
	ReadState	state = {.batch = batch,.limit = limit};
	Datum		own = FullTransactionIdGetDatum(GetTopFullTransactionIdIfAny());
	Datum		first = Int64GetDatum(walk->first);
	Datum		args[4] = {
		cqrs_outbox_walk_xmax(walk->done), cqrs_outbox_walk_xmax(current), own, first
	};
	Datum		in_flight_args[3] = {walk->done, own, first};

	cqrs_query_run(&later, args, NULL, read_add_row, &state);
	if (!state.cut && cqrs_outbox_walk_has_xip(walk->done))
		cqrs_query_run(&in_flight, in_flight_args, NULL, read_add_row, &state);
	if (state.cut)
	{
		cqrs_event_batch_truncate(batch, 0);
		return false;
	}
	cqrs_event_batch_sort(batch);
	return true;
}

/*
 * Find low and high of a walk from done to target, which is the active snapshot, or
 * sees all of an older era: the lowest position of branch A, up to a position, and
 * the highest of all. Looks at the first index entry of each transaction, or, where
 * they turn out to be many for what they have published, at all entries; at none
 * from the empty snapshot on. events is how many there are at least. (How far the
 * ids are apart does not tell: most may be of strangers.)
 */
void
cqrs_outbox_read_bounds(CqrsWalk *walk, int events, int64 upto)
{
	/* 0 where there are more transactions than $3, $5 where there is no event */
	static CqrsQuery minimum_of_few = {
		.sql = "WITH RECURSIVE first AS ("
		"(SELECT xid, position FROM cqrs.outbox WHERE xid >= $1 AND xid < $2"
		"  AND position >= $4 AND position <= $5 ORDER BY xid, position LIMIT 1) UNION ALL "
		"SELECT next.xid, next.position FROM first, LATERAL"
		" (SELECT o.xid, o.position FROM cqrs.outbox AS o WHERE o.xid > first.xid AND o.xid < $2"
		"  AND o.position >= $4 AND o.position <= $5 ORDER BY o.xid, o.position LIMIT 1) AS next)"
		" SELECT CASE WHEN count(*) <= $3 THEN coalesce(min(position), $5) ELSE 0 END"
		" FROM (SELECT position FROM first LIMIT $3 + 1) AS few",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 5,
		.argtypes = {XID8OID, XID8OID, INT4OID, INT8OID, INT8OID}
	};
	/* "+ 0", lest the planner looks for the minimum along the primary key */
	static CqrsQuery minimum = {
		.sql = "SELECT coalesce(min(position + 0), $4) FROM cqrs.outbox"
		" WHERE xid >= $1 AND xid < $2 AND position + 0 >= $3 AND position + 0 <= $4",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 4,
		.argtypes = {XID8OID, XID8OID, INT8OID, INT8OID}
	};
	static CqrsQuery maximum = {
		.sql = "SELECT coalesce(max(position), 0) FROM cqrs.outbox WHERE position <= $1",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 1,
		.argtypes = {INT8OID}
	};
	Datum		args[5] = {
		cqrs_outbox_walk_xmax(walk->done), cqrs_outbox_walk_xmax(walk->target),
		Int32GetDatum(Max(events / FEW_TRANSACTIONS, FEW_TRANSACTIONS_MIN)),
		Int64GetDatum(walk->first), Int64GetDatum(upto)
	};

	walk->low = walk->first;
	if (!cqrs_outbox_walk_is_empty(walk->done))
	{
		cqrs_query_run(&minimum_of_few, args, NULL, cqrs_query_keep_bigint, &walk->low);
		if (walk->low == 0)
		{
			args[2] = args[3];
			args[3] = args[4];
			cqrs_query_run(&minimum, args, NULL, cqrs_query_keep_bigint, &walk->low);
		}
	}
	args[0] = Int64GetDatum(upto);
	cqrs_query_run(&maximum, args, NULL, cqrs_query_keep_bigint, &walk->high);
}

/*
 * Read on in a frozen interval: what is visible in walk->target, was not in
 * walk->done, and has a position beyond walk->last, in position order. Returns
 * true if nothing is left after this batch. At least one event is read if there
 * is one, whatever its size. Each branch may read as much as the limit allows, or
 * the one that comes last would give a single event, and the others be read again.
 */
bool
cqrs_outbox_read_walk(CqrsBatch *batch, const CqrsWalk *walk, CqrsReadLimit limit)
{
	ReadState	state = {.batch = batch,.limit = limit};
	int64		after = Max(walk->last, walk->low - 1);
	int64		whole_end = Max(cqrs_outbox_walk_whole_end(walk, after), after);
	int64		end = PG_INT64_MAX; /* read completely up to here */
	int			keep;

	if (whole_end > after)
		walk_read_whole(&state, after, whole_end);
	if (!state.cut && whole_end < walk->high)
		walk_read_later(&state, walk, whole_end);
	if (state.cut)
		end = batch->events[batch->nevents - 1].position;

	if (cqrs_outbox_walk_has_xip(walk->done))
	{
		state.first = batch->nevents;
		state.bytes = batch->bytes;
		state.cut = false;
		walk_read_in_flight(&state, walk, after, whole_end);
		if (state.cut)
			end = Min(end, batch->events[batch->nevents - 1].position);
	}

	cqrs_event_batch_sort(batch);
	for (keep = batch->nevents; keep > 0 && batch->events[keep - 1].position > end;)
		keep--;
	if (keep > limit.events)
	{
		keep = limit.events;
		end = batch->events[keep - 1].position;
	}
	cqrs_event_batch_truncate(batch, keep);
	return end == PG_INT64_MAX;
}

/* Where the outbox is whole: all rows beyond a position, up to another. */
static void
walk_read_whole(ReadState *state, int64 after, int64 upto)
{
	static CqrsQuery query = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 3,
		.argtypes = {INT8OID, INT8OID, INT8OID}
	};
	Datum		args[3] = {
		Int64GetDatum(after), Int64GetDatum(upto), Int64GetDatum((int64) state->limit.events + 1)
	};

	cqrs_query_run(&query, args, NULL, read_add_row, state);
}

/* Branch A, beyond a position. */
static void
walk_read_later(ReadState *state, const CqrsWalk *walk, int64 after)
{
	static CqrsQuery query = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE position > $1 AND position <= $2 AND xid >= $3 AND xid < $4"
		" AND (xid < $7 OR pg_visible_in_snapshot(xid, $5)) ORDER BY position LIMIT $6",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 7,
		.argtypes = {INT8OID, INT8OID, XID8OID, XID8OID, PG_SNAPSHOTOID, INT8OID, XID8OID}
	};
	Datum		args[7] = {
		Int64GetDatum(after), Int64GetDatum(walk->high),
		cqrs_outbox_walk_xmax(walk->done), cqrs_outbox_walk_xmax(walk->target), walk->target,
		Int64GetDatum((int64) state->limit.events + 1), cqrs_outbox_walk_xmin(walk->target)
	};

	cqrs_query_run(&query, args, NULL, read_add_row, state);
}

/* Branch B, but for the positions of which all rows were read. */
static void
walk_read_in_flight(ReadState *state, const CqrsWalk *walk, int64 whole_after, int64 whole_end)
{
	static CqrsQuery query = {
		.sql = "SELECT " CQRS_EVENT_COLUMN_LIST
		" FROM unnest(ARRAY(SELECT pg_snapshot_xip($1))) AS x,"
		" LATERAL (SELECT " CQRS_EVENT_COLUMN_LIST " FROM cqrs.outbox"
		"  WHERE " CQRS_OUTBOX_OF("x") " AND position > $2 AND position <= $7"
		"  AND (position <= $5 OR position > $6) ORDER BY xid, position LIMIT $4) AS o"
		" WHERE pg_visible_in_snapshot(x, $3) ORDER BY position LIMIT $4",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 7,
		.argtypes = {PG_SNAPSHOTOID, INT8OID, PG_SNAPSHOTOID, INT8OID, INT8OID, INT8OID,
		INT8OID}
	};
	Datum		args[7] = {
		walk->done, Int64GetDatum(cqrs_outbox_walk_begin(walk)), walk->target,
		Int64GetDatum((int64) state->limit.events + 1),
		Int64GetDatum(whole_after), Int64GetDatum(whole_end), Int64GetDatum(walk->high)
	};

	cqrs_query_run(&query, args, NULL, read_add_row, state);
}

/*
 * What to select from for all events that are visible, under the alias "events",
 * in a statement that somebody else makes: but for the events of the transaction
 * with the id $2, which count as in flight (not what is before position $6, of an
 * older era), and those that the filters $3 (event_types), $4 (aggregate_types) and
 * $5 (sources) reject; NULL = none.
 */
const char *
cqrs_outbox_read_all(void)
{
	return "(SELECT " CQRS_EVENT_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE (xid OPERATOR(pg_catalog.<>) $2 OR position OPERATOR(pg_catalog.<) $6)"
		" AND ($3 IS NULL OR event_type OPERATOR(pg_catalog.=) ANY ($3))"
		" AND ($4 IS NULL OR aggregate_type OPERATOR(pg_catalog.=) ANY ($4))"
		" AND ($5 IS NULL OR source OPERATOR(pg_catalog.=) ANY ($5))) AS events";
}

/* Is the event committed, and which transaction published it? */
bool
cqrs_outbox_read_xid(int64 position, FullTransactionId *xid)
{
	static CqrsQuery query = {
		.sql = "SELECT xid FROM cqrs.outbox WHERE position = $1",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 1,
		.argtypes = {INT8OID}
	};
	Datum		arg = Int64GetDatum(position);
	int64		result;

	if (cqrs_query_run(&query, &arg, NULL, cqrs_query_keep_bigint, &result) == 0)
		return false;
	*xid = FullTransactionIdFromU64((uint64) result);
	return true;
}

/*
 * Read on in the rows that the statement behind a trigger call inserted, from
 * the transition table's active read pointer. Returns true if nothing is left.
 * Rows that are not the current transaction's events (restored ones) are passed
 * over. Where the batch then has all that was inserted, it says so in "rows".
 */
bool
cqrs_outbox_read_inserted(CqrsBatch *batch, TriggerData *trigdata, CqrsReadLimit limit)
{
	static const char *const columns[CQRS_EVENT_NCOLUMNS] = {
		"position", "event_id", "source", "aggregate_type", "aggregate_id",
		"aggregate_version", "event_type", "payload", "metadata", "occurred_at"
	};
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	FullTransactionId xid = GetTopFullTransactionId();
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	int			attnum[CQRS_EVENT_NCOLUMNS];
	AttrNumber	xid_attnum = read_xid_attnum(desc);
	bool		as_is = cqrs_event_row_matches(batch, desc);
	bool		more = true;

	for (int i = 0; i < CQRS_EVENT_NCOLUMNS && !as_is; i++)
		attnum[i] = SPI_fnumber(desc, columns[i]);

	while (batch->nevents < limit.events && batch->bytes < limit.bytes &&
		   (more = tuplestore_gettupleslot(trigdata->tg_newtable, true, false, slot)))
	{
		Datum		values[CQRS_EVENT_NCOLUMNS];
		bool		nulls[CQRS_EVENT_NCOLUMNS];
		bool		isnull;
		Datum		stamp = slot_getattr(slot, xid_attnum, &isnull);

		if (!FullTransactionIdEquals(DatumGetFullTransactionId(stamp), xid))
			continue;
		if (as_is)
			cqrs_event_batch_add_minimal(batch, ExecFetchSlotMinimalTuple(slot, NULL));
		else
		{
			for (int i = 0; i < CQRS_EVENT_NCOLUMNS; i++)
				values[i] = slot_getattr(slot, attnum[i], &nulls[i]);
			cqrs_event_batch_add(batch, values, nulls);
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	if (as_is && batch->nevents == tuplestore_tuple_count(trigdata->tg_newtable))
		batch->rows = trigdata->tg_newtable;
	cqrs_event_batch_sort(batch);
	return !more;
}

/* Read the events at some positions, in position order: those that are visible. */
void
cqrs_outbox_read_positions(CqrsBatch *batch, const int64 *positions, int npositions)
{
	static CqrsQuery query = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox WHERE position = ANY ($1)",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_CUSTOM,
		.nargs = 1,
		.argtypes = {INT8ARRAYOID}
	};
	ReadState	state = {.batch = batch,.limit = {.events = INT_MAX - 1,.bytes = SIZE_MAX}};
	Datum	   *elements = palloc(Max(npositions, 1) * sizeof(Datum));
	Datum		arg;

	/* what is not found is taken for gone */
	cqrs_outbox_lock_to_read();
	for (int i = 0; i < npositions; i++)
		elements[i] = Int64GetDatum(positions[i]);
	arg = PointerGetDatum(construct_array(elements, npositions, INT8OID, sizeof(int64),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	cqrs_query_run(&query, &arg, NULL, read_add_row, &state);
	cqrs_event_batch_sort(batch);
}

/*
 * Read events that the current transaction itself has published, beyond a
 * position, in position order: those that are there, not those of rolled-back
 * subtransactions.
 */
void
cqrs_outbox_read_own(CqrsBatch *batch, int64 last, CqrsReadLimit limit)
{
	static CqrsQuery query = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE " CQRS_OUTBOX_OF("$1") " AND position > $2 ORDER BY xid, position LIMIT $3",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 3,
		.argtypes = {XID8OID, INT8OID, INT8OID}
	};
	ReadState	state = {.batch = batch,.limit = limit};
	Datum		args[3] = {
		FullTransactionIdGetDatum(GetTopFullTransactionId()), Int64GetDatum(last),
		Int64GetDatum(limit.events)
	};

	CommandCounterIncrement();
	cqrs_query_run(&query, args, NULL, read_add_row, &state);
}

/*
 * Hand over the events of an aggregate beyond a position, one by one, in position
 * order, as the current user and under a snapshot of now, in which the current
 * transaction's own are. A NULL aggregate_type stands for any. The events are
 * found by an index if somebody has made one; publishers do without.
 */
void
cqrs_outbox_read_aggregate(text *aggregate_id, text *aggregate_type, int64 after,
						   CqrsEventFn event_fn, void *arg)
{
	/*
	 * event_fn runs under the same settings: they stay as they are, and all is
	 * qualified. One plan for all would be wrong for some: aggregates differ in size.
	 */
	static CqrsQuery any_type = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
		" AND position OPERATOR(pg_catalog.>) $2 ORDER BY position",
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_CUSTOM | CQRS_QUERY_NO_JIT,
		.nargs = 2,
		.argtypes = {TEXTOID, INT8OID}
	};
	static CqrsQuery of_type = {
		.sql = "SELECT " ROW_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
		" AND position OPERATOR(pg_catalog.>) $2"
		" AND aggregate_type OPERATOR(pg_catalog.=) $3 ORDER BY position",
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_CUSTOM | CQRS_QUERY_NO_JIT,
		.nargs = 3,
		.argtypes = {TEXTOID, INT8OID, TEXTOID}
	};
	HandOver	hand_over = {
		.read = {
			.batch = cqrs_event_batch_create(false),
			.limit = {.events = INT_MAX,.bytes = SIZE_MAX}
		},
		.event_fn = event_fn,
		.arg = arg
	};
	Datum		args[3] = {
		PointerGetDatum(aggregate_id), Int64GetDatum(after), PointerGetDatum(aggregate_type)
	};

	cqrs_query_run(aggregate_type == NULL ? &any_type : &of_type, args, NULL, read_hand_over,
				   &hand_over);
	cqrs_event_batch_free(hand_over.read.batch);
}

/* --------------------------------------------------------------- helpers */

/* The column that says which transaction has published: where the extension has it, or anywhere. */
static AttrNumber
read_xid_attnum(TupleDesc desc)
{
	const int	usual = CQRS_EVENT_NCOLUMNS + 1;

	if (desc->natts >= usual && strcmp(NameStr(TupleDescAttr(desc, usual - 1)->attname), "xid") == 0)
		return usual;
	return SPI_fnumber(desc, "xid");
}

static bool
read_add_row(TupleTableSlot *slot, void *arg)
{
	ReadState  *state = (ReadState *) arg;
	CqrsBatch  *batch = state->batch;
	int			nread = batch->nevents - state->first;

	if (nread >= state->limit.events ||
		(nread > 0 && batch->bytes - state->bytes >= state->limit.bytes))
	{
		state->cut = true;
		return false;
	}
	if (state->slot != slot)
	{
		state->slot = slot;
		state->as_is = TTS_IS_BUFFERTUPLE(slot) &&
			cqrs_event_row_matches(batch, slot->tts_tupleDescriptor);
	}
	if (state->as_is)
	{
		HeapTuple	row = ExecFetchSlotHeapTuple(slot, false, NULL);

		if (HeapTupleHeaderGetNatts(row->t_data) >= CQRS_EVENT_NCOLUMNS)
		{
			cqrs_event_batch_add_row(batch, row);
			return true;
		}
	}
	slot_getallattrs(slot);
	cqrs_event_batch_add(batch, slot->tts_values, slot->tts_isnull);
	return true;
}

static bool
read_hand_over(TupleTableSlot *slot, void *arg)
{
	HandOver   *hand_over = (HandOver *) arg;
	CqrsBatch  *batch = hand_over->read.batch;

	(void) read_add_row(slot, &hand_over->read);
	hand_over->event_fn(&batch->events[0], batch->desc, hand_over->arg);
	cqrs_event_batch_truncate(batch, 0);
	return true;
}
