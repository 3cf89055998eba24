/*
 * sql_projection.c
 *		SQL functions that define and manage projections.
 *
 * Each takes the projection's lock, so it waits for a batch in progress, and
 * no batch begins before its transaction ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "checkpoint.h"
#include "guc.h"
#include "handler.h"
#include "mode.h"
#include "outbox.h"
#include "outbox_read.h"
#include "projection.h"
#include "query.h"
#include "read_table.h"
#include "shmem.h"
#include "sql_args.h"
#include "sql_projection.h"

/* positions of arguments */
enum
{
	CREATE_NAME, CREATE_HANDLER, CREATE_READ_TABLES, CREATE_MODE, CREATE_EVENT_TYPES,
	CREATE_AGGREGATE_TYPES, CREATE_SOURCES, CREATE_KEY, CREATE_START_AT, CREATE_ON_ERROR,
	CREATE_NOTIFY, CREATE_BATCH_SIZE, CREATE_SEGMENTS
};
enum
{
	ALTER_NAME, ALTER_MODE, ALTER_EVENT_TYPES, ALTER_AGGREGATE_TYPES, ALTER_SOURCES,
	ALTER_KEY, ALTER_ON_ERROR, ALTER_NOTIFY, ALTER_BATCH_SIZE, ALTER_SEGMENTS,
	ALTER_HANDLER, ALTER_NEW_NAME
};

#define MAX_BATCH_SIZE 1000000

PG_FUNCTION_INFO_V1(cqrs_sql_create_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_alter_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_drop_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_pause_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_resume_projection);

static void check_on_error(const char *value);
static void check_segments(int value);
static void check_batch_size(int value);
static const char *check_start_at(const char *value);
static void claim_read_tables(const Oid *relids, int nrelids, Oid owner);
static CqrsProjection *lock_projection(FunctionCallInfo fcinfo);
static void alter_columns(FunctionCallInfo fcinfo, CqrsProjection *projection,
						  CqrsProjectionColumns *columns);
static Datum filter_datum(const CqrsFilter *filter);
static void become_inline(int32 id);
static void notice_without_workers(const char *name);

/*
 * cqrs.create_projection(name, handler, read_tables, mode, event_types,
 * aggregate_types, sources, key, start_at, on_error, notify, batch_size,
 * segments) RETURNS void
 *
 * Registers a projection of the current user's. Takes SHARE ROW EXCLUSIVE on the
 * read tables, which get the write guard; for mode inline, with a backlog of one
 * batch or less, also on the outbox, applying the backlog. Errors: see the
 * checks, in their order.
 */
