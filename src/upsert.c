/*
 * upsert.c
 *		Merge rows into a table as a plan says that inserts them or, where there is one
 *		of the key, updates that.
 *
 * A plan for one row is not even given to the executor. To start and end a statement
 * costs it as much as to find and write the row, and most of that is to make all
 * expressions ready to be evaluated. Here they stay ready, for as long as the plan is
 * valid: steady.c lets through only plans whose functions and types are PostgreSQL's own
 * and harmless, and so remember nothing that would not outlive a transaction. So do the
 * scan keys of the unique index. Of a plan for many rows the executor computes these
 * (upsert_batch.c), and all is made ready each time.
 *
 * Rows are written as logical replication writes single rows (execReplication.c), but
 * for two things:
 *
 * They are not locked first. A version never changes, so where nobody has touched the
 * one that was merged with, it is enough that it is still the latest when it is
 * replaced, which table_tuple_update says. That spares a WAL record.
 *
 * Pages are pruned when their room runs out. By an index scan of PostgreSQL's they are
 * pruned as soon as less is free than the fillfactor leaves, which is the case after
 * each update: that would be a WAL record, and a look at all rows of the page, for
 * each event. So tuples are fetched here, as heapam_handler.c does it.
 *
 * Only what comes out as it would by the executor is done here: a row of the key is
 * there already, NOT NULL is not violated, and nobody looks on by hooks of the
 * executor's. Triggers that fire are none but the write guard's, which asks whether it
 * is us who write. Anything else is left to the executor, which begins from the
 * beginning. So are the higher isolation levels.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "parser/parsetree.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "upsert.h"

/* of a page, as PostgreSQL has it where no fillfactor is set */
#define MIN_ROOM (BLCKSZ / 10)

/* a plan whose expressions and scan keys are ready */
struct CqrsUpsert
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
	ProjectionInfo *merge;		/* the row that takes the old one's place */
	ProjectionInfo *returning;	/* what is told of that; NULL = nothing */

	/* of a plan for one row */
	Oid			checked_user;	/* who may run it, */
	uint64		checked_at;		/* at this count of cqrs_catalog_rights_changes */
	ExprState  *filter;			/* is there a row at all? NULL = yes */
	ProjectionInfo *propose;	/* the row that INSERT proposes */

	/* from open to close */
	MemoryContext context;
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	SnapshotData dirty;			/* of the scan */
	EState	   *estate;			/* of what follows; NULL = none yet */
	ResultRelInfo *indexes;		/* open for new entries */
};

static CqrsUpsert *upsert_make(const PlannedStmt *plan, Relation rel);
static void upsert_check_permissions(CqrsUpsert *upsert);
static const ModifyTable *upsert_node(const PlannedStmt *plan);
static bool upsert_is_one_row(const ModifyTable *modify);
static bool upsert_writes_key(const ModifyTable *modify, Relation rel);
static bool upsert_prepare_keys(CqrsUpsert *upsert, Relation rel);
static Const *index_constant(Relation index);
static void upsert_open(CqrsUpsert *upsert);
static void upsert_close(CqrsUpsert *upsert);
static bool upsert_row(CqrsUpsert *upsert, TupleTableSlot *proposed, CqrsRowFn row_fn, void *arg);
static TM_Result upsert_try(CqrsUpsert *upsert, TupleTableSlot *proposed);
static bool upsert_set_keys(CqrsUpsert *upsert, TupleTableSlot *proposed);
static bool upsert_find(CqrsUpsert *upsert);
static bool upsert_fetch(CqrsUpsert *upsert, ItemPointer tid);
static bool upsert_is_untouched(CqrsUpsert *upsert);
static TM_Result upsert_lock(CqrsUpsert *upsert);
static TM_Result upsert_merge(CqrsUpsert *upsert, TupleTableSlot *proposed);
static void upsert_index(CqrsUpsert *upsert, TupleTableSlot *merged, TU_UpdateIndexes which);
static bool row_is_complete(Relation rel, TupleTableSlot *slot);
static bool trigger_is_guard(const Trigger *trigger);

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

	if (modify == NULL || !upsert_is_one_row(modify))
		return NULL;
	rel = table_open(rt_fetch(linitial_int(modify->resultRelations), plan->rtable)->relid, NoLock);
	old = MemoryContextSwitchTo(context);
	upsert = upsert_make(plan, rel);
	if (upsert != NULL)
	{
		source = outerPlan(modify);
		upsert->filter = ExecInitQual((List *) ((const Result *) source)->resconstantqual, NULL);
		upsert->propose = ExecBuildProjectionInfo(source->targetlist, upsert->econtext,
												  MakeSingleTupleTableSlot(upsert->old->tts_tupleDescriptor,
																		   &TTSOpsVirtual),
												  NULL, NULL);
	}
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	return upsert;
}

