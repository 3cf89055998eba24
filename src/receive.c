/*
 * receive.c
 *		Make events of rows that arrive in attached tables, each once.
 *
 * A row's event is inserted by the transaction that inserts the row: an apply
 * process, an initial copy, or any other. So it gets a position and a transaction id
 * of this database, and all that the outbox promises holds for it. cqrs.received
 * decides, in the same transaction, whether the event is new.
 *
 * Who brings an event that another transaction is taking waits for that. Several
 * events in different orders, which only two subscriptions to one source could bring,
 * are a deadlock: PostgreSQL ends one of them, and its apply process tries again.
 *
 * Order
 * -----
 * Rows that are applied one by one come in the order of their commits. Those of a
 * statement come in any: a copy reads the publisher's table as it lies. So they are
 * sorted first by what the mapping orders by; without that, or where it is equal,
 * they stay as they are.
 *
 * Rows that fail
 * --------------
 * A row that can't be mapped is put aside, and later ones of its key are put behind
 * it. It is claimed in cqrs.received all the same, by its event's id or, where that
 * is not known, by one made of the row itself: coming again, it is not put aside
 * again. A retry keeps writers of the table out, so that what comes meanwhile sees
 * what is left.
 *
 * Triggers on the outbox
 * ----------------------
 * Whoever has the right to may put triggers on cqrs.outbox, and PostgreSQL runs them as
 * whoever inserts. That must not be us, who have all rights, nor whoever brings the row,
 * which may be the apply process of a superuser's subscription. It is the owner of the
 * attached table, who publishes in the source's name: so that is who we are while events
 * are taken, which is cheapest for all rows of a chunk at once.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

#include "arrival.h"
#include "key_set.h"
#include "mapping.h"
#include "outbox.h"
#include "parked_row.h"
#include "query.h"
#include "receive.h"
#include "received.h"
#include "row_json.h"

/* rows that are in memory, and mapped, together */
#define MAX_CHUNK_ROWS 1000
#define MAX_CHUNK_BYTES (8 * 1024 * 1024)

/* columns of what is sorted: by the first two */
#define SORT_NCOLUMNS 3
#define SORT_ROW 3

/* where rows come from: sets *slot to the next one, or returns false */
typedef struct RowSource
{
	bool		(*next_fn) (struct RowSource *rows, TupleTableSlot *slot);
	void	   *arg;
} RowSource;

/* what is under way with an attached table */
typedef struct Receiving
{
	CqrsAttachment *attachment;
	Relation	rel;
	CqrsArrival arrival;
	int64		nfailed;		/* rows put aside, and why the first was; in "outer" */
	char	   *failure;
	MemoryContext outer;
	HeapTuple  *rows;			/* the chunk, in "context" */
	int			nrows;
	Size		bytes;
	MemoryContext context;
} Receiving;

/* rows that were put aside, tried again */
typedef struct Retry
{
	Receiving	receiving;
	CqrsKeySet *blocked;		/* keys of those that failed again */
	int64		nsettled;		/* that are put aside no longer */
} Retry;

static void receive_all(Receiving *receiving, RowSource *rows, TupleTableSlot *slot);
static void receive_rows(Receiving *receiving, RowSource *rows, TupleTableSlot *slot);
static void receive_sorted(Receiving *receiving, RowSource *rows, TupleTableSlot *slot,
						   CqrsOrder order);
static bool chunk_add(Receiving *receiving, TupleTableSlot *slot);
static void chunk_receive(Receiving *receiving);
static void chunk_reset(Receiving *receiving);
static void receive_mapped(Receiving *receiving, CqrsMapped *mapped, HeapTuple row, bool *parked);
static void receive_event(Receiving *receiving, CqrsMapped *mapped);
static void receive_publish(Receiving *receiving, CqrsMapped *mapped, int64 position);
static void receive_enter(const Receiving *receiving, CqrsUserContext *user);
static void receive_park(Receiving *receiving, CqrsMapped *mapped, HeapTuple row);
static void receiving_begin(Receiving *receiving, CqrsAttachment *attachment, Relation rel);
static void receiving_end(Receiving *receiving);
static Tuplesortstate *sort_begin(Relation rel, CqrsOrder order, TupleDesc *desc);
static void sort_put(Receiving *receiving, Tuplesortstate *sort, TupleTableSlot *sorted,
					 int64 *number);
