/*
 * outbox_range.c
 *		The table cqrs.outbox, read in place: a part of a walk that a statement of
 *		somebody else's reads by itself.
 *
 * It is a range of positions, without a batch in memory: the statement selects from
 * cqrs_outbox_range_source, and cqrs_outbox_range_condition picks and counts. Of
 * branch B (see outbox_read.c) there are no events in it, but where the outbox is
 * whole.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/fmgrprotos.h"
#include "utils/xid8.h"

#include "event.h"
#include "outbox.h"
#include "outbox_range.h"
#include "query.h"

/*
 * The range that a statement is reading; the transactions that its events can be of,
 * from range_begin to before range_end; and those before range_seen surely are.
 */
static CqrsRange *range_being_read = NULL;
static FullTransactionId range_begin;
static FullTransactionId range_end;
static FullTransactionId range_seen;

/*
 * Make a range of the events that follow next in a walk, of limit positions from
 * the next event on. Returns false if there is none, or some of branch B come
 * first, or among them where they are not whole: then cqrs_outbox_read_walk is for
 * them.
 */
bool
cqrs_outbox_range_next(CqrsRange *range, const CqrsWalk *walk, int limit)
{
	static CqrsQuery next = {
		.sql = "SELECT position FROM cqrs.outbox"
		" WHERE position > $1 AND position <= $2 ORDER BY position LIMIT 1",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 2,
		.argtypes = {INT8OID, INT8OID}
	};
	static CqrsQuery in_flight = {
		.sql = "SELECT 1 FROM unnest(ARRAY(SELECT pg_snapshot_xip($1))) AS x,"
		" LATERAL (SELECT 1 FROM cqrs.outbox"
		"  WHERE " CQRS_OUTBOX_OF("x") " AND position > $2 AND position <= $3 LIMIT 1) AS o LIMIT 1",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 3,
		.argtypes = {PG_SNAPSHOTOID, INT8OID, INT8OID}
	};
	Datum		args[3] = {
		Int64GetDatum(Max(walk->last, walk->low - 1)), Int64GetDatum(walk->high)
	};
	int64		first;

	if (cqrs_query_run(&next, args, NULL, cqrs_query_keep_bigint, &first) == 0)
		return false;
	range->walk = *walk;
	range->after = first - 1;
	range->upto = Min(range->after + limit, walk->high);
	range->is_whole = cqrs_outbox_walk_whole_end(walk, range->after) > range->after;
	if (range->is_whole)
		range->upto = Min(range->upto, cqrs_outbox_walk_whole_end(walk, range->after));
	range->is_end = range->upto == walk->high;
	range->nevents = 0;
	range->last = 0;
	if (!cqrs_outbox_walk_has_xip(walk->done))
		return true;
	args[0] = walk->done;
	args[1] = Int64GetDatum(cqrs_outbox_walk_begin(walk));
	args[2] = Int64GetDatum(range->is_whole ? range->after : range->upto);
	if (cqrs_query_run(&in_flight, args, NULL, NULL, NULL) > 0)
		range->upto = 0;
	return range->upto > 0;
}

/*
 * What to select from, under the alias "events", in a statement that somebody else
 * makes: where the events of a range lie, positions beyond $3 and up to $4. There is
 * no condition on transaction ids that the planner sees. It would choose the index
 * over these, which would have to be read from one end of the interval to the other
 * for each range.
 */
const char *
cqrs_outbox_range_source(void)
{
	return "(SELECT " CQRS_EVENT_COLUMN_LIST ", xid FROM cqrs.outbox"
		" WHERE position OPERATOR(pg_catalog.>) $3 AND position OPERATOR(pg_catalog.<=) $4)"
		" AS events";
}

/*
 * The condition that goes with it, in the current memory context: an event of the
 * range, which is whole or may be any, that the filters $5 (event_types), $6
 * (aggregate_types) and $7 (sources) let through, those that there are. It counts
 * those, so whatever else the statement demands must be asked after it.
 */
char *
cqrs_outbox_range_condition(bool whole, bool event_types, bool aggregate_types,
								 bool sources)
{
	return psprintf("%s%s%scqrs.count_event(\"position\"%s)",
					event_types ? "event_type OPERATOR(pg_catalog.=) ANY ($5) AND " : "",
					aggregate_types ? "aggregate_type OPERATOR(pg_catalog.=) ANY ($6) AND " : "",
					sources ? "source OPERATOR(pg_catalog.=) ANY ($7) AND " : "",
					whole ? "" : ", xid");
}

/*
 * What serves in its place where a range is whole, there are no filters, and the
 * statement makes groups of all events: a condition on groups, which are fewer. It
 * leaves open which event was the last.
 */
const char *
cqrs_outbox_range_having(void)
{
	return "cqrs.count_events(pg_catalog.count(*))";
}

/*
 * From now on a statement reads the range, which must outlive it, and counts its
 * events; NULL = no more.
 */
void
cqrs_outbox_range_count(CqrsRange *range)
{
	range_being_read = range;
	if (range == NULL)
		return;
	range->nevents = 0;
	range->last = 0;
	range_begin = DatumGetFullTransactionId(cqrs_outbox_walk_xmax(range->walk.done));
	range_end = DatumGetFullTransactionId(cqrs_outbox_walk_xmax(range->walk.target));
	range_seen = DatumGetFullTransactionId(cqrs_outbox_walk_xmin(range->walk.target));
}

/* Counts an event of the range that is being read, if there is one. Returns true. */
bool
cqrs_outbox_range_count_event(int64 position)
{
	CqrsRange  *range = range_being_read;

	if (range != NULL)
	{
		range->nevents++;
		range->last = Max(range->last, position);
	}
	return true;
}

/* The same for a group of events. */
bool
cqrs_outbox_range_count_events(int64 nevents)
{
	if (range_being_read != NULL)
		range_being_read->nevents += nevents;
	return true;
}

/*
 * Is the row of the outbox an event of the range that is being read? Counts it then.
 * Where none is being read there is no event that is not.
 */
bool
cqrs_outbox_range_pick_event(int64 position, FullTransactionId xid)
{
	CqrsRange  *range = range_being_read;

	if (range == NULL)
		return true;
	if (FullTransactionIdPrecedes(xid, range_begin) ||
		!FullTransactionIdPrecedes(xid, range_end))
		return false;
	if (!FullTransactionIdPrecedes(xid, range_seen) &&
		!DatumGetBool(DirectFunctionCall2(pg_visible_in_snapshot,
										  FullTransactionIdGetDatum(xid), range->walk.target)))
		return false;
	return cqrs_outbox_range_count_event(position);
}

/* Say which was the last event of a range that was read, where only groups were counted. */
void
cqrs_outbox_range_find_last(CqrsRange *range)
{
	static CqrsQuery last = {
		.sql = "SELECT position FROM cqrs.outbox"
		" WHERE position > $1 AND position <= $2 ORDER BY position DESC LIMIT 1",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 2,
		.argtypes = {INT8OID, INT8OID}
	};
	Datum		args[2] = {Int64GetDatum(range->after), Int64GetDatum(range->upto)};

	if (range->nevents > 0 && range->last == 0)
		cqrs_query_run(&last, args, NULL, cqrs_query_keep_bigint, &range->last);
}
