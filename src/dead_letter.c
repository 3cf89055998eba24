/*
 * dead_letter.c
 *		The table cqrs.parked: events that were put aside, and why.
 *
 * An event that failed is there with its error, and behind it, in position
 * order, the later events of its key, which must not overtake it. The view
 * cqrs.dead_letter shows those that nobody tries again by himself. Whoever
 * changes the rows of a projection holds its lock; inline publishers, who add
 * events behind others, hold that of the key.
 *
 * Keys are found by their hash, since an index has no room for a long text.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "dead_letter.h"

/* the key $2 of projection $1 */
#define OF_KEY \
	" WHERE projection = $1 AND hashtextextended(coalesce(key, ''), 0) =" \
	" hashtextextended(coalesce($2, ''), 0) AND key IS NOT DISTINCT FROM $2"

/* keys on their way out of a query */
typedef struct KeyList
{
	MemoryContext context;
	List	   *keys;
} KeyList;

/* the same for a part of a queue */
typedef struct Queue
{
	int			length;
	CqrsQueued *events;
} Queue;

/* positions on their way out of a query */
typedef struct Positions
{
	int64	   *positions;
	int			length;
	int			capacity;
} Positions;

static Datum key_datum(const text *key, char *null);
static bool read_position(TupleTableSlot *slot, void *arg);
static bool read_key(TupleTableSlot *slot, void *arg);
static bool read_queue(TupleTableSlot *slot, void *arg);
static bool read_summary(TupleTableSlot *slot, void *arg);

/*
 * Put an event aside. One that is there already gets the newer reason, and keeps
 * its key; where it was skipped nobody tries it again by himself.
 */
void
cqrs_dead_letter_park(int32 projection, const CqrsDeadLetter *letter)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.parked AS p (projection, key, position, reason, blocks, sqlstate,"
		" message, context, attempts, next_retry_at)"
		" VALUES ($1, $2, $3, CASE WHEN $5 IS NULL THEN 'behind' ELSE 'failed' END, $4, $5, $6,"
		" $7, $8, $9) ON CONFLICT (projection, position) DO UPDATE SET reason = excluded.reason,"
		" sqlstate = excluded.sqlstate, message = excluded.message, context = excluded.context,"
		" attempts = excluded.attempts,"
		" next_retry_at = CASE WHEN p.blocks THEN excluded.next_retry_at END",
		.nargs = 9,
		.argtypes = {INT4OID, TEXTOID, INT8OID, BOOLOID, TEXTOID, TEXTOID, TEXTOID, INT4OID,
		TIMESTAMPTZOID}
	};
	char		nulls[9] = {' ', ' ', ' ', ' ', ' ', ' ', ' ', ' ', ' '};
	Datum		args[9] = {
		Int32GetDatum(projection), key_datum(letter->key, &nulls[1]),
		Int64GetDatum(letter->position), BoolGetDatum(letter->blocks)
	};

	cqrs_dead_letter_error_args(letter->error, &args[4], &nulls[4]);
	args[7] = Int32GetDatum(letter->attempts);
	args[8] = TimestampTzGetDatum(letter->next_retry_at);
	if (letter->next_retry_at == 0)
		nulls[8] = 'n';
	cqrs_query_run(&query, args, nulls, NULL, NULL);
}

/*
 * Those events of a key that are to be tried again, but for the one at a position (0 =
 * all), are so at another time, or never (0): a queue is tried as a whole, so it has one.
 * There are several that have failed where an earlier one has come behind one, and
 * where keys can't be computed.
 */
void
cqrs_dead_letter_reschedule(int32 projection, const text *key, int64 but,
							TimestampTz next_retry_at)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.parked SET next_retry_at = $4" OF_KEY
		" AND position <> $3 AND next_retry_at IS NOT NULL",
		.nargs = 4,
		.argtypes = {INT4OID, TEXTOID, INT8OID, TIMESTAMPTZOID}
	};
	char		nulls[4] = {' ', ' ', ' ', next_retry_at == 0 ? 'n' : ' '};
	Datum		args[4] = {
		Int32GetDatum(projection), key_datum(key, &nulls[1]), Int64GetDatum(but),
		TimestampTzGetDatum(next_retry_at)
	};

	cqrs_query_run(&query, args, nulls, NULL, NULL);
}

/*
 * What is kept of an error, for three arguments of a statement: its SQLSTATE, the
 * message and the context. nulls has blanks before. NULL is no error.
 */
void
cqrs_dead_letter_error_args(const ErrorData *error, Datum *args, char *nulls)
{
	if (error == NULL)
	{
		nulls[0] = nulls[1] = nulls[2] = 'n';
		return;
	}
	args[0] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	args[1] = CStringGetTextDatum(error->message ? error->message : "missing error text");
	if (error->context != NULL)
		args[2] = CStringGetTextDatum(error->context);
	else
		nulls[2] = 'n';
}

