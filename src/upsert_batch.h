/*
 * upsert_batch.h
 *		Run a statement that merges many rows: their making by the executor, and the
 *		merging by upsert.c.
 */
#ifndef CQRS_UPSERT_BATCH_H
#define CQRS_UPSERT_BATCH_H

#include "query.h"

/* rows that were to be merged and are not: of the table's columns, dropped ones included */
typedef struct CqrsUpsertLeft
{
	Tuplestorestate *store;
	int64		nrows;
} CqrsUpsertLeft;

extern bool cqrs_upsert_batch_run(CqrsQuery *query, Oid table, const CqrsRows *rows,
								  const Datum *args, const char *nulls, CqrsRowFn row_fn,
								  void *arg, CqrsUpsertLeft *left);

#endif							/* CQRS_UPSERT_BATCH_H */
