/*
 * event.c
 *		One event in memory: build, read, key.
 *
 * Tuples are built here under the descriptor of the type cqrs.event, column by
 * column; the outbox's own descriptor never reaches a handler, because a tuple
 * read under the wrong one takes the server down. A row whose leading columns
 * are those of cqrs.event, one by one, can also be copied as it is and cut short
 * to them; it no longer is once a column in between was dropped, say.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/expandedrecord.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "event.h"
#include "expression.h"

/* what a tuplestore needs for a tuple besides the tuple, amply; bytes */
#define STORE_OVERHEAD 128

/* what a process keeps for its next batch, if it ever had one of that size */
#define KEPT_BYTES (8 * 1024 * 1024)

/* keys on their way out of an evaluation */
typedef struct KeyList
{
	MemoryContext context;
	text	  **keys;
} KeyList;

static MemoryContext kept_context = NULL;
static bool kept_in_use = false;

static void key_keep(int i, Datum value, bool isnull, void *arg);
static TupleDesc event_desc(void);
static void batch_append_row(CqrsBatch *batch, HeapTuple tuple);
static void batch_append(CqrsBatch *batch, HeapTuple tuple, int64 position);
static void evaluate_column(AttrNumber attnum, CqrsEvent **events, int nevents, TupleDesc desc,
							void (*ready_fn) (void), CqrsValueFn value_fn, void *arg);
static int	event_compare(const void *a, const void *b);

/* The OID of the type cqrs.event. */
Oid
cqrs_event_type(void)
{
	static Oid	outbox = InvalidOid;
	static Oid	event = InvalidOid;
	Oid			relid = cqrs_catalog_relation("outbox", false);

	/* both go with the extension only, and a new one has a new outbox */
	if (relid != outbox)
	{
		event = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum("event"),
								ObjectIdGetDatum(get_rel_namespace(relid)));
		if (!OidIsValid(event))
			elog(ERROR, "type cqrs.event does not exist");
		outbox = relid;
	}
	return event;
}

/* The descriptor of cqrs.event: a copy in the current memory context. */
static TupleDesc
event_desc(void)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(cqrs_event_type(), -1);

	if (desc->natts != CQRS_EVENT_NCOLUMNS)
		elog(ERROR, "type cqrs.event has %d columns, expected %d",
			 desc->natts, CQRS_EVENT_NCOLUMNS);
	return desc;
}

/*
 * An empty batch, in a memory context of its own below the current one. With
 * keep_memory, the context is this process's to use again, one batch at a time:
 * large batches then don't get their memory from the kernel each time anew.
 */
CqrsBatch *
cqrs_event_batch_create(bool keep_memory)
{
	bool		keep = keep_memory && !kept_in_use;
	MemoryContext context;
	MemoryContext old;
	CqrsBatch  *batch;

	if (keep && kept_context == NULL)
		kept_context = GenerationContextCreate(TopMemoryContext, "cqrs_views kept batch",
											   0, KEPT_BYTES, KEPT_BYTES);
	context = keep ? kept_context :
		AllocSetContextCreate(CurrentMemoryContext, "cqrs_views batch", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	batch = palloc0(sizeof(CqrsBatch));
	batch->context = context;
	batch->kept = keep;
	batch->desc = event_desc();
	batch->peak = PG_INT64_MAX;
	batch->capacity = 64;
	batch->events = palloc(batch->capacity * sizeof(CqrsEvent));
	MemoryContextSwitchTo(old);
	kept_in_use |= keep;
	return batch;
}

/* Free a batch. One that keeps its memory must be freed after errors, too. */
void
cqrs_event_batch_free(CqrsBatch *batch)
{
	if (!batch->kept)
		MemoryContextDelete(batch->context);
	else
	{
		MemoryContextReset(kept_context);
		kept_in_use = false;
	}
}

/*
 * Append an event, copying it. values and nulls have the columns of cqrs.event.
 * A toasted payload stays toasted: it is read when a handler wants it, one at a
 * time, so that a batch of large events takes little memory.
 */
void
cqrs_event_batch_add(CqrsBatch *batch, Datum *values, bool *nulls)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	batch_append(batch, heap_form_tuple(batch->desc, values, nulls),
				 DatumGetInt64(values[CQRS_EVENT_POSITION - 1]));
	MemoryContextSwitchTo(old);
}

/* The same for a row whose descriptor cqrs_event_row_matches, with all columns. */
void
cqrs_event_batch_add_row(CqrsBatch *batch, HeapTuple row)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	batch_append_row(batch, heap_copytuple(row));
	MemoryContextSwitchTo(old);
}

