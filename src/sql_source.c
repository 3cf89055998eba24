/*
 * sql_source.c
 *		SQL functions about services in other databases: attach and detach a table,
 *		the triggers on it, and rows that were put aside.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "apply.h"
#include "arrival.h"
#include "attachment.h"
#include "catalog.h"
#include "mapping.h"
#include "mode.h"
#include "outbox.h"
#include "parked_key.h"
#include "parked_row.h"
#include "query.h"
#include "receive.h"
#include "sql_args.h"
#include "sql_source.h"

/* tables on their way out of a query */
typedef struct Altered
{
	MemoryContext context;
	List	   *relids;
} Altered;

PG_FUNCTION_INFO_V1(cqrs_sql_attach_outbox);
PG_FUNCTION_INFO_V1(cqrs_sql_detach_outbox);
PG_FUNCTION_INFO_V1(cqrs_sql_retry_source_dead_letters);
PG_FUNCTION_INFO_V1(cqrs_sql_discard_source_dead_letters);
PG_FUNCTION_INFO_V1(cqrs_sql_receive);
PG_FUNCTION_INFO_V1(cqrs_sql_attachment_changed);
PG_FUNCTION_INFO_V1(cqrs_sql_guard_alter);

static Oid	arg_table(FunctionCallInfo fcinfo, LOCKMODE lock, const char *action);
static const char *arg_source(FunctionCallInfo fcinfo);
static bool arg_existing_rows(FunctionCallInfo fcinfo);
static bool guard_altered(TupleTableSlot *slot, void *arg);
static void guard_mapping(CqrsAttachment *attachment);
static void guard_check(void *arg);
static void guard_error_callback(void *arg);

/*
 * cqrs.attach_outbox(relation regclass, source text, format text DEFAULT
 * 'cqrs_views', mapping jsonb DEFAULT NULL, existing_rows text DEFAULT 'take')
 * RETURNS bigint
 *
 * From now on, a row that is inserted into the table, by whomever, is an event of
 * that source, once. Rows that are there already are taken in their order, or left;
 * returns how many became events. mapping adds to the format, or replaces parts of
 * it. The caller owns the table and may insert cqrs.outbox.source. Takes SHARE ROW
 * EXCLUSIVE on the table.
 */
Datum
cqrs_sql_attach_outbox(PG_FUNCTION_ARGS)
{
	Oid			relid = arg_table(fcinfo, ShareRowExclusiveLock, "attach a table");
	const char *source = arg_source(fcinfo);
	const char *format = cqrs_sql_arg_text(fcinfo, 2, "format", false);
	Jsonb	   *mapping = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	bool		take = arg_existing_rows(fcinfo);
	CqrsAttachment *attachment;
	int64		events = 0;

	cqrs_outbox_check_forge(GetUserId());
	cqrs_attachment_prune();
	cqrs_parked_row_prune();
	cqrs_arrival_prune();
	attachment = cqrs_attachment_find(relid);
	if (attachment != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("table \"%s\" is attached already, as source \"%s\"", get_rel_name(relid),
						attachment->source),
				 errhint("To change how, detach it first: that forgets no event.")));

	cqrs_attachment_insert(relid, source, format, mapping);
	attachment = cqrs_attachment_get(relid);
	cqrs_mapping_check(attachment);
	cqrs_parked_key_renew(attachment);
	if (take)
		events = cqrs_receive_existing(attachment);
	PG_RETURN_INT64(events);
}

/*
 * cqrs.detach_outbox(relation regclass) RETURNS void
 *
 * Rows of the table are not taken any more. What was taken stays, and is known when
 * the table is attached again; so do rows that were put aside. Takes ACCESS
 * EXCLUSIVE on the table.
 */
Datum
cqrs_sql_detach_outbox(PG_FUNCTION_ARGS)
{
	Oid			relid = arg_table(fcinfo, AccessExclusiveLock, "detach a table");

	(void) cqrs_attachment_get(relid);
	cqrs_attachment_delete(relid);
	PG_RETURN_VOID();
}

/*
 * cqrs.retry_source_dead_letters(relation regclass, key text DEFAULT NULL) RETURNS
 * bigint
 *
 * Tries rows of an attached table again that were put aside, in the order in which
 * they came, or those of one key, each key's up to the first that fails again.
 * Returns how many left the queue. Takes SHARE ROW EXCLUSIVE on the table.
 */
Datum
cqrs_sql_retry_source_dead_letters(PG_FUNCTION_ARGS)
{
	Oid			relid = arg_table(fcinfo, ShareRowExclusiveLock, "retry dead letters");

	PG_RETURN_INT64(cqrs_receive_retry(cqrs_attachment_get(relid),
									   PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1)));
}

/*
 * cqrs.discard_source_dead_letters(relation regclass, key text, up_to_number bigint
 * DEFAULT NULL) RETURNS bigint
 *
 * Forgets a key's rows that were put aside, up to a number, or all of them; NULL is
 * the key of those whose key is not known. They don't become events if they come
 * again. Returns how many there were. Takes SHARE ROW EXCLUSIVE on the table, which
 * need not be attached any more.
 */
Datum
cqrs_sql_discard_source_dead_letters(PG_FUNCTION_ARGS)
{
	Oid			relid = arg_table(fcinfo, ShareRowExclusiveLock, "discard dead letters");

	PG_RETURN_INT64(cqrs_parked_row_discard(relid,
											PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1),
											PG_ARGISNULL(2) ? PG_INT64_MAX : PG_GETARG_INT64(2)));
}

