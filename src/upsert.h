/*
 * upsert.h
 *		Merge one row into a table as a kept plan says, without starting the executor.
 */
#ifndef CQRS_UPSERT_H
#define CQRS_UPSERT_H

#include "nodes/params.h"
#include "nodes/plannodes.h"

typedef struct CqrsUpsert CqrsUpsert;

extern CqrsUpsert *cqrs_upsert_prepare(const PlannedStmt *plan, MemoryContext context);
extern bool cqrs_upsert_run(CqrsUpsert *upsert, ParamListInfo params);

#endif							/* CQRS_UPSERT_H */