/* The same for a row out of a tuplestore. */
void
cqrs_event_batch_add_minimal(CqrsBatch *batch, MinimalTuple row)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	batch_append_row(batch, heap_tuple_from_minimal_tuple(row));
	MemoryContextSwitchTo(old);
}

/* Do the columns of desc begin with those of cqrs.event, name by name? */
bool
cqrs_event_row_matches(const CqrsBatch *batch, TupleDesc desc)
{
	if (desc->natts < CQRS_EVENT_NCOLUMNS)
		return false;
	for (int i = 0; i < CQRS_EVENT_NCOLUMNS; i++)
	{
		Form_pg_attribute theirs = TupleDescAttr(desc, i);
		Form_pg_attribute ours = TupleDescAttr(batch->desc, i);

		if (theirs->attisdropped || theirs->atthasmissing ||
			theirs->atttypid != ours->atttypid ||
			strcmp(NameStr(theirs->attname), NameStr(ours->attname)) != 0)
			return false;
	}
	return true;
}

/* Bring the events into position order. */
void
cqrs_event_batch_sort(CqrsBatch *batch)
{
	for (int i = 1; i < batch->nevents; i++)
		if (batch->events[i - 1].position > batch->events[i].position)
		{
			qsort(batch->events, batch->nevents, sizeof(CqrsEvent), event_compare);
			break;
		}
}

/* Forget all but the first nevents. */
void
cqrs_event_batch_truncate(CqrsBatch *batch, int nevents)
{
	while (batch->nevents > nevents)
	{
		HeapTuple	tuple = batch->events[--batch->nevents].tuple;

		batch->bytes -= HEAPTUPLESIZE + tuple->t_len;
		heap_freetuple(tuple);
	}
}

/*
 * One of source, aggregate_type, aggregate_id and event_type, which are never
 * null. It points into the event, or, where it is large enough to have been
 * toasted, to a copy in the current memory context.
 */
text *
cqrs_event_text(const CqrsEvent *event, TupleDesc desc, CqrsEventColumn column)
{
	bool		isnull;

	return DatumGetTextPP(heap_getattr(event->tuple, column, desc, &isnull));
}

/*
 * The event as a composite value, for one call of a function, in the current
 * memory context: an expanded record, which PL/pgSQL takes over as it is, and
 * which others flatten. It lies over the event's own tuple, so nothing is copied,
 * and what is toasted is read where it is looked at. The event must live longer.
 */
Datum
cqrs_event_datum(const CqrsEvent *event, TupleDesc desc)
{
	ExpandedRecordHeader *record = make_expanded_record_from_tupdesc(desc, CurrentMemoryContext);

	expanded_record_set_tuple(record, event->tuple, false, false);
	return ExpandedRecordGetDatum(record);
}

/*
 * The events in a tuplestore, in their order, in the current memory context: all
 * of it in memory, since the events are, too. The caller ends it.
 */
Tuplestorestate *
cqrs_event_store(CqrsEvent **events, int nevents)
{
	Size		bytes = 0;
	Tuplestorestate *store;

	for (int i = 0; i < nevents; i++)
		bytes += events[i]->tuple->t_len + STORE_OVERHEAD;
	store = tuplestore_begin_heap(false, false, Max(work_mem, (int) (bytes / 1024 + 1)));
	for (int i = 0; i < nevents; i++)
		tuplestore_puttuple(store, events[i]->tuple);
	return store;
}

/*
 * Parse a key expression over the columns of cqrs.event, under the current
 * search_path and user. Throws as cqrs_expression_parse does. The result is in
 * the current memory context.
 */
CqrsKey *
cqrs_event_key_parse(const char *expression)
{
	static const CqrsExpressionUse use = {
		.what = "a key",
		.title = "key expression",
		.one_hint = "Combine columns with ||, for example: aggregate_type || ':' || aggregate_id",
		.columns_hint = "Name the columns of cqrs.event.",
		.stable_detail = "An event's key must be the same whenever it is computed.",
		.whose = "the projection's owner",
		.type = TEXTOID
	};
	CqrsKey    *key = palloc0(sizeof(CqrsKey));
	Relation	rel = table_open(cqrs_catalog_relation("events", false), AccessShareLock);

	key->expr = cqrs_expression_parse(expression, rel, &use);
	if (IsA(key->expr, Var))
		key->column = ((Var *) key->expr)->varattno;
	table_close(rel, NoLock);
	return key;
}

/*
 * The keys of nevents events, an array in the current memory context; an
 * element is NULL where the key is. Elements may point into the events. Runs
 * the owner's functions: call it as the owner.
 */