/* Do events of the key have to wait? */
bool
cqrs_dead_letter_blocks(int32 projection, const text *key)
{
	static CqrsQuery query = {
		.sql = "SELECT FROM cqrs.parked" OF_KEY " AND blocks LIMIT 1",
		.flags = CQRS_QUERY_LATEST,
		.nargs = 2,
		.argtypes = {INT4OID, TEXTOID}
	};
	char		nulls[2] = {' ', ' '};
	Datum		args[2] = {Int32GetDatum(projection), key_datum(key, &nulls[1])};

	return cqrs_query_run(&query, args, nulls, NULL, NULL) > 0;
}

/* The keys whose events have to wait: a list of text, NULL for that key. */
List *
cqrs_dead_letter_blocked_keys(int32 projection)
{
	static CqrsQuery query = {
		.sql = "SELECT DISTINCT key FROM cqrs.parked WHERE projection = $1 AND blocks",
		.flags = CQRS_QUERY_LATEST,
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	KeyList		list = {.context = CurrentMemoryContext};
	Datum		arg = Int32GetDatum(projection);

	cqrs_query_run(&query, &arg, NULL, read_key, &list);
	return list.keys;
}

/*
 * The keys that have parked events, in the order of their first ones; with due,
 * those only that are to be tried again by then, in the order of when.
 */
List *
cqrs_dead_letter_keys(int32 projection, TimestampTz due)
{
	static CqrsQuery query = {
		.sql = "SELECT key FROM cqrs.parked WHERE projection = $1"
		" GROUP BY key HAVING $2 IS NULL OR min(next_retry_at) <= $2"
		" ORDER BY CASE WHEN $2 IS NOT NULL THEN min(next_retry_at) END, min(position)",
		.nargs = 2,
		.argtypes = {INT4OID, TIMESTAMPTZOID}
	};
	KeyList		list = {.context = CurrentMemoryContext};
	Datum		args[2] = {Int32GetDatum(projection), TimestampTzGetDatum(due)};

	cqrs_query_run(&query, args, due == 0 ? " n" : NULL, read_key, &list);
	return list.keys;
}

/*
 * The next events of a key's queue after a position, up to limit, without those that
 * were skipped unless asked for. Returns how many there are.
 */
int
cqrs_dead_letter_queue(int32 projection, const text *key, bool skipped, int64 after, int limit,
					   CqrsQueued *events)
{
	static CqrsQuery query = {
		.sql = "SELECT position, attempts, blocks FROM cqrs.parked" OF_KEY
		" AND (blocks OR $3) AND position > $4 ORDER BY position LIMIT $5",
		.nargs = 5,
		.argtypes = {INT4OID, TEXTOID, BOOLOID, INT8OID, INT4OID}
	};
	char		nulls[5] = {' ', ' ', ' ', ' ', ' '};
	Datum		args[5] = {
		Int32GetDatum(projection), key_datum(key, &nulls[1]), BoolGetDatum(skipped),
		Int64GetDatum(after), Int32GetDatum(limit)
	};
	Queue		queue = {.events = events};

	cqrs_query_run(&query, args, nulls, read_queue, &queue);
	return queue.length;
}

/* An event of the key NULL has another one by now, and waits behind that key's. */
void
cqrs_dead_letter_move(int32 projection, int64 position, const text *key)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.parked SET key = $3, reason = 'behind', blocks = true,"
		" sqlstate = NULL, message = NULL, context = NULL, attempts = 0, next_retry_at = NULL"
		" WHERE projection = $1 AND position = $2",
		.nargs = 3,
		.argtypes = {INT4OID, INT8OID, TEXTOID}
	};
	Datum		args[3] = {
		Int32GetDatum(projection), Int64GetDatum(position), PointerGetDatum(key)
	};

	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* The position of the first event that was put aside, skipped or not; 0 = there is none. */