Datum
cqrs_sql_create_projection(PG_FUNCTION_ARGS)
{
	CqrsProjectionColumns columns = {.owner = GetUserId()};
	Oid			handler;
	Oid		   *read_tables;
	int			nread_tables;
	bool		from_now;
	int32		id;

	cqrs_apply_refuse_handler("create a projection");
	cqrs_sql_arg_name(fcinfo, CREATE_NAME, "projection name");
	columns.name = PG_GETARG_DATUM(CREATE_NAME);
	if (cqrs_projection_find(NameStr(*DatumGetName(columns.name)), true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists",
						NameStr(*DatumGetName(columns.name))),
				 errhint("Drop it first, or change it with cqrs.alter_projection.")));
	if (PG_ARGISNULL(CREATE_HANDLER))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("handler must not be null")));
	handler = PG_GETARG_OID(CREATE_HANDLER);
	columns.kind = cqrs_handler_classify(handler)->name;
	columns.handler = cqrs_handler_signature(handler);
	nread_tables = cqrs_sql_arg_oids(fcinfo, CREATE_READ_TABLES, "read_tables", &read_tables);
	columns.read_tables = PG_GETARG_DATUM(CREATE_READ_TABLES);
	columns.mode = cqrs_projection_mode_parse(cqrs_sql_arg_text(fcinfo, CREATE_MODE, "mode", false));
	columns.event_types = cqrs_sql_arg_filter(fcinfo, CREATE_EVENT_TYPES, "event_types", NULL);
	columns.aggregate_types = cqrs_sql_arg_filter(fcinfo, CREATE_AGGREGATE_TYPES,
												  "aggregate_types", NULL);
	columns.sources = cqrs_sql_arg_filter(fcinfo, CREATE_SOURCES, "sources", NULL);
	columns.key = cqrs_sql_arg_text(fcinfo, CREATE_KEY, "key", false);
	columns.start_at = check_start_at(cqrs_sql_arg_text(fcinfo, CREATE_START_AT, "start_at", false));
	columns.on_error = cqrs_sql_arg_text(fcinfo, CREATE_ON_ERROR, "on_error", false);
	check_on_error(columns.on_error);
	columns.notify = cqrs_projection_notify_parse(cqrs_sql_arg_text(fcinfo, CREATE_NOTIFY,
																	"notify", false));
	if (!PG_ARGISNULL(CREATE_BATCH_SIZE))
	{
		columns.batch_size = PG_GETARG_INT32(CREATE_BATCH_SIZE);
		check_batch_size(columns.batch_size);
	}
	if (PG_ARGISNULL(CREATE_SEGMENTS))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("segments must not be null")));
	check_segments(PG_GETARG_INT32(CREATE_SEGMENTS));

	cqrs_handler_check_rights(handler, columns.owner);
	cqrs_outbox_check_rights(columns.owner, columns.mode == CQRS_MODE_INLINE);
	(void) cqrs_event_key_parse(columns.key);
	claim_read_tables(read_tables, nread_tables, columns.owner);
	cqrs_handler_check_tables(handler, read_tables, nread_tables);
	if (columns.mode == CQRS_MODE_INLINE)
		cqrs_mode_require_clean_transaction("create an inline projection");
	if (cqrs_outbox_read_has_future())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cqrs.outbox has events with transaction ids that are not yet assigned"),
				 errdetail("They were restored from a dump of another cluster, and could not be processed now."),
				 errhint("Move the cluster with its transaction ids instead: pg_upgrade, pg_basebackup, or a standby.")));

	columns.state = columns.mode == CQRS_MODE_INLINE ? CQRS_STATE_SWITCHING : CQRS_STATE_RUNNING;
	id = cqrs_projection_insert(&columns);
	cqrs_checkpoint_lock(id, true);
	for (int i = 0; i < nread_tables; i++)
		cqrs_read_table_guard(read_tables[i]);

	from_now = strcmp(columns.start_at, "now") == 0;
	PushActiveSnapshot(GetLatestSnapshot());
	cqrs_checkpoint_insert(id, from_now ? cqrs_checkpoint_current_snapshot() :
						   cqrs_checkpoint_empty_snapshot());
	PopActiveSnapshot();

	if (columns.mode == CQRS_MODE_INLINE)
		become_inline(id);
	else
		notice_without_workers(NameStr(*DatumGetName(columns.name)));
	cqrs_outbox_wake_at_commit();
	PG_RETURN_VOID();
}

/*
 * cqrs.alter_projection(name, mode, event_types, aggregate_types, sources, key,
 * on_error, notify, batch_size, segments, handler, new_name) RETURNS void
 *
 * Changes settings from the checkpoint on; a NULL leaves one as it is, '{}'
 * clears a filter, batch_size 0 returns to the default. A change of mode, or of
 * an inline projection's key, takes SHARE ROW EXCLUSIVE on the outbox; one to inline with a large backlog is
 * completed by the workers.
 */
