/*
 * parked_row.c
 *		The table cqrs.parked_row: rows of attached tables that were put aside.
 *
 * A row that can't be made an event is there with its error, and behind it, in the
 * order of arrival, the later ones of its key, which must not overtake it. The row
 * itself is kept as JSON, since whoever wrote it may delete it.
 *
 * Keys are found by their hash, since an index has no room for a long text.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "dead_letter.h"
#include "parked_row.h"
#include "query.h"

/* rows that are in memory together: until either is reached */
#define MAX_CHUNK_ROWS 1000
#define MAX_CHUNK_BYTES (8 * 1024 * 1024)

/* the key $2 of table $1 */
#define OF_KEY \
	" WHERE relation = $1 AND hashtextextended(coalesce(key, ''), 0) =" \
	" hashtextextended(coalesce($2, ''), 0) AND key IS NOT DISTINCT FROM $2"

/* rows on their way out of a query */
typedef struct Queue
{
	MemoryContext context;
	CqrsParkedRow *rows;
	int			nrows;
	Size		bytes;
} Queue;

static int	read_chunk(Oid relid, const text *key, int64 after, CqrsParkedRow *rows);
static bool read_row(TupleTableSlot *slot, void *arg);

/* Is any row of the table put aside? */
bool
cqrs_parked_row_exists(Oid relid)
{
	static CqrsQuery query = {
		.sql = "SELECT FROM cqrs.parked_row WHERE relation = $1 LIMIT 1",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 1,
		.argtypes = {REGCLASSOID}
	};
	Datum		arg = ObjectIdGetDatum(relid);

	return cqrs_query_run(&query, &arg, NULL, NULL, NULL) > 0;
}

/* Is any row of the table put aside that has the key, which is not NULL? */
bool
cqrs_parked_row_has_key(Oid relid, const text *key)
{
	static CqrsQuery query = {
		.sql = "SELECT FROM cqrs.parked_row" OF_KEY " LIMIT 1",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 2,
		.argtypes = {REGCLASSOID, TEXTOID}
	};
	Datum		args[2] = {ObjectIdGetDatum(relid), PointerGetDatum(key)};

	return cqrs_query_run(&query, args, NULL, NULL, NULL) > 0;
}

/* Put a row aside. */
void
cqrs_parked_row_park(const CqrsParkedRow *row)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.parked_row (relation, source, event_id, key, row, reason,"
		" sqlstate, message, context, attempts)"
		" VALUES ($5, $6, $7, $8, $9::json, CASE WHEN $1 IS NULL THEN 'behind' ELSE 'failed' END,"
		" $1, $2, $3, $4)",
		.nargs = 9,
		.argtypes = {TEXTOID, TEXTOID, TEXTOID, INT4OID, REGCLASSOID, TEXTOID, UUIDOID, TEXTOID,
		TEXTOID}
	};
	char		nulls[9];
	Datum		args[9];

	memset(nulls, ' ', sizeof(nulls));
	cqrs_dead_letter_error_args(row->error, args, nulls);
	args[3] = Int32GetDatum(row->attempts);
	args[4] = ObjectIdGetDatum(row->relid);
	args[5] = CStringGetTextDatum(row->source);
	args[6] = UUIDPGetDatum(&row->event_id);
	args[7] = PointerGetDatum(row->key);
	args[8] = PointerGetDatum(row->row);
	if (row->key == NULL)
		nulls[7] = 'n';
	cqrs_query_run(&query, args, nulls, NULL, NULL);
}

/*
 * Go through the table's rows in their order; with a key, only through those of it. The
 * caller has locked the table against whoever else would. What fn calls may do so all
 * the same, and some rows may be gone by the time that they are fn's turn.
 */
void
cqrs_parked_row_each(Oid relid, const text *key, CqrsParkedRowFn fn, void *arg)
{
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views parked rows",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext each = AllocSetContextCreate(chunk, "cqrs_views parked row",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(chunk);
	int64		last = 0;
	int			nrows;

	do
	{
		CqrsParkedRow *rows = palloc(MAX_CHUNK_ROWS * sizeof(CqrsParkedRow));

		nrows = read_chunk(relid, key, last, rows);
		MemoryContextSwitchTo(each);
		for (int i = 0; i < nrows; i++)
		{
			CHECK_FOR_INTERRUPTS();
			last = rows[i].number;
			fn(&rows[i], arg);
			MemoryContextReset(each);
		}
		MemoryContextSwitchTo(chunk);
		MemoryContextResetOnly(chunk);
	} while (nrows > 0);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk);
}

