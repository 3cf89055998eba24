/*
 * steady.c
 *		Run a kept plan as it is, under whatever settings, where none can matter.
 *
 * An owner's code runs under the settings that it was registered with. Putting
 * them in force and back, for a statement that changes one row, costs an eighth
 * of what the statement does. But most such statements are steady: whatever they
 * call is PostgreSQL's own and immutable, and their tables call nothing else when
 * they are written to. So they mean the same under all settings, but for those
 * that settings.c gives fixed values.
 *
 * It is the plan that is steady, not the text: plancache would look up its names
 * again where the search_path is another, and might find a publisher's operators.
 * So the plan is run past plancache, and only as long as that holds it for valid.
 * What makes a statement steady are definitions that a change of makes the plan
 * invalid, so that is judged once for a plan: after its first run, when the tables
 * are locked, and the settings in force.
 *
 * A plan that merges one row is not even given to the executor: see upsert.c.
 *
 * Whoever overlooks something here lets publishers choose what an owner's names
 * mean, with the owner's rights. So what is not known to be steady is not.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_index.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "storage/lmgr.h"
#include "storage/sinval.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "steady.h"
#include "upsert.h"

static void steady_lock(const PlannedStmt *plan);
static CachedPlanSource *steady_source(const CqrsQuery *query);
static PlannedStmt *steady_plan(const CachedPlanSource *source);
static bool steady_is_kept(const CqrsQuery *query, const CachedPlanSource *source);
static bool node_is_unsteady(Node *node, void *context);
static bool query_is_unsteady(Query *query);
static bool conflict_is_unsteady(OnConflictExpr *conflict);
static bool function_is_unsteady(Oid function, void *context);
static bool function_is_internal(Oid function);
static bool type_is_unsteady(Oid type);
static bool table_is_unsteady(Oid relid);
static bool index_is_unsteady(Oid indexid);
static Node *index_expression(Relation index, AttrNumber column);

/*
 * Is there a plan that was found steady, and that is still valid as far as this
 * process has heard? Takes no locks: cqrs_steady_run looks again.
 */
bool
cqrs_steady_expected(const CqrsQuery *query)
{
	const CachedPlanSource *source = steady_source(query);

	return source != NULL && query->steady && query->judged == source->generation &&
		steady_is_kept(query, source);
}

/*
 * Run a statement whose plan is expected to be steady, as the user that it was made
 * as. Arguments as for cqrs_query_run; hooks and error messages see what they see
 * there. Returns false where the plan may not be valid any more, with the statement's
 * tables locked and nothing done: then it is to be run under its settings.
 */
bool
cqrs_steady_run(CqrsQuery *query, const Datum *args, const char *nulls, CqrsRowFn row_fn,
				void *arg)
{
	CachedPlanSource *source = steady_source(query);
	int			judged = query->judged;
	uint64		heard = SharedInvalidMessageCounter;
	ParamListInfo params;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = cqrs_query_error_callback,
		.arg = query
	};

	steady_lock(steady_plan(source));

	/*
	 * To have the locks is to have heard of all that was done before. Who has heard
	 * anything must not rely on what was judged: rights are part of no plan.
	 */
	if (SharedInvalidMessageCounter != heard || !steady_is_kept(query, source))
		return false;

	error_context_stack = &callback;
	PushActiveSnapshot(GetTransactionSnapshot());
	CommandCounterIncrement();
	UpdateActiveSnapshotCommandId();
	params = cqrs_query_params(query, args, nulls);

	/* what an error ends is judged anew, and made ready anew */
	cqrs_steady_doubt(query);
	if (query->upsert == NULL || !cqrs_upsert_run(query->upsert, params, row_fn, arg))
		cqrs_query_execute(steady_plan(source), source->query_string, params, NULL, row_fn, arg);
	query->judged = judged;
	PopActiveSnapshot();
	CommandCounterIncrement();
	error_context_stack = callback.previous;
	return true;
}

/* Lock the plan's tables. What ON CONFLICT calls excluded is in the list as its table once more. */
static void
steady_lock(const PlannedStmt *plan)
{
	Oid			latest = InvalidOid;
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind != RTE_RELATION || rte->relid == latest)
			continue;
		LockRelationOid(rte->relid, rte->rellockmode);
		latest = rte->relid;
	}
}

