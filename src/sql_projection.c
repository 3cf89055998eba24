/*
 * sql_projection.c
 *		SQL functions that define and manage projections.
 *
 * Each takes the projection's lock, so it waits for a batch in progress, and
 * no batch begins before its transaction ends.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
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
#include "dead_letter.h"
#include "define.h"
#include "handler.h"
#include "mode.h"
#include "outbox.h"
#include "registry.h"
#include "query.h"
#include "read_table.h"
#include "restore.h"
#include "shmem.h"
#include "sql_args.h"
#include "sql_projection.h"
#include "view.h"
#include "view_depend.h"

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

PG_FUNCTION_INFO_V1(cqrs_sql_create_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_alter_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_drop_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_pause_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_resume_projection);

static void alter_columns(FunctionCallInfo fcinfo, CqrsProjection *projection,
						  CqrsProjectionColumns *columns);
static void alter_view_filters(const CqrsProjection *projection,
							   CqrsProjectionColumns *columns);
static void refuse_for_view(const CqrsProjection *projection, const char *what);
static void refuse_while_parked(const CqrsProjection *projection);
static Datum filter_datum(const CqrsFilter *filter);

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

	cqrs_apply_refuse_handler("create a projection");
	cqrs_sql_arg_name(fcinfo, CREATE_NAME, "projection name");
	columns.name = PG_GETARG_DATUM(CREATE_NAME);
	cqrs_define_refuse_existing(NameStr(*DatumGetName(columns.name)));
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
	columns.start_at = cqrs_sql_arg_start_at(fcinfo, CREATE_START_AT);
	columns.on_error = cqrs_sql_arg_on_error(fcinfo, CREATE_ON_ERROR);
	columns.notify = cqrs_projection_notify_parse(cqrs_sql_arg_text(fcinfo, CREATE_NOTIFY,
																	"notify", false));
	columns.batch_size = cqrs_sql_arg_batch_size(fcinfo, CREATE_BATCH_SIZE);
	cqrs_sql_arg_segments(fcinfo, CREATE_SEGMENTS);

	cqrs_handler_check_rights(handler, columns.owner);
	cqrs_outbox_check_rights(columns.owner, columns.mode == CQRS_MODE_INLINE);
	(void) cqrs_event_key_parse(columns.key);
	cqrs_define_claim(read_tables, nread_tables, columns.owner);
	cqrs_handler_check_tables(handler, read_tables, nread_tables);
	if (columns.mode == CQRS_MODE_INLINE)
		cqrs_mode_require_clean_transaction("create an inline projection");
	cqrs_define_projection(&columns, read_tables, nread_tables, (Datum) 0, 0);
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
	CqrsProjection *projection = cqrs_sql_arg_projection(fcinfo);
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
	cqrs_registry_update(projection->id, &columns);
	if (was_inline && columns.mode != CQRS_MODE_INLINE)
		cqrs_mode_forget_inline(projection->id);
	if (columns.state == CQRS_STATE_SWITCHING && projection->state != CQRS_STATE_SWITCHING)
		cqrs_define_become_inline(projection->id);
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
	CqrsProjection *projection = cqrs_sql_arg_projection(fcinfo);
	bool		was_inline = cqrs_projection_is_inline(projection);
	bool		drop = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);

	if (was_inline)
		cqrs_mode_leave_inline(projection, true);
	for (int i = 0; i < projection->ntables; i++)
	{
		Oid			relid = projection->tables[i];

		if (get_rel_name(relid) == NULL)
			continue;
		if (drop)
			cqrs_read_table_check_drop(relid, GetUserId());
		LockRelationOid(relid, AccessExclusiveLock);
		cqrs_read_table_unguard(relid);
		if (projection->query != NULL)
			cqrs_view_depend_release(relid, NameStr(projection->name));
	}
	cqrs_checkpoint_delete(projection->id);
	cqrs_dead_letter_forget(projection->id);
	cqrs_registry_delete(projection->id);
	if (was_inline)
		cqrs_mode_forget_inline(projection->id);

	/* without its projection a state table is of no use to anybody */
	if (drop)
		cqrs_read_table_drop(projection->tables, projection->ntables);
	else
		cqrs_read_table_drop(projection->tables + projection->nread_tables,
							 projection->ntables - projection->nread_tables);
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
	CqrsProjection *projection = cqrs_sql_arg_projection(fcinfo);
	bool		was_inline = cqrs_projection_is_inline(projection);

	if (projection->state == CQRS_STATE_PAUSED)
		PG_RETURN_VOID();
	if (was_inline)
		cqrs_mode_leave_inline(projection, false);
	cqrs_registry_set_state(projection->id, CQRS_STATE_PAUSED);
	if (was_inline)
		cqrs_mode_forget_inline(projection->id);
	PG_RETURN_VOID();
}

/*
 * cqrs.resume_projection(name) RETURNS void
 *
 * Goes on from the checkpoint, also with an interrupted rebuild. An inline
 * projection catches up first; with a backlog of one batch or less at once, and
 * then what the handler throws is thrown here. Says of a restored projection that
 * the restore has ended: see restore.c.
 */
