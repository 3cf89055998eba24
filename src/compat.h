/*
 * compat.h
 *		Every PG_VERSION_NUM test of the project, and nothing else.
 *
 * Supported: PostgreSQL 15 to 18. The rest of the code is written against the
 * newest spelling, which this header supplies for older servers.
 */
#ifndef CQRS_COMPAT_H
#define CQRS_COMPAT_H

#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/acl.h"

#if PG_VERSION_NUM < 150000
#error "cqrs_views needs PostgreSQL 15 or later"
#endif

/* 16 merged the per-catalog privilege checks into one function */
#if PG_VERSION_NUM >= 160000
#define cqrs_compat_proc_aclcheck(oid, role, mode) \
	object_aclcheck(ProcedureRelationId, oid, role, mode)
#define cqrs_compat_namespace_aclcheck(oid, role, mode) \
	object_aclcheck(NamespaceRelationId, oid, role, mode)
#define cqrs_compat_class_ownercheck(oid, role) \
	object_ownercheck(RelationRelationId, oid, role)
#else
#define cqrs_compat_proc_aclcheck(oid, role, mode) \
	pg_proc_aclcheck(oid, role, mode)
#define cqrs_compat_namespace_aclcheck(oid, role, mode) \
	pg_namespace_aclcheck(oid, role, mode)
#define cqrs_compat_class_ownercheck(oid, role) \
	pg_class_ownercheck(oid, role)
#endif

/* 16 gave it the parent trigger, and whether to recurse to partitions */
#if PG_VERSION_NUM >= 160000
#define cqrs_compat_enable_trigger(rel, name, fires_when, lockmode) \
	EnableDisableTrigger(rel, name, InvalidOid, fires_when, false, false, lockmode)
#else
#define cqrs_compat_enable_trigger(rel, name, fires_when, lockmode) \
	EnableDisableTrigger(rel, name, fires_when, false, lockmode)
#endif

/* 17 added the "or stronger" argument; its predecessor came with 15.9 and 16.5 only */
#if PG_VERSION_NUM >= 170000
#define cqrs_compat_lock_held(tag, mode) LockHeldByMe(tag, mode, false)
#else
#define cqrs_compat_lock_held(tag, mode) LockHeldByMe(tag, mode)
#endif

/* what datconnlimit is after a DROP DATABASE that was interrupted; 15.4 gave it a name */
#define CQRS_COMPAT_INVALID_DATABASE (-2)

/* 17 made the process number a global */
#if PG_VERSION_NUM >= 170000
#define cqrs_compat_my_proc_number() ((int) MyProcNumber)
#else
#define cqrs_compat_my_proc_number() (MyProc->pgprocno)
#endif

/* 17 speaks of process numbers; a prepared transaction has none */
#if PG_VERSION_NUM >= 170000
#define cqrs_compat_vxid_has_backend(vxid) ((vxid).procNumber != INVALID_PROC_NUMBER)
#else
#define cqrs_compat_vxid_has_backend(vxid) ((vxid).backendId != InvalidBackendId)
#endif

/* 17 added a timeout of whole transactions, which holds in background workers, too */
#if PG_VERSION_NUM >= 170000
#define CQRS_COMPAT_TIMEOUTS_OFF {"transaction_timeout", "0"},
#else
#define CQRS_COMPAT_TIMEOUTS_OFF
#endif

/* 18 says it before the declaration */
#ifndef pg_noreturn
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 18 speaks of comparisons where strategies of B-trees stood */
#if PG_VERSION_NUM < 180000
#include "access/stratnum.h"
#define CompareType int16
#define COMPARE_LT BTLessStrategyNumber
#endif

/* 16 adds and subtracts in a time zone; before, no function has these OIDs */
#if PG_VERSION_NUM < 160000
#define F_DATE_ADD_TIMESTAMPTZ_INTERVAL_TEXT 6222
#define F_DATE_SUBTRACT_TIMESTAMPTZ_INTERVAL_TEXT 6273
#endif

