/*
 * attachment.c
 *		The table cqrs.attachment: tables whose rows become events.
 *
 * Two triggers on each call cqrs.receive. The apply process of a subscription
 * fires row triggers only; its initial copy, like any other statement, has a
 * transition table, whose rows can be brought into the source's order. So one
 * trigger is for each statement, ALWAYS, and one for each row, for replicas only;
 * that one declares a transition table, too, and is given none where there is no
 * statement: so it knows, by PostgreSQL's own doing, whether it is its turn. A row
 * trigger with a transition table also keeps the table from becoming a partition
 * or a child.
 *
 * All rows are cached in this process, see table_cache.c. What an expression means, and
 * whether it is its owner's to run, may change with an attached table, or with
 * functions, types and roles, so that makes the cache stale, too.
 */
#include "postgres.h"

#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "attachment.h"
#include "catalog.h"
#include "compat.h"
#include "projection.h"
#include "query.h"
#include "table_cache.h"
#include "trigger.h"

#define WATCH_TRIGGER "cqrs_attachment_changed"
#define ROW_TRIGGER CQRS_ATTACHMENT_TRIGGER "_replica"

static bool attachments_concern(const List *rows, Oid relid);
static void attachments_syscache_callback(Datum arg, int cacheid, uint32 hashvalue);
static void *attachments_load_row(TupleTableSlot *slot);
static void check_kind(Oid relid);
static void refuse_table(Oid relid, const char *detail, const char *hint);
static void add_trigger(Oid relid, const char *name, bool row, char fires_when);

/* of CqrsAttachment, by relid */
static CqrsTableCache attachments = {
	.relname = "attachment",
	.query = {
		.sql = "SELECT relation::oid, source, format, mapping, owner::oid, settings, columns"
		" FROM cqrs.attachment ORDER BY relation::oid",
		.flags = CQRS_QUERY_LATEST
	},
	.load = attachments_load_row,
	.concerns = attachments_concern
};

/* Called once per process, from _PG_init. */
void
cqrs_attachment_init(void)
{
	cqrs_table_cache_init(&attachments);
	CacheRegisterSyscacheCallback(PROCOID, attachments_syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, attachments_syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, attachments_syscache_callback, (Datum) 0);
}

/* A row of cqrs.attachment was changed by the current statement: tell all processes. */
void
cqrs_attachment_changed(void)
{
	cqrs_table_cache_changed(&attachments);
}

/* Does the trigger fire that tells of changes, whoever makes them? */
bool
cqrs_attachment_is_watched(void)
{
	return cqrs_trigger_fires_when(cqrs_catalog_relation("attachment", false), WATCH_TRIGGER) ==
		TRIGGER_FIRES_ALWAYS;
}

/* Have it do so. Takes SHARE ROW EXCLUSIVE on the table if it doesn't. */
void
cqrs_attachment_watch(void)
{
	if (!cqrs_attachment_is_watched())
		cqrs_trigger_set_fires_when(cqrs_catalog_relation("attachment", false), WATCH_TRIGGER,
									TRIGGER_FIRES_ALWAYS);
}

/* All attached tables of this database; some may be gone. */
List *
cqrs_attachment_list(void)
{
	return cqrs_table_cache_rows(&attachments);
}

/* A table's attachment; NULL where it is not attached. */
CqrsAttachment *
cqrs_attachment_find(Oid relid)
{
	ListCell   *lc;

	foreach(lc, cqrs_attachment_list())
		if (((CqrsAttachment *) lfirst(lc))->relid == relid)
			return lfirst(lc);
	return NULL;
}

/* The same; throws where it is not attached. */
CqrsAttachment *
cqrs_attachment_get(Oid relid)
{
	CqrsAttachment *attachment = cqrs_attachment_find(relid);

	if (attachment == NULL)
	{
		if (get_rel_name(relid) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", relid)));
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("table \"%s\" is not attached", get_rel_name(relid)),
				 errhint("SELECT relation FROM cqrs.source_status; lists those that are.")));
	}
	return attachment;
}

/*
 * Throw unless a role may attach or detach a table, and it is one that can be. One that is
 * attached can be detached, whatever has become of it.
 */