/*
 * Make a plan's expressions ready, but for those of the rows that it inserts, which
 * may be many. Returns NULL where the plan is not of the kind: INSERT .. SELECT ..
 * ON CONFLICT (key) DO UPDATE. The plan's tables are locked, and the one that is written
 * to is plain; cqrs_upsert_end comes before the end of the current memory context.
 */
CqrsUpsert *
cqrs_upsert_begin(const PlannedStmt *plan, ParamListInfo params)
{
	const ModifyTable *modify = upsert_node(plan);
	CqrsUpsert *upsert;
	Relation	rel;

	if (modify == NULL)
		return NULL;
	rel = table_open(rt_fetch(linitial_int(modify->resultRelations), plan->rtable)->relid, NoLock);
	upsert = upsert_make(plan, rel);
	if (upsert != NULL)
	{
		upsert->econtext->ecxt_param_list_info = params;
		upsert_open(upsert);
	}
	table_close(rel, NoLock);
	return upsert;
}

/* Close what is open for many rows. */
void
cqrs_upsert_end(CqrsUpsert *upsert)
{
	upsert_close(upsert);
	ExecDropSingleTupleTableSlot(upsert->old);
	FreeExprContext(upsert->econtext, true);
}

/* What both have in common, in the current memory context; or NULL. */
static CqrsUpsert *
upsert_make(const PlannedStmt *plan, Relation rel)
{
	const ModifyTable *modify = upsert_node(plan);
	CqrsUpsert *upsert = palloc0(sizeof(CqrsUpsert));
	TupleDesc	desc;

	upsert->plan = plan;
	upsert->modify = modify;
	upsert->relid = RelationGetRelid(rel);
	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition ||
		rel->rd_tableam != GetHeapamTableAmRoutine() ||
		upsert_writes_key(modify, rel) || !upsert_prepare_keys(upsert, rel))
		return NULL;

	upsert->room = MIN_ROOM;
	upsert->econtext = CreateStandaloneExprContext();

	/* with what old rows have in columns that were added later */
	desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	upsert->old = MakeSingleTupleTableSlot(desc, &TTSOpsBufferHeapTuple);
	upsert->merge = ExecBuildUpdateProjection(modify->onConflictSet, true,
											  modify->onConflictCols, desc, upsert->econtext,
											  MakeSingleTupleTableSlot(desc, &TTSOpsVirtual),
											  NULL);
	if (plan->hasReturning)
	{
		List	   *list = linitial_node(List, modify->returningLists);

		upsert->returning = ExecBuildProjectionInfo(list, upsert->econtext,
													MakeSingleTupleTableSlot(ExecTypeFromTL(list),
																			 &TTSOpsVirtual),
													NULL, desc);
	}
	return upsert;
}

/*
 * Is anything but a statement's own expressions to be asked when a row of the table is
 * written? The write guard is not, as it is us who write.
 */
bool
cqrs_upsert_is_plain_table(Relation rel)
{
	const TupleConstr *constr = RelationGetDescr(rel)->constr;
	bool		result = constr == NULL ||
		(constr->num_check == 0 && !cqrs_compat_has_generated(constr));

	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		result &= trigger_is_guard(&rel->trigdesc->triggers[i]);
	return result;
}

/* Is it our write guard, which asks nothing of rows that are updated? */
static bool
trigger_is_guard(const Trigger *trigger)
{
	char	   *name = get_func_name(trigger->tgfoid);

	return trigger->tgqual == NULL && name != NULL && strcmp(name, "guard_read_table") == 0 &&
		get_func_namespace(trigger->tgfoid) == get_rel_namespace(cqrs_catalog_relation("registry", false)) &&
		(!TRIGGER_FOR_ROW(trigger->tgtype) || !TRIGGER_FOR_UPDATE(trigger->tgtype));
}

/* Must it be the executor, as somebody looks on, or is entitled to one snapshot? */
bool
cqrs_upsert_is_barred(void)
{
	return IsolationUsesXactSnapshot() || XactReadOnly ||
		ExecutorStart_hook != NULL || ExecutorRun_hook != NULL ||
		ExecutorFinish_hook != NULL || ExecutorEnd_hook != NULL;
}