text	  **
cqrs_event_keys(const CqrsKey *key, CqrsEvent **events, int nevents, TupleDesc desc)
{
	KeyList		list = {
		.context = CurrentMemoryContext,.keys = palloc(nevents * sizeof(text *))
	};

	if (key->column == CQRS_EVENT_AGGREGATE_ID)
		for (int i = 0; i < nevents; i++)
			list.keys[i] = cqrs_event_text(events[i], desc, CQRS_EVENT_AGGREGATE_ID);
	else
		cqrs_event_evaluate(key->expr, events, nevents, desc, NULL, key_keep, &list);
	return list.keys;
}

static void
key_keep(int i, Datum value, bool isnull, void *arg)
{
	KeyList    *list = (KeyList *) arg;
	MemoryContext old = MemoryContextSwitchTo(list->context);

	list->keys[i] = isnull ? NULL : DatumGetTextPCopy(value);
	MemoryContextSwitchTo(old);
}

/*
 * Evaluate an expression over attributes of varno 1 for each of the events.
 * ready_fn, which may be NULL, is called before the first: what is thrown until
 * then is no event's fault.
 */
void
cqrs_event_evaluate(const Expr *expr, CqrsEvent **events, int nevents, TupleDesc desc,
					void (*ready_fn) (void), CqrsValueFn value_fn, void *arg)
{
	EState	   *estate;
	ExprContext *econtext;
	ExprState  *state;
	TupleTableSlot *slot;
	MemoryContext old;

	if (IsA(expr, Var))
	{
		evaluate_column(((const Var *) expr)->varattno, events, nevents, desc, ready_fn,
						value_fn, arg);
		return;
	}
	estate = CreateExecutorState();
	econtext = GetPerTupleExprContext(estate);
	state = ExecPrepareExpr(copyObject(unconstify(Expr *, expr)), estate);
	slot = MakeSingleTupleTableSlot(desc, &TTSOpsHeapTuple);
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);

	if (ready_fn != NULL)
		ready_fn();
	econtext->ecxt_scantuple = slot;
	for (int i = 0; i < nevents; i++)
	{
		bool		isnull;
		Datum		value;

		ResetExprContext(econtext);
		ExecStoreHeapTuple(events[i]->tuple, slot, false);
		value = ExecEvalExpr(state, econtext, &isnull);
		value_fn(i, value, isnull, arg);
	}
	MemoryContextSwitchTo(old);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/* The same for a column, which needs no executor. */
static void
evaluate_column(AttrNumber attnum, CqrsEvent **events, int nevents, TupleDesc desc,
				void (*ready_fn) (void), CqrsValueFn value_fn, void *arg)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views value",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	if (ready_fn != NULL)
		ready_fn();
	for (int i = 0; i < nevents; i++)
	{
		bool		isnull;
		Datum		value = heap_getattr(events[i]->tuple, attnum, desc, &isnull);

		value_fn(i, value, isnull, arg);
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* Are two texts the same, byte by byte? NULL is the same as NULL. */
bool
cqrs_event_same_text(const text *a, const text *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* A hash of a text, or of NULL, that agrees with that. */
uint64
cqrs_event_hash_text(const text *value, uint64 seed)
{
	return value == NULL ? hash_bytes_uint32_extended(0, seed) :
		hash_bytes_extended((const unsigned char *) VARDATA_ANY(value),
							VARSIZE_ANY_EXHDR(value), seed);
}

/* The current memory context is the batch's, and the tuple in it. */
static void
batch_append_row(CqrsBatch *batch, HeapTuple tuple)
{
	bool		isnull;

	/* what follows the columns of cqrs.event stays where it is, unseen */
	HeapTupleHeaderSetNatts(tuple->t_data, CQRS_EVENT_NCOLUMNS);
	batch_append(batch, tuple,
				 DatumGetInt64(heap_getattr(tuple, CQRS_EVENT_POSITION, batch->desc, &isnull)));
}

/* The current memory context is the batch's. */
static void
batch_append(CqrsBatch *batch, HeapTuple tuple, int64 position)
{
	if (batch->nevents == batch->capacity)
	{
		batch->capacity *= 2;
		batch->events = repalloc_huge(batch->events, batch->capacity * sizeof(CqrsEvent));
	}
	batch->events[batch->nevents].tuple = tuple;
	batch->events[batch->nevents].position = position;
	batch->nevents++;
	batch->bytes += HEAPTUPLESIZE + tuple->t_len;
}

static int
event_compare(const void *a, const void *b)
{
	int64		left = ((const CqrsEvent *) a)->position;
	int64		right = ((const CqrsEvent *) b)->position;

	return left < right ? -1 : left > right;
}
