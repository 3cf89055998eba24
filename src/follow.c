/*
 * follow.c
 *		Keep to what a projection is defined by while that gets another name.
 *
 * A handler, the schemas of the search_path, the text search configuration, a view's
 * query and a key are kept as text, since OIDs of functions survive neither dumps nor
 * pg_upgrade. So event triggers call here before and after each command that may
 * change what names mean. Before it, it is noted what the texts mean now, as OIDs.
 * After it, whatever has another name, of the first three, is given that name in our
 * texts, too; and a command is refused that leaves a query or a key without a meaning,
 * or with another one, or a read table in a form that it can't have. What the bodies
 * of functions name, nobody follows. Attached tables have a search_path and a
 * configuration, too: follow_settings.c is about these.
 *
 * Commands nest: other event triggers run some, as do the scripts of extensions. So
 * there are notes for each command under way, the innermost first, told apart by the
 * statement, which is the same node when a command begins and when it ends. Not every
 * command that begins comes to an end: an error's notes go with the (sub)transaction,
 * and others' (of DROP EXTENSION, say, which drops our triggers) with the command that
 * they are within, or the transaction.
 *
 * Whoever runs such a command waits while somebody else's queries are read. To read
 * one is to run none of its functions, but a type's input may have the CHECKs of
 * domains run; so there is little time for each, and none may run such a command.
 *
 * Locks: that of each projection that changes, to the end of the transaction.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "apply.h"
#include "attachment.h"
#include "checkpoint.h"
#include "deadline.h"
#include "follow.h"
#include "follow_settings.h"
#include "function.h"
#include "handler.h"
#include "query.h"
#include "read_table.h"
#include "registry.h"
#include "view.h"

/* in which a query, or a key, has to be read; ms */
#define READ_TIMEOUT 1000

/* what the texts of a projection meant before the command */
typedef struct Noted
{
	int32		projection;
	char	   *handler;		/* the text, NULL for a view, */
	Oid			function;		/* and what it means; InvalidOid = nothing */
	CqrsNotedSettings settings;
	bool		sound;			/* do the read tables have the form that they must have? */
	List	   *types;			/* OIDs of the types of their columns */
	bool		readable;		/* does the query, or the key, mean anything? */
	List	   *functions;		/* OIDs of what users made of that, in a query, */
	List	   *named_types;	/* and of their types */
} Noted;

/* what the settings of an attached table named before the command */
typedef struct NotedAttachment
{
	Oid			relid;
	CqrsNotedSettings settings;
} NotedAttachment;

/* a command under way; in a memory context of its own, which goes with the transaction */
typedef struct Command
{
	struct Command *outer;
	MemoryContext context;
	int			xact_level;		/* the transaction's, or subtransaction's */
	const Node *statement;
	List	   *notes;			/* of Noted */
	List	   *attachments;	/* of NotedAttachment */
} Command;

/* a projection whose query, or key, is being read */
typedef struct Reading
{
	const CqrsProjection *projection;
	List	   *functions;		/* what users made that the query names, */
	List	   *types;			/* both as OIDs */
} Reading;

static Command *innermost = NULL;
static bool reading_text = false;

static Command *command_take(const Node *statement);
static void command_abort_sub(SubXactEvent event, SubTransactionId subid,
							  SubTransactionId parent, void *arg);
static void command_end_all(XactEvent event, void *arg);
static Noted *note_projection(MemoryContext context, CqrsProjection *projection, bool texts);
static NotedAttachment *note_attachment(const CqrsAttachment *attachment);
static bool text_is_readable(Reading *reading);
static ErrorData *text_try(void *arg);
static void text_read(Reading *reading);
static List *column_types(const CqrsProjection *projection);
static bool is_sound(const CqrsProjection *projection);
static void follow_names(const Noted *note);
static bool has_new_names(const Noted *note);
static const char *handler_follow(const Noted *note);
static bool handler_is_noted(const CqrsProjection *projection, const Noted *note);
static void follow_attachment(const NotedAttachment *note);
static void follow_tables(const Noted *note);
static void follow_text(const Noted *note, const char *command);
static void follow_refuse(const CqrsProjection *projection, const char *command,
						  const char *why);

