/*
 * handler.c
 *		The user's function behind a projection: classify it by its signature,
 *		and call it.
 *
 * Each calling convention is a CqrsHandlerKind in a file of its own, registered
 * by _PG_init. A handler is stored as text, because OIDs of functions survive
 * neither dumps nor pg_upgrade; so it is looked up, and its signature and owner
 * checked, again whenever a function or a role has changed: CREATE OR REPLACE
 * is no way to get code into somebody else's projection.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "compat.h"
#include "function.h"
#include "handler.h"
#include "settings.h"

#define MAX_KINDS 5

static const CqrsHandlerKind *kinds[MAX_KINDS];
static int	nkinds = 0;

/*
 * For whoever catches an error: was the owner's code at work on events, so that
 * one of them is to blame, and on which one (-1 = unknown)?
 */
static bool running = false;
static int	failed_at = -1;

static Oid	handler_resolve(CqrsProjection *projection);
static void handler_error_callback(void *arg);

void
cqrs_handler_register(const CqrsHandlerKind *kind)
{
	Assert(nkinds < MAX_KINDS);
	kinds[nkinds++] = kind;
}

/* The kind that a function's signature says; throws where it says none. */
const CqrsHandlerKind *
cqrs_handler_classify(Oid function)
{
	bool		callable = cqrs_function_is_plain(function);

	for (int i = 0; callable && i < nkinds; i++)
		if (kinds[i]->matches != NULL && kinds[i]->matches(function))
			return kinds[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("function %s can't be a handler", format_procedure(function)),
			 errdetail("Its signature is none of those that a projection can call."),
			 errhint("A handler is one of: f(cqrs.event) RETURNS void, called for each event; "
					 "f() RETURNS trigger, called for each batch; "
					 "f(T, cqrs.event) RETURNS T, T the row type of the one read table, a reducer, called for each event with the row of its key.")));
}

/*
 * The form that a handler is stored in: its signature, with all schemas, and with no
 * more quotes than it needs.
 */
const char *
cqrs_handler_signature(Oid function)
{
	int			nest_level = cqrs_settings_enter_fixed();
	const char *signature = format_procedure_qualified(function);

	cqrs_settings_leave_fixed(nest_level);
	return signature;
}

/* Throw unless a role may call the function. */
void
cqrs_handler_check_execute(Oid function, Oid role)
{
	if (cqrs_compat_proc_aclcheck(function, role, ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for function %s", format_procedure(function)),
				 errhint("GRANT EXECUTE ON FUNCTION %s TO %s;", format_procedure(function),
						 quote_identifier(GetUserNameFromId(role, false)))));
}

/*
 * Throw unless a projection of owner's may run the function: EXECUTE, and a
 * function of the owner's own or a superuser's, because whoever owns it can
 * replace it.
 */
void
cqrs_handler_check_rights(Oid function, Oid owner)
{
	cqrs_handler_check_execute(function, owner);
	cqrs_function_check_owner(function, owner,
							  "handler %s belongs to neither the projection's owner nor a superuser");
}

/* Throw unless a handler can maintain these read tables. */
void
cqrs_handler_check_tables(Oid function, const Oid *read_tables, int nread_tables)
{
	const CqrsHandlerKind *kind = cqrs_handler_classify(function);

	if (kind->check != NULL)
		kind->check(function, read_tables, nread_tables);
}

/* The kind that a projection was created with. */
const CqrsHandlerKind *
cqrs_handler_kind(const CqrsProjection *projection)
{
	for (int i = 0; i < nkinds; i++)
		if (strcmp(kinds[i]->name, projection->kind) == 0)
			return kinds[i];
	elog(ERROR, "projection \"%s\" is of unknown kind \"%s\"", NameStr(projection->name),
		 projection->kind);
}

/*
 * The function of the projection's handler's name that takes what its kind
 * takes, or InvalidOid. The types are not looked up by the names that they had,
 * because a reducer's is that of its read table, which can be renamed. The
 * current user needs USAGE on its schema.
 */