/*
 * Propose the row and merge it, under the active snapshot, and hand what is returned
 * of it to row_fn. Returns false where that is left to the executor; then nothing is
 * done, though a row may be locked. After an error it is not to be run again: who
 * knows what its expressions have begun?
 */
bool
cqrs_upsert_run(CqrsUpsert *upsert, ParamListInfo params, CqrsRowFn row_fn, void *arg)
{
	ExprContext *econtext = upsert->econtext;
	MemoryContext old;
	bool		done = true;

	if (cqrs_upsert_is_barred())
		return false;

	ResetExprContext(econtext);
	econtext->ecxt_param_list_info = params;
	old = MemoryContextSwitchTo(econtext->ecxt_per_tuple_memory);
	upsert_check_permissions(upsert);
	if (ExecQual(upsert->filter, econtext))
	{
		upsert_open(upsert);
		done = upsert_row(upsert, ExecProject(upsert->propose), row_fn, arg);
		upsert_close(upsert);
	}
	MemoryContextSwitchTo(old);
	ResetExprContext(econtext);
	return done;
}

/* The same for one of many rows, which somebody proposes. */
bool
cqrs_upsert_merge(CqrsUpsert *upsert, TupleTableSlot *proposed, CqrsRowFn row_fn, void *arg)
{
	MemoryContext old = MemoryContextSwitchTo(upsert->econtext->ecxt_per_tuple_memory);
	bool		done = upsert_row(upsert, proposed, row_fn, arg);

	ExecClearTuple(upsert->old);
	MemoryContextSwitchTo(old);
	ResetExprContext(upsert->econtext);
	return done;
}

/* Throw unless the user may run the plan. Who looks on by a hook is asked each time. */
static void
upsert_check_permissions(CqrsUpsert *upsert)
{
	uint64		changes = cqrs_catalog_rights_changes();

	if (upsert->checked_at == changes && upsert->checked_user == GetUserId() &&
		ExecutorCheckPerms_hook == NULL)
		return;
	cqrs_compat_check_permissions(upsert->plan);
	upsert->checked_user = GetUserId();
	upsert->checked_at = changes;
}

/* The plan's only node that writes, if the plan is of the kind. */
static const ModifyTable *
upsert_node(const PlannedStmt *plan)
{
	const ModifyTable *modify = (const ModifyTable *) plan->planTree;

	if (plan->commandType != CMD_INSERT || plan->subplans != NIL || plan->rowMarks != NIL ||
		!IsA(modify, ModifyTable))
		return NULL;
	if (modify->operation != CMD_INSERT || list_length(modify->resultRelations) != 1 ||
		modify->rootRelation != 0 || modify->onConflictAction != ONCONFLICT_UPDATE ||
		modify->onConflictWhere != NULL || modify->withCheckOptionLists != NIL ||
		list_length(modify->arbiterIndexes) != 1)
		return NULL;
	return modify;
}