/*
 * Find out whether the plan that a statement was just run by is steady, unless
 * that is known. The run has locked the tables; settings and user are still what it
 * had.
 */
void
cqrs_steady_judge(CqrsQuery *query)
{
	const CachedPlanSource *source = steady_source(query);

	if (source == NULL || query->judged == source->generation || !steady_is_kept(query, source))
		return;
	query->steady = !source->dependsOnRLS &&
		!node_is_unsteady((Node *) source->query_list, NULL);
	query->judged = source->generation;

	/* what was made ready for the plan before goes with it */
	query->upsert = NULL;
	if (query->kept != NULL)
		MemoryContextReset(query->kept);
	if (!query->steady)
		return;
	if (query->kept == NULL)
		query->kept = AllocSetContextCreate(CacheMemoryContext, "cqrs_views upsert",
											ALLOCSET_SMALL_SIZES);
	query->upsert = cqrs_upsert_prepare(steady_plan(source), query->kept);
}

/* Have a statement run under its settings once more, and judged then. */
void
cqrs_steady_doubt(CqrsQuery *query)
{
	query->judged = 0;
}

/* Does an analysed expression mean the same under all settings, but for the fixed ones? */
bool
cqrs_steady_is_expression(Node *expression)
{
	return !node_is_unsteady(expression, NULL);
}

static CachedPlanSource *
steady_source(const CqrsQuery *query)
{
	return query->plan == NULL ? NULL : linitial(SPI_plan_get_plan_sources(query->plan));
}

static PlannedStmt *
steady_plan(const CachedPlanSource *source)
{
	return linitial_node(PlannedStmt, source->gplan->stmt_list);
}

/* Would plancache take the plan that is there, for what it knows and but for the search_path? */
static bool
steady_is_kept(const CqrsQuery *query, const CachedPlanSource *source)
{
	const CachedPlan *plan = source->gplan;

	return source->is_valid && plan != NULL && plan->is_valid &&
		source->generation == query->planned && plan->generation == source->generation &&
		!TransactionIdIsValid(plan->saved_xmin) &&
		(!plan->dependsOnRole || plan->planRoleId == GetUserId()) &&
		list_length(plan->stmt_list) == 1;
}

/* Can a setting matter to a part of an analysed statement? What is not known here can. */
static bool
node_is_unsteady(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_Query:
			return query_is_unsteady((Query *) node);
		case T_OnConflictExpr:
			return conflict_is_unsteady((OnConflictExpr *) node);
		case T_List:
		case T_TargetEntry:
		case T_FromExpr:
		case T_JoinExpr:
		case T_RangeTblRef:
		case T_InferenceElem:
		case T_CommonTableExpr:
		case T_SortGroupClause:
		case T_SubLink:
		case T_CaseWhen:
			break;
		case T_RowExpr:
			/* it is of its columns' types */
			if (((RowExpr *) node)->row_typeid != RECORDOID)
				return true;
			break;
		case T_Var:
		case T_Const:
		case T_Param:
		case T_FuncExpr:
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CollateExpr:
		case T_CoerceViaIO:
		case T_CaseExpr:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_NullTest:
		case T_BooleanTest:
		case T_Aggref:
			if (type_is_unsteady(exprType(node)))
				return true;
			break;
		default:
			return true;
	}
	return check_functions_in_node(node, function_is_unsteady, NULL) ||
		expression_tree_walker(node, node_is_unsteady, NULL);
}

static bool
query_is_unsteady(Query *query)
{
	ListCell   *lc;

	if (query->commandType == CMD_UTILITY)
		return true;
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && table_is_unsteady(rte->relid))
			return true;
	}
	return query_tree_walker(query, node_is_unsteady, NULL, 0);
}

/* All but a list of what the proposed row has: as a whole, too, which nobody asks for. */
static bool
conflict_is_unsteady(OnConflictExpr *conflict)
{
	return node_is_unsteady((Node *) conflict->arbiterElems, NULL) ||
		node_is_unsteady(conflict->arbiterWhere, NULL) ||
		node_is_unsteady((Node *) conflict->onConflictSet, NULL) ||
		node_is_unsteady(conflict->onConflictWhere, NULL);
}

