/*
 * received.c
 *		The table cqrs.received: which events of other databases were taken.
 *
 * A row is there for each source and event id, from the transaction that made an
 * event of it, or put it aside: whoever inserts it first has the event. A second
 * one waits for the first to end, and takes it only if that was rolled back. So an
 * event is taken once, however often and by whom it is brought.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "query.h"
#include "received.h"

/*
 * Take an event, which gets that position; 0 where it is put aside. Returns false
 * where it was taken before. Waits for another transaction that is taking it.
 */
bool
cqrs_received_claim(const char *source, const pg_uuid_t *event_id, int64 position)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.received (source, event_id, position)"
		" VALUES ($1, $2, nullif($3, 0)) ON CONFLICT (source, event_id) DO NOTHING",
		.nargs = 3,
		.argtypes = {TEXTOID, UUIDOID, INT8OID}
	};
	Datum		args[3] = {
		CStringGetTextDatum(source), UUIDPGetDatum(event_id), Int64GetDatum(position)
	};

	return cqrs_query_run(&query, args, NULL, NULL, NULL) > 0;
}

/* What was put aside has become an event. */
void
cqrs_received_settle(const char *source, const pg_uuid_t *event_id, int64 position)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.received SET position = $3 WHERE source = $1 AND event_id = $2",
		.nargs = 3,
		.argtypes = {TEXTOID, UUIDOID, INT8OID}
	};
	Datum		args[3] = {
		CStringGetTextDatum(source), UUIDPGetDatum(event_id), Int64GetDatum(position)
	};

	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* What was put aside turns out to have another id. */
void
cqrs_received_forget(const char *source, const pg_uuid_t *event_id)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.received WHERE source = $1 AND event_id = $2",
		.nargs = 2,
		.argtypes = {TEXTOID, UUIDOID}
	};
	Datum		args[2] = {CStringGetTextDatum(source), UUIDPGetDatum(event_id)};

	cqrs_query_run(&query, args, NULL, NULL, NULL);
}
