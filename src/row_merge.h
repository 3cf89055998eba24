/*
 * row_merge.h
 *		Find a row by a unique index, and put what comes of it and of one that is proposed
 *		in its place.
 */
#ifndef CQRS_ROW_MERGE_H
#define CQRS_ROW_MERGE_H

#include "access/genam.h"
#include "access/skey.h"
#include "nodes/execnodes.h"
#include "nodes/plannodes.h"
#include "utils/snapshot.h"

#include "query.h"

/* a plan's node that writes, its expressions and scan keys ready */
typedef struct CqrsRowMerge
{
	const PlannedStmt *plan;
	const ModifyTable *modify;
	Oid			relid;
	Oid			indexid;		/* of the unique index that finds the row */
	int			nkeys;
	ScanKeyData *keys;
	AttrNumber *attributes;		/* where the keys are in the proposed row; 0 = a constant */
	bool		finds_nulls;
	TupleTableSlot *old;
	Size		room;			/* that a page needs for the next version of a row */
	ExprContext *econtext;
	ProjectionInfo *merged;		/* the row that takes the old one's place */
	ProjectionInfo *returned;	/* what is told of that; NULL = nothing */

	/* from open to close */
	MemoryContext context;
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	SnapshotData dirty;			/* of the scan */
	EState	   *estate;			/* of what follows; NULL = none yet */
	ResultRelInfo *indexes;		/* open for new entries */
} CqrsRowMerge;

extern CqrsRowMerge *cqrs_row_merge_make(const PlannedStmt *plan, const ModifyTable *modify,
										 Relation rel);
extern void cqrs_row_merge_open(CqrsRowMerge *merge);
extern bool cqrs_row_merge_apply(CqrsRowMerge *merge, TupleTableSlot *proposed, CqrsRowFn row_fn,
								 void *arg);
extern void cqrs_row_merge_close(CqrsRowMerge *merge);
extern void cqrs_row_merge_end(CqrsRowMerge *merge);

#endif							/* CQRS_ROW_MERGE_H */
