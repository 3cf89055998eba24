/*
 * query.c
 *		Run a statement of ours, or code of an owner's, as the right role: the only
 *		place that switches user.
 *
 * Statements of ours run as the owner of the extension's tables, whoever calls,
 * and with a search_path of pg_catalog alone, so that no operator or function
 * of a user's can get into them; they name everything else with its schema.
 * Plans are kept for the life of the process: plancache follows changes of the
 * tables by itself, also DROP and CREATE EXTENSION.
 *
 * If an error is thrown in between, the abort of the (sub)transaction puts user
 * and settings back; a leave function is for the good path only.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

#include "catalog.h"
#include "compat.h"
#include "query.h"
#include "session.h"
#include "settings.h"

#define OUR_SEARCH_PATH "pg_catalog, pg_temp"

/* hands each row of a statement to a CqrsRowFn */
typedef struct Receiver
{
	DestReceiver pub;
	CqrsRowFn	row_fn;
	void	   *arg;
} Receiver;

static void query_prepare(CqrsQuery *query);
static CachedPlan *query_plan(CqrsQuery *query, const CqrsRows *rows, ParamListInfo params,
							  QueryEnvironment **env);
static int	query_settings(const CqrsQuery *query, bool shape);
static bool query_must_shape(const CqrsQuery *query);
static void query_note_plan(CqrsQuery *query, bool shaped);
static EphemeralNamedRelation query_relation(const CqrsRows *rows);
static void query_register(EphemeralNamedRelation relation);
static void query_set_off(const char *const *names);
static void query_receiver(Receiver *receiver, CqrsRowFn row_fn, void *arg);
static void query_become(CqrsUserContext *context, Oid userid);
static bool row_receive(TupleTableSlot *slot, DestReceiver *self);
static void row_startup(DestReceiver *self, int operation, TupleDesc typeinfo);
static void row_shutdown(DestReceiver *self);

/*
 * Run one statement of ours. args and nulls are as for SPI_execute_plan; nulls
 * may be NULL. row_fn may be NULL too. Returns the number of rows that the
 * statement processed, which is that of the row_fn calls where there are any.
 */
uint64
cqrs_query_run(CqrsQuery *query, Datum *args, const char *nulls,
			   CqrsRowFn row_fn, void *arg)
{
	return cqrs_query_run_on(query, NULL, args, nulls, row_fn, arg);
}

/*
 * The same for a statement that reads rows by their name. Its first plan is for
 * as many as there are then, and stays: keep a CqrsQuery for each
 * cqrs_query_size_class. The rows' columns are those of the relation at the
 * time, dropped ones included.
 */
uint64
cqrs_query_run_on(CqrsQuery *query, const CqrsRows *rows, Datum *args,
				  const char *nulls, CqrsRowFn row_fn, void *arg)
{
	Receiver receiver;
	SPIExecuteOptions options = {0};
	Oid			userid;
	int			sec_context;
	bool		shape = query_must_shape(query);
	int			nest_level;
	uint64		processed;
	int			rc;

	GetUserIdAndSecContext(&userid, &sec_context);
	if (!(query->flags & (CQRS_QUERY_AS_CALLER | CQRS_QUERY_IN_PLACE)))
		SetUserIdAndSecContext(cqrs_catalog_owner(),
							   sec_context | SECURITY_LOCAL_USERID_CHANGE);
	nest_level = query_settings(query, shape);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	if (rows != NULL)
		query_register(query_relation(rows));
	if (query->plan == NULL)
		query_prepare(query);

	query_receiver(&receiver, row_fn, arg);
	options.params = cqrs_query_params(query, args, nulls);
	options.read_only = (query->flags & (CQRS_QUERY_ACTIVE | CQRS_QUERY_LATEST)) != 0;
	options.dest = row_fn ? (DestReceiver *) &receiver : None_Receiver;

	if (query->flags & CQRS_QUERY_LATEST)
		PushActiveSnapshot(GetLatestSnapshot());
	rc = SPI_execute_plan_extended(query->plan, &options);
	if (rc < 0)
		elog(ERROR, "SPI_execute_plan_extended failed: %s", SPI_result_code_string(rc));
	processed = SPI_processed;
	if (query->flags & CQRS_QUERY_LATEST)
		PopActiveSnapshot();

	SPI_finish();
	if (nest_level > 0)
		AtEOXact_GUC(true, nest_level);
	SetUserIdAndSecContext(userid, sec_context);
	query_note_plan(query, shape);
	return processed;
}