/*
 * cqrs.receive() RETURNS trigger
 *
 * AFTER INSERT on an attached table, for each statement, and for each row in
 * replicas. See receive.c.
 */
Datum
cqrs_sql_receive(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigdata->tg_event) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		trigdata->tg_trigger->tgnewtable == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("cqrs.receive can only be called as the trigger of an attached table")));
	if (cqrs_attachment_find(RelationGetRelid(trigdata->tg_relation)) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not attached",
						RelationGetRelationName(trigdata->tg_relation)),
				 errhint("Attach it, which replaces its triggers, or DROP TRIGGER %s ON %s;",
						 quote_identifier(trigdata->tg_trigger->tgname),
						 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(trigdata->tg_relation)),
													RelationGetRelationName(trigdata->tg_relation)))));
	cqrs_receive_inserted(trigdata);
	PG_RETURN_POINTER(NULL);
}

/*
 * cqrs.attachment_changed() RETURNS trigger
 *
 * After each statement on cqrs.attachment: has all processes read it again.
 */
Datum
cqrs_sql_attachment_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called as a trigger")));
	cqrs_attachment_changed();
	PG_RETURN_POINTER(NULL);
}

/*
 * cqrs.guard_alter() RETURNS event_trigger
 *
 * After each ALTER TABLE: refuses what an attached table's mapping does not survive,
 * such as the loss of a column that it or its format counts on, and keeps the triggers
 * firing.
 */
Datum
cqrs_sql_guard_alter(PG_FUNCTION_ARGS)
{
	static CqrsQuery query = {
		.sql = "SELECT DISTINCT objid FROM pg_event_trigger_ddl_commands()"
		" WHERE classid = 'pg_class'::regclass",
		.flags = CQRS_QUERY_LATEST
	};
	Altered		altered = {.context = CurrentMemoryContext};
	ListCell   *lc;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function can only be called as an event trigger")));
	if (IsBinaryUpgrade || !OidIsValid(cqrs_catalog_relation("attachment", true)) ||
		cqrs_attachment_list() == NIL)
		PG_RETURN_NULL();
	cqrs_query_run(&query, NULL, NULL, guard_altered, &altered);
	foreach(lc, altered.relids)
	{
		CqrsAttachment *attachment = cqrs_attachment_find(lfirst_oid(lc));
		ErrorContextCallback callback = {
			.previous = error_context_stack,.callback = guard_error_callback,.arg = attachment
		};

		if (attachment == NULL)
			continue;
		error_context_stack = &callback;
		guard_mapping(attachment);
		error_context_stack = callback.previous;
		cqrs_attachment_enable(lfirst_oid(lc));
	}
	PG_RETURN_NULL();
}

/*
 * The first argument: a table that the caller may attach or detach, locked; not in
 * a handler.
 */
static Oid
arg_table(FunctionCallInfo fcinfo, LOCKMODE lock, const char *action)
{
	Oid			relid;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("relation must not be null")));
	relid = PG_GETARG_OID(0);
	cqrs_apply_refuse_handler(action);
	cqrs_mode_require_read_committed(action);
	cqrs_attachment_check_table(relid, GetUserId());
	LockRelationOid(relid, lock);
	cqrs_attachment_check_table(relid, GetUserId());
	return relid;
}

static const char *
arg_source(FunctionCallInfo fcinfo)
{
	const char *source = cqrs_sql_arg_text(fcinfo, 1, "source", false);

	if (source[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("source must not be empty"),
				 errhint("Name the service that the events come from.")));
	return source;
}

/* Are the rows to be taken that are there already? */
static bool
arg_existing_rows(FunctionCallInfo fcinfo)
{
	const char *value = cqrs_sql_arg_text(fcinfo, 4, "existing_rows", false);

	if (strcmp(value, "take") != 0 && strcmp(value, "leave") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for existing_rows: \"%s\"", value),
				 errhint("Use \"take\" or \"leave\".")));
	return strcmp(value, "take") == 0;
}

/* A CqrsRowFn. */
static bool
guard_altered(TupleTableSlot *slot, void *arg)
{
	Altered    *altered = (Altered *) arg;
	bool		isnull;
	MemoryContext old = MemoryContextSwitchTo(altered->context);

	altered->relids = lappend_oid(altered->relids,
								  DatumGetObjectId(slot_getattr(slot, 1, &isnull)));
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * Throw where the mapping does not survive. A right that the owner lacks is no ALTER
 * TABLE's doing: pg_restore, which makes constraints when the attachments are there, grants
 * rights last of all. Whoever lacks it for good hears of it when a row comes.
 */
static void
guard_mapping(CqrsAttachment *attachment)
{
	ErrorData  *error = cqrs_apply_try(guard_check, attachment);

	if (error != NULL && error->sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE)
		ReThrowError(error);
}

static void
guard_check(void *arg)
{
	cqrs_mapping_check((CqrsAttachment *) arg);
}

static void
guard_error_callback(void *arg)
{
	const CqrsAttachment *attachment = (const CqrsAttachment *) arg;

	errhint("Detach the table first: SELECT cqrs.detach_outbox(%s); then attach it as it is then.",
			quote_literal_cstr(attachment->relname == NULL ? "" : quote_identifier(attachment->relname)));
}
