/*
 * arrival.c
 *		The table cqrs.arrival: how much attached tables have brought.
 *
 * Counters that commit with what they count, and for which no transaction waits,
 * not even for a prepared one: a table has several rows, to be summed. At its end a
 * transaction adds what it brought to a row that nobody has locked, or, where there
 * is none, inserts one. So there are as many rows as transactions ever were at it
 * at a time, and each is updated in place on its page. (Found by its id: to look where
 * it was locked would miss one that was updated just before.)
 *
 * Until then what was brought is noted in memory, by subtransaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "arrival.h"
#include "query.h"

/* $1 to $7: the note */
#define NARGS 7
#define NOTE_TYPES \
	REGCLASSOID, TEXTOID, INT8OID, INT8OID, INT8OID, UUIDOID, TIMESTAMPTZOID

/* what a subtransaction has brought; in TopTransactionContext */
typedef struct Note
{
	SubTransactionId subid;
	Oid			relid;
	char	   *source;
	CqrsArrival arrival;
} Note;

static List *notes = NIL;

static void note_add(CqrsArrival *sum, const CqrsArrival *arrival);
static void notes_xact_callback(XactEvent event, void *arg);
static void notes_subxact_callback(SubXactEvent event, SubTransactionId subid,
								   SubTransactionId parent, void *arg);
static void notes_write(void);
static void note_write(const Note *note);
static Datum current_rows(Datum *args);
static bool keep_rows(TupleTableSlot *slot, void *arg);

/* Called once per process, from _PG_init. */
void
cqrs_arrival_init(void)
{
	RegisterXactCallback(notes_xact_callback, NULL);
	RegisterSubXactCallback(notes_subxact_callback, NULL);
}

/* The current subtransaction has brought something; the table knows when it commits. */
void
cqrs_arrival_note(Oid relid, const char *source, const CqrsArrival *arrival)
{
	MemoryContext old;
	Note	   *note;
	ListCell   *lc;

	foreach(lc, notes)
	{
		note = lfirst(lc);
		if (note->subid == GetCurrentSubTransactionId() && note->relid == relid &&
			strcmp(note->source, source) == 0)
		{
			note_add(&note->arrival, arrival);
			return;
		}
	}
	old = MemoryContextSwitchTo(TopTransactionContext);
	note = palloc0(sizeof(Note));
	note->subid = GetCurrentSubTransactionId();
	note->relid = relid;
	note->source = pstrdup(source);
	note->arrival = *arrival;
	notes = lappend(notes, note);
	MemoryContextSwitchTo(old);
}

/* Forget the tables that are gone. */
void
cqrs_arrival_prune(void)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.arrival a"
		" WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = a.relation)"
	};

	cqrs_query_run(&query, NULL, NULL, NULL, NULL);
}

static void
note_add(CqrsArrival *sum, const CqrsArrival *arrival)
{
	sum->events += arrival->events;
	sum->duplicates += arrival->duplicates;
	if (arrival->last_position > sum->last_position)
	{
		sum->last_position = arrival->last_position;
		sum->last_event_id = arrival->last_event_id;
		sum->last_event_at = arrival->last_event_at;
	}
}

static void
notes_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			notes_write();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			notes = NIL;
			break;
		default:
			break;
	}
}

static void
notes_subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent,
					   void *arg)
{
	ListCell   *lc;

	foreach(lc, notes)
	{
		Note	   *note = lfirst(lc);

		if (note->subid != subid)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB)
			notes = foreach_delete_current(notes, lc);
		else if (event == SUBXACT_EVENT_COMMIT_SUB)
			note->subid = parent;
	}
}

static void
notes_write(void)
{
	ListCell   *lc;

	if (notes == NIL)
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, notes)
		note_write(lfirst(lc));
	PopActiveSnapshot();
	notes = NIL;
}

/*
 * Under repeatable read, to update a row that has changed since the snapshot would
 * be an error, so of the rows there only those count that are as they were.
 */
static void
note_write(const Note *note)
{
	static CqrsQuery update = {
		.sql = "UPDATE cqrs.arrival SET events = events + $3, duplicates = duplicates + $4,"
		" last_event_id = CASE WHEN $5 > last_position THEN $6 ELSE last_event_id END,"
		" last_event_at = CASE WHEN $5 > last_position THEN $7 ELSE last_event_at END,"
		" last_received_at = CASE WHEN $5 > last_position THEN clock_timestamp()"
		"  ELSE last_received_at END,"
		" last_position = greatest(last_position, $5)"
		" WHERE id = (SELECT id FROM cqrs.arrival WHERE relation = $1 AND source = $2"
		"  AND ($8 IS NULL OR ctid = ANY ($8)) LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)",
		.nargs = NARGS + 1,
		.argtypes = {NOTE_TYPES, TIDARRAYOID}
	};
	static CqrsQuery insert = {
		.sql = "INSERT INTO cqrs.arrival (relation, source, events, duplicates, last_position,"
		" last_event_id, last_event_at, last_received_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $5 > 0 THEN clock_timestamp() END)",
		.nargs = NARGS,
		.argtypes = {NOTE_TYPES}
	};
	const CqrsArrival *arrival = &note->arrival;
	char		nulls[NARGS + 1];
	Datum		args[NARGS + 1] = {
		ObjectIdGetDatum(note->relid), CStringGetTextDatum(note->source),
		Int64GetDatum(arrival->events), Int64GetDatum(arrival->duplicates),
		Int64GetDatum(arrival->last_position), UUIDPGetDatum(&arrival->last_event_id),
		TimestampTzGetDatum(arrival->last_event_at)
	};

	memset(nulls, ' ', sizeof(nulls));
	if (arrival->last_position == 0)
		nulls[5] = nulls[6] = 'n';
	if (IsolationUsesXactSnapshot())
		args[NARGS] = current_rows(args);
	else
		nulls[NARGS] = 'n';
	if (cqrs_query_run(&update, args, nulls, NULL, NULL) == 0)
		cqrs_query_run(&insert, args, nulls, NULL, NULL);
}

/* Where the rows of a note's table and source are now, as tid[]. */
static Datum
current_rows(Datum *args)
{
	static CqrsQuery query = {
		.sql = "SELECT coalesce(array_agg(ctid), '{}') FROM cqrs.arrival"
		" WHERE relation = $1 AND source = $2",
		.flags = CQRS_QUERY_LATEST,
		.nargs = 2,
		.argtypes = {REGCLASSOID, TEXTOID}
	};
	Datum		result = (Datum) 0;

	cqrs_query_run(&query, args, NULL, keep_rows, &result);
	return result;
}

/* A CqrsRowFn. */
static bool
keep_rows(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(Datum *) arg = SPI_datumTransfer(slot_getattr(slot, 1, &isnull), false, -1);
	return true;
}
