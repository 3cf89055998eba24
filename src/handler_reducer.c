/*
 * handler_reducer.c
 *		The calling convention f(T, cqrs.event) RETURNS T: from the row of an
 *		event's key and the event, the row that follows.
 *
 * The rows of all keys of a batch are fetched in one statement, folded in memory
 * in the order of the events, and those that have changed are written back in
 * one statement, those that became NULL deleted in another. So the table is read
 * and written once per key and batch, not once per event, and what the function
 * is given never depends on how events are cut into batches. Where rows are so
 * large that they would fill the memory, the batch is done in slices.
 *
 * Whom a row belongs to is the engine's to say: it fills in the key, whatever
 * the function put there. Generated and identity columns are the server's: the
 * function finds NULL in them, always, since only a written row has their
 * values; and they are not written.
 *
 * The table is locked against changes before its columns are looked at, and
 * until the end of the transaction.
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"

#include "handler_reducer.h"
#include "query.h"
#include "read_table.h"
#include "reducer.h"
#include "reducer_table.h"

/* rows that are in memory at once, as fetched and as folded; bytes */
#define MAX_ROW_BYTES (32 * 1024 * 1024)

/* rows that are kept as expanded records at once */
#define MAX_EXPANDED_ROWS 1000

/* a row of the read table, which may not exist */
typedef struct Row
{
	text	   *key;
	int			nevents;		/* yet to come for it in the slice */
	Datum		before;			/* as fetched; 0 = none */
	Datum		now;			/* as folded so far; the same = untouched */
	Size		size;			/* of now, in bytes */
} Row;

typedef struct RowIndexEntry
{
	text	   *key;
	int			row;
	uint32		hash;
	char		status;
} RowIndexEntry;


#define SH_PREFIX row_index
#define SH_ELEMENT_TYPE RowIndexEntry
#define SH_KEY_TYPE text *
#define SH_KEY key
#define SH_HASH_KEY(tb, key) \
	((uint32) cqrs_event_hash_text(key, 0))
#define SH_EQUAL(tb, a, b) cqrs_event_same_text(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* a batch that is being folded, slice by slice */
typedef struct Folding
{
	CqrsHandlerCall *call;
	Relation	rel;
	TupleDesc	desc;			/* of the table, and of T */
	CqrsReducerTable *table;
	CqrsReducer reducer;
	FmgrInfo	same_image;

	/* the slice */
	MemoryContext context;
	int			first;			/* index of its first event */
	int			nevents;
	Row		   *rows;			/* by first appearance */
	int			nrows;
	int			nfetched;
	int		   *row_of_event;	/* counted from "first" */
	row_index_hash *index;
	int			nexpanded;		/* rows whose "now" is */
	Size		bytes;			/* of before and now */
} Folding;

static int	handler_reducer_argtypes(const CqrsProjection *projection,
									 Oid argtypes[CQRS_HANDLER_MAX_ARGS]);
static void handler_reducer_check(Oid function, const Oid *read_tables, int nread_tables);
static void handler_reducer_apply(CqrsHandlerCall *call);
static void folding_refuse_null_keys(CqrsHandlerCall *call);
static void folding_find_rows(Folding *folding);
static bool folding_fetch(Folding *folding);
static bool folding_keep_row(TupleTableSlot *slot, void *arg);
static void folding_fold(Folding *folding);
static void folding_complete(Folding *folding, Row *row);
static void folding_write(Folding *folding);
static bool row_is_changed(Folding *folding, const Row *row);
static Datum text_array(Datum *elements, int nelements);

const CqrsHandlerKind cqrs_handler_reducer_kind = {
	.name = "reducer",
	.needs_keys = true,
	.handles_large_batches = true,
	.matches = cqrs_reducer_matches,
	.argtypes = handler_reducer_argtypes,
	.check = handler_reducer_check,
	.apply = handler_reducer_apply
};

static int
handler_reducer_argtypes(const CqrsProjection *projection, Oid argtypes[CQRS_HANDLER_MAX_ARGS])
{
	argtypes[0] = get_rel_type_id(projection->tables[0]);
	argtypes[1] = cqrs_event_type();
	return 2;
}

static void
handler_reducer_check(Oid function, const Oid *read_tables, int nread_tables)
{
	Oid			rowtype;

	cqrs_reducer_check(function);
	if (nread_tables != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a reducer maintains one read table, not %d", nread_tables),
				 errdetail("Reducer %s returns rows of %s.", format_procedure(function),
						   format_type_be(cqrs_reducer_rowtype(function))),
				 errhint("Create a projection, with a reducer of its own, for each table.")));
	rowtype = get_rel_type_id(read_tables[0]);
	if (rowtype != cqrs_reducer_rowtype(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("reducer %s does not return rows of read table \"%s\"",
						format_procedure(function), get_rel_name(read_tables[0])),
				 errdetail("It is of type %s, the table's rows are of type %s.",
						   format_type_be(cqrs_reducer_rowtype(function)),
						   format_type_be(rowtype)),
				 errhint("Name the table whose rows it returns, or have it return this one's.")));
	(void) cqrs_reducer_key_column(read_tables[0], false);
}