Datum
cqrs_sql_alter_projection(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = lock_projection(fcinfo);
	bool		was_inline = cqrs_projection_is_inline(projection);
	CqrsProjectionColumns columns;

	alter_columns(fcinfo, projection, &columns);

	/* publishers under two modes, or two keys, would not exclude each other */
	if (was_inline && (columns.mode != CQRS_MODE_INLINE ||
					   strcmp(columns.key, projection->key_expression) != 0))
		cqrs_mode_leave_inline(projection, false);
	if (columns.mode != projection->mode)
	{
		if (columns.mode == CQRS_MODE_INLINE)
		{
			cqrs_outbox_check_rights(projection->owner, true);
			cqrs_mode_require_clean_transaction("make a projection inline");
			if (projection->state == CQRS_STATE_RUNNING)
				columns.state = CQRS_STATE_SWITCHING;
		}
		else
		{
			if (projection->state == CQRS_STATE_SWITCHING)
				columns.state = CQRS_STATE_RUNNING;
		}
	}
	cqrs_projection_update(projection->id, &columns);
	if (was_inline && columns.mode != CQRS_MODE_INLINE)
		cqrs_mode_forget_inline(projection->id);
	if (columns.state == CQRS_STATE_SWITCHING && projection->state != CQRS_STATE_SWITCHING)
		become_inline(projection->id);
	cqrs_outbox_wake_at_commit();
	PG_RETURN_VOID();
}

/*
 * cqrs.drop_projection(name, drop_read_tables boolean) RETURNS void
 *
 * Takes ACCESS EXCLUSIVE on the read tables, to take off the write guard or to
 * drop them; for an inline projection also SHARE ROW EXCLUSIVE on the outbox.
 */
Datum
cqrs_sql_drop_projection(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = lock_projection(fcinfo);
	bool		was_inline = cqrs_projection_is_inline(projection);
	bool		drop = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);

	if (was_inline)
		cqrs_mode_leave_inline(projection, true);
	for (int i = 0; i < projection->nread_tables; i++)
	{
		Oid			relid = projection->read_tables[i];

		if (get_rel_name(relid) == NULL)
			continue;
		if (drop)
			cqrs_read_table_check(relid, GetUserId());
		LockRelationOid(relid, AccessExclusiveLock);
		cqrs_read_table_unguard(relid);
	}
	cqrs_checkpoint_delete(projection->id);
	cqrs_projection_delete(projection->id);
	if (was_inline)
		cqrs_mode_forget_inline(projection->id);
	if (drop)
		cqrs_read_table_drop(projection->read_tables, projection->nread_tables);
	PG_RETURN_VOID();
}

/*
 * cqrs.pause_projection(name) RETURNS void
 *
 * Waits for a batch in progress; no other begins. For an inline projection,
 * takes SHARE ROW EXCLUSIVE on the outbox.
 */
Datum
cqrs_sql_pause_projection(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = lock_projection(fcinfo);
	bool		was_inline = cqrs_projection_is_inline(projection);

	if (projection->state == CQRS_STATE_PAUSED)
		PG_RETURN_VOID();
	if (was_inline)
		cqrs_mode_leave_inline(projection, false);
	cqrs_projection_set_state(projection->id, CQRS_STATE_PAUSED);
	if (was_inline)
		cqrs_mode_forget_inline(projection->id);
	PG_RETURN_VOID();
}

/*
 * cqrs.resume_projection(name) RETURNS void
 *
 * Goes on from the checkpoint, also with an interrupted rebuild. An inline
 * projection catches up first; with a backlog of one batch or less at once, and
 * then what the handler throws is thrown here.
 */
Datum
cqrs_sql_resume_projection(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = lock_projection(fcinfo);

	if (cqrs_projection_is_active(projection))
		PG_RETURN_VOID();
	if (projection->rebuild_started_at != 0)
		cqrs_projection_set_rebuilding(projection->id);
	else if (projection->mode == CQRS_MODE_INLINE)
	{
		cqrs_mode_require_clean_transaction("resume an inline projection");
		cqrs_projection_set_state(projection->id, CQRS_STATE_SWITCHING);
		become_inline(projection->id);
	}
	else
		cqrs_projection_set_state(projection->id, CQRS_STATE_RUNNING);
	cqrs_outbox_wake_at_commit();
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------- checks */

static void
check_on_error(const char *value)
{
	if (strcmp(value, "park") == 0 || strcmp(value, "skip") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("on_error => '%s' is not supported yet", value),
				 errhint("Use 'stop'.")));
	if (strcmp(value, "stop") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for on_error: \"%s\"", value),
				 errhint("Use \"stop\".")));
}

