/*
 * sql_guard.c
 *		Trigger functions: events are immutable, read tables are read-only, and
 *		changes of the registry are heard of.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "replication/logicalworker.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "guc.h"
#include "outbox.h"
#include "projection.h"
#include "read_table.h"
#include "sql_guard.h"

PG_FUNCTION_INFO_V1(cqrs_sql_guard_outbox);
PG_FUNCTION_INFO_V1(cqrs_sql_guard_read_table);
PG_FUNCTION_INFO_V1(cqrs_sql_registry_changed);

static TriggerData *trigger_data(FunctionCallInfo fcinfo);
static Datum trigger_row(TriggerData *trigdata);

/*
 * cqrs.guard_outbox() RETURNS trigger
 *
 * For each statement: refuses UPDATE, DELETE and TRUNCATE. For each row, in
 * replicas: refuses what a subscription applies.
 */
Datum
cqrs_sql_guard_outbox(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = trigger_data(fcinfo);

	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change events in cqrs.outbox"),
				 errdetail("Events are immutable: projections may have processed them."),
				 errhint("Publish another event that corrects it.")));

	/* what a trigger of a replicated table publishes is welcome: it is a level deeper */
	if (IsLogicalWorker() && DatumGetInt32(OidFunctionCall0(F_PG_TRIGGER_DEPTH)) <= 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot replicate into cqrs.outbox"),
				 errdetail("Positions and transaction ids of another database mean nothing in this one."),
				 errhint("Replicate into a table of your own, and insert its rows into cqrs.outbox.")));
	return trigger_row(trigdata);
}

/*
 * cqrs.guard_read_table() RETURNS trigger
 *
 * Refuses every write that is not the projection's own, unless the setting
 * cqrs_views.allow_writes is on.
 */
Datum
cqrs_sql_guard_read_table(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = trigger_data(fcinfo);
	Oid			relid = RelationGetRelid(trigdata->tg_relation);
	CqrsProjection *projection;

	if (cqrs_guc_allow_writes || cqrs_read_table_is_open(relid))
		return trigger_row(trigdata);

	projection = cqrs_projection_of_table(relid);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot write to read table \"%s\"",
					RelationGetRelationName(trigdata->tg_relation)),
			 projection == NULL ? 0 :
			 errdetail("Only projection \"%s\" maintains it.", NameStr(projection->name)),
			 projection == NULL ?
			 errhint("No projection maintains it any more: DROP TRIGGER %s ON %s;",
					 quote_identifier(trigdata->tg_trigger->tgname),
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(trigdata->tg_relation)),
												RelationGetRelationName(trigdata->tg_relation))) :
			 errhint("Publish an event. For a repair, a superuser can SET cqrs_views.allow_writes = on; and then CALL cqrs.rebuild_projection(%s);",
					 quote_literal_cstr(NameStr(projection->name)))));
}

/*
 * cqrs.registry_changed() RETURNS trigger
 *
 * After each statement on cqrs.registry: has all processes read it again, and
 * wakes the workers.
 */
Datum
cqrs_sql_registry_changed(PG_FUNCTION_ARGS)
{
	(void) trigger_data(fcinfo);
	cqrs_projection_changed();
	cqrs_outbox_wake_at_commit();
	PG_RETURN_POINTER(NULL);
}

static TriggerData *
trigger_data(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called as a trigger")));
	return (TriggerData *) fcinfo->context;
}

/* What a trigger returns to let things be. */
static Datum
trigger_row(TriggerData *trigdata)
{
	if (TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event))
		return PointerGetDatum(trigdata->tg_newtuple);
	return PointerGetDatum(trigdata->tg_trigtuple);
}
