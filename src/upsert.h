/*
 * upsert.h
 *		Merge rows into a table as a plan says that inserts them or, where there is one
 *		of the key, updates that.
 */
#ifndef CQRS_UPSERT_H
#define CQRS_UPSERT_H

#include "nodes/params.h"
#include "nodes/plannodes.h"
#include "utils/rel.h"

#include "query.h"

typedef struct CqrsUpsert CqrsUpsert;

extern bool cqrs_upsert_is_barred(void);
extern bool cqrs_upsert_is_plain_table(Relation rel);

/* a plan for one row */
extern CqrsUpsert *cqrs_upsert_prepare(const PlannedStmt *plan, MemoryContext context);
extern bool cqrs_upsert_run(CqrsUpsert *upsert, ParamListInfo params, CqrsRowFn row_fn, void *arg);

/* a plan for many */
extern CqrsUpsert *cqrs_upsert_begin(const PlannedStmt *plan, ParamListInfo params);
extern bool cqrs_upsert_merge(CqrsUpsert *upsert, TupleTableSlot *proposed, CqrsRowFn row_fn,
							  void *arg);
extern void cqrs_upsert_end(CqrsUpsert *upsert);

#endif							/* CQRS_UPSERT_H */