static bool next_inserted(RowSource *rows, TupleTableSlot *slot);
static bool next_existing(RowSource *rows, TupleTableSlot *slot);
static bool next_sorted(RowSource *rows, TupleTableSlot *slot);
static void retry_row(CqrsParkedRow *row, void *arg);
static bool retry_succeeds(Retry *retry, CqrsParkedRow *row);
static void retry_settle(Receiving *receiving, CqrsParkedRow *row, CqrsMapped *mapped);

/*
 * The work of the triggers on an attached table. A row trigger with a transition
 * table leaves the row to the statement's trigger; throws if that is not to come.
 */
void
cqrs_receive_inserted(TriggerData *trigdata)
{
	Relation	rel = trigdata->tg_relation;
	CqrsAttachment *attachment;
	Receiving	receiving;
	TupleTableSlot *slot;
	RowSource	rows = {.next_fn = next_inserted,.arg = trigdata->tg_newtable};

	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) && trigdata->tg_newtable != NULL)
	{
		cqrs_attachment_check_trigger(rel);
		return;
	}
	attachment = cqrs_attachment_get(RelationGetRelid(rel));
	receiving_begin(&receiving, attachment, rel);
	if (TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
	{
		receiving.rows[0] = trigdata->tg_trigtuple;
		receiving.nrows = 1;
		chunk_receive(&receiving);
	}
	else
	{
		int			pointer = tuplestore_alloc_read_pointer(trigdata->tg_newtable,
															EXEC_FLAG_REWIND);

		tuplestore_select_read_pointer(trigdata->tg_newtable, pointer);
		tuplestore_rescan(trigdata->tg_newtable);
		slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsMinimalTuple);
		receive_all(&receiving, &rows, slot);
		ExecDropSingleTupleTableSlot(slot);
	}
	receiving_end(&receiving);
}

/*
 * Take the rows that are in the table, which the caller has locked against writers.
 * Returns how many became events.
 */