/* 17 has SQL/JSON's functions that query */
#if PG_VERSION_NUM >= 170000
#define cqrs_compat_is_json_query(node) IsA(node, JsonExpr)
#else
#define cqrs_compat_is_json_query(node) false
#endif

/* 18 no longer asks whether it is the only run */
#if PG_VERSION_NUM >= 180000
#define cqrs_compat_executor_run(desc) ExecutorRun(desc, ForwardScanDirection, 0)
#else
#define cqrs_compat_executor_run(desc) ExecutorRun(desc, ForwardScanDirection, 0, true)
#endif

/* 16 took what is to be checked out of the range table; 18 wants to know what is not pruned */
#if PG_VERSION_NUM >= 180000
#define cqrs_compat_init_range_table(estate, plan) \
	ExecInitRangeTable(estate, (plan)->rtable, (plan)->permInfos, bms_copy((plan)->unprunableRelids))
#elif PG_VERSION_NUM >= 160000
#define cqrs_compat_init_range_table(estate, plan) \
	ExecInitRangeTable(estate, (plan)->rtable, (plan)->permInfos)
#else
#define cqrs_compat_init_range_table(estate, plan) ExecInitRangeTable(estate, (plan)->rtable)
#endif

/* 16 has that apart, too */
#if PG_VERSION_NUM >= 160000
#define cqrs_compat_check_permissions(plan) \
	ExecCheckPermissions((plan)->rtable, (plan)->permInfos, true)
#else
#define cqrs_compat_check_permissions(plan) ExecCheckRTPerms((plan)->rtable, true)
#endif

/* 16 tells indexes that summarize apart */
#if PG_VERSION_NUM >= 160000
#define cqrs_compat_insert_index_tuples(result, slot, estate, which) \
	ExecInsertIndexTuples(result, slot, estate, true, false, NULL, NIL, (which) == TU_Summarizing)
#else
#define TU_UpdateIndexes bool
#define TU_None false
#define cqrs_compat_insert_index_tuples(result, slot, estate, which) \
	ExecInsertIndexTuples(result, slot, estate, true, false, NULL, NIL)
#endif

/* 18 counts what a scan does for EXPLAIN */
#if PG_VERSION_NUM >= 180000
#define cqrs_compat_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, NULL, nkeys, 0)
#else
#define cqrs_compat_index_beginscan(rel, index, snapshot, nkeys) \
	index_beginscan(rel, index, snapshot, nkeys, 0)
#endif

/* 18 has generated columns that are not stored; NOT NULL computes them, too */
#if PG_VERSION_NUM >= 180000
#define cqrs_compat_has_generated(constr) \
	((constr)->has_generated_stored || (constr)->has_generated_virtual)
#else
#define cqrs_compat_has_generated(constr) ((constr)->has_generated_stored)
#endif

/* and they have to be put in by whoever evaluates an expression over a stored row */
#if PG_VERSION_NUM >= 180000
#include "rewrite/rewriteHandler.h"
#define cqrs_compat_expand_generated(node, rel, varno) \
	expand_generated_columns_in_expr(node, rel, varno)
#else
#define cqrs_compat_expand_generated(node, rel, varno) (node)
#endif

/*
 * 18 has the grouping expressions in a range table entry of their own, and in the
 * target list only references, which don't know where in the text they are
 */
#if PG_VERSION_NUM >= 180000
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parsetree.h"

static inline void
cqrs_compat_flatten_group(Query *query)
{
	ListCell   *lc;

	foreach(lc, query->targetList)
	{
		Var		   *var = (Var *) lfirst_node(TargetEntry, lc)->expr;
		RangeTblEntry *rte = IsA(var, Var) ? rt_fetch(var->varno, query->rtable) : NULL;

		if (rte != NULL && rte->rtekind == RTE_GROUP && var->location < 0)
			var->location = exprLocation(list_nth(rte->groupexprs, var->varattno - 1));
	}
	query->targetList = (List *) flatten_group_exprs(NULL, query, (Node *) query->targetList);
}
#else
#define cqrs_compat_flatten_group(query) ((void) (query))
#endif

#endif							/* CQRS_COMPAT_H */