Datum
cqrs_sql_resume_projection(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_sql_arg_projection(fcinfo);
	CqrsCheckpoint *checkpoint = cqrs_checkpoint_peek(projection->id);

	if (checkpoint != NULL && checkpoint->restored)
		cqrs_restore_complete(projection);
	if (cqrs_projection_is_active(projection))
		PG_RETURN_VOID();
	if (projection->rebuild_started_at != 0)
		cqrs_registry_set_rebuilding(projection->id);
	else if (projection->mode == CQRS_MODE_INLINE)
	{
		cqrs_mode_require_clean_transaction("resume an inline projection");
		cqrs_registry_set_state(projection->id, CQRS_STATE_SWITCHING);
		cqrs_define_become_inline(projection->id);
	}
	else
		cqrs_registry_set_state(projection->id, CQRS_STATE_RUNNING);
	cqrs_outbox_wake_at_commit();
	PG_RETURN_VOID();
}

/* --------------------------------------------------------------- helpers */

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
		.query = projection->query,
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
	if (projection->query != NULL)
		alter_view_filters(projection, columns);
	if (!PG_ARGISNULL(ALTER_KEY))
	{
		CqrsUserContext user;

		refuse_for_view(projection, "key");
		refuse_while_parked(projection);
		columns->key = text_to_cstring(PG_GETARG_TEXT_PP(ALTER_KEY));
		cqrs_query_enter_user(&user, projection->owner, &projection->settings);
		(void) cqrs_event_key_parse(columns->key);
		cqrs_query_leave_user(&user);
	}
	if (!PG_ARGISNULL(ALTER_ON_ERROR))
		columns->on_error = cqrs_sql_arg_on_error(fcinfo, ALTER_ON_ERROR);
	if (!PG_ARGISNULL(ALTER_NOTIFY))
		columns->notify =
			cqrs_projection_notify_parse(text_to_cstring(PG_GETARG_TEXT_PP(ALTER_NOTIFY)));
	if (!PG_ARGISNULL(ALTER_BATCH_SIZE))
		columns->batch_size = PG_GETARG_INT32(ALTER_BATCH_SIZE) == 0 ? 0 :
			cqrs_sql_arg_batch_size(fcinfo, ALTER_BATCH_SIZE);
	if (!PG_ARGISNULL(ALTER_SEGMENTS))
		cqrs_sql_arg_segments(fcinfo, ALTER_SEGMENTS);
	if (!PG_ARGISNULL(ALTER_HANDLER))
	{
		Oid			handler = PG_GETARG_OID(ALTER_HANDLER);

		refuse_for_view(projection, "handler");
		columns->kind = cqrs_handler_classify(handler)->name;
		columns->handler = cqrs_handler_signature(handler);
		cqrs_handler_check_rights(handler, projection->owner);
		cqrs_handler_check_tables(handler, projection->tables, projection->nread_tables);
	}
	if (!PG_ARGISNULL(ALTER_NEW_NAME))
	{
		const char *new_name = cqrs_sql_arg_name(fcinfo, ALTER_NEW_NAME, "new_name");
		CqrsProjection *other = cqrs_projection_find(new_name, true);

		if (other != NULL && other->id != projection->id)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("projection \"%s\" already exists", new_name),
					 errhint("Choose another name.")));
		columns->name = PG_GETARG_DATUM(ALTER_NEW_NAME);
		for (int i = 0; i < projection->ntables && projection->query != NULL; i++)
			cqrs_view_depend_rename(projection->tables[i], NameStr(projection->name), new_name);
	}
}

/* A view's filters are never wider than what its query says. */
static void
alter_view_filters(const CqrsProjection *projection, CqrsProjectionColumns *columns)
{
	CqrsUserContext user;
	CqrsView   *view;

	cqrs_query_enter_user(&user, projection->owner, &projection->settings);
	view = cqrs_view_parse(projection->query);
	cqrs_query_leave_user(&user);
	columns->event_types = cqrs_sql_arg_narrow_filter(columns->event_types, view->event_types);
	columns->aggregate_types = cqrs_sql_arg_narrow_filter(columns->aggregate_types,
														  view->aggregate_types);
	columns->sources = cqrs_sql_arg_narrow_filter(columns->sources, view->sources);
}

static void
refuse_for_view(const CqrsProjection *projection, const char *what)
{
	if (projection->query != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot change the %s of view \"%s\"", what, NameStr(projection->name)),
				 errdetail("It follows from the view's query."),
				 errhint("Create a view with another query.")));
}

/* Parked events wait for others of their key. */
static void
refuse_while_parked(const CqrsProjection *projection)
{
	if (cqrs_dead_letter_summary(projection->id).events > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change the key of projection \"%s\" while it has dead letters",
						NameStr(projection->name)),
				 errdetail("They wait for others of the same key."),
				 errhint("SELECT cqrs.retry_dead_letters(%s); or cqrs.discard_dead_letters for each key.",
						 quote_literal_cstr(NameStr(projection->name)))));
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