static void
check_segments(int value)
{
	if (value < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("segments must be at least 1")));
	if (value > 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("more than one segment is not supported yet"),
				 errhint("Use segments => 1.")));
}

static void
check_batch_size(int value)
{
	if (value < 1 || value > MAX_BATCH_SIZE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("batch_size must be between 1 and %d", MAX_BATCH_SIZE),
				 errhint("Leave it out to use cqrs_views.batch_size.")));
}

static const char *
check_start_at(const char *value)
{
	if (strcmp(value, "beginning") != 0 && strcmp(value, "now") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for start_at: \"%s\"", value),
				 errhint("Use \"beginning\" or \"now\".")));
	return value;
}

/*
 * Check that tables can become a new projection's. The lock excludes others who
 * want the same until they can see that they are taken.
 */
static void
claim_read_tables(const Oid *relids, int nrelids, Oid owner)
{
	for (int i = 0; i < nrelids; i++)
	{
		CqrsProjection *other;

		cqrs_read_table_check(relids[i], owner);
		LockRelationOid(relids[i], ShareRowExclusiveLock);
		cqrs_read_table_check(relids[i], owner);
		other = cqrs_projection_of_table(relids[i]);
		if (other != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("read table \"%s\" already belongs to projection \"%s\"",
							get_rel_name(relids[i]), NameStr(other->name)),
					 errhint("A read table has one projection. Use another table, or SELECT cqrs.drop_projection(%s);",
							 quote_literal_cstr(NameStr(other->name)))));
	}
}

/* --------------------------------------------------------------- helpers */

/* The projection that the first argument names, the caller's to manage, locked. */
static CqrsProjection *
lock_projection(FunctionCallInfo fcinfo)
{
	const char *name = cqrs_sql_arg_name(fcinfo, 0, "projection name");
	CqrsProjection *projection = cqrs_projection_find(name, false);

	cqrs_apply_refuse_handler("manage a projection");
	cqrs_projection_check_owner(projection);
	cqrs_checkpoint_lock(projection->id, true);

	/* it may have been changed, renamed or dropped while we waited */
	projection = cqrs_projection_get(projection->id);
	if (projection == NULL || strcmp(NameStr(projection->name), name) != 0)
		projection = cqrs_projection_find(name, false);
	cqrs_projection_check_owner(projection);
	cqrs_checkpoint_lock(projection->id, true);
	return projection;
}

