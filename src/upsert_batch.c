/*
 * upsert_batch.c
 *		Run a statement that merges many rows: their making by the executor, and the
 *		merging by upsert.c.
 *
 * INSERT .. SELECT .. ON CONFLICT DO UPDATE is a plan of two parts. The lower one makes
 * the rows that are proposed, which the executor is given as a query of its own. The
 * upper one, ModifyTable, finds for each the row that is there, locks it, and updates it,
 * which for one that is there already is more work than need be: see upsert.c. What that
 * does not merge, as rows that are not there yet, is left for a statement that takes rows
 * as they are, and is run next. No two rows that are proposed are of the same key, so it
 * does not matter which of them are merged first.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#include "upsert.h"
#include "upsert_batch.h"

/* rows that are looked for before it can be told that most are not there */
#define MIN_TRIED 64

/* a statement at work */
typedef struct Merging
{
	CqrsUpsert *upsert;
	CqrsRowFn	row_fn;
	void	   *arg;
	CqrsUpsertLeft *left;
	int64		ntried;
} Merging;

static bool table_is_plain(Oid table);
static void run_source(const PlannedStmt *stmt, const char *sql, ParamListInfo params,
					   QueryEnvironment *env, Merging *merging);
static bool merge_row(TupleTableSlot *slot, void *arg);

/*
 * Run a statement that writes to a table, which is locked, as cqrs_query_run_on does. What
 * it returns of rows that are merged goes to row_fn; the rows that are left, in the current
 * memory context, are to be merged otherwise. Returns false, with nothing done, where the
 * statement or the table is not of the kind.
 */
bool
cqrs_upsert_batch_run(CqrsQuery *query, Oid table, const CqrsRows *rows, const Datum *args,
					  const char *nulls, CqrsRowFn row_fn, void *arg, CqrsUpsertLeft *left)
{
	ParamListInfo params = cqrs_query_params(query, args, nulls);
	QueryEnvironment *env;
	CachedPlan *plan;
	PlannedStmt *stmt;
	bool		done = false;
	Merging		merging = {.row_fn = row_fn,.arg = arg,.left = left};
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = cqrs_query_error_callback,
		.arg = query
	};

	if (cqrs_upsert_is_barred() || !table_is_plain(table))
		return false;
	error_context_stack = &callback;
	plan = cqrs_query_plan(query, rows, params, &env);
	stmt = linitial_node(PlannedStmt, plan->stmt_list);
	if (list_length(plan->stmt_list) == 1)
		merging.upsert = cqrs_upsert_begin(stmt, params);
	if (merging.upsert != NULL)
	{
		left->store = tuplestore_begin_heap(false, false, work_mem);
		left->nrows = 0;
		run_source(stmt, query->sql, params, env, &merging);
		cqrs_upsert_end(merging.upsert);
		done = true;
	}
	ReleaseCachedPlan(plan, CurrentResourceOwner);
	error_context_stack = callback.previous;
	return done;
}

static bool
table_is_plain(Oid table)
{
	Relation	rel = table_open(table, NoLock);
	bool		result = cqrs_upsert_is_plain_table(rel);

	table_close(rel, NoLock);
	return result;
}

/*
 * Have the executor make the statement's rows, and merge each. The rights to the table are
 * looked at here: the source has the whole statement's list of tables.
 */
static void
run_source(const PlannedStmt *stmt, const char *sql, ParamListInfo params, QueryEnvironment *env,
		   Merging *merging)
{
	PlannedStmt source = *stmt;

	source.commandType = CMD_SELECT;
	source.hasReturning = false;
	source.planTree = outerPlan(stmt->planTree);
	source.resultRelations = NIL;

	PushActiveSnapshot(GetTransactionSnapshot());
	CommandCounterIncrement();
	UpdateActiveSnapshotCommandId();
	cqrs_query_execute(&source, sql, params, env, merge_row, merging);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

/* Merge a row, or leave it: without a try where most of them were in vain. */
static bool
merge_row(TupleTableSlot *slot, void *arg)
{
	Merging    *merging = (Merging *) arg;
	CqrsUpsertLeft *left = merging->left;

	if (merging->ntried < MIN_TRIED || left->nrows * 2 <= merging->ntried)
	{
		merging->ntried++;
		if (cqrs_upsert_merge(merging->upsert, slot, merging->row_fn, merging->arg))
			return true;
	}
	tuplestore_puttupleslot(left->store, slot);
	left->nrows++;
	return true;
}