/* A row has been tried again, and stays: its key, its error and its attempts. */
void
cqrs_parked_row_update(const CqrsParkedRow *row)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.parked_row SET key = $6, sqlstate = $1, message = $2, context = $3,"
		" attempts = $4, reason = CASE WHEN $1 IS NULL THEN 'behind' ELSE 'failed' END"
		" WHERE number = $5",
		.nargs = 6,
		.argtypes = {TEXTOID, TEXTOID, TEXTOID, INT4OID, INT8OID, TEXTOID}
	};
	char		nulls[6];
	Datum		args[6];

	memset(nulls, ' ', sizeof(nulls));
	cqrs_dead_letter_error_args(row->error, args, nulls);
	args[3] = Int32GetDatum(row->attempts);
	args[4] = Int64GetDatum(row->number);
	args[5] = PointerGetDatum(row->key);
	if (row->key == NULL)
		nulls[5] = 'n';
	cqrs_query_run(&query, args, nulls, NULL, NULL);
}

/* A row that stays has another key than it had. */
void
cqrs_parked_row_set_key(int64 number, const text *key)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.parked_row SET key = $2 WHERE number = $1",
		.nargs = 2,
		.argtypes = {INT8OID, TEXTOID}
	};
	Datum		args[2] = {Int64GetDatum(number), PointerGetDatum(key)};

	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* Returns whether it was there. */
bool
cqrs_parked_row_remove(int64 number)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.parked_row WHERE number = $1",
		.nargs = 1,
		.argtypes = {INT8OID}
	};
	Datum		arg = Int64GetDatum(number);

	return cqrs_query_run(&query, &arg, NULL, NULL, NULL) > 0;
}

/* Forget a key's rows up to a number; NULL is a key. Returns how many there were. */
int64
cqrs_parked_row_discard(Oid relid, const text *key, int64 up_to)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.parked_row" OF_KEY " AND number <= $3",
		.nargs = 3,
		.argtypes = {REGCLASSOID, TEXTOID, INT8OID}
	};
	Datum		args[3] = {
		ObjectIdGetDatum(relid), PointerGetDatum(key), Int64GetDatum(up_to)
	};

	return cqrs_query_run(&query, args, key == NULL ? " n " : NULL, NULL, NULL);
}

/* Forget the rows of tables that are gone: nobody could read them again. */
void
cqrs_parked_row_prune(void)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.parked_row p"
		" WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = p.relation)"
	};

	cqrs_query_run(&query, NULL, NULL, NULL, NULL);
}

/* The next rows beyond a number, in the current memory context. Returns how many; 0 at the end. */
static int
read_chunk(Oid relid, const text *key, int64 after, CqrsParkedRow *rows)
{
	static CqrsQuery query = {
		.sql = "SELECT number, relation::oid, source, event_id, key, row::text, attempts"
		" FROM cqrs.parked_row WHERE relation = $1 AND ($2 IS NULL OR key = $2) AND number > $3"
		" ORDER BY number LIMIT $4",
		.flags = CQRS_QUERY_LATEST,
		.nargs = 4,
		.argtypes = {REGCLASSOID, TEXTOID, INT8OID, INT4OID}
	};
	Queue		queue = {.context = CurrentMemoryContext,.rows = rows};
	Datum		args[4] = {
		ObjectIdGetDatum(relid), PointerGetDatum(key), Int64GetDatum(after),
		Int32GetDatum(MAX_CHUNK_ROWS)
	};

	cqrs_query_run(&query, args, key == NULL ? " n  " : NULL, read_row, &queue);
	return queue.nrows;
}

/* A CqrsRowFn: there is room for at least one. */
static bool
read_row(TupleTableSlot *slot, void *arg)
{
	Queue	   *queue = (Queue *) arg;
	MemoryContext old = MemoryContextSwitchTo(queue->context);
	CqrsParkedRow *row = &queue->rows[queue->nrows++];

	slot_getallattrs(slot);
	memset(row, 0, sizeof(*row));
	row->number = DatumGetInt64(slot->tts_values[0]);
	row->relid = DatumGetObjectId(slot->tts_values[1]);
	row->source = TextDatumGetCString(slot->tts_values[2]);
	row->event_id = *DatumGetUUIDP(slot->tts_values[3]);
	if (!slot->tts_isnull[4])
		row->key = DatumGetTextPCopy(slot->tts_values[4]);
	row->row = DatumGetTextPCopy(slot->tts_values[5]);
	row->attempts = DatumGetInt32(slot->tts_values[6]);
	queue->bytes += VARSIZE(row->row);
	MemoryContextSwitchTo(old);
	return queue->bytes < MAX_CHUNK_BYTES;
}