void
cqrs_attachment_check_table(Oid relid, Oid role)
{
	if (get_rel_name(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (cqrs_attachment_find(relid) == NULL)
		check_kind(relid);
	if (!cqrs_compat_class_ownercheck(relid, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table \"%s\"", get_rel_name(relid)),
				 errhint("SET ROLE %s;",
						 quote_identifier(GetUserNameFromId(cqrs_catalog_table_owner(relid), false)))));
}

/* Throw unless a table is one that can be attached. */
static void
check_kind(Oid relid)
{
	char	   *nspname = get_namespace_name(get_rel_namespace(relid));
	CqrsProjection *projection;

	if (relid == cqrs_catalog_relation("outbox", false))
		refuse_table(relid, "Its rows are events already, of this database.",
					 "Have another database's events arrive in a table of your own, and attach that.");
	if (IsCatalogNamespace(get_rel_namespace(relid)) || strcmp(nspname, "cqrs") == 0)
		refuse_table(relid, "It belongs to the system.", "Attach a table of your own.");
	if (get_rel_relkind(relid) != RELKIND_RELATION || get_rel_relispartition(relid) ||
		has_superclass(relid) ||
		(has_subclass(relid) && find_inheritance_children(relid, NoLock) != NIL))
		refuse_table(relid, "Only an ordinary table can be, not partitioned, a partition, or part of an inheritance tree: its triggers would not see every row.",
					 "Have the rows arrive in an ordinary table.");
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		refuse_table(relid, "It is a temporary table.", "Have the rows arrive in a permanent table.");
	projection = cqrs_projection_of_table(relid);
	if (projection != NULL)
		refuse_table(relid, psprintf("It is a read table: projection \"%s\" maintains it.",
									 NameStr(projection->name)),
					 "To publish what a projection computes, publish from its handler.");
}

/*
 * Throw unless the table still belongs to whom the expressions were written for:
 * they run as the owner, and the table's columns are the owner's to change.
 */
void
cqrs_attachment_verify(const CqrsAttachment *attachment)
{
	char	   *relname = get_rel_name(attachment->relid);

	if (relname == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("attached table with OID %u does not exist", attachment->relid)));
	if (cqrs_catalog_table_owner(attachment->relid) != attachment->owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("attached table \"%s\" has another owner now", relname),
				 errdetail("Its mapping would run as \"%s\", who did not write it.",
						   GetUserNameFromId(cqrs_catalog_table_owner(attachment->relid), false)),
				 errhint("Detach it, and attach it again: SELECT cqrs.detach_outbox(%s);",
						 quote_literal_cstr(quote_qualified_identifier(get_namespace_name(get_rel_namespace(attachment->relid)),
																	   relname)))));
}

/*
 * Attach a table, with the session's current settings, and put the triggers on
 * it. The caller has checked it, and holds SHARE ROW EXCLUSIVE on it. The triggers
 * go with the extension, without CASCADE.
 */
void
cqrs_attachment_insert(Oid relid, const char *source, const char *format, Jsonb *mapping)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.attachment (relation, source, format, mapping, owner, settings)"
		" VALUES ($1, $2, $3, $4, $5, $6)",
		.nargs = 6,
		.argtypes = {REGCLASSOID, TEXTOID, TEXTOID, JSONBOID, REGROLEOID, TEXTARRAYOID}
	};
	Datum		args[6] = {
		ObjectIdGetDatum(relid), CStringGetTextDatum(source), CStringGetTextDatum(format),
		JsonbPGetDatum(mapping), ObjectIdGetDatum(cqrs_catalog_table_owner(relid)),
		cqrs_settings_save()
	};

	cqrs_query_run(&query, args, mapping == NULL ? "   n  " : NULL, NULL, NULL);
	cqrs_trigger_drop(relid, CQRS_ATTACHMENT_TRIGGER);
	cqrs_trigger_drop(relid, ROW_TRIGGER);
	add_trigger(relid, CQRS_ATTACHMENT_TRIGGER, false, TRIGGER_FIRES_ALWAYS);
	add_trigger(relid, ROW_TRIGGER, true, TRIGGER_FIRES_ON_REPLICA);
}

/*
 * Keep in mind which columns of an attached table its format counts on, where that is
 * not known: they must not go without a word.
 */
void
cqrs_attachment_keep_columns(const CqrsAttachment *attachment, const List *columns)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.attachment SET columns = $2 WHERE relation = $1",
		.nargs = 2,
		.argtypes = {REGCLASSOID, TEXTARRAYOID}
	};
	Datum	   *elements = palloc(list_length(columns) * sizeof(Datum));
	Datum		args[2] = {ObjectIdGetDatum(attachment->relid)};
	ListCell   *lc;

	if (equal(attachment->columns, columns))
		return;
	foreach(lc, columns)
		elements[foreach_current_index(lc)] = CStringGetTextDatum(strVal(lfirst(lc)));
	args[1] = PointerGetDatum(construct_array(elements, list_length(columns), TEXTOID, -1, false,
											  TYPALIGN_INT));
	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* Keep another value of a setting than that of when the table was attached. */
void
cqrs_attachment_set_setting(Oid relid, const char *name, const char *value)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.attachment SET settings = " CQRS_SETTINGS_WITH(2, 3)
		" WHERE relation = $1",
		.nargs = 3,
		.argtypes = {REGCLASSOID, TEXTOID, TEXTOID}
	};
	Datum		args[3] = {
		ObjectIdGetDatum(relid), CStringGetTextDatum(name), CStringGetTextDatum(value)
	};

	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* The table belongs to somebody else now, as whom the expressions are to run. */
void
cqrs_attachment_set_owner(Oid relid, Oid owner)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.attachment SET owner = $2 WHERE relation = $1",
		.nargs = 2,
		.argtypes = {REGCLASSOID, REGROLEOID}
	};
	Datum		args[2] = {ObjectIdGetDatum(relid), ObjectIdGetDatum(owner)};

	cqrs_query_run(&query, args, NULL, NULL, NULL);
}