static void
handler_reducer_apply(CqrsHandlerCall *call)
{
	Folding		folding = {.call = call};
	int			nevents = call->nevents;

	cqrs_handler_blame_events();
	folding_refuse_null_keys(call);
	cqrs_handler_blame_nobody();
	folding.rel = table_open(call->projection->tables[0], RowExclusiveLock);
	folding.desc = CreateTupleDescCopy(RelationGetDescr(folding.rel));
	folding.table = cqrs_reducer_table_get(folding.rel);
	fmgr_info(F_RECORD_IMAGE_EQ, &folding.same_image);
	cqrs_reducer_begin(&folding.reducer, call->function);
	folding.context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views rows",
											ALLOCSET_DEFAULT_SIZES);

	cqrs_handler_blame_events();
	while (folding.first < call->nevents)
	{
		folding.nevents = Min(nevents, call->nevents - folding.first);
		folding_find_rows(&folding);
		if (!folding_fetch(&folding))
		{
			/* as many as would have fitted, if each key has a row like those */
			nevents = Min(folding.nevents / 2,
						  (int64) folding.nevents * folding.nfetched / folding.nrows);
			nevents = Max(nevents, 1);
			continue;
		}
		folding_fold(&folding);
		folding_write(&folding);
		nevents = folding.nevents * 2;
		folding.first += folding.nevents;
	}

	/* the lock stays */
	table_close(folding.rel, NoLock);
}

static void
folding_refuse_null_keys(CqrsHandlerCall *call)
{
	for (int i = 0; i < call->nevents; i++)
		if (call->keys[i] == NULL)
		{
			call->current = i;
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("the key \"%s\" of projection \"%s\" is null",
							call->projection->key_expression,
							NameStr(call->projection->name)),
					 errdetail("A reducer has a row for each key, and null is no key."),
					 errhint("Give every event a key, with coalesce(), or leave those without one out by a filter: see cqrs.alter_projection.")));
		}
}

/* Begin a slice: the distinct keys of its events, each with a row as yet unknown. */
static void
folding_find_rows(Folding *folding)
{
	MemoryContext old;

	MemoryContextReset(folding->context);
	old = MemoryContextSwitchTo(folding->context);
	folding->rows = palloc(folding->nevents * sizeof(Row));
	folding->row_of_event = palloc(folding->nevents * sizeof(int));
	folding->index = row_index_create(folding->context, Min(folding->nevents, 1024), NULL);
	folding->nrows = 0;
	folding->nfetched = 0;
	folding->nexpanded = 0;
	folding->bytes = 0;
	for (int i = 0; i < folding->nevents; i++)
	{
		text	   *key = folding->call->keys[folding->first + i];
		bool		found;
		RowIndexEntry *entry = row_index_insert(folding->index, key, &found);

		if (!found)
		{
			entry->row = folding->nrows;
			folding->rows[folding->nrows++] = (Row) {.key = key};
		}
		folding->row_of_event[i] = entry->row;
		folding->rows[entry->row].nevents++;
	}
	MemoryContextSwitchTo(old);
}

/*
 * Fetch the rows that exist. Returns false, with some of them, where they are
 * too large and the slice can be smaller.
 */
static bool
folding_fetch(Folding *folding)
{
	Datum	   *keys;
	Datum		arg;

	if (folding->nrows == 1)
	{
		arg = PointerGetDatum(folding->rows[0].key);
		cqrs_query_run(&folding->table->fetch_one, &arg, NULL, folding_keep_row, folding);
		return true;
	}

	keys = palloc(folding->nrows * sizeof(Datum));
	for (int i = 0; i < folding->nrows; i++)
		keys[i] = PointerGetDatum(folding->rows[i].key);
	arg = text_array(keys, folding->nrows);
	cqrs_query_run(&folding->table->fetch, &arg, NULL, folding_keep_row, folding);
	pfree(DatumGetPointer(arg));
	pfree(keys);
	return folding->bytes <= MAX_ROW_BYTES || folding->nevents == 1;
}

/* Keeps a row, with NULL in the hidden columns. Ends the statement beyond the limit. */
static bool
folding_keep_row(TupleTableSlot *slot, void *arg)
{
	Folding    *folding = (Folding *) arg;
	CqrsReducerTable *table = folding->table;
	int			natts = folding->desc->natts;
	Datum	   *values = palloc0(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));
	RowIndexEntry *entry;
	HeapTuple	tuple;
	MemoryContext old;

	slot_getallattrs(slot);
	memset(nulls, true, natts * sizeof(bool));
	for (int i = 0; i < table->ncolumns; i++)
	{
		values[table->columns[i] - 1] = slot->tts_values[i];
		nulls[table->columns[i] - 1] = slot->tts_isnull[i];
	}
	entry = row_index_lookup(folding->index,
							 DatumGetTextPP(values[table->key_column - 1]));
	if (entry == NULL)
		elog(ERROR, "fetched a row that was not asked for");

	/* detoasted before the table's old versions can go */
	old = MemoryContextSwitchTo(folding->context);
	tuple = toast_build_flattened_tuple(folding->desc, values, nulls);
	MemoryContextSwitchTo(old);
	folding->rows[entry->row].before = PointerGetDatum(tuple->t_data);
	folding->rows[entry->row].now = PointerGetDatum(tuple->t_data);
	folding->nfetched++;
	folding->bytes += tuple->t_len;
	pfree(values);
	pfree(nulls);
	return folding->bytes <= MAX_ROW_BYTES;
}

