/*
 * sql_guard.c
 *		Trigger functions: events are immutable, read tables are read-only and are
 *		not dropped, names are followed, and changes of the registry are heard of.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "attachment.h"
#include "catalog.h"
#include "follow.h"
#include "guc.h"
#include "outbox.h"
#include "projection.h"
#include "query.h"
#include "read_table.h"
#include "sql_guard.h"

/* a table of ours that a command dropped */
typedef struct DroppedTable
{
	Oid			relid;			/* InvalidOid where there is none */
	NameData	name;
} DroppedTable;

PG_FUNCTION_INFO_V1(cqrs_sql_guard_outbox);
PG_FUNCTION_INFO_V1(cqrs_sql_guard_read_table);
PG_FUNCTION_INFO_V1(cqrs_sql_guard_drop);
PG_FUNCTION_INFO_V1(cqrs_sql_guard_names);
PG_FUNCTION_INFO_V1(cqrs_sql_registry_changed);

static ArrayType *missing_read_tables(void);
static ArrayType *missing_attached_tables(void);
static DroppedTable dropped_table(ArrayType *missing, const char *trigger);
static bool keep_dropped(TupleTableSlot *slot, void *arg);
static void require_event_trigger(FunctionCallInfo fcinfo);
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
				 errhint("Replicate into a table of your own, and attach it: see cqrs.attach_outbox.")));
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
 * cqrs.guard_drop() RETURNS event_trigger
 *
 * After each command that dropped anything: refuses that it dropped a read table,
 * or an attached one, by CASCADE and DROP OWNED too, unless the setting
 * cqrs_views.allow_writes is on. A table without its trigger goes: its owner has
 * taken that off by hand, as pg_restore --clean does before it drops tables.
 * drop_projection has removed the projection before its tables.
 */
Datum
cqrs_sql_guard_drop(PG_FUNCTION_ARGS)
{
	DroppedTable dropped;
	CqrsProjection *projection;

	require_event_trigger(fcinfo);
	if (cqrs_guc_allow_writes || IsBinaryUpgrade ||
		!OidIsValid(cqrs_catalog_relation("registry", true)))
		PG_RETURN_NULL();

	dropped = dropped_table(missing_attached_tables(), CQRS_ATTACHMENT_TRIGGER);
	if (OidIsValid(dropped.relid))
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop table \"%s\" because it is attached", NameStr(dropped.name)),
				 errhint("Detach it first: SELECT cqrs.detach_outbox(%s);",
						 quote_literal_cstr(quote_identifier(NameStr(dropped.name))))));
	dropped = dropped_table(missing_read_tables(), CQRS_READ_TABLE_GUARD);
	projection = OidIsValid(dropped.relid) ? cqrs_projection_of_table(dropped.relid) : NULL;
	if (projection == NULL)
		PG_RETURN_NULL();
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot drop read table \"%s\" because projection \"%s\" maintains it",
					NameStr(dropped.name), NameStr(projection->name)),
			 projection->nread_tables == 1 ? 0 :
			 errdetail("The projection maintains %d read tables, which go with it.",
					   projection->nread_tables),
			 errhint("SELECT cqrs.drop_projection(%s, drop_read_tables => true);",
					 quote_literal_cstr(NameStr(projection->name)))));
}

/*
 * cqrs.guard_names() RETURNS event_trigger
 *
 * Before and after each command that may change what a name means: follows a
 * handler or a schema that gets another name; refuses to leave a query or key
 * without its meaning, or a read table in another form. Does nothing while the
 * setting cqrs_views.allow_writes is on.
 */
Datum
cqrs_sql_guard_names(PG_FUNCTION_ARGS)
{
	EventTriggerData *data = (EventTriggerData *) fcinfo->context;
	const char *name;

	require_event_trigger(fcinfo);

	/* the extension's own script calls here before all its tables are there */
	if (cqrs_guc_allow_writes || IsBinaryUpgrade ||
		!OidIsValid(cqrs_catalog_relation("registry", true)) ||
		!OidIsValid(cqrs_catalog_relation("attachment", true)))
		PG_RETURN_NULL();
	name = GetCommandTagName(data->tag);
	if (strcmp(data->event, "ddl_command_start") == 0)
		cqrs_follow_note(data->parsetree, name, data->tag != CMDTAG_ALTER_TABLE);
	else
		cqrs_follow_noted(data->parsetree, name);
	PG_RETURN_NULL();
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

/* The OIDs of read tables that don't exist, some perhaps for long; NULL for none. */
static ArrayType *
missing_read_tables(void)
{
	ArrayBuildState *state = NULL;
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		for (int i = 0; i < projection->ntables; i++)
			if (get_rel_relkind(projection->tables[i]) == '\0')
				state = accumArrayResult(state, ObjectIdGetDatum(projection->tables[i]),
										 false, OIDOID, CurrentMemoryContext);
	}
	if (state == NULL)
		return NULL;
	return DatumGetArrayTypeP(makeArrayResult(state, CurrentMemoryContext));
}

/* The same for tables that are attached. */
static ArrayType *
missing_attached_tables(void)
{
	ArrayBuildState *state = NULL;
	ListCell   *lc;

	foreach(lc, cqrs_attachment_list())
	{
		Oid			relid = ((CqrsAttachment *) lfirst(lc))->relid;

		if (get_rel_relkind(relid) == '\0')
			state = accumArrayResult(state, ObjectIdGetDatum(relid), false, OIDOID,
									 CurrentMemoryContext);
	}
	if (state == NULL)
		return NULL;
	return DatumGetArrayTypeP(makeArrayResult(state, CurrentMemoryContext));
}

/*
 * The first of these tables (NULL = none) that the current command dropped together
 * with its trigger of that name; relid is InvalidOid where it dropped none.
 */
static DroppedTable
dropped_table(ArrayType *missing, const char *trigger)
{
	static CqrsQuery query = {
		.sql = "SELECT t.objid, t.object_name"
		" FROM pg_event_trigger_dropped_objects() t"
		" WHERE t.classid = 'pg_class'::regclass AND t.objid = ANY ($1) AND t.objsubid = 0"
		" AND EXISTS (SELECT FROM pg_event_trigger_dropped_objects() g"
		"  WHERE g.classid = 'pg_trigger'::regclass"
		"  AND g.address_names = t.address_names || $2)"
		" ORDER BY t.object_identity LIMIT 1",
		.flags = CQRS_QUERY_LATEST,
		.nargs = 2,
		.argtypes = {OIDARRAYOID, TEXTOID}
	};
	DroppedTable dropped = {InvalidOid};
	Datum		args[2] = {PointerGetDatum(missing), CStringGetTextDatum(trigger)};

	/* caches tell, as a rule, that none of ours is among what was dropped */
	if (missing != NULL)
		cqrs_query_run(&query, args, NULL, keep_dropped, &dropped);
	return dropped;
}

/* A CqrsRowFn. */
static bool
keep_dropped(TupleTableSlot *slot, void *arg)
{
	DroppedTable *dropped = (DroppedTable *) arg;
	bool		isnull;

	dropped->relid = DatumGetObjectId(slot_getattr(slot, 1, &isnull));
	namestrcpy(&dropped->name, TextDatumGetCString(slot_getattr(slot, 2, &isnull)));
	return true;
}

static void
require_event_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called as an event trigger")));
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