/* For check_functions_in_node. */
/*
 * Is a function not PostgreSQL's own, or not immutable under whatever settings, but for
 * those that settings.c gives fixed values? Some that are called so do depend on
 * another: on the time zone, on abbreviations of such, on the search_path in which a
 * conversion is looked for.
 */
static bool
function_is_unsteady(Oid function, void *context)
{
	switch (function)
	{
		case F_AGE_TIMESTAMPTZ_TIMESTAMPTZ:
		case F_CONVERT:
		case F_CONVERT_FROM:
		case F_CONVERT_TO:
		case F_DATE_ADD_TIMESTAMPTZ_INTERVAL_TEXT:
		case F_DATE_SUBTRACT_TIMESTAMPTZ_INTERVAL_TEXT:
		case F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT:
		case F_TIMEZONE_TEXT_TIMESTAMP:
		case F_TIMEZONE_TEXT_TIMESTAMPTZ:
			return true;
		default:
			return function >= FirstGenbkiObjectId || !function_is_internal(function) ||
				func_volatile(function) != PROVOLATILE_IMMUTABLE;
	}
}

/* Is it written in C? Some of PostgreSQL's own are in SQL, and keep what they have begun. */
static bool
function_is_internal(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	result = ((Form_pg_proc) GETSTRUCT(tuple))->prolang == INTERNALlanguageId;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * May a setting matter to immutable functions of PostgreSQL's that are given values
 * of the type, but for the above? Not where it is one of the types that nearly all
 * columns have. Of others, functions call code of users: comparisons of rows and of
 * their types, dictionaries of text search, partitions by an OID; or they read names
 * of months, as a jsonpath does.
 */
static bool
type_is_unsteady(Oid type)
{
	Oid			element = type < FirstGenbkiObjectId ? get_element_type(type) : InvalidOid;

	switch (OidIsValid(element) ? element : type)
	{
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case CHAROID:
		case DATEOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case INTERVALOID:
		case JSONBOID:
		case JSONOID:
		case NAMEOID:
		case NUMERICOID:
		case TEXTOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case UUIDOID:
		case VARCHAROID:
			return false;
		default:
			return true;
	}
}

/*
 * May something run when the table is written to that a setting matters to? Of
 * triggers, our write guard does not. Columns that a statement does not name count,
 * too: NULL is put into them, and the constraints of a domain look at it.
 */
static bool
table_is_unsteady(Oid relid)
{
	Relation	rel = table_open(relid, NoLock);
	TupleDesc	desc = RelationGetDescr(rel);
	bool		result = !cqrs_upsert_is_plain_table(rel);
	ListCell   *lc;

	for (int i = 0; i < desc->natts; i++)
		result |= !TupleDescAttr(desc, i)->attisdropped &&
			type_is_unsteady(TupleDescAttr(desc, i)->atttypid);
	foreach(lc, RelationGetIndexList(rel))
		result |= index_is_unsteady(lfirst_oid(lc));
	table_close(rel, NoLock);
	return result;
}

/*
 * The same for an index. PostgreSQL's own families of operators have PostgreSQL's own
 * functions only, for its own types.
 */
static bool
index_is_unsteady(Oid indexid)
{
	Relation	index = index_open(indexid, AccessShareLock);
	bool		result = index->rd_rel->relam >= FirstGenbkiObjectId ||
		node_is_unsteady(index_expression(index, Anum_pg_index_indexprs), NULL) ||
		node_is_unsteady(index_expression(index, Anum_pg_index_indpred), NULL);

	for (int i = 0; i < IndexRelationGetNumberOfKeyAttributes(index); i++)
		result |= index->rd_opfamily[i] >= FirstGenbkiObjectId ||
			type_is_unsteady(TupleDescAttr(RelationGetDescr(index), i)->atttypid);
	index_close(index, AccessShareLock);
	return result;
}

/*
 * Expressions of an index as they were declared, or NULL. In the relcache, functions
 * in SQL are inlined already; which others these call is a matter of the search_path
 * each time that an entry is made.
 */
static Node *
index_expression(Relation index, AttrNumber column)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(INDEXRELID, index->rd_indextuple, column, &isnull);

	return isnull ? NULL : stringToNode(TextDatumGetCString(value));
}
