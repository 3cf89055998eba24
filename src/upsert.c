/*
 * upsert.c
 *		Merge one row into a table as a kept plan says, without starting the executor.
 *
 * To start and end a statement costs the executor as much as to find and write the
 * row, and most of that is to make all expressions ready to be evaluated. Here they
 * stay ready, for as long as the plan is valid: steady.c lets through only plans whose
 * functions and types are PostgreSQL's own and harmless, and so remember nothing that
 * would not outlive a transaction. The rest is what PostgreSQL has for those who write
 * single rows, as its logical replication does (execReplication.c): what looks into a
 * unique index, what locks a row, what updates it and its indexes.
 *
 * Only what comes out as it would by the executor is done here: a row of the key is
 * there already, NOT NULL is not violated, and nobody looks on by hooks of the
 * executor's. Triggers that fire are none but the write guard's, which asks whether it
 * is us who write. Anything else is left to the executor, which begins from the
 * beginning. So are the higher isolation levels.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "compat.h"
#include "upsert.h"

/* a plan whose expressions are ready */
struct CqrsUpsert
{
	const PlannedStmt *plan;
	const ModifyTable *modify;
	Oid			relid;
	ExprContext *econtext;
	ExprState  *filter;			/* is there a row at all? NULL = yes */
	ProjectionInfo *propose;	/* the row that INSERT proposes */
	ProjectionInfo *merge;		/* the one that takes the old one's place */
};

static const ModifyTable *upsert_node(const PlannedStmt *plan);
static bool upsert_writes_key(const ModifyTable *modify, Relation rel);
static bool upsert_in(CqrsUpsert *upsert, EState *estate, Relation rel);
static TM_Result upsert_lock(Relation rel, EState *estate, ItemPointer tid, TupleTableSlot *old);
static bool upsert_merge(CqrsUpsert *upsert, EState *estate, ResultRelInfo *result,
						 TupleTableSlot *proposed, TupleTableSlot *old);
static bool row_is_complete(Relation rel, TupleTableSlot *slot);

/*
 * Make a steady plan's expressions ready, in a memory context that the caller resets
 * when the plan is not valid any more. Returns NULL where the plan is not of
 * the kind: INSERT .. SELECT of what is one row .. ON CONFLICT (key) DO UPDATE. The
 * plan's tables are locked.
 */
CqrsUpsert *
cqrs_upsert_prepare(const PlannedStmt *plan, MemoryContext context)
{
	const ModifyTable *modify = upsert_node(plan);
	const Plan *source;
	Relation	rel;
	MemoryContext old;
	CqrsUpsert *upsert;
	TupleDesc	desc;

	if (modify == NULL)
		return NULL;
	rel = table_open(rt_fetch(linitial_int(modify->resultRelations), plan->rtable)->relid, NoLock);
	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition ||
		rel->rd_tableam != GetHeapamTableAmRoutine() ||
		upsert_writes_key(modify, rel))
	{
		table_close(rel, NoLock);
		return NULL;
	}

	old = MemoryContextSwitchTo(context);
	upsert = palloc0(sizeof(CqrsUpsert));
	upsert->plan = plan;
	upsert->modify = modify;
	upsert->relid = RelationGetRelid(rel);
	upsert->econtext = CreateStandaloneExprContext();
	source = outerPlan(modify);
	desc = CreateTupleDescCopy(RelationGetDescr(rel));
	upsert->filter = ExecInitQual((List *) ((const Result *) source)->resconstantqual, NULL);
	upsert->propose = ExecBuildProjectionInfo(source->targetlist, upsert->econtext,
											  MakeSingleTupleTableSlot(desc, &TTSOpsVirtual),
											  NULL, NULL);
	upsert->merge = ExecBuildUpdateProjection(modify->onConflictSet, true,
											  modify->onConflictCols, desc, upsert->econtext,
											  MakeSingleTupleTableSlot(desc, &TTSOpsVirtual),
											  NULL);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	return upsert;
}

/*
 * Propose the row and merge it, under the active snapshot. Returns false where that
 * is left to the executor; then nothing is done, though a row may be locked. After an
 * error it is not to be run again: who knows what its expressions have begun?
 */
bool
cqrs_upsert_run(CqrsUpsert *upsert, ParamListInfo params)
{
	EState	   *estate;
	MemoryContext old;
	Relation	rel;
	bool		done;

	if (IsolationUsesXactSnapshot() || XactReadOnly ||
		ExecutorStart_hook != NULL || ExecutorRun_hook != NULL ||
		ExecutorFinish_hook != NULL || ExecutorEnd_hook != NULL)
		return false;

	estate = CreateExecutorState();
	old = MemoryContextSwitchTo(estate->es_query_cxt);
	cqrs_compat_check_permissions(upsert->plan);
	cqrs_compat_init_range_table(estate, upsert->plan);
	estate->es_snapshot = GetActiveSnapshot();
	estate->es_output_cid = GetCurrentCommandId(true);
	upsert->econtext->ecxt_param_list_info = params;

	rel = table_open(upsert->relid, NoLock);
	done = upsert_in(upsert, estate, rel);
	table_close(rel, NoLock);

	ResetExprContext(upsert->econtext);
	MemoryContextSwitchTo(old);
	FreeExecutorState(estate);
	return done;
}

