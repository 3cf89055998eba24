/*
 * sql_publish.c
 *		SQL functions about the outbox: current_xid, count_event, count_events, publish,
 *		grant_publish.
 */
#include "postgres.h"

#include "utils/xid8.h"

#include "outbox.h"
#include "outbox_range.h"
#include "sql_publish.h"

#define NPUBLISH_ARGS 8

PG_FUNCTION_INFO_V1(cqrs_sql_current_xid);
PG_FUNCTION_INFO_V1(cqrs_sql_count_event);
PG_FUNCTION_INFO_V1(cqrs_sql_count_events);
PG_FUNCTION_INFO_V1(cqrs_sql_pick_event);
PG_FUNCTION_INFO_V1(cqrs_sql_publish);
PG_FUNCTION_INFO_V1(cqrs_sql_grant_publish);

/*
 * cqrs.current_xid() RETURNS xid8
 *
 * The default of cqrs.outbox.xid. Assigns the transaction its id, and has it
 * wake the workers when it commits. Throws
 * ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE where the outbox's sequence would not
 * draw positions in causal order. Takes no lock.
 */
Datum
cqrs_sql_current_xid(PG_FUNCTION_ARGS)
{
	PG_RETURN_FULLTRANSACTIONID(cqrs_outbox_stamp());
}

/*
 * cqrs.count_event(event_position bigint) RETURNS boolean
 *
 * Counts an event that a statement of a view's reads from the outbox, and is true.
 * Anywhere else it does nothing. Takes no lock.
 */
Datum
cqrs_sql_count_event(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cqrs_outbox_range_count_event(PG_GETARG_INT64(0)));
}

/*
 * cqrs.count_events(event_count bigint) RETURNS boolean
 *
 * Counts the events of a group of such a statement at once, and is true. Anywhere else
 * it does nothing. Takes no lock.
 */
Datum
cqrs_sql_count_events(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cqrs_outbox_range_count_events(PG_GETARG_INT64(0)));
}

/*
 * cqrs.count_event(event_position bigint, event_xid xid8) RETURNS boolean
 *
 * Whether a statement of a view's that reads from the outbox is to take the event of
 * that position and transaction; counts it then. Anywhere else it does nothing, and
 * is true. Takes no lock.
 */
Datum
cqrs_sql_pick_event(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(cqrs_outbox_range_pick_event(PG_GETARG_INT64(0),
											  PG_GETARG_FULLTRANSACTIONID(1)));
}

/*
 * cqrs.publish(aggregate_type, aggregate_id, event_type, payload, metadata,
 * event_id, aggregate_version, occurred_at) RETURNS bigint
 *
 * Inserts one event with the caller's rights and returns its position, or NULL where
 * somebody's trigger keeps it from being inserted. The first five must not be null
 * (ERRCODE_NOT_NULL_VIOLATION).
 */
Datum
cqrs_sql_publish(PG_FUNCTION_ARGS)
{
	Datum		values[NPUBLISH_ARGS];
	char		nulls[NPUBLISH_ARGS];
	int64		position;

	for (int i = 0; i < NPUBLISH_ARGS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	position = cqrs_outbox_publish(values, nulls);
	if (position == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(position);
}

/*
 * cqrs.grant_publish(role regrole) RETURNS void
 *
 * Grants INSERT on the columns that a publisher fills, and SELECT on position
 * for RETURNING; source and xid can't be forged then. The caller needs the
 * right to grant them.
 */
Datum
cqrs_sql_grant_publish(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("role must not be null")));
	cqrs_outbox_grant(PG_GETARG_OID(0));
	PG_RETURN_VOID();
}