/* Detach a table, and take the triggers off it. Takes ACCESS EXCLUSIVE. */
void
cqrs_attachment_delete(Oid relid)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.attachment WHERE relation = $1",
		.nargs = 1,
		.argtypes = {REGCLASSOID}
	};
	Datum		arg = ObjectIdGetDatum(relid);

	cqrs_query_run(&query, &arg, NULL, NULL, NULL);
	cqrs_trigger_drop(relid, CQRS_ATTACHMENT_TRIGGER);
	cqrs_trigger_drop(relid, ROW_TRIGGER);
}

/* Throw where the trigger for statements is not going to be fired in a replica. */
void
cqrs_attachment_check_trigger(Relation rel)
{
	for (int i = 0; i < rel->trigdesc->numtriggers; i++)
	{
		const Trigger *trigger = &rel->trigdesc->triggers[i];

		if (strcmp(trigger->tgname, CQRS_ATTACHMENT_TRIGGER) == 0 &&
			trigger->tgenabled == TRIGGER_FIRES_ALWAYS)
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("trigger \"%s\" of attached table \"%s\" is disabled, or gone",
					CQRS_ATTACHMENT_TRIGGER, RelationGetRelationName(rel)),
			 errdetail("The rows of this statement would not become events."),
			 errhint("Detach the table, and attach it again.")));
}

/*
 * After ALTER TABLE ... ENABLE TRIGGER, which makes a trigger one that replicas don't
 * fire (as pg_restore --disable-triggers leaves all of them): put back what it was.
 */
void
cqrs_attachment_enable(Oid relid)
{
	static const char *const wanted[][2] = {
		{CQRS_ATTACHMENT_TRIGGER, "ALWAYS"}, {ROW_TRIGGER, "REPLICA"}
	};

	for (int i = 0; i < lengthof(wanted); i++)
	{
		CqrsQuery	query = {.flags = CQRS_QUERY_WRITE | CQRS_QUERY_IN_PLACE};

		if (cqrs_trigger_fires_when(relid, wanted[i][0]) != TRIGGER_FIRES_ON_ORIGIN)
			continue;
		query.sql = psprintf("ALTER TABLE %s ENABLE %s TRIGGER %s",
							 quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
														get_rel_name(relid)),
							 wanted[i][1], wanted[i][0]);
		cqrs_query_run(&query, NULL, NULL, NULL, NULL);
		cqrs_query_forget(&query);
	}
}

/* Forget the tables that are gone: they were dropped after their triggers. */
void
cqrs_attachment_prune(void)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.attachment a"
		" WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = a.relation)"
	};

	cqrs_query_run(&query, NULL, NULL, NULL, NULL);
}

/* ----------------------------------------------------------------- cache */

static bool
attachments_concern(const List *rows, Oid relid)
{
	ListCell   *lc;

	foreach(lc, rows)
		if (((CqrsAttachment *) lfirst(lc))->relid == relid)
			return true;
	return false;
}

static void
attachments_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	if (attachments.rows != NIL)
		cqrs_table_cache_expire(&attachments);
}

static void *
attachments_load_row(TupleTableSlot *slot)
{
	CqrsAttachment *attachment = palloc0(sizeof(CqrsAttachment));
	Datum	   *columns;
	int			ncolumns;

	slot_getallattrs(slot);
	attachment->context = CurrentMemoryContext;
	attachment->relid = DatumGetObjectId(slot->tts_values[0]);
	attachment->relname = get_rel_name(attachment->relid);
	attachment->source = TextDatumGetCString(slot->tts_values[1]);
	attachment->format = TextDatumGetCString(slot->tts_values[2]);
	if (!slot->tts_isnull[3])
		attachment->mapping = DatumGetJsonbPCopy(slot->tts_values[3]);
	attachment->owner = DatumGetObjectId(slot->tts_values[4]);
	cqrs_settings_load(&attachment->settings, slot->tts_values[5]);
	deconstruct_array(DatumGetArrayTypeP(slot->tts_values[6]), TEXTOID, -1, false, TYPALIGN_INT,
					  &columns, NULL, &ncolumns);
	for (int i = 0; i < ncolumns; i++)
		attachment->columns = lappend(attachment->columns,
									  makeString(TextDatumGetCString(columns[i])));
	return attachment;
}

/* --------------------------------------------------------------- helpers */

static void
refuse_table(Oid relid, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("\"%s\" can't be attached",
					quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
											   get_rel_name(relid))),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

static void
add_trigger(Oid relid, const char *name, bool row, char fires_when)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);
	TriggerTransition *transition = makeNode(TriggerTransition);

	transition->name = "received";
	transition->isNew = true;
	transition->isTable = true;
	stmt->trigname = pstrdup(name);
	stmt->funcname = list_make2(makeString("cqrs"), makeString("receive"));
	stmt->row = row;
	stmt->timing = TRIGGER_TYPE_AFTER;
	stmt->events = TRIGGER_TYPE_INSERT;
	stmt->transitionRels = list_make1(transition);
	cqrs_trigger_create(stmt, relid, fires_when);
}
