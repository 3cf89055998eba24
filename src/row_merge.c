/*
 * row_merge.c
 *		Find a row by a unique index, and put what comes of it and of one that is proposed
 *		in its place.
 *
 * It is written as logical replication writes single rows (execReplication.c), but for
 * two things:
 *
 * It is not locked first. A version never changes, so where nobody has touched the
 * one that was merged with, it is enough that it is still the latest when it is
 * replaced, which table_tuple_update says. That spares a WAL record.
 *
 * Pages are pruned when their room runs out. By an index scan of PostgreSQL's they are
 * pruned as soon as less is free than the fillfactor leaves, which is the case after
 * each update: that would be a WAL record, and a look at all rows of the page, for
 * each event. So tuples are fetched here, as heapam_handler.c does it.
 *
 * What the executor's ON CONFLICT DO UPDATE does beside that is not done here: insert a
 * row where there is none, see that NOT NULL is violated, ask triggers and constraints.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "compat.h"
#include "row_merge.h"

/* of a page, as PostgreSQL has it where no fillfactor is set */
#define MIN_ROOM (BLCKSZ / 10)

static bool merge_writes_key(const ModifyTable *modify, Relation rel);
static bool merge_prepare_keys(CqrsRowMerge *merge, Relation rel);
static Const *index_constant(Relation index);
static TM_Result merge_try(CqrsRowMerge *merge, TupleTableSlot *proposed);
static bool merge_set_keys(CqrsRowMerge *merge, TupleTableSlot *proposed);
static bool merge_find(CqrsRowMerge *merge);
static bool merge_fetch(CqrsRowMerge *merge, ItemPointer tid);
static bool merge_is_untouched(CqrsRowMerge *merge);
static TM_Result merge_lock(CqrsRowMerge *merge);
static TM_Result merge_update(CqrsRowMerge *merge, TupleTableSlot *proposed);
static void merge_enter(CqrsRowMerge *merge, TupleTableSlot *merged, TU_UpdateIndexes which);
static bool row_is_complete(Relation rel, TupleTableSlot *slot);

/*
 * Make a node of a plan ready that inserts rows into a table, or updates those of the same
 * keys, in the current memory context. Returns NULL where it can't be done here.
 */
CqrsRowMerge *
cqrs_row_merge_make(const PlannedStmt *plan, const ModifyTable *modify, Relation rel)
{
	CqrsRowMerge *merge = palloc0(sizeof(CqrsRowMerge));
	TupleDesc	desc;

	merge->plan = plan;
	merge->modify = modify;
	merge->relid = RelationGetRelid(rel);
	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition ||
		rel->rd_tableam != GetHeapamTableAmRoutine() ||
		merge_writes_key(modify, rel) || !merge_prepare_keys(merge, rel))
		return NULL;

	merge->room = MIN_ROOM;
	merge->econtext = CreateStandaloneExprContext();

	/* with what old rows have in columns that were added later */
	desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	merge->old = MakeSingleTupleTableSlot(desc, &TTSOpsBufferHeapTuple);
	merge->merged = ExecBuildUpdateProjection(modify->onConflictSet, true,
											  modify->onConflictCols, desc, merge->econtext,
											  MakeSingleTupleTableSlot(desc, &TTSOpsVirtual),
											  NULL);
	if (plan->hasReturning)
	{
		List	   *list = linitial_node(List, modify->returningLists);

		merge->returned = ExecBuildProjectionInfo(list, merge->econtext,
												  MakeSingleTupleTableSlot(ExecTypeFromTL(list),
																		   &TTSOpsVirtual),
												  NULL, desc);
	}
	return merge;
}

/* Free what was made ready, but for the memory. */
void
cqrs_row_merge_end(CqrsRowMerge *merge)
{
	ExecDropSingleTupleTableSlot(merge->old);
	FreeExprContext(merge->econtext, true);
}