/*
 * Fold the slice's events into its rows. Where the rows grow too large, the
 * slice ends early: folding->nevents says where.
 */
static void
folding_fold(Folding *folding)
{
	CqrsHandlerCall *call = folding->call;
	CqrsReducer *reducer = &folding->reducer;
	MemoryContext old = MemoryContextSwitchTo(folding->context);
	CqrsWriters writers;
	int			done = 0;

	/* what it wrote to its table would be lost, or doubled, by what we write */
	writers = cqrs_read_table_open(NULL, 0);
	do
	{
		Row		   *row = &folding->rows[folding->row_of_event[done]];
		Datum		last = row->now;
		Datum		event;
		bool		expanded;

		call->current = folding->first + done;
		MemoryContextSwitchTo(reducer->context);
		event = cqrs_event_datum(call->events[call->current], call->batch->desc);
		MemoryContextSwitchTo(folding->context);

		expanded = cqrs_reducer_is_expanded(last);
		row->now = cqrs_reducer_call(reducer, last, event);
		if (expanded)
			folding->nexpanded--;
		else if (last != row->before && last != (Datum) 0)
			pfree(DatumGetPointer(last));
		folding_complete(folding, row);
	} while (++done < folding->nevents && folding->bytes <= MAX_ROW_BYTES);
	call->current = -1;
	cqrs_read_table_close(writers);
	MemoryContextSwitchTo(old);
	folding->nevents = done;
}

/* Make a row of what the function returned: with its key, and without hidden columns. */
static void
folding_complete(Folding *folding, Row *row)
{
	CqrsReducerTable *table = folding->table;
	Size		size;
	bool		isnull;

	row->nevents--;
	if (row->now != (Datum) 0)
	{
		Datum		key = cqrs_reducer_get(row->now, folding->desc, table->key_column, &isnull);

		if (isnull || !cqrs_event_same_text((text *) DatumGetPointer(key), row->key))
			row->now = cqrs_reducer_set(row->now, folding->desc, table->key_column,
										PointerGetDatum(row->key), false);
	}
	for (int i = 0; i < table->nhidden && row->now != (Datum) 0; i++)
	{
		(void) cqrs_reducer_get(row->now, folding->desc, table->hidden[i], &isnull);
		if (!isnull)
			row->now = cqrs_reducer_set(row->now, folding->desc, table->hidden[i],
										(Datum) 0, true);
	}

	/* expanded records are fast to go on with, but take some kilobytes each */
	if (row->nevents == 0 || folding->nexpanded >= MAX_EXPANDED_ROWS)
		row->now = cqrs_reducer_flatten(row->now);
	else if (cqrs_reducer_is_expanded(row->now))
		folding->nexpanded++;
	size = cqrs_reducer_size(row->now);
	folding->bytes += size - row->size;
	row->size = size;
}

/* Write the slice's changed rows back. Deletes first: they may make room in other keys. */
static void
folding_write(Folding *folding)
{
	MemoryContext old = MemoryContextSwitchTo(folding->context);
	Datum	   *changed = palloc(folding->nrows * sizeof(Datum));
	Datum	   *removed = palloc(folding->nrows * sizeof(Datum));
	int			nchanged = 0;
	int			nremoved = 0;
	Datum		arg;

	for (int i = 0; i < folding->nrows; i++)
	{
		Row		   *row = &folding->rows[i];

		row->now = cqrs_reducer_flatten(row->now);
		if (!row_is_changed(folding, row))
			continue;
		if (row->now == (Datum) 0)
			removed[nremoved++] = PointerGetDatum(row->key);
		else
			changed[nchanged++] = row->now;
	}
	if (nremoved > 0)
	{
		arg = text_array(removed, nremoved);
		cqrs_query_run(&folding->table->remove, &arg, NULL, NULL, NULL);
	}
	if (nchanged > 0)
	{
		arg = PointerGetDatum(construct_array(changed, nchanged, folding->desc->tdtypeid, -1,
											  false, TYPALIGN_DOUBLE));
		cqrs_query_run(&folding->table->write, &arg, NULL, NULL, NULL);
	}
	MemoryContextSwitchTo(old);
}

/* Does the row differ from the one that was fetched, in any bit of a column? */
static bool
row_is_changed(Folding *folding, const Row *row)
{
	if (row->now == row->before)
		return false;
	if (row->now == (Datum) 0 || row->before == (Datum) 0)
		return true;
	return !DatumGetBool(FunctionCall2(&folding->same_image, row->before, row->now));
}

static Datum
text_array(Datum *elements, int nelements)
{
	return PointerGetDatum(construct_array(elements, nelements, TEXTOID, -1, false,
										   TYPALIGN_INT));
}