int64
cqrs_receive_existing(CqrsAttachment *attachment)
{
	Relation	rel = table_open(attachment->relid, NoLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	RowSource	rows = {.next_fn = next_existing,.arg = scan};
	Receiving	receiving;
	int64		events;

	receiving_begin(&receiving, attachment, rel);
	receive_all(&receiving, &rows, slot);
	events = receiving.arrival.events;
	receiving_end(&receiving);
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return events;
}

/*
 * Try rows again that were put aside, in the order of their arrival, each key's up
 * to the first that fails again; with a key, only those of it. Returns how many are
 * put aside no longer. Takes SHARE ROW EXCLUSIVE on the table.
 */
int64
cqrs_receive_retry(CqrsAttachment *attachment, const text *key)
{
	Relation	rel = table_open(attachment->relid, ShareRowExclusiveLock);
	Retry		retry = {.blocked = cqrs_key_set_create()};

	receiving_begin(&retry.receiving, attachment, rel);
	cqrs_parked_row_each(attachment->relid, key, retry_row, &retry);
	receiving_end(&retry.receiving);
	cqrs_key_set_free(retry.blocked);
	table_close(rel, NoLock);
	return retry.nsettled;
}

/* ---------------------------------------------------------------- rows */

/* Take the rows in the source's order. */
static void
receive_all(Receiving *receiving, RowSource *rows, TupleTableSlot *slot)
{
	CqrsOrder	order = cqrs_mapping_order(receiving->attachment);

	if (OidIsValid(order.type))
		receive_sorted(receiving, rows, slot, order);
	else
		receive_rows(receiving, rows, slot);
}

/* Take the rows as they come. */
static void
receive_rows(Receiving *receiving, RowSource *rows, TupleTableSlot *slot)
{
	while (rows->next_fn(rows, slot))
		if (!chunk_add(receiving, slot))
		{
			chunk_receive(receiving);
			chunk_reset(receiving);
		}
	chunk_receive(receiving);
	chunk_reset(receiving);
}

/* Sort them; those that have no place in the order come first. */
static void
receive_sorted(Receiving *receiving, RowSource *rows, TupleTableSlot *slot, CqrsOrder order)
{
	TupleDesc	desc;
	Tuplesortstate *sort = sort_begin(receiving->rel, order, &desc);
	TupleTableSlot *put = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	TupleTableSlot *got = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	TupleTableSlot *row = MakeSingleTupleTableSlot(RelationGetDescr(receiving->rel),
												   &TTSOpsHeapTuple);
	void	   *sorted_arg[2] = {sort, got};
	RowSource	sorted = {.next_fn = next_sorted,.arg = sorted_arg};
	int64		number = 0;

	while (rows->next_fn(rows, slot))
		if (!chunk_add(receiving, slot))
			sort_put(receiving, sort, put, &number);
	sort_put(receiving, sort, put, &number);

	tuplesort_performsort(sort);
	receive_rows(receiving, &sorted, row);
	ExecDropSingleTupleTableSlot(row);
	ExecDropSingleTupleTableSlot(got);
	ExecDropSingleTupleTableSlot(put);
	tuplesort_end(sort);
}

/* Copy a row into the chunk. Returns whether there is room for another. */
static bool
chunk_add(Receiving *receiving, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(receiving->context);
	HeapTuple	row = ExecCopySlotHeapTuple(slot);

	MemoryContextSwitchTo(old);
	receiving->rows[receiving->nrows++] = row;
	receiving->bytes += HEAPTUPLESIZE + row->t_len;
	return receiving->nrows < MAX_CHUNK_ROWS && receiving->bytes < MAX_CHUNK_BYTES;
}

static void
chunk_reset(Receiving *receiving)
{
	MemoryContextReset(receiving->context);
	receiving->nrows = 0;
	receiving->bytes = 0;
}

/* Make events of the chunk's rows, in their order. */
static void
chunk_receive(Receiving *receiving)
{
	MemoryContext old = MemoryContextSwitchTo(receiving->context);
	CqrsMapped *mapped;
	CqrsUserContext user;
	bool		parked;

	CHECK_FOR_INTERRUPTS();
	if (receiving->nrows > 0)
	{
		mapped = cqrs_mapping_map(receiving->attachment, receiving->rel, receiving->rows,
								  receiving->nrows);
		parked = cqrs_parked_row_exists(receiving->attachment->relid);
		receive_enter(receiving, &user);
		for (int i = 0; i < receiving->nrows; i++)
			if (mapped[i].wanted)
				receive_mapped(receiving, &mapped[i], receiving->rows[i], &parked);
		cqrs_query_leave_user(&user);
	}
	MemoryContextSwitchTo(old);
}

/* *parked says whether any row of the table is put aside. */
static void
receive_mapped(Receiving *receiving, CqrsMapped *mapped, HeapTuple row, bool *parked)
{
	if (mapped->error == NULL &&
		!(*parked && cqrs_parked_row_has_key(receiving->attachment->relid, mapped->key)))
		receive_event(receiving, mapped);
	else
	{
		receive_park(receiving, mapped, row);
		*parked = true;
	}
}

/* Take an event, unless it was taken before. */
static void
receive_event(Receiving *receiving, CqrsMapped *mapped)
{
	int64		position = cqrs_outbox_draw_position();

	if (cqrs_received_claim(receiving->attachment->source, &mapped->event_id, position))
		receive_publish(receiving, mapped, position);
	else
		receiving->arrival.duplicates++;
}

/* As the table's owner: see above. */
static void
receive_publish(Receiving *receiving, CqrsMapped *mapped, int64 position)
{
	int			column = CQRS_EVENT_OCCURRED_AT - 1;

	if (mapped->nulls[column])
	{
		mapped->values[column] = TimestampTzGetDatum(GetCurrentTimestamp());
		mapped->nulls[column] = false;
	}
	cqrs_outbox_receive(position, &mapped->event_id, receiving->attachment->source,
						mapped->values, mapped->nulls);
	receiving->arrival.events++;
	receiving->arrival.last_position = position;
	receiving->arrival.last_event_id = mapped->event_id;
	receiving->arrival.last_event_at = DatumGetTimestampTz(mapped->values[column]);
}

/* Become the table's owner, with the settings of when it was attached. */
static void
receive_enter(const Receiving *receiving, CqrsUserContext *user)
{
	cqrs_query_enter_user(user, receiving->attachment->owner, &receiving->attachment->settings);
}

static void
receive_park(Receiving *receiving, CqrsMapped *mapped, HeapTuple row)
{
	CqrsParkedRow parked = {
		.relid = receiving->attachment->relid,
		.source = receiving->attachment->source,
		.event_id = mapped->event_id,
		.key = mapped->key,
		.row = cqrs_row_json_of(receiving->attachment, receiving->rel, row),
		.error = mapped->error,
		.attempts = mapped->error == NULL ? 0 : 1
	};

	if (!mapped->has_id)
		cqrs_mapping_id_of_text(parked.row, &parked.event_id);
	if (!cqrs_received_claim(parked.source, &parked.event_id, 0))
	{
		receiving->arrival.duplicates++;
		return;
	}
	cqrs_parked_row_park(&parked);
	if (parked.error != NULL && receiving->nfailed++ == 0)
		receiving->failure = MemoryContextStrdup(receiving->outer, parked.error->message);
}

static void
receiving_begin(Receiving *receiving, CqrsAttachment *attachment, Relation rel)
{
	memset(receiving, 0, sizeof(*receiving));
	receiving->attachment = attachment;
	receiving->rel = rel;
	receiving->outer = CurrentMemoryContext;
	receiving->context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views received rows",
											   ALLOCSET_DEFAULT_SIZES);
	receiving->rows = palloc(MAX_CHUNK_ROWS * sizeof(HeapTuple));
}