/* Does the plan set a column of a key? Then a lock of the row would be another. */
static bool
merge_writes_key(const ModifyTable *modify, Relation rel)
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
merge_prepare_keys(CqrsRowMerge *merge, Relation rel)
{
	Relation	index = index_open(linitial_oid(merge->modify->arbiterIndexes), RowExclusiveLock);
	const Const *constant = index_constant(index);
	bool		result = index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indimmediate &&
		RelationGetIndexPredicate(index) == NIL;

	merge->indexid = RelationGetRelid(index);
	merge->finds_nulls = index->rd_index->indnullsnotdistinct;
	merge->nkeys = IndexRelationGetNumberOfKeyAttributes(index);
	merge->keys = palloc0(merge->nkeys * sizeof(ScanKeyData));
	merge->attributes = palloc0(merge->nkeys * sizeof(AttrNumber));
	for (int i = 0; result && i < merge->nkeys; i++)
	{
		Oid			type = index->rd_opcintype[i];
		Oid			equal = get_opfamily_member(index->rd_opfamily[i], type, type,
												BTEqualStrategyNumber);

		merge->attributes[i] = index->rd_index->indkey.values[i];
		result = OidIsValid(equal) && (merge->attributes[i] > 0 || constant != NULL);
		if (result)
			ScanKeyEntryInitialize(&merge->keys[i], 0, i + 1, BTEqualStrategyNumber,
								   InvalidOid, index->rd_indcollation[i], get_opcode(equal),
								   merge->attributes[i] > 0 ? (Datum) 0 : constant->constvalue);
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

/* Open the table, which is locked, and what finds rows in it: in the current memory context. */
void
cqrs_row_merge_open(CqrsRowMerge *merge)
{
	merge->context = CurrentMemoryContext;
	merge->rel = table_open(merge->relid, NoLock);
	CheckCmdReplicaIdentity(merge->rel, CMD_UPDATE);
	merge->index = index_open(merge->indexid, RowExclusiveLock);
	InitDirtySnapshot(merge->dirty);
	merge->scan = cqrs_compat_index_beginscan(merge->rel, merge->index, &merge->dirty,
											   merge->nkeys);
	merge->estate = NULL;
}

void
cqrs_row_merge_close(CqrsRowMerge *merge)
{
	ExecClearTuple(merge->old);
	if (merge->estate != NULL)
	{
		ExecCloseIndices(merge->indexes);
		FreeExecutorState(merge->estate);
	}
	index_endscan(merge->scan);
	index_close(merge->index, RowExclusiveLock);
	table_close(merge->rel, NoLock);
}

/*
 * Merge a row that is proposed with the one that is there, under the active snapshot, and
 * hand what is returned of it to row_fn, which may be NULL. Returns false where there is
 * none, or it takes more than is done here; then nothing is done, though a row may be
 * locked. Who was faster with the one that is there has made another of it, so then it is
 * looked for once more, as the executor does under read committed.
 */
bool
cqrs_row_merge_apply(CqrsRowMerge *merge, TupleTableSlot *proposed, CqrsRowFn row_fn, void *arg)
{
	TM_Result	result;

	if (!row_is_complete(merge->rel, proposed) || !merge_set_keys(merge, proposed))
		return false;
	do
	{
		CHECK_FOR_INTERRUPTS();
		result = merge_try(merge, proposed);
	} while (result == TM_Updated || result == TM_Deleted);
	if (result == TM_Ok && row_fn != NULL)
	{
		merge->econtext->ecxt_scantuple = merge->merged->pi_state.resultslot;
		(void) row_fn(ExecProject(merge->returned), arg);
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
merge_try(CqrsRowMerge *merge, TupleTableSlot *proposed)
{
	TM_Result	locked = TM_Ok;

	ExecClearTuple(merge->old);
	if (!merge_find(merge) || TransactionIdIsValid(merge->dirty.xmin))
		return TM_Invisible;
	if (!merge_is_untouched(merge))
		locked = merge_lock(merge);
	return locked == TM_Ok ? merge_update(merge, proposed) : locked;
}

/* Look for the proposed row's key. Returns false where its NULLs are not equal to others. */
static bool
merge_set_keys(CqrsRowMerge *merge, TupleTableSlot *proposed)
{
	for (int i = 0; i < merge->nkeys; i++)
	{
		ScanKey		key = &merge->keys[i];
		bool		isnull;

		if (merge->attributes[i] == 0)
			continue;
		key->sk_argument = slot_getattr(proposed, merge->attributes[i], &isnull);
		key->sk_flags = isnull ? SK_ISNULL | SK_SEARCHNULL : 0;
		if (isnull && !merge->finds_nulls)
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
merge_find(CqrsRowMerge *merge)
{
	MemoryContext old = MemoryContextSwitchTo(merge->context);
	ItemPointer tid;
	bool		found = false;

	index_rescan(merge->scan, merge->keys, merge->nkeys, NULL, 0);
	while (!found && (tid = index_getnext_tid(merge->scan, ForwardScanDirection)) != NULL)
		found = merge_fetch(merge, tid);
	index_rescan(merge->scan, merge->keys, merge->nkeys, NULL, 0);
	MemoryContextSwitchTo(old);
	return found;
}

/*
 * Fetch the row that an entry of the index leads to. A version that is written beside
 * it will be of its size, or nearly so.
 */
static bool
merge_fetch(CqrsRowMerge *merge, ItemPointer tid)
{
	Relation	rel = merge->rel;
	IndexScanDesc scan = merge->scan;
	HeapTuple	tuple = &((BufferHeapTupleTableSlot *) merge->old)->base.tupdata;
	Buffer		buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(tid));
	Page		page = BufferGetPage(buffer);
	bool		all_dead = false;
	bool		found;

	/* without a lock, as PostgreSQL estimates it, too */
	if (PageIsFull(page) || PageGetHeapFreeSpace(page) < merge->room)
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
	merge->old->tts_tableOid = RelationGetRelid(rel);
	ExecStorePinnedBufferHeapTuple(tuple, merge->old, buffer);
	merge->room = Max(MIN_ROOM, 2 * MAXALIGN(tuple->t_len));
	return true;
}

/* Is the version that was found one that nobody is known to have updated, deleted or locked? */
static bool
merge_is_untouched(CqrsRowMerge *merge)
{
	const HeapTupleData *tuple = &((BufferHeapTupleTableSlot *) merge->old)->base.tupdata;

	return (tuple->t_data->t_infomask & HEAP_XMAX_INVALID) != 0;
}

/* Lock the row, as an update of other columns than the key's does, and read it again. */
static TM_Result
merge_lock(CqrsRowMerge *merge)
{
	ItemPointerData tid = merge->old->tts_tid;
	TM_FailureData failure;

	return table_tuple_lock(merge->rel, &tid, GetActiveSnapshot(), merge->old,
							GetCurrentCommandId(true), LockTupleNoKeyExclusive,
							LockWaitBlock, 0, &failure);
}

/* Put what comes of both rows in the place of the old one, if that is the latest still. */
static TM_Result
merge_update(CqrsRowMerge *merge, TupleTableSlot *proposed)
{
	Relation	rel = merge->rel;
	TupleTableSlot *merged;
	TM_Result	result;
	TM_FailureData failure;
	LockTupleMode mode;
	TU_UpdateIndexes which;

	merge->econtext->ecxt_scantuple = merge->old;
	merge->econtext->ecxt_innertuple = proposed;
	merged = ExecProject(merge->merged);
	if (!row_is_complete(rel, merged))
		return TM_Invisible;
	result = table_tuple_update(rel, &merge->old->tts_tid, merged, GetCurrentCommandId(true),
								GetActiveSnapshot(), InvalidSnapshot, true, &failure, &mode,
								&which);
	if (result == TM_Ok && which != TU_None)
		merge_enter(merge, merged, which);
	return result;
}

/* Enter a new version into indexes. There was no room for it in its page, or they have its values. */
static void
merge_enter(CqrsRowMerge *merge, TupleTableSlot *merged, TU_UpdateIndexes which)
{
	if (merge->estate == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(merge->context);
		EState	   *estate = CreateExecutorState();

		MemoryContextSwitchTo(estate->es_query_cxt);
		merge->indexes = makeNode(ResultRelInfo);
		cqrs_compat_init_range_table(estate, merge->plan);
		InitResultRelInfo(merge->indexes, merge->rel, linitial_int(merge->modify->resultRelations),
						  NULL, 0);
		ExecOpenIndices(merge->indexes, false);
		MemoryContextSwitchTo(old);
		merge->estate = estate;
	}
	(void) cqrs_compat_insert_index_tuples(merge->indexes, merged, merge->estate, which);
	ResetPerTupleExprContext(merge->estate);
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