/* Called once per process, from _PG_init. */
void
cqrs_follow_init(void)
{
	RegisterSubXactCallback(command_abort_sub, NULL);
	RegisterXactCallback(command_end_all, NULL);
}

/*
 * A command begins, of that name, that may give something another name. With texts, it
 * may also be one that a query or a key names. Throws where such a text runs it.
 */
void
cqrs_follow_note(const Node *statement, const char *name, bool texts)
{
	MemoryContext context;
	Command    *command;
	CqrsUserContext user;
	MemoryContext old;
	ListCell   *lc;

	if (reading_text)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot execute %s while the query of a view or a key is read", name)));
	if (cqrs_projection_list() == NIL && cqrs_attachment_list() == NIL)
		return;

	context = AllocSetContextCreate(CurTransactionContext, "cqrs_views names",
									ALLOCSET_SMALL_SIZES);
	command = MemoryContextAllocZero(context, sizeof(Command));
	command->context = context;
	command->xact_level = GetCurrentTransactionNestLevel();
	command->statement = statement;

	/* whoever alters something need not be able to look into our schemas */
	cqrs_query_enter_owner(&user);
	foreach(lc, cqrs_projection_list())
	{
		Noted	   *note = note_projection(context, lfirst(lc), texts);

		old = MemoryContextSwitchTo(context);
		command->notes = lappend(command->notes, note);
		MemoryContextSwitchTo(old);
	}
	old = MemoryContextSwitchTo(context);
	foreach(lc, cqrs_attachment_list())
		command->attachments = lappend(command->attachments, note_attachment(lfirst(lc)));
	MemoryContextSwitchTo(old);
	cqrs_query_leave_user(&user);
	command->outer = innermost;
	innermost = command;
}

/*
 * The command of that name is done. Throws, naming it, where it takes the meaning of a
 * query or key away, or gives a read table a form that it can't have.
 */
void
cqrs_follow_noted(const Node *statement, const char *name)
{
	Command    *command = command_take(statement);
	ListCell   *lc;

	if (command == NULL)
		return;
	foreach(lc, command->notes)
		follow_names(lfirst(lc));
	foreach(lc, command->attachments)
		follow_attachment(lfirst(lc));
	foreach(lc, command->notes)
		follow_tables(lfirst(lc));
	foreach(lc, command->notes)
		follow_text(lfirst(lc), name);
	MemoryContextDelete(command->context);
}

/* -------------------------------------------------------------- commands */

/*
 * The command of that statement, which is under way no more; NULL where nothing was
 * noted of it. Those within it that came to no end are forgotten.
 */
static Command *
command_take(const Node *statement)
{
	Command    *command = innermost;

	while (command != NULL && command->statement != statement)
		command = command->outer;
	if (command != NULL)
		innermost = command->outer;
	return command;
}

/* A subtransaction is aborted, and with it the commands that began in it. */
static void
command_abort_sub(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (innermost != NULL && innermost->xact_level >= GetCurrentTransactionNestLevel())
		innermost = innermost->outer;
}

/* However a transaction ends, no command is under way any more. */
static void
command_end_all(XactEvent event, void *arg)
{
	innermost = NULL;
}

/* ----------------------------------------------------------------- names */