/* Is what it inserts a row, or none, that is made of nothing but parameters? */
static bool
upsert_is_one_row(const ModifyTable *modify)
{
	const Plan *source = outerPlan(modify);

	return IsA(source, Result) && outerPlan(source) == NULL && source->qual == NIL &&
		source->initPlan == NIL;
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
 * Find out by which index a row of the proposed one's key is found, and make its scan
 * keys ready, in the current memory context. Returns false where it is one that
 * can't be looked into here.
 */
static bool
upsert_prepare_keys(CqrsUpsert *upsert, Relation rel)
{
	Relation	index = index_open(linitial_oid(upsert->modify->arbiterIndexes), RowExclusiveLock);
	const Const *constant = index_constant(index);
	bool		result = index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indimmediate &&
		RelationGetIndexPredicate(index) == NIL;

	upsert->indexid = RelationGetRelid(index);
	upsert->finds_nulls = index->rd_index->indnullsnotdistinct;
	upsert->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	upsert->keys = palloc0(upsert->nkeys * sizeof(ScanKeyData));
	upsert->attributes = palloc0(upsert->nkeys * sizeof(AttrNumber));
	for (int i = 0; result && i < upsert->nkeys; i++)
	{
		Oid			type = index->rd_opcintype[i];
		Oid			equal = get_opfamily_member(index->rd_opfamily[i], type, type,
												BTEqualStrategyNumber);

		upsert->attributes[i] = index->rd_index->indkey.values[i];
		result = OidIsValid(equal) && (upsert->attributes[i] > 0 || constant != NULL);
		if (result)
			ScanKeyEntryInitialize(&upsert->keys[i], 0, i + 1, BTEqualStrategyNumber,
								   InvalidOid, index->rd_indcollation[i], get_opcode(equal),
								   upsert->attributes[i] > 0 ? (Datum) 0 : constant->constvalue);
	}
	index_close(index, RowExclusiveLock);
	return result;
}

/* What an index is over that holds one row at most, as that of a view without groups; or NULL. */
static Const *
index_constant(Relation index)
{
	List	   *expressions = RelationGetIndexExpressions(index);
	Const	   *constant;

	if (list_length(expressions) != 1 || !IsA(linitial(expressions), Const))
		return NULL;
	constant = linitial_node(Const, expressions);
	return constant->constisnull || !constant->constbyval ? NULL : constant;
}

/* Open the table, and what finds rows in it. */
static void
upsert_open(CqrsUpsert *upsert)
{
	upsert->context = CurrentMemoryContext;
	upsert->rel = table_open(upsert->relid, NoLock);
	CheckCmdReplicaIdentity(upsert->rel, CMD_UPDATE);
	upsert->index = index_open(upsert->indexid, RowExclusiveLock);
	InitDirtySnapshot(upsert->dirty);
	upsert->scan = cqrs_compat_index_beginscan(upsert->rel, upsert->index, &upsert->dirty,
											   upsert->nkeys);
	upsert->estate = NULL;
}

static void
upsert_close(CqrsUpsert *upsert)
{
	ExecClearTuple(upsert->old);
	if (upsert->estate != NULL)
	{
		ExecCloseIndices(upsert->indexes);
		FreeExecutorState(upsert->estate);
	}
	index_endscan(upsert->scan);
	index_close(upsert->index, RowExclusiveLock);
	table_close(upsert->rel, NoLock);
}

/*
 * Merge a row. Who was faster with the one that is there has made another of it, so then
 * it is looked for once more, as the executor does under read committed.
 */
static bool
upsert_row(CqrsUpsert *upsert, TupleTableSlot *proposed, CqrsRowFn row_fn, void *arg)
{
	TM_Result	result;

	if (!row_is_complete(upsert->rel, proposed) || !upsert_set_keys(upsert, proposed))
		return false;
	do
	{
		CHECK_FOR_INTERRUPTS();
		result = upsert_try(upsert, proposed);
	} while (result == TM_Updated || result == TM_Deleted);
	if (result == TM_Ok && row_fn != NULL)
	{
		upsert->econtext->ecxt_scantuple = upsert->merge->pi_state.resultslot;
		(void) row_fn(ExecProject(upsert->returning), arg);
	}
	return result == TM_Ok;
}

/*
 * Find the row and merge it. Where another transaction is at work on it, or has it
 * locked and may be so next, what is merged is what that leaves: then it is locked
 * first. A row that another transaction is about to insert is none to merge with
 * yet: TM_Invisible, as where there is none.
 */
static TM_Result
upsert_try(CqrsUpsert *upsert, TupleTableSlot *proposed)
{
	TM_Result	locked = TM_Ok;

	ExecClearTuple(upsert->old);
	if (!upsert_find(upsert) || TransactionIdIsValid(upsert->dirty.xmin))
		return TM_Invisible;
	if (!upsert_is_untouched(upsert))
		locked = upsert_lock(upsert);
	return locked == TM_Ok ? upsert_merge(upsert, proposed) : locked;
}

/* Look for the proposed row's key. Returns false where its NULLs are not equal to others. */
static bool
upsert_set_keys(CqrsUpsert *upsert, TupleTableSlot *proposed)
{
	for (int i = 0; i < upsert->nkeys; i++)
	{
		ScanKey		key = &upsert->keys[i];
		bool		isnull;

		if (upsert->attributes[i] == 0)
			continue;
		key->sk_argument = slot_getattr(proposed, upsert->attributes[i], &isnull);
		key->sk_flags = isnull ? SK_ISNULL | SK_SEARCHNULL : 0;
		if (isnull && !upsert->finds_nulls)
			return false;
	}
	return true;
}

/*
 * Find the row of the key, as a snapshot sees it that may say who is at work on it.
 * Returns false where there is none. Nothing of the index stays pinned. The scan keeps
 * what it allocates from row to row.
 */
static bool
upsert_find(CqrsUpsert *upsert)
{
	MemoryContext old = MemoryContextSwitchTo(upsert->context);
	ItemPointer tid;
	bool		found = false;

	index_rescan(upsert->scan, upsert->keys, upsert->nkeys, NULL, 0);
	while (!found && (tid = index_getnext_tid(upsert->scan, ForwardScanDirection)) != NULL)
		found = upsert_fetch(upsert, tid);
	index_rescan(upsert->scan, upsert->keys, upsert->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Fetch the row that an entry of the index leads to. A version that is written beside
 * it will be of its size, or nearly so.
 */
static bool
upsert_fetch(CqrsUpsert *upsert, ItemPointer tid)
{
	Relation	rel = upsert->rel;
	IndexScanDesc scan = upsert->scan;
	HeapTuple	tuple = &((BufferHeapTupleTableSlot *) upsert->old)->base.tupdata;
	Buffer		buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	Page		page = BufferGetPage(buffer);
	bool		all_dead = false;
	bool		found;

	/* without a lock, as PostgreSQL estimates it, too */
	if (PageIsFull(page) || PageGetHeapFreeSpace(page) < upsert->room)
		heap_page_prune_opt(rel, buffer);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	found = heap_hot_search_buffer(tid, rel, buffer, scan->xs_snapshot, tuple, &all_dead, true);
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	if (!found)
	{
		ReleaseBuffer(buffer);
		scan->kill_prior_tuple = all_dead && !scan->xactStartedInRecovery;
		return false;
	}
	pgstat_count_heap_fetch(scan->indexRelation);
	tuple->t_self = *tid;
	upsert->old->tts_tableOid = RelationGetRelid(rel);
	ExecStorePinnedBufferHeapTuple(tuple, upsert->old, buffer);
	upsert->room = Max(MIN_ROOM, 2 * MAXALIGN(tuple->t_len));
	return true;
}

/* Is the version that was found one that nobody is known to have updated, deleted or locked? */
static bool
upsert_is_untouched(CqrsUpsert *upsert)
{
	const HeapTupleData *tuple = &((BufferHeapTupleTableSlot *) upsert->old)->base.tupdata;

	return (tuple->t_data->t_infomask & HEAP_XMAX_INVALID) != 0;
}

/* Lock the row, as an update of other columns than the key's does, and read it again. */
static TM_Result
upsert_lock(CqrsUpsert *upsert)
{
	ItemPointerData tid = upsert->old->tts_tid;
	TM_FailureData failure;

	return table_tuple_lock(upsert->rel, &tid, GetActiveSnapshot(), upsert->old,
							GetCurrentCommandId(true), LockTupleNoKeyExclusive,
							LockWaitBlock, 0, &failure);
}

/* Put what comes of both rows in the place of the old one, if that is the latest still. */
static TM_Result
upsert_merge(CqrsUpsert *upsert, TupleTableSlot *proposed)
{
	Relation	rel = upsert->rel;
	TupleTableSlot *merged;
	TM_Result	result;
	TM_FailureData failure;
	LockTupleMode mode;
	TU_UpdateIndexes which;

	upsert->econtext->ecxt_scantuple = upsert->old;
	upsert->econtext->ecxt_innertuple = proposed;
	merged = ExecProject(upsert->merge);
	if (!row_is_complete(rel, merged))
		return TM_Invisible;
	result = table_tuple_update(rel, &upsert->old->tts_tid, merged, GetCurrentCommandId(true),
								GetActiveSnapshot(), InvalidSnapshot, true, &failure, &mode,
								&which);
	if (result == TM_Ok && which != TU_None)
		upsert_index(upsert, merged, which);
	return result;
}

/* Enter a new version into indexes. There was no room for it in its page, or they have its values. */
static void
upsert_index(CqrsUpsert *upsert, TupleTableSlot *merged, TU_UpdateIndexes which)
{
	if (upsert->estate == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(upsert->context);
		EState	   *estate = CreateExecutorState();

		MemoryContextSwitchTo(estate->es_query_cxt);
		upsert->indexes = makeNode(ResultRelInfo);
		cqrs_compat_init_range_table(estate, upsert->plan);
		InitResultRelInfo(upsert->indexes, upsert->rel, linitial_int(upsert->modify->resultRelations),
						  NULL, 0);
		ExecOpenIndices(upsert->indexes, false);
		MemoryContextSwitchTo(old);
		upsert->estate = estate;
	}
	(void) cqrs_compat_insert_index_tuples(upsert->indexes, merged, upsert->estate, which);
	ResetPerTupleExprContext(upsert->estate);
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