static void
receiving_end(Receiving *receiving)
{
	if (receiving->arrival.events > 0 || receiving->arrival.duplicates > 0)
		cqrs_arrival_note(receiving->attachment->relid, receiving->attachment->source,
						  &receiving->arrival);
	if (receiving->nfailed > 0)
		ereport(LOG,
				(errmsg(INT64_FORMAT " rows of attached table \"%s\" were put aside, the first because: %s",
						receiving->nfailed, RelationGetRelationName(receiving->rel),
						receiving->failure),
				 errhint("Look at cqrs.source_dead_letter."),
				 errhidestmt(true)));
	pfree(receiving->rows);
	MemoryContextDelete(receiving->context);
}

/* --------------------------------------------------------------- sorting */

static Tuplesortstate *
sort_begin(Relation rel, CqrsOrder order, TupleDesc *desc)
{
	AttrNumber	columns[2] = {1, 2};
	Oid			operators[2] = {
		lookup_type_cache(order.type, TYPECACHE_LT_OPR)->lt_opr,
		lookup_type_cache(INT8OID, TYPECACHE_LT_OPR)->lt_opr
	};
	Oid			collations[2] = {order.collation, InvalidOid};
	bool		nulls_first[2] = {true, false};

	*desc = CreateTemplateTupleDesc(SORT_NCOLUMNS);
	TupleDescInitEntry(*desc, 1, "value", order.type, -1, 0);
	TupleDescInitEntry(*desc, 2, "number", INT8OID, -1, 0);
	TupleDescInitEntry(*desc, SORT_ROW, "row", RelationGetForm(rel)->reltype, -1, 0);
	return tuplesort_begin_heap(*desc, 2, columns, operators, collations, nulls_first,
								work_mem, NULL, TUPLESORT_NONE);
}

/* Move the chunk's rows into the sort; number counts all rows. */
static void
sort_put(Receiving *receiving, Tuplesortstate *sort, TupleTableSlot *put, int64 *number)
{
	MemoryContext old = MemoryContextSwitchTo(receiving->context);
	Datum	   *values = palloc(receiving->nrows * sizeof(Datum));
	bool	   *nulls = palloc(receiving->nrows * sizeof(bool));

	if (receiving->nrows > 0)
		cqrs_mapping_order_values(receiving->attachment, receiving->rel, receiving->rows,
								  receiving->nrows, values, nulls);
	for (int i = 0; i < receiving->nrows; i++)
	{
		ExecClearTuple(put);
		put->tts_values[0] = values[i];
		put->tts_isnull[0] = nulls[i];
		put->tts_values[1] = Int64GetDatum((*number)++);
		put->tts_isnull[1] = false;
		put->tts_values[SORT_ROW - 1] = heap_copy_tuple_as_datum(receiving->rows[i],
																 RelationGetDescr(receiving->rel));
		put->tts_isnull[SORT_ROW - 1] = false;
		ExecStoreVirtualTuple(put);
		tuplesort_puttupleslot(sort, put);
	}
	MemoryContextSwitchTo(old);
	chunk_reset(receiving);
}