/*
 * Run a statement of ours that sets off triggers of others: with our owner's rights,
 * but as the current user, and under the settings of now. PostgreSQL looks at the
 * rights to tables when a statement starts, and calls triggers when it runs. So it is
 * given to the executor by ourselves, not by SPI, which does both at once. The
 * statement is a write that returns nothing.
 */
void
cqrs_query_run_with_rights(CqrsQuery *query, Datum *args, const char *nulls)
{
	QueryEnvironment *env;
	CachedPlan *plan;
	QueryDesc  *desc;
	Oid			userid;
	int			sec_context;
	int			nest_level;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = cqrs_query_error_callback,
		.arg = query
	};

	Assert(query->flags == CQRS_QUERY_WRITE);
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(cqrs_catalog_owner(), sec_context | SECURITY_LOCAL_USERID_CHANGE);
	nest_level = query_settings(query, false);
	plan = query_plan(query, NULL, NULL, &env);

	error_context_stack = &callback;
	PushActiveSnapshot(GetTransactionSnapshot());
	CommandCounterIncrement();
	UpdateActiveSnapshotCommandId();
	desc = CreateQueryDesc(linitial_node(PlannedStmt, plan->stmt_list), query->sql,
						   GetActiveSnapshot(), InvalidSnapshot, None_Receiver,
						   cqrs_query_params(query, args, nulls), NULL, 0);
	ExecutorStart(desc, 0);

	if (nest_level > 0)
		AtEOXact_GUC(true, nest_level);
	SetUserIdAndSecContext(userid, sec_context);
	cqrs_compat_executor_run(desc);
	ExecutorFinish(desc);
	ExecutorEnd(desc);

	FreeQueryDesc(desc);
	PopActiveSnapshot();
	CommandCounterIncrement();
	ReleaseCachedPlan(plan, CurrentResourceOwner);
	error_context_stack = callback.previous;
}

/*
 * The plan of a statement that is to be run as the current user, under the settings of
 * now; to be released. With rows, the executor needs what *env is set to, to find them.
 */
CachedPlan *
cqrs_query_plan(CqrsQuery *query, const CqrsRows *rows, ParamListInfo params,
				QueryEnvironment **env)
{
	bool		shape = query_must_shape(query);
	int			nest_level = query_settings(query, shape);
	CachedPlan *plan = query_plan(query, rows, params, env);

	Assert(query->flags & CQRS_QUERY_IN_PLACE);
	if (nest_level > 0)
		AtEOXact_GUC(true, nest_level);
	query_note_plan(query, shape);
	return plan;
}

/*
 * Give a plan to the executor, under the active snapshot, and each row that comes of it to
 * row_fn, which may be NULL.
 */
void
cqrs_query_execute(PlannedStmt *plan, const char *sql, ParamListInfo params,
				   QueryEnvironment *env, CqrsRowFn row_fn, void *arg)
{
	Receiver receiver;
	QueryDesc  *desc;

	query_receiver(&receiver, row_fn, arg);
	desc = CreateQueryDesc(plan, sql, GetActiveSnapshot(), InvalidSnapshot,
						   row_fn ? (DestReceiver *) &receiver : None_Receiver, params, env, 0);
	ExecutorStart(desc, 0);
	cqrs_compat_executor_run(desc);
	ExecutorFinish(desc);
	ExecutorEnd(desc);
	FreeQueryDesc(desc);
}

/* For error_context_stack: which statement it was, as SPI says it. arg is a CqrsQuery. */
void
cqrs_query_error_callback(void *arg)
{
	errcontext("SQL statement \"%s\"", ((CqrsQuery *) arg)->sql);
}

/*
 * Set what a statement is run under, and planned, if it is to be shaped. Returns
 * the nest level of the settings; 0 where there are none.
 */