/* The plan's only node that writes, if the plan is of the kind. */
static const ModifyTable *
upsert_node(const PlannedStmt *plan)
{
	const ModifyTable *modify = (const ModifyTable *) plan->planTree;
	const Plan *source;

	if (plan->commandType != CMD_INSERT || plan->subplans != NIL || plan->rowMarks != NIL ||
		plan->hasReturning || !IsA(modify, ModifyTable))
		return NULL;
	source = outerPlan(modify);
	if (modify->operation != CMD_INSERT || list_length(modify->resultRelations) != 1 ||
		modify->rootRelation != 0 || modify->onConflictAction != ONCONFLICT_UPDATE ||
		modify->onConflictWhere != NULL || modify->withCheckOptionLists != NIL ||
		list_length(modify->arbiterIndexes) != 1)
		return NULL;
	if (!IsA(source, Result) || outerPlan(source) != NULL || source->qual != NIL ||
		source->initPlan != NIL)
		return NULL;
	return modify;
}

/* Does the plan set a column of a key? Then a lock of the row would be another. */
static bool
upsert_writes_key(const ModifyTable *modify, Relation rel)
{
	Bitmapset  *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_KEY);
	bool		result = false;
	ListCell   *lc;

	foreach(lc, modify->onConflictCols)
		result |= bms_is_member(lfirst_int(lc) - FirstLowInvalidHeapAttributeNumber, key);
	bms_free(key);
	return result;
}

/*
 * Propose and merge, with the table open. Who was faster with the row has made another
 * of it, so then it is looked for once more, as the executor does under read committed.
 */
static bool
upsert_in(CqrsUpsert *upsert, EState *estate, Relation rel)
{
	ExprContext *econtext = upsert->econtext;
	ResultRelInfo *result = makeNode(ResultRelInfo);
	TupleTableSlot *proposed;
	TupleTableSlot *old;
	ItemPointerData tid;
	TM_Result	locked;
	bool		done = false;

	ResetExprContext(econtext);
	if (!ExecQual(upsert->filter, econtext))
		return true;
	proposed = ExecProject(upsert->propose);
	if (!row_is_complete(rel, proposed))
		return false;

	InitResultRelInfo(result, rel, linitial_int(upsert->modify->resultRelations), NULL, 0);
	ExecOpenIndices(result, true);
	old = table_slot_create(rel, NULL);
	do
	{
		ExecClearTuple(old);
		locked = TM_Invisible;
		if (!cqrs_compat_check_index_constraints(result, proposed, estate, &tid,
												 upsert->modify->arbiterIndexes))
			locked = upsert_lock(rel, estate, &tid, old);
	} while (locked == TM_Updated || locked == TM_Deleted);

	if (locked == TM_Ok)
		done = upsert_merge(upsert, estate, result, proposed, old);
	ExecDropSingleTupleTableSlot(old);
	ExecCloseIndices(result);
	return done;
}

/* Lock a row, as an update of other columns than the key's does, and read it. */
static TM_Result
upsert_lock(Relation rel, EState *estate, ItemPointer tid, TupleTableSlot *old)
{
	TM_FailureData failure;

	CHECK_FOR_INTERRUPTS();
	return table_tuple_lock(rel, tid, estate->es_snapshot, old, estate->es_output_cid,
							LockTupleNoKeyExclusive, LockWaitBlock, 0, &failure);
}

/* Put what comes of both rows in the place of the old one. */
static bool
upsert_merge(CqrsUpsert *upsert, EState *estate, ResultRelInfo *result,
			 TupleTableSlot *proposed, TupleTableSlot *old)
{
	TupleTableSlot *merged;

	upsert->econtext->ecxt_scantuple = old;
	upsert->econtext->ecxt_innertuple = proposed;
	merged = ExecProject(upsert->merge);
	if (!row_is_complete(result->ri_RelationDesc, merged))
		return false;
	ExecSimpleRelationUpdate(result, estate, NULL, old, merged);
	return true;
}

/* Does the row have all that must not be NULL? */
static bool
row_is_complete(Relation rel, TupleTableSlot *slot)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (desc->constr == NULL || !desc->constr->has_not_null)
		return true;
	for (int i = 0; i < desc->natts; i++)
		if (TupleDescAttr(desc, i)->attnotnull && slot_attisnull(slot, i + 1))
			return false;
	return true;
}
