/*
 * apply.c
 *		Give one batch to one projection; contain its errors; decide retry or
 *		stop.
 *
 * Everything that is the owner's (handler, key expression) runs here, as the
 * owner. Several projections may be applied in one transaction, each in a
 * subtransaction of its own, so that one that fails leaves the others alone.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "apply.h"
#include "catalog.h"
#include "deadline.h"
#include "guc.h"
#include "handler.h"
#include "outbox.h"
#include "query.h"
#include "read_table.h"

/* calls of handlers that are under way, nested by inline projections */
static int	depth = 0;

/* what cqrs_apply_try runs */
typedef struct Trial
{
	void		(*action) (void *arg);
	void	   *arg;
} Trial;

static void apply_keys(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied,
					   bool as_hashes);
static ErrorData *apply_in_subtransaction(CqrsProjection *projection, CqrsBatch *batch,
										  CqrsApplied *applied,
										  void (*action) (CqrsProjection *, CqrsBatch *,
														  CqrsApplied *));
static ErrorData *apply_trial(void *arg);
static void apply_all(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied);
static void apply_restored(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied);
static void apply_keys_to_tell(CqrsProjection *projection, CqrsBatch *batch,
							   CqrsApplied *applied);
static void apply_check_rights(CqrsProjection *projection);
static void apply_check_owner(const CqrsProjection *projection);
static void apply_constraints_immediate(void);
static void apply_error_callback(void *arg);
static void apply_key_error_callback(void *arg);

/* Pick the events that the projection wants. Runs no code of the owner's. */
void
cqrs_apply_select(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);

	applied->events = palloc(Max(batch->nevents, 1) * sizeof(CqrsEvent *));
	applied->nevents = 0;
	applied->nrejected = 0;
	applied->range = NULL;
	applied->keys = NULL;
	applied->nkeys = 0;
	applied->hashes = NULL;
	applied->untold = false;
	for (int i = 0; i < batch->nevents; i++)
		if (cqrs_projection_wants(projection, &batch->events[i], batch->desc))
			applied->events[applied->nevents++] = &batch->events[i];
	MemoryContextSwitchTo(old);
}

/*
 * Compute the keys of the selected events that can change something, as the
 * projection's owner.
 */
void
cqrs_apply_compute_keys(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied)
{
	apply_keys(projection, batch, applied, false);
}

/*
 * Have what tells equal keys of these events from others: hashes, where equal keys
 * may differ as texts, and else the keys.
 */
void
cqrs_apply_hash_keys(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied)
{
	apply_keys(projection, batch, applied, cqrs_handler_kind(projection)->hash_keys != NULL);
}

/* The keys of the events that WHERE accepts, where there is one, or hashes of them. */
static void
apply_keys(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied, bool as_hashes)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	const CqrsHandlerKind *kind = cqrs_handler_kind(projection);
	CqrsEvent **events = applied->events;
	const CqrsKey *key = NULL;
	CqrsUserContext user;
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = apply_key_error_callback,
		.arg = projection
	};

	error_context_stack = &callback;
	cqrs_handler_blame_nobody();
	apply_check_owner(projection);
	cqrs_query_enter_user(&user, projection->owner, &projection->settings);
	applied->nkeys = applied->nevents;
	if (kind->narrow != NULL)
	{
		events = palloc(applied->nevents * sizeof(CqrsEvent *));
		memcpy(events, applied->events, applied->nevents * sizeof(CqrsEvent *));
		applied->nkeys = kind->narrow(projection, events, applied->nevents, batch->desc);
	}
	if (!as_hashes)
		key = cqrs_projection_key(projection);
	cqrs_handler_blame_events();
	applied->keyed = events;
	if (as_hashes)
		applied->hashes = kind->hash_keys(projection, events, applied->nkeys, batch->desc);
	else
		applied->keys = cqrs_event_keys(key, events, applied->nkeys, batch->desc);
	cqrs_query_leave_user(&user);
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(old);
}

/*
 * Give the selected events, or a range of events, to the handler, as the
 * projection's owner. The keys are computed too if the handler needs them, or a
 * notification is to tell them and the handler does not. Without call_handler
 * (publishers have applied the events) that is all. Errors are thrown.
 */
