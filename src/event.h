/*
 * event.h
 *		One event in memory, and a batch of them.
 */
#ifndef CQRS_EVENT_H
#define CQRS_EVENT_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "utils/tuplestore.h"

/* the columns of cqrs.event, in their order */
typedef enum CqrsEventColumn
{
	CQRS_EVENT_POSITION = 1,
	CQRS_EVENT_EVENT_ID,
	CQRS_EVENT_SOURCE,
	CQRS_EVENT_AGGREGATE_TYPE,
	CQRS_EVENT_AGGREGATE_ID,
	CQRS_EVENT_AGGREGATE_VERSION,
	CQRS_EVENT_EVENT_TYPE,
	CQRS_EVENT_PAYLOAD,
	CQRS_EVENT_METADATA,
	CQRS_EVENT_OCCURRED_AT
} CqrsEventColumn;

#define CQRS_EVENT_NCOLUMNS CQRS_EVENT_OCCURRED_AT

/* their names as a SELECT list */
#define CQRS_EVENT_COLUMN_LIST \
	"position, event_id, source, aggregate_type, aggregate_id, " \
	"aggregate_version, event_type, payload, metadata, occurred_at"

/* The batch owns the tuple. */
typedef struct CqrsEvent
{
	HeapTuple	tuple;			/* of type cqrs.event; may hold toast pointers */
	int64		position;
} CqrsEvent;

/* Events in position order once read; all of it lives in "context". */
typedef struct CqrsBatch
{
	MemoryContext context;
	TupleDesc	desc;			/* of cqrs.event */
	CqrsEvent  *events;
	int			nevents;
	int			capacity;
	Size		bytes;			/* of the tuples */
	bool		kept;			/* its memory is kept for the next one */
	Tuplestorestate *rows;		/* of somebody: all of the events, with columns behind; or NULL */

	/* of the events outside of the batch */
	int64		peak;			/* none above was processed before; PG_INT64_MAX = unknown */
	int64		settled;		/* none up to here is yet to come; 0 = unknown */
} CqrsBatch;

/* What orders events: a column, or an expression over the columns. */
typedef struct CqrsKey
{
	CqrsEventColumn column;		/* 0 where expr is used */
	Expr	   *expr;			/* of type text, over attributes of varno 1 */
} CqrsKey;

/*
 * Called with the value of an expression for the i-th event. The current memory
 * context is that of the value, and is reset after the call.
 */
typedef void (*CqrsValueFn) (int i, Datum value, bool isnull, void *arg);

extern Oid	cqrs_event_type(void);
extern CqrsBatch *cqrs_event_batch_create(bool keep_memory);
extern void cqrs_event_batch_free(CqrsBatch *batch);
extern void cqrs_event_batch_add(CqrsBatch *batch, Datum *values, bool *nulls);
extern void cqrs_event_batch_add_row(CqrsBatch *batch, HeapTuple row);
extern void cqrs_event_batch_add_minimal(CqrsBatch *batch, MinimalTuple row);
extern bool cqrs_event_row_matches(const CqrsBatch *batch, TupleDesc desc);
extern void cqrs_event_batch_sort(CqrsBatch *batch);
extern void cqrs_event_batch_truncate(CqrsBatch *batch, int nevents);
extern text *cqrs_event_text(const CqrsEvent *event, TupleDesc desc, CqrsEventColumn column);
extern Datum cqrs_event_datum(const CqrsEvent *event, TupleDesc desc);
extern Tuplestorestate *cqrs_event_store(CqrsEvent **events, int nevents);
extern void cqrs_event_evaluate(const Expr *expr, CqrsEvent **events, int nevents,
								TupleDesc desc, void (*ready_fn) (void),
								CqrsValueFn value_fn, void *arg);
extern bool cqrs_event_same_text(const text *a, const text *b);
extern uint64 cqrs_event_hash_text(const text *value, uint64 seed);
extern CqrsKey *cqrs_event_key_parse(const char *expression);
extern text **cqrs_event_keys(const CqrsKey *key, CqrsEvent **events, int nevents,
							  TupleDesc desc);

#endif							/* CQRS_EVENT_H */