int64
cqrs_dead_letter_first(int32 projection)
{
	static CqrsQuery query = {
		.sql = "SELECT position FROM cqrs.parked WHERE projection = $1 ORDER BY position LIMIT 1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	int64		first = 0;
	Datum		arg = Int32GetDatum(projection);

	cqrs_query_run(&query, &arg, NULL, cqrs_query_keep_bigint, &first);
	return first;
}

/* Visit the positions of those from one to another, in their order. */
void
cqrs_dead_letter_visit(int32 projection, int64 from, int64 upto, CqrsRowFn row_fn, void *arg)
{
	static CqrsQuery query = {
		.sql = "SELECT position FROM cqrs.parked"
		" WHERE projection = $1 AND position >= $2 AND position <= $3 ORDER BY position",
		.nargs = 3,
		.argtypes = {INT4OID, INT8OID, INT8OID}
	};
	Datum		args[3] = {Int32GetDatum(projection), Int64GetDatum(from), Int64GetDatum(upto)};

	cqrs_query_run(&query, args, NULL, row_fn, arg);
}

/* The positions of all that the active snapshot shows, in their order. */
int64 *
cqrs_dead_letter_positions(int32 projection, int *npositions)
{
	static CqrsQuery query = {
		.sql = "SELECT position FROM cqrs.parked WHERE projection = $1 ORDER BY position",
		.flags = CQRS_QUERY_ACTIVE,
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Positions	result = {.capacity = 64};
	Datum		arg = Int32GetDatum(projection);

	result.positions = palloc(result.capacity * sizeof(int64));
	cqrs_query_run(&query, &arg, NULL, read_position, &result);
	*npositions = result.length;
	return result.positions;
}

/* Events that were applied, or are not wanted any more. */
void
cqrs_dead_letter_remove(int32 projection, const CqrsQueued *events, int nevents)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.parked WHERE projection = $1 AND position = ANY ($2)",
		.nargs = 2,
		.argtypes = {INT4OID, INT8ARRAYOID}
	};
	Datum	   *elements = palloc(Max(nevents, 1) * sizeof(Datum));
	Datum		args[2] = {Int32GetDatum(projection)};

	for (int i = 0; i < nevents; i++)
		elements[i] = Int64GetDatum(events[i].position);
	args[1] = PointerGetDatum(construct_array(elements, nevents, INT8OID, sizeof(int64),
											  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/*
 * Forget a key's events up to a position; the first of those left is to be tried again
 * now, unless it was tried for so often. Returns how many there were.
 */
int64
cqrs_dead_letter_discard(int32 projection, const text *key, int64 up_to, int max_attempts)
{
	static CqrsQuery query = {
		.sql = "WITH discarded AS (DELETE FROM cqrs.parked" OF_KEY " AND position <= $3"
		"  RETURNING position),"
		" next AS (UPDATE cqrs.parked SET next_retry_at = clock_timestamp()"
		"  WHERE projection = $1 AND attempts <= $4 AND EXISTS (SELECT FROM discarded)"
		"  AND position = (SELECT min(position) FROM cqrs.parked" OF_KEY
		"  AND position > $3 AND blocks))"
		" SELECT position FROM discarded",
		.nargs = 4,
		.argtypes = {INT4OID, TEXTOID, INT8OID, INT4OID}
	};
	char		nulls[4] = {' ', ' ', ' ', ' '};
	Datum		args[4] = {
		Int32GetDatum(projection), key_datum(key, &nulls[1]), Int64GetDatum(up_to),
		Int32GetDatum(max_attempts)
	};

	return cqrs_query_run(&query, args, nulls, NULL, NULL);
}

/* Forget all that a projection has put aside: it is gone, or begins anew. */
void
cqrs_dead_letter_forget(int32 projection)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.parked WHERE projection = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(projection);

	cqrs_query_run(&query, &arg, NULL, NULL, NULL);
}

/* What a projection has put aside, as the current transaction sees it. */
CqrsParked
cqrs_dead_letter_summary(int32 projection)
{
	static CqrsQuery query = {
		.sql = "SELECT count(*), coalesce(bool_or(blocks), false),"
		" coalesce(max(attempts) FILTER (WHERE next_retry_at IS NOT NULL), 0),"
		" min(next_retry_at) FROM cqrs.parked WHERE projection = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	CqrsParked	result = {0};
	Datum		arg = Int32GetDatum(projection);

	cqrs_query_run(&query, &arg, NULL, read_summary, &result);
	return result;
}

static Datum
key_datum(const text *key, char *null)
{
	if (key == NULL)
		*null = 'n';
	return PointerGetDatum(key);
}

static bool
read_key(TupleTableSlot *slot, void *arg)
{
	KeyList    *list = (KeyList *) arg;
	MemoryContext old = MemoryContextSwitchTo(list->context);
	bool		isnull;
	Datum		value = slot_getattr(slot, 1, &isnull);

	list->keys = lappend(list->keys, isnull ? NULL : DatumGetTextPCopy(value));
	MemoryContextSwitchTo(old);
	return true;
}

static bool
read_position(TupleTableSlot *slot, void *arg)
{
	Positions  *result = (Positions *) arg;
	bool		isnull;

	if (result->length == result->capacity)
	{
		result->capacity *= 2;
		result->positions = repalloc_huge(result->positions, result->capacity * sizeof(int64));
	}
	result->positions[result->length++] = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	return true;
}

static bool
read_queue(TupleTableSlot *slot, void *arg)
{
	Queue	   *queue = (Queue *) arg;
	bool		isnull;

	queue->events[queue->length++] = (CqrsQueued)
	{
		.position = DatumGetInt64(slot_getattr(slot, 1, &isnull)),
		.attempts = DatumGetInt32(slot_getattr(slot, 2, &isnull)),
		.blocks = DatumGetBool(slot_getattr(slot, 3, &isnull))
	};
	return true;
}

static bool
read_summary(TupleTableSlot *slot, void *arg)
{
	CqrsParked *result = (CqrsParked *) arg;
	bool		isnull;
	Datum		value;

	result->events = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	result->blocks = DatumGetBool(slot_getattr(slot, 2, &isnull));
	result->attempts = DatumGetInt32(slot_getattr(slot, 3, &isnull));
	value = slot_getattr(slot, 4, &isnull);
	result->next_retry_at = isnull ? 0 : DatumGetTimestampTz(value);
	return true;
}