/* The projection's columns with the changes that the arguments ask for. */
static void
alter_columns(FunctionCallInfo fcinfo, CqrsProjection *projection,
			  CqrsProjectionColumns *columns)
{
	bool		given;
	Datum		filter;

	*columns = (CqrsProjectionColumns)
	{
		.name = NameGetDatum(&projection->name),
		.kind = projection->kind,
		.handler = projection->handler,
		.mode = projection->mode,
		.event_types = filter_datum(&projection->event_types),
		.aggregate_types = filter_datum(&projection->aggregate_types),
		.sources = filter_datum(&projection->sources),
		.key = projection->key_expression,
		.on_error = projection->on_error,
		.notify = projection->notify,
		.batch_size = projection->batch_size,
		.state = projection->state
	};

	if (!PG_ARGISNULL(ALTER_MODE))
		columns->mode = cqrs_projection_mode_parse(text_to_cstring(PG_GETARG_TEXT_PP(ALTER_MODE)));
	filter = cqrs_sql_arg_filter(fcinfo, ALTER_EVENT_TYPES, "event_types", &given);
	if (given)
		columns->event_types = filter;
	filter = cqrs_sql_arg_filter(fcinfo, ALTER_AGGREGATE_TYPES, "aggregate_types", &given);
	if (given)
		columns->aggregate_types = filter;
	filter = cqrs_sql_arg_filter(fcinfo, ALTER_SOURCES, "sources", &given);
	if (given)
		columns->sources = filter;
	if (!PG_ARGISNULL(ALTER_KEY))
	{
		CqrsUserContext user;

		columns->key = text_to_cstring(PG_GETARG_TEXT_PP(ALTER_KEY));
		cqrs_query_enter_user(&user, projection->owner, &projection->settings);
		(void) cqrs_event_key_parse(columns->key);
		cqrs_query_leave_user(&user);
	}
	if (!PG_ARGISNULL(ALTER_ON_ERROR))
	{
		columns->on_error = text_to_cstring(PG_GETARG_TEXT_PP(ALTER_ON_ERROR));
		check_on_error(columns->on_error);
	}
	if (!PG_ARGISNULL(ALTER_NOTIFY))
		columns->notify =
			cqrs_projection_notify_parse(text_to_cstring(PG_GETARG_TEXT_PP(ALTER_NOTIFY)));
	if (!PG_ARGISNULL(ALTER_BATCH_SIZE))
	{
		columns->batch_size = PG_GETARG_INT32(ALTER_BATCH_SIZE);
		if (columns->batch_size != 0)
			check_batch_size(columns->batch_size);
	}
	if (!PG_ARGISNULL(ALTER_SEGMENTS))
		check_segments(PG_GETARG_INT32(ALTER_SEGMENTS));
	if (!PG_ARGISNULL(ALTER_HANDLER))
	{
		Oid			handler = PG_GETARG_OID(ALTER_HANDLER);

		columns->kind = cqrs_handler_classify(handler)->name;
		columns->handler = cqrs_handler_signature(handler);
		cqrs_handler_check_rights(handler, projection->owner);
		cqrs_handler_check_tables(handler, projection->read_tables, projection->nread_tables);
	}
	if (!PG_ARGISNULL(ALTER_NEW_NAME))
	{
		const char *new_name = cqrs_sql_arg_name(fcinfo, ALTER_NEW_NAME, "new_name");
		CqrsProjection *other = cqrs_projection_find(new_name, true);

		if (other != NULL && other->id != projection->id)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("projection \"%s\" already exists", new_name)));
		columns->name = PG_GETARG_DATUM(ALTER_NEW_NAME);
	}
}

/* A filter as text[], or the Datum 0. */
static Datum
filter_datum(const CqrsFilter *filter)
{
	Datum	   *elements;

	if (filter->all)
		return (Datum) 0;
	elements = palloc(filter->nvalues * sizeof(Datum));
	for (int i = 0; i < filter->nvalues; i++)
		elements[i] = PointerGetDatum(filter->values[i]);
	return PointerGetDatum(construct_array(elements, filter->nvalues, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * Let a projection in state switching become inline: at once where its backlog
 * is one batch or less, else when workers, or catch_up, have caught up.
 */
static void
become_inline(int32 id)
{
	CqrsProjection *projection = cqrs_projection_get(id);
	CqrsCheckpoint *checkpoint = cqrs_checkpoint_peek(id);
	int			batch_size = projection->batch_size ? projection->batch_size : cqrs_guc_batch_size;
	bool		small = false;

	if (checkpoint != NULL && !checkpoint->frozen)
	{
		Datum		now;

		PushActiveSnapshot(GetLatestSnapshot());
		now = cqrs_checkpoint_current_snapshot();
		PopActiveSnapshot();
		small = cqrs_outbox_read_pending_interval(checkpoint->walk.done, now,
											 batch_size + 1).events <= batch_size;
	}
	if (small && cqrs_mode_enter_inline(id, CQRS_ERROR_THROW))
		return;
	ereport(NOTICE,
			(errmsg("projection \"%s\" will be inline when it has caught up",
					NameStr(projection->name)),
			 errdetail("Its state is \"switching\" until then."),
			 cqrs_shmem_available() ? 0 :
			 errhint("CALL cqrs.catch_up(%s);",
					 quote_literal_cstr(NameStr(projection->name)))));
}

static void
notice_without_workers(const char *name)
{
	if (!cqrs_shmem_available())
		ereport(NOTICE,
				(errmsg("no background worker will process projection \"%s\"", name),
				 errdetail("The library cqrs_views is not preloaded."),
				 errhint("Add cqrs_views to shared_preload_libraries and restart the server, or CALL cqrs.catch_up(%s);",
						 quote_literal_cstr(name))));
}