Oid
cqrs_handler_find(const CqrsProjection *projection)
{
	Oid			argtypes[CQRS_HANDLER_MAX_ARGS];
	int			nargs = cqrs_handler_kind(projection)->argtypes(projection, argtypes);
	const char *end = projection->handler;

	for (bool quoted = false; *end != '\0' && (quoted || *end != '('); end++)
		if (*end == '"')
			quoted = !quoted;
	return LookupFuncName(textToQualifiedNameList(cstring_to_text_with_len(projection->handler,
																			end - projection->handler)),
						  nargs, argtypes, true);
}

/*
 * The projection's handler as it is now, checked. Throws where it was dropped,
 * replaced by one of another kind, or is not the owner's to run any more.
 */
static Oid
handler_resolve(CqrsProjection *projection)
{
	uint64		changes = cqrs_function_changes();
	Oid			function;

	if (projection->handler_checked == changes)
		return projection->handler_oid;

	function = cqrs_handler_find(projection);
	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler %s of projection \"%s\" does not exist",
						projection->handler, NameStr(projection->name)),
				 errhint("Create it again, or name another with cqrs.alter_projection(..., handler => ...); then SELECT cqrs.resume_projection(%s);",
						 quote_literal_cstr(NameStr(projection->name)))));
	if (strcmp(cqrs_handler_classify(function)->name, projection->kind) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("handler %s of projection \"%s\" was replaced by one of another signature",
						projection->handler, NameStr(projection->name)),
				 errdetail("The projection is of kind \"%s\", the function is of kind \"%s\".",
						   projection->kind, cqrs_handler_classify(function)->name),
				 errhint("SELECT cqrs.alter_projection(%s, handler => %s);",
						 quote_literal_cstr(NameStr(projection->name)),
						 quote_literal_cstr(projection->handler))));
	cqrs_handler_check_rights(function, projection->owner);
	cqrs_handler_check_tables(function, projection->tables, projection->nread_tables);

	projection->handler_oid = function;
	projection->handler_checked = changes;
	return function;
}

/*
 * Give events to the projection's handler; the caller has filled projection,
 * batch and events. Runs the owner's code: call it as the owner, with the read
 * tables open and an active snapshot, in the batch's memory context. Errors
 * carry the projection and the position.
 */
void
cqrs_handler_call(CqrsHandlerCall *call)
{
	const CqrsHandlerKind *kind = cqrs_handler_kind(call->projection);
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = handler_error_callback,
		.arg = call
	};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views handler",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	error_context_stack = &callback;
	call->current = -1;
	call->function = kind->matches == NULL ? InvalidOid : handler_resolve(call->projection);
	kind->apply(call);
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/* What is thrown from now on is no event's fault. */
void
cqrs_handler_blame_nobody(void)
{
	running = false;
	failed_at = -1;
}

/* What is thrown from now on is the fault of an event, or of the code for it. */
void
cqrs_handler_blame_events(void)
{
	running = true;
}

bool
cqrs_handler_was_running(void)
{
	return running;
}

/* The index, among the events of the latest call, of the one that failed; or -1. */
int
cqrs_handler_failed_at(void)
{
	return failed_at;
}

static void
handler_error_callback(void *arg)
{
	const CqrsHandlerCall *call = (const CqrsHandlerCall *) arg;
	const char *name = NameStr(call->projection->name);

	failed_at = call->current;
	if (call->range != NULL)
		errcontext("projection \"%s\", events at positions " INT64_FORMAT " to " INT64_FORMAT,
				   name, call->range->after + 1, call->range->upto);
	else if (call->current >= 0 || call->nevents == 1)
		errcontext("projection \"%s\", event at position " INT64_FORMAT, name,
				   call->events[Max(call->current, 0)]->position);
	else
		errcontext("projection \"%s\", events at positions " INT64_FORMAT " to " INT64_FORMAT,
				   name, call->events[0]->position,
				   call->events[call->nevents - 1]->position);
}