void
cqrs_apply_run(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied,
			   bool call_handler)
{
	const CqrsHandlerKind *kind = cqrs_handler_kind(projection);
	MemoryContext old;
	CqrsUserContext user;
	CqrsWriters writers;
	CqrsHandlerCall call = {
		.projection = projection,
		.batch = batch,
		.events = applied->events,
		.nevents = applied->nevents,
		.range = applied->range,
		.tell = projection->notify == CQRS_NOTIFY_KEYS && !applied->untold
	};
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = apply_error_callback,
		.arg = projection
	};

	if (applied->nevents == 0 && applied->range == NULL)
		return;
	if (applied->keys == NULL &&
		((call_handler && kind->needs_keys) ||
		 (call.tell && !(call_handler && kind->tells_keys))))
		cqrs_apply_compute_keys(projection, batch, applied);
	if (!call_handler)
		return;
	if (kind->needs_keys)
	{
		call.keys = applied->keys;
		call.nkeys = applied->nkeys;
	}

	error_context_stack = &callback;
	cqrs_handler_blame_nobody();
	apply_check_rights(projection);
	old = MemoryContextSwitchTo(batch->context);
	cqrs_query_enter_user(&user, projection->owner,
						  kind->puts_settings ? NULL : &projection->settings);
	writers = cqrs_read_table_open(projection->tables, projection->ntables);
	depth++;
	PG_TRY();
	{
		error_context_stack = callback.previous;
		cqrs_handler_call(&call);
	}
	PG_FINALLY();
	{
		depth--;
		cqrs_read_table_close(writers);
	}
	PG_END_TRY();

	/* PG_END_TRY has put back what was there at PG_TRY */
	error_context_stack = callback.previous;
	cqrs_query_leave_user(&user);
	MemoryContextSwitchTo(old);
	if (call.keys != NULL && applied->keys == NULL)
	{
		applied->keys = call.keys;
		applied->nkeys = call.nkeys;
	}
}

/*
 * The same in a subtransaction, within cqrs_views.handler_timeout. Returns NULL,
 * or the error, in the current memory context, with everything that the
 * projection did undone.
 */
ErrorData *
cqrs_apply_contained(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied,
					 bool call_handler)
{
	return apply_in_subtransaction(projection, batch, applied,
								   call_handler ? apply_all : apply_keys_to_tell);
}

/*
 * Compute the keys of events in a subtransaction, and leave out of them those
 * that can't change anything, so that there is a key for each. Returns NULL or
 * the error.
 */
ErrorData *
cqrs_apply_contained_keys(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied)
{
	ErrorData  *error = apply_in_subtransaction(projection, batch, applied,
												cqrs_apply_compute_keys);

	if (error == NULL)
	{
		applied->events = applied->keyed;
		applied->nevents = applied->nkeys;
	}
	return error;
}

/*
 * Run something that is several steps, of which some may be contained, in a
 * subtransaction around all of them: so that nothing stays of it where it returns an
 * error, or throws one, which is thrown again. Returns what it does.
 */
ErrorData *
cqrs_apply_as_whole(ErrorData *(*action) (void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	volatile bool thrown = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		error = action(arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		thrown = true;
	}
	PG_END_TRY();
	if (error == NULL)
		ReleaseCurrentSubTransaction();
	else
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	if (thrown)
		ReThrowError(error);
	return error;
}

/*
 * Run something in a subtransaction. Returns NULL, or the error that it has thrown, with
 * nothing left of what it did; in the current memory context.
 */
ErrorData *
cqrs_apply_try(void (*action) (void *arg), void *arg)
{
	Trial		trial = {.action = action,.arg = arg};

	return cqrs_apply_as_whole(apply_trial, &trial);
}

/* Returns what is thrown. */
static ErrorData *
apply_trial(void *arg)
{
	const Trial *trial = (const Trial *) arg;
	MemoryContext context = CurrentMemoryContext;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		trial->action(trial->arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	return error;
}

static void
apply_all(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied)
{
	apply_constraints_immediate();
	cqrs_apply_run(projection, batch, applied, true);
}

static void
apply_keys_to_tell(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied)
{
	cqrs_apply_run(projection, batch, applied, false);
}

static ErrorData *
apply_in_subtransaction(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied,
						void (*action) (CqrsProjection *, CqrsBatch *, CqrsApplied *))
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	/* what another projection's handler publishes is done in the time that it has */
	bool		limited = !cqrs_deadline_is_set();

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	if (limited)
		cqrs_deadline_begin(cqrs_guc_handler_timeout);
	PG_TRY();
	{
		action(projection, batch, applied);
		if (limited)
			cqrs_deadline_end();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		if (limited)
			cqrs_deadline_end();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		if (limited)
			cqrs_deadline_explain(error, NameStr(projection->name));
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * Make the read tables, which are empty, what they are before any event, as the
 * projection's owner. Errors are thrown.
 */
void
cqrs_apply_begin(CqrsProjection *projection)
{
	const CqrsHandlerKind *kind = cqrs_handler_kind(projection);
	CqrsUserContext user;
	CqrsWriters writers;

	if (kind->begin == NULL)
		return;
	cqrs_query_enter_user(&user, projection->owner, &projection->settings);
	writers = cqrs_read_table_open(projection->tables, projection->ntables);
	depth++;
	PG_TRY();
	{
		kind->begin(projection);
	}
	PG_FINALLY();
	{
		depth--;
		cqrs_read_table_close(writers);
	}
	PG_END_TRY();
	cqrs_query_leave_user(&user);
}

/*
 * Make good what a dump does not have of the projection, in a subtransaction, as its
 * owner. Returns NULL or the error.
 */
ErrorData *
cqrs_apply_restored(CqrsProjection *projection)
{
	return apply_in_subtransaction(projection, NULL, NULL, apply_restored);
}

static void
apply_restored(CqrsProjection *projection, CqrsBatch *batch, CqrsApplied *applied)
{
	const CqrsHandlerKind *kind = cqrs_handler_kind(projection);
	CqrsUserContext user;

	if (kind->restored == NULL)
		return;
	cqrs_query_enter_user(&user, projection->owner, &projection->settings);
	kind->restored(projection);
	cqrs_query_leave_user(&user);
}

/*
 * Throw in a handler. It runs in the midst of a pass that holds the locks of its
 * projection and of others: what it did to them would break the pass, and what
 * it waited for would never come.
 */
void
cqrs_apply_refuse_handler(const char *what)
{
	if (depth > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot %s in a handler", what),
				 errhint("Do so in a transaction of your own.")));
}

/* Has the projection's own code taken too long for the events it was given? */
bool
cqrs_apply_error_is_timeout(const ErrorData *error)
{
	return error->sqlerrcode == CQRS_ERRCODE_HANDLER_TIMEOUT;
}

/*
 * Is the error nobody's fault, so that the same batch may work later? Deadlocks,
 * serialization failures, lock timeouts, cancellation, and whatever the server
 * or its resources lack for the moment.
 */
bool
cqrs_apply_error_is_transient(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:	/* class 40 */
		case ERRCODE_INSUFFICIENT_RESOURCES:	/* class 53 */
		case ERRCODE_OPERATOR_INTERVENTION:	/* class 57 */
		case ERRCODE_SYSTEM_ERROR:	/* class 58 */
		case ERRCODE_CONNECTION_EXCEPTION:	/* class 08 */
			return true;
		default:
			/* a foreign server out of reach; 72000, an old snapshot, is PostgreSQL 15's and 16's */
			return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
				error->sqlerrcode == ERRCODE_FDW_UNABLE_TO_ESTABLISH_CONNECTION ||
				error->sqlerrcode == MAKE_SQLSTATE('7', '2', '0', '0', '0');
	}
}

/* What last_error tells of an error, in the current memory context. */
char *
cqrs_apply_error_text(const ErrorData *error)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfo(&text, "%s: %s", unpack_sql_state(error->sqlerrcode),
					 error->message ? error->message : "missing error text");
	if (error->detail)
		appendStringInfo(&text, "\nDETAIL: %s", error->detail);
	if (error->hint)
		appendStringInfo(&text, "\nHINT: %s", error->hint);
	if (error->context)
		appendStringInfo(&text, "\nCONTEXT: %s", error->context);
	return text.data;
}