static int
query_settings(const CqrsQuery *query, bool shape)
{
	static const char *const indexed[] = {
		"enable_seqscan", "enable_bitmapscan", "enable_sort", "jit", NULL
	};
	static const char *const by_key[] = {
		"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit", NULL
	};
	static const char *const no_jit[] = {
		"jit", NULL
	};
	static const char *const hashed[] = {
		"enable_sort", NULL
	};
	bool		plans = shape || (query->flags & CQRS_QUERY_CUSTOM);
	int			nest_level = 0;

	if (shape || (plans && (query->flags & (CQRS_QUERY_NO_JIT | CQRS_QUERY_HASHED))) ||
		(!(query->flags & CQRS_QUERY_IN_PLACE) &&
		 strcmp(namespace_search_path, OUR_SEARCH_PATH) != 0))
		nest_level = NewGUCNestLevel();
	if (!(query->flags & CQRS_QUERY_IN_PLACE))
		cqrs_settings_set("search_path", OUR_SEARCH_PATH);

	if (shape && (query->flags & CQRS_QUERY_INDEXED))
		query_set_off(indexed);
	if (shape && (query->flags & CQRS_QUERY_BY_KEY))
		query_set_off(by_key);
	if (plans && (query->flags & CQRS_QUERY_NO_JIT))
		query_set_off(no_jit);
	if (plans && (query->flags & CQRS_QUERY_HASHED))
		query_set_off(hashed);
	return nest_level;
}

/* The arguments of a statement; NULL where it has none. */
ParamListInfo
cqrs_query_params(const CqrsQuery *query, const Datum *args, const char *nulls)
{
	ParamListInfo params = NULL;

	if (query->nargs > 0)
	{
		params = makeParamList(query->nargs);
		for (int i = 0; i < query->nargs; i++)
		{
			params->params[i].value = args[i];
			params->params[i].isnull = nulls != NULL && nulls[i] == 'n';
			params->params[i].pflags = PARAM_FLAG_CONST;
			params->params[i].ptype = query->argtypes[i];
		}
	}
	return params;
}

/* Make something to receive a statement's rows; row_fn is not NULL by then. */
static void
query_receiver(Receiver *receiver, CqrsRowFn row_fn, void *arg)
{
	*receiver = (Receiver)
	{
		.pub = {
			.receiveSlot = row_receive,
			.rStartup = row_startup,
			.rShutdown = row_shutdown,
			.rDestroy = row_shutdown,
			.mydest = DestNone
		},
		.row_fn = row_fn,
		.arg = arg
	};
}

/* A CqrsRowFn that keeps the first column, a bigint or xid8, in the int64 at arg. */
bool
cqrs_query_keep_bigint(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(int64 *) arg = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	return true;
}

/* Free the plan of a statement that is not going to be run again. */
void
cqrs_query_forget(CqrsQuery *query)
{
	if (query->plan != NULL)
		SPI_freeplan(query->plan);
	query->plan = NULL;

	/* the next plan counts its generations anew */
	query->planned = 0;
	query->judged = 0;
	if (query->kept != NULL)
		MemoryContextDelete(query->kept);
	query->kept = NULL;
	query->upsert = NULL;
}

/* The order of magnitude: 0 for one row, 1 for up to 10, 2 for up to 100, … */
int
cqrs_query_size_class(int64 nrows)
{
	int			class = 0;

	for (int64 bound = 1; bound < nrows && class < CQRS_QUERY_SIZE_CLASSES - 1; bound *= 10)
		class++;
	return class;
}

/*
 * Become the owner of a projection, to run a handler or anything else that the
 * owner supplied: with the settings that the projection was created under, and
 * in a security-restricted operation. That forbids SET ROLE, temporary tables,
 * WITH HOLD cursors and deferred triggers, each of which would let the owner's
 * code run later, as somebody else; session.c sees to what else would. Where
 * settings are NULL, the caller puts them in force before they can matter.
 */
void
cqrs_query_enter_user(CqrsUserContext *context, Oid userid, const CqrsSettings *settings)
{
	query_become(context, userid);
	cqrs_settings_put_fixed();
	if (settings != NULL)
		cqrs_settings_put(settings);
}

/*
 * Become the owner of the extension's tables, for DDL on them.
 */
void
cqrs_query_enter_owner(CqrsUserContext *context)
{
	query_become(context, cqrs_catalog_owner());
	cqrs_settings_set("search_path", OUR_SEARCH_PATH);
}

/*
 * Back to who we were; settings that the owner's code made are undone too.
 */