/* What the texts of a projection mean now; in that memory context. */
static Noted *
note_projection(MemoryContext context, CqrsProjection *projection, bool texts)
{
	bool		readable = false;
	Reading		reading = {.projection = projection};
	Noted	   *note;
	MemoryContext old;

	/* one that lost a table, or the guard of it, is on its way out, as in pg_restore --clean */
	for (int i = 0; i < projection->ntables; i++)
		texts = texts && cqrs_read_table_is_guarded(projection->tables[i]);
	if (texts && SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(projection->owner)))
		readable = text_is_readable(&reading);

	old = MemoryContextSwitchTo(context);
	note = palloc0(sizeof(Noted));
	note->projection = projection->id;
	if (projection->handler != NULL)
	{
		note->handler = pstrdup(projection->handler);
		note->function = cqrs_handler_find(projection);
	}
	cqrs_follow_settings_note(&note->settings, &projection->settings);
	note->sound = is_sound(projection);
	note->types = column_types(projection);
	note->readable = readable;
	note->functions = list_copy(reading.functions);
	note->named_types = list_copy(reading.types);
	MemoryContextSwitchTo(old);
	return note;
}

static NotedAttachment *
note_attachment(const CqrsAttachment *attachment)
{
	NotedAttachment *note = palloc0(sizeof(NotedAttachment));

	note->relid = attachment->relid;
	cqrs_follow_settings_note(&note->settings, &attachment->settings);
	return note;
}

/* Does it mean anything? */
static bool
text_is_readable(Reading *reading)
{
	ErrorData  *error = cqrs_apply_as_whole(text_try, reading);

	if (error != NULL && cqrs_apply_error_is_transient(error))
		ReThrowError(error);
	return error == NULL;
}

/*
 * Do a Reading in the time there is. Returns NULL, or the error; then the current
 * (sub)transaction has to be rolled back.
 */
static ErrorData *
text_try(void *arg)
{
	Reading    *reading = (Reading *) arg;
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;
	bool		limited = !cqrs_deadline_is_set();

	if (limited)
		cqrs_deadline_begin(READ_TIMEOUT);
	reading_text = true;
	PG_TRY();
	{
		text_read(reading);
		reading_text = false;
		if (limited)
			cqrs_deadline_end();
	}
	PG_CATCH();
	{
		reading_text = false;
		if (limited)
			cqrs_deadline_end();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (limited)
			cqrs_deadline_explain(error, NameStr(reading->projection->name));
	}
	PG_END_TRY();
	return error;
}

/*
 * Read the query, or else the key, as its owner; throws where that can't be. Notes what
 * users made, not PostgreSQL, of what a query names.
 */
static void
text_read(Reading *reading)
{
	const CqrsProjection *projection = reading->projection;
	CqrsUserContext user;

	cqrs_query_enter_user(&user, projection->owner, &projection->settings);
	if (projection->query != NULL)
	{
		const CqrsView *view = cqrs_view_parse(projection->query);

		reading->functions = view->functions;
		reading->types = view->types;
	}
	else
		(void) cqrs_event_key_parse(projection->key_expression);
	cqrs_query_leave_user(&user);
}

/* Write new names of what the projection's texts name into them. */
static void
follow_names(const Noted *note)
{
	CqrsProjection *projection;
	const char *handler;
	ListCell   *lc;

	if (!has_new_names(note))
		return;
	cqrs_checkpoint_lock(note->projection, true);
	projection = cqrs_projection_get(note->projection);
	if (projection == NULL)
		return;

	/* whom we waited for, or a command within this one, may have given more names */
	handler = handler_follow(note);
	if (handler != NULL && projection->handler != NULL &&
		strcmp(handler, projection->handler) != 0 && handler_is_noted(projection, note))
		cqrs_registry_set_handler(projection->id, handler);
	foreach(lc, cqrs_follow_settings_changes(&note->settings, &projection->settings))
	{
		const CqrsSettingChange *change = lfirst(lc);

		cqrs_registry_set_setting(note->projection, change->name, change->value);
	}
}

static bool
has_new_names(const Noted *note)
{
	const char *handler = handler_follow(note);

	return (handler != NULL && strcmp(handler, note->handler) != 0) ||
		cqrs_follow_settings_differ(&note->settings);
}

/* The signature of the noted handler now; NULL where there is none. */
static const char *
handler_follow(const Noted *note)
{
	if (!OidIsValid(note->function) ||
		!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(note->function)))
		return NULL;
	return cqrs_handler_signature(note->function);
}