static bool
next_inserted(RowSource *rows, TupleTableSlot *slot)
{
	return tuplestore_gettupleslot(rows->arg, true, false, slot);
}

static bool
next_existing(RowSource *rows, TupleTableSlot *slot)
{
	return table_scan_getnextslot(rows->arg, ForwardScanDirection, slot);
}

static bool
next_sorted(RowSource *rows, TupleTableSlot *slot)
{
	void	  **arg = rows->arg;
	Tuplesortstate *sort = arg[0];
	TupleTableSlot *got = arg[1];
	HeapTupleHeader header;
	HeapTupleData tuple = {0};
	Datum		value;
	bool		isnull;

	if (!tuplesort_gettupleslot(sort, true, false, got, NULL))
		return false;
	value = slot_getattr(got, SORT_ROW, &isnull);
	header = DatumGetHeapTupleHeader(value);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_data = header;
	ExecStoreHeapTuple(heap_copytuple(&tuple), slot, true);

	/* the sort packs small rows, and our memory context lives as long as the statement */
	if (header != (HeapTupleHeader) DatumGetPointer(value))
		pfree(header);
	return true;
}

/* --------------------------------------------------------------- retries */

/* A CqrsParkedRowFn: tries a row again. */
static void
retry_row(CqrsParkedRow *row, void *arg)
{
	Retry	   *retry = (Retry *) arg;

	if (row->key != NULL && cqrs_key_set_has(retry->blocked, row->key))
		return;
	if (retry_succeeds(retry, row))
		return;
	if (row->error != NULL)
		row->attempts++;
	cqrs_parked_row_update(row);
	if (row->key != NULL)
		cqrs_key_set_add(retry->blocked, row->key);
}

/*
 * Is the row put aside no longer? Else it has the key and the error of now. Triggers on
 * the outbox may have tried or discarded it meanwhile: then it is not ours any more.
 */
static bool
retry_succeeds(Retry *retry, CqrsParkedRow *row)
{
	Receiving  *receiving = &retry->receiving;
	CqrsMapped *mapped;
	HeapTuple	tuple;

	row->error = cqrs_row_json_to_row(receiving->attachment, receiving->rel, row->row, &tuple);
	if (row->error != NULL)
		return false;
	mapped = cqrs_mapping_map(receiving->attachment, receiving->rel, &tuple, 1);
	row->error = mapped->error;
	if (mapped->key != NULL)
		row->key = mapped->key;
	if (mapped->wanted &&
		(row->error != NULL || cqrs_key_set_has(retry->blocked, row->key)))
		return false;
	if (!cqrs_parked_row_remove(row->number))
		return true;
	retry->nsettled++;
	if (mapped->wanted)
		retry_settle(receiving, row, mapped);
	else
		cqrs_received_forget(row->source, &row->event_id);
	return true;
}

/* A row that was put aside can be mapped: it becomes an event, or is found to be one already. */
static void
retry_settle(Receiving *receiving, CqrsParkedRow *row, CqrsMapped *mapped)
{
	const char *source = receiving->attachment->source;
	int64		position = cqrs_outbox_draw_position();
	bool		same = strcmp(row->source, source) == 0 &&
		memcmp(row->event_id.data, mapped->event_id.data, UUID_LEN) == 0;
	CqrsUserContext user;

	if (same)
		cqrs_received_settle(source, &mapped->event_id, position);
	else
		cqrs_received_forget(row->source, &row->event_id);
	if (same || cqrs_received_claim(source, &mapped->event_id, position))
	{
		receive_enter(receiving, &user);
		receive_publish(receiving, mapped, position);
		cqrs_query_leave_user(&user);
	}
	else
		receiving->arrival.duplicates++;
}