void
cqrs_query_leave_user(CqrsUserContext *context)
{
	cqrs_session_release();
	AtEOXact_GUC(false, context->nest_level);
	SetUserIdAndSecContext(context->userid, context->sec_context);
}

static void
query_prepare(CqrsQuery *query)
{
	int			options = 0;
	SPIPlanPtr	plan;

	if (query->flags & CQRS_QUERY_INDEXED)
		options = CURSOR_OPT_GENERIC_PLAN | CURSOR_OPT_FAST_PLAN;
	else if (query->flags & CQRS_QUERY_BY_KEY)
		options = CURSOR_OPT_GENERIC_PLAN;
	else if (query->flags & CQRS_QUERY_CUSTOM)
		options = CURSOR_OPT_CUSTOM_PLAN;
	plan = SPI_prepare_cursor(query->sql, query->nargs, query->argtypes, options);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed");
	query->plan = plan;
}

/*
 * The plan of a statement; to be released. As the user and under the settings that the
 * statement is to be planned for. *env is where it finds rows, or NULL.
 */
static CachedPlan *
query_plan(CqrsQuery *query, const CqrsRows *rows, ParamListInfo params, QueryEnvironment **env)
{
	EphemeralNamedRelation relation = rows != NULL ? query_relation(rows) : NULL;

	if (query->plan == NULL)
	{
		if (SPI_connect() != SPI_OK_CONNECT)
			elog(ERROR, "SPI_connect failed");
		if (relation != NULL)
			query_register(relation);
		query_prepare(query);
		SPI_finish();
	}
	*env = NULL;
	if (relation != NULL)
	{
		*env = create_queryEnv();
		register_ENR(*env, relation);
	}
	return GetCachedPlan(linitial(SPI_plan_get_plan_sources(query->plan)), params,
						 CurrentResourceOwner, *env);
}

/*
 * Is the statement one whose flags shape its plan, and may it be planned now?
 * To ask is much cheaper than to change settings at each run.
 */
static bool
query_must_shape(const CqrsQuery *query)
{
	CachedPlanSource *source;

	if (!(query->flags & (CQRS_QUERY_INDEXED | CQRS_QUERY_BY_KEY)))
		return false;
	if (query->plan == NULL)
		return true;
	source = linitial(SPI_plan_get_plan_sources(query->plan));
	return !source->is_valid || source->gplan == NULL || !source->gplan->is_valid ||
		source->generation != query->planned;
}

/*
 * Remember the plan that was made under our settings. One that plancache has made
 * without them, because something changed just as the statement began, goes.
 */
static void
query_note_plan(CqrsQuery *query, bool shaped)
{
	CachedPlanSource *source;

	if (!(query->flags & (CQRS_QUERY_INDEXED | CQRS_QUERY_BY_KEY)))
		return;
	source = linitial(SPI_plan_get_plan_sources(query->plan));
	if (shaped)
		query->planned = source->generation;
	else if (source->generation != query->planned)
		cqrs_query_forget(query);
}

/*
 * What a statement knows rows by. Who analyses the statement looks at the relation, and
 * counts on its being locked.
 */
static EphemeralNamedRelation
query_relation(const CqrsRows *rows)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	LockRelationOid(rows->relid, AccessShareLock);
	relation->md.name = unconstify(char *, rows->name);
	relation->md.reliddesc = rows->relid;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = rows->nrows;
	relation->reldata = rows->store;
	return relation;
}

/* Give the statement that runs next its rows. SPI forgets them when it finishes. */
static void
query_register(EphemeralNamedRelation relation)
{
	int			rc = SPI_register_relation(relation);

	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed: %s", SPI_result_code_string(rc));
}

/* Switch settings off until the end of the current nest level. */
static void
query_set_off(const char *const *names)
{
	for (; *names != NULL; names++)
		cqrs_settings_set(*names, "off");
}

static void
query_become(CqrsUserContext *context, Oid userid)
{
	GetUserIdAndSecContext(&context->userid, &context->sec_context);
	context->nest_level = NewGUCNestLevel();
	SetUserIdAndSecContext(userid, context->sec_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	cqrs_session_protect();
}

static bool
row_receive(TupleTableSlot *slot, DestReceiver *self)
{
	Receiver *receiver = (Receiver *) self;

	return receiver->row_fn(slot, receiver->arg);
}

static void
row_startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
row_shutdown(DestReceiver *self)
{
}
