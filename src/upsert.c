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
 * Only what comes out as it would by the executor is done here: a row of the key is
 * there already (row_merge.c), and nobody looks on by hooks of the executor's. Triggers
 * that fire are none but the write guard's, which asks whether it is us who write.
 * Anything else is left to the executor, which begins from the beginning. So are the
 * higher isolation levels.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "parser/parsetree.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "catalog.h"
#include "compat.h"
#include "row_merge.h"
#include "upsert.h"

/* a plan whose expressions are ready */
struct CqrsUpsert
{
	CqrsRowMerge *merge;

	/* of a plan for one row */
	Oid			checked_user;	/* who may run it, */
	uint64		checked_at;		/* at this count of cqrs_catalog_rights_changes */
	ExprState  *filter;			/* is there a row at all? NULL = yes */
	ProjectionInfo *propose;	/* the row that INSERT proposes */
};

static CqrsUpsert *upsert_make(const PlannedStmt *plan, const ModifyTable *modify);
static void upsert_check_permissions(CqrsUpsert *upsert);
static const ModifyTable *upsert_node(const PlannedStmt *plan);
static bool upsert_is_one_row(const ModifyTable *modify);
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
	MemoryContext old;
	CqrsUpsert *upsert;

	if (modify == NULL || !upsert_is_one_row(modify))
		return NULL;
	old = MemoryContextSwitchTo(context);
	upsert = upsert_make(plan, modify);
	if (upsert != NULL)
	{
		const Plan *source = outerPlan(modify);
		TupleDesc	desc = upsert->merge->old->tts_tupleDescriptor;

		upsert->filter = ExecInitQual((List *) ((const Result *) source)->resconstantqual, NULL);
		upsert->propose = ExecBuildProjectionInfo(source->targetlist, upsert->merge->econtext,
												  MakeSingleTupleTableSlot(desc, &TTSOpsVirtual),
												  NULL, NULL);
	}
	MemoryContextSwitchTo(old);
	return upsert;
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
	ExprContext *econtext = upsert->merge->econtext;
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
		cqrs_row_merge_open(upsert->merge);
		done = cqrs_row_merge_apply(upsert->merge, ExecProject(upsert->propose), row_fn, arg);
		cqrs_row_merge_close(upsert->merge);
	}
	MemoryContextSwitchTo(old);
	ResetExprContext(econtext);
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
	cqrs_compat_check_permissions(upsert->merge->plan);
	upsert->checked_user = GetUserId();
	upsert->checked_at = changes;
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
	CqrsUpsert *upsert = modify != NULL ? upsert_make(plan, modify) : NULL;

	if (upsert == NULL)
		return NULL;
	upsert->merge->econtext->ecxt_param_list_info = params;
	cqrs_row_merge_open(upsert->merge);
	return upsert;
}

/* Merge one of these rows, which somebody proposes: as cqrs_upsert_run does. */
bool
cqrs_upsert_merge(CqrsUpsert *upsert, TupleTableSlot *proposed, CqrsRowFn row_fn, void *arg)
{
	CqrsRowMerge *merge = upsert->merge;
	MemoryContext old = MemoryContextSwitchTo(merge->econtext->ecxt_per_tuple_memory);
	bool		done = cqrs_row_merge_apply(merge, proposed, row_fn, arg);

	ExecClearTuple(merge->old);
	MemoryContextSwitchTo(old);
	ResetExprContext(merge->econtext);
	return done;
}

/* Close what is open for them. */
void
cqrs_upsert_end(CqrsUpsert *upsert)
{
	cqrs_row_merge_close(upsert->merge);
	cqrs_row_merge_end(upsert->merge);
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

/* What plans for one row and for many have in common, in the current memory context; or NULL. */
static CqrsUpsert *
upsert_make(const PlannedStmt *plan, const ModifyTable *modify)
{
	Oid			relid = rt_fetch(linitial_int(modify->resultRelations), plan->rtable)->relid;
	Relation	rel = table_open(relid, NoLock);
	CqrsUpsert *upsert = palloc0(sizeof(CqrsUpsert));

	upsert->merge = cqrs_row_merge_make(plan, modify, rel);
	table_close(rel, NoLock);
	return upsert->merge != NULL ? upsert : NULL;
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
