/*
 * handler_batch.c
 *		The calling convention f() RETURNS trigger: once per batch, which is in
 *		the transition table "events".
 *
 * The function is called as PostgreSQL calls an AFTER INSERT FOR EACH STATEMENT
 * trigger, so that any procedural language can read the batch, on the table
 * cqrs.events, whose columns are those of cqrs.event and which is always empty.
 *
 * The first plan of a statement freezes the transition table's row estimate, and
 * a plan for one row is up to 70 times too slow for thousands. PL/pgSQL keeps
 * functions, and thus plans, per trigger OID; so the trigger's OID here stands
 * for the order of magnitude of the batch.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "pgstat.h"
#include "utils/lsyscache.h"
#include "utils/tuplestore.h"

#include "catalog.h"
#include "handler_batch.h"
#include "query.h"

#define TRANSITION_TABLE "events"

/* stands for the smallest batches; that low, it is no real trigger's */
#define FIRST_TRIGGER_OID 1

static bool handler_batch_matches(Oid function);
static int	handler_batch_argtypes(const CqrsProjection *projection,
								   Oid argtypes[CQRS_HANDLER_MAX_ARGS]);
static void handler_batch_apply(CqrsHandlerCall *call);

const CqrsHandlerKind cqrs_handler_batch_kind = {
	.name = "batch",
	.matches = handler_batch_matches,
	.argtypes = handler_batch_argtypes,
	.apply = handler_batch_apply
};

static bool
handler_batch_matches(Oid function)
{
	Oid		   *argtypes;
	int			nargs;
	Oid			rettype = get_func_signature(function, &argtypes, &nargs);

	return nargs == 0 && rettype == TRIGGEROID;
}

static int
handler_batch_argtypes(const CqrsProjection *projection, Oid argtypes[CQRS_HANDLER_MAX_ARGS])
{
	return 0;
}

static void
handler_batch_apply(CqrsHandlerCall *call)
{
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	flinfo;
	PgStat_FunctionCallUsage usage;
	Trigger		trigger = {0};
	TriggerData trigdata = {.type = T_TriggerData};
	Tuplestorestate *store;
	MemoryContext old;

	old = MemoryContextSwitchTo(call->batch->context);
	store = cqrs_event_store(call->events, call->nevents);
	MemoryContextSwitchTo(old);

	trigger.tgoid = FIRST_TRIGGER_OID + cqrs_query_size_class(call->nevents);
	trigger.tgname = pstrdup(NameStr(call->projection->name));
	trigger.tgfoid = call->function;
	trigger.tgtype = TRIGGER_TYPE_INSERT;
	trigger.tgenabled = TRIGGER_FIRES_ALWAYS;
	trigger.tgnewtable = TRANSITION_TABLE;

	trigdata.tg_event = TRIGGER_EVENT_INSERT | TRIGGER_EVENT_AFTER;
	trigdata.tg_relation = table_open(cqrs_catalog_relation("events", false), AccessShareLock);
	trigdata.tg_trigger = &trigger;
	trigdata.tg_newtable = store;

	fmgr_info(call->function, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 0, InvalidOid, (Node *) &trigdata, NULL);
	cqrs_handler_blame_events();
	pgstat_init_function_usage(fcinfo, &usage);
	FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);

	CommandCounterIncrement();
	table_close(trigdata.tg_relation, NoLock);
	tuplestore_end(store);
}