/* An error with the SQLSTATE and the message of such a text, which may be NULL. */
ErrorData *
cqrs_apply_error_parse(const char *text)
{
	ErrorData  *error = palloc0(sizeof(ErrorData));

	error->elevel = ERROR;
	error->sqlerrcode = ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE;
	error->message = pstrdup(text ? text : "unknown error");
	if (text && strspn(text, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5)
	{
		error->sqlerrcode = MAKE_SQLSTATE(text[0], text[1], text[2], text[3], text[4]);
		error->message = pnstrdup(text + strlen("XXXXX: "),
								  strcspn(text, "\n") - strlen("XXXXX: "));
	}
	return error;
}

/*
 * Throw unless the owner is there, may see the events, and owns the read tables, which
 * are what they have to be. Nothing is looked up where nothing has changed since.
 */
static void
apply_check_rights(CqrsProjection *projection)
{
	uint64		changes = cqrs_catalog_rights_changes();
	bool		lasting = true;

	if (projection->rights_checked == changes)
		return;
	apply_check_owner(projection);
	cqrs_outbox_check_rights(projection->owner, false);
	for (int i = 0; i < projection->ntables; i++)
		lasting &= cqrs_read_table_verify(projection->tables[i], projection->owner);
	if (lasting)
		projection->rights_checked = changes;
}

/* Nothing in the catalogs keeps the role: its tables and functions may have gone. */
static void
apply_check_owner(const CqrsProjection *projection)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(projection->owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of projection \"%s\" does not exist any more",
						NameStr(projection->name)),
				 errhint("As a superuser, SELECT cqrs.drop_projection(%s); and create it again under another owner.",
						 quote_literal_cstr(NameStr(projection->name)))));
}

/*
 * Begin a projection's share of a transaction with all constraints immediate:
 * deferred ones could not be checked as the owner any more, and what another
 * projection's handler has set must not matter.
 */
static void
apply_constraints_immediate(void)
{
	ConstraintsSetStmt *stmt = makeNode(ConstraintsSetStmt);

	stmt->deferred = false;
	AfterTriggerSetState(stmt);
}

static void
apply_error_callback(void *arg)
{
	const CqrsProjection *projection = (const CqrsProjection *) arg;

	errcontext("projection \"%s\"", NameStr(projection->name));
}

static void
apply_key_error_callback(void *arg)
{
	const CqrsProjection *projection = (const CqrsProjection *) arg;

	errcontext("key \"%s\" of projection \"%s\"", projection->key_expression,
			   NameStr(projection->name));
}
