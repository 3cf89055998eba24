/*
 * outbox_walk.c
 *		How far a reader of the outbox is, between two snapshots.
 *
 * Why it is snapshots, and what they are read for, is in outbox_read.c.
 */
#include "postgres.h"

#include "access/transam.h"
#include "utils/fmgrprotos.h"
#include "utils/xid8.h"

#include "outbox_walk.h"

/* Up to where the outbox is whole beyond a position; no further than that = it is not. */
int64
cqrs_outbox_walk_whole_end(const CqrsWalk *walk, int64 after)
{
	return after >= walk->whole_after ? Min(walk->whole_upto, walk->high) : after;
}

/* Where branch B of a walk goes on: behind this. */
int64
cqrs_outbox_walk_begin(const CqrsWalk *walk)
{
	return Max(walk->last, walk->first - 1);
}

/* The first transaction id as yet unassigned when the snapshot was taken, an xid8. */
Datum
cqrs_outbox_walk_xmax(Datum snapshot)
{
	return DirectFunctionCall1(pg_snapshot_xmax, snapshot);
}

/* The lowest transaction id that was in progress when it was taken, an xid8. */
Datum
cqrs_outbox_walk_xmin(Datum snapshot)
{
	return DirectFunctionCall1(pg_snapshot_xmin, snapshot);
}

/* Was any transaction in flight when it was taken? */
bool
cqrs_outbox_walk_has_xip(Datum snapshot)
{
	return FullTransactionIdPrecedes(DatumGetFullTransactionId(cqrs_outbox_walk_xmin(snapshot)),
									 DatumGetFullTransactionId(cqrs_outbox_walk_xmax(snapshot)));
}

/* Is nothing at all visible in it? Real ones begin at FirstNormalTransactionId. */
bool
cqrs_outbox_walk_is_empty(Datum snapshot)
{
	return U64FromFullTransactionId(DatumGetFullTransactionId(cqrs_outbox_walk_xmax(snapshot))) <=
		FirstNormalTransactionId;
}