/* Is the handler still the noted one, be it by a name that this had in between? */
static bool
handler_is_noted(const CqrsProjection *projection, const Noted *note)
{
	CqrsUserContext user;
	Oid			function;

	if (strcmp(projection->handler, note->handler) == 0)
		return true;
	cqrs_query_enter_owner(&user);
	function = cqrs_handler_find(projection);
	cqrs_query_leave_user(&user);
	return !OidIsValid(function);
}

/* The same for the names in an attached table's settings. */
static void
follow_attachment(const NotedAttachment *note)
{
	CqrsAttachment *attachment;
	ListCell   *lc;

	if (!cqrs_follow_settings_differ(&note->settings))
		return;
	attachment = cqrs_attachment_find(note->relid);
	if (attachment == NULL)
		return;
	foreach(lc, cqrs_follow_settings_changes(&note->settings, &attachment->settings))
	{
		const CqrsSettingChange *change = lfirst(lc);

		cqrs_attachment_set_setting(note->relid, change->name, change->value);
	}
}

/*
 * Refuse tables of a form that can't be a read table's; and where columns have other
 * types than before, have the handler compiled anew.
 */
static void
follow_tables(const Noted *note)
{
	CqrsProjection *projection = cqrs_projection_get(note->projection);

	if (projection == NULL)
		return;
	for (int i = 0; note->sound && i < projection->ntables; i++)
		if (cqrs_read_table_is_guarded(projection->tables[i]))
			cqrs_read_table_check_form(projection->tables[i]);
	if (OidIsValid(note->function) && !equal(note->types, column_types(projection)))
		cqrs_function_touch(note->function);
}

/* Refuse to leave a query or a key without the meaning that it had. */
static void
follow_text(const Noted *note, const char *command)
{
	CqrsProjection *projection = cqrs_projection_get(note->projection);
	Reading		reading = {.projection = projection};
	ErrorData  *error;

	if (projection == NULL || !note->readable)
		return;
	error = text_try(&reading);
	if (error != NULL && cqrs_apply_error_is_transient(error))
		ReThrowError(error);
	if (error != NULL)
		follow_refuse(projection, command, error->message);
	if (!equal(reading.functions, note->functions))
		follow_refuse(projection, command, "It would call another function than before.");
	if (!equal(reading.types, note->named_types))
		follow_refuse(projection, command, "It would name another type than before.");
}

static bool
is_sound(const CqrsProjection *projection)
{
	for (int i = 0; i < projection->ntables; i++)
		if (!cqrs_read_table_is_sound(projection->tables[i]))
			return false;
	return true;
}

/* The types of all columns of its tables; InvalidOid for a dropped one. */
static List *
column_types(const CqrsProjection *projection)
{
	List	   *types = NIL;

	for (int i = 0; i < projection->ntables; i++)
	{
		HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(projection->tables[i]));
		int			natts = 0;

		if (HeapTupleIsValid(tuple))
		{
			natts = ((Form_pg_class) GETSTRUCT(tuple))->relnatts;
			ReleaseSysCache(tuple);
		}
		for (int n = 1; n <= natts; n++)
			types = lappend_oid(types, get_atttype(projection->tables[i], n));
	}
	return types;
}

static void
follow_refuse(const CqrsProjection *projection, const char *command, const char *why)
{
	const char *name = NameStr(projection->name);

	if (projection->query != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot complete %s because the query of view \"%s\" depends on what it changes",
						command, name),
				 errdetail_internal("%s", why),
				 errhint("SELECT cqrs.drop_projection(%s, drop_read_tables => true); and create the view again afterwards.",
						 quote_literal_cstr(name))));
	ereport(ERROR,
			(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
			 errmsg("cannot complete %s because the key of projection \"%s\" depends on what it changes",
					command, name),
			 errdetail_internal("%s", why),
			 errhint("Give it another key first: SELECT cqrs.alter_projection(%s, key => ...);",
					 quote_literal_cstr(name))));
}
