/*
 * outbox_pending.c
 *		The table cqrs.outbox, counted: how much is to come, and since when.
 *
 * The same rows as outbox_read.c reads, in the same two branches.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/timestamp.h"

#include "outbox.h"
#include "outbox_pending.h"
#include "query.h"

static bool pending_keep(TupleTableSlot *slot, void *arg);

/*
 * Count up to limit events that are visible in the snapshot upto and not in
 * walk->done, with positions from the era's first up to "last", and tell when the
 * oldest of those counted occurred.
 */
CqrsPending
cqrs_outbox_pending_interval(const CqrsWalk *walk, Datum upto, int64 last, int limit)
{
	static CqrsQuery query = {
		.sql = "SELECT count(*), min(occurred_at) FILTER (WHERE isfinite(occurred_at)) FROM ("
		"(SELECT occurred_at FROM cqrs.outbox WHERE xid >= $1 AND xid < $2"
		"  AND position >= $6 AND position <= $7"
		"  AND pg_visible_in_snapshot(xid, $4) LIMIT $5) UNION ALL "
		"(SELECT o.occurred_at FROM unnest(ARRAY(SELECT pg_snapshot_xip($3))) AS x,"
		"  LATERAL (SELECT occurred_at FROM cqrs.outbox"
		"  WHERE " CQRS_OUTBOX_OF("x") " AND position >= $6 AND position <= $7 LIMIT $5) AS o"
		"  WHERE pg_visible_in_snapshot(x, $4) LIMIT $5)) AS pending",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 7,
		.argtypes = {XID8OID, XID8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID, INT8OID,
		INT8OID}
	};
	Datum		args[7] = {
		cqrs_outbox_walk_xmax(walk->done), cqrs_outbox_walk_xmax(upto), walk->done, upto,
		Int64GetDatum(limit), Int64GetDatum(walk->first), Int64GetDatum(last)
	};
	CqrsPending pending = {0};

	cqrs_outbox_lock_to_read();
	cqrs_query_run(&query, args, NULL, pending_keep, &pending);
	return pending;
}

/* The same for the rest of a frozen interval. */
CqrsPending
cqrs_outbox_pending_walk(const CqrsWalk *walk, int limit)
{
	static CqrsQuery query = {
		.sql = "SELECT count(*), min(occurred_at) FILTER (WHERE isfinite(occurred_at)) FROM ("
		"(SELECT occurred_at FROM cqrs.outbox"
		"  WHERE position > $1 AND position <= $2 AND xid >= $3 AND xid < $4"
		"  AND pg_visible_in_snapshot(xid, $5) ORDER BY position LIMIT $8) UNION ALL "
		"(SELECT o.occurred_at FROM unnest(ARRAY(SELECT pg_snapshot_xip($6))) AS x,"
		"  LATERAL (SELECT occurred_at FROM cqrs.outbox"
		"   WHERE " CQRS_OUTBOX_OF("x") " AND position > $7 AND position <= $2"
		"   ORDER BY xid, position LIMIT $8) AS o"
		"  WHERE pg_visible_in_snapshot(x, $5) LIMIT $8)) AS pending",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 8,
		.argtypes = {INT8OID, INT8OID, XID8OID, XID8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID,
		INT8OID, INT8OID}
	};
	Datum		args[8] = {
		Int64GetDatum(Max(walk->last, walk->low - 1)), Int64GetDatum(walk->high),
		cqrs_outbox_walk_xmax(walk->done), cqrs_outbox_walk_xmax(walk->target),
		walk->target, walk->done,
		Int64GetDatum(cqrs_outbox_walk_begin(walk)), Int64GetDatum(limit)
	};
	CqrsPending pending = {0};

	cqrs_outbox_lock_to_read();
	cqrs_query_run(&query, args, NULL, pending_keep, &pending);
	return pending;
}

static bool
pending_keep(TupleTableSlot *slot, void *arg)
{
	CqrsPending *pending = (CqrsPending *) arg;
	bool		isnull;
	Datum		oldest;

	pending->events = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	oldest = slot_getattr(slot, 2, &isnull);
	pending->oldest = isnull ? PG_INT64_MAX : DatumGetTimestampTz(oldest);
	return true;
}
