/*
 * sql_view.c
 *		SQL functions that define views.
 *
 * A new view is filled from all events there are, by one statement, as CREATE
 * MATERIALIZED VIEW would be; its checkpoint is that statement's snapshot. The
 * key's index comes after the rows, and the write guard after that.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "apply.h"
#include "checkpoint.h"
#include "define.h"
#include "era.h"
#include "handler_view.h"
#include "horizon.h"
#include "mode.h"
#include "outbox.h"
#include "outbox_read.h"
#include "query.h"
#include "sql_args.h"
#include "sql_view.h"
#include "view_depend.h"
#include "view_sql.h"
#include "view_table.h"

/* positions of arguments */
enum
{
	VIEW_NAME, VIEW_QUERY, VIEW_MODE, VIEW_EVENT_TYPES, VIEW_AGGREGATE_TYPES, VIEW_SOURCES,
	VIEW_START_AT, VIEW_ON_ERROR, VIEW_NOTIFY, VIEW_BATCH_SIZE, VIEW_SEGMENTS
};

PG_FUNCTION_INFO_V1(cqrs_sql_create_view);
PG_FUNCTION_INFO_V1(cqrs_sql_view_definition);

static void view_arguments(FunctionCallInfo fcinfo, CqrsProjectionColumns *columns);
static void view_create_tables(const CqrsView *view, const char *name, CqrsViewTables *tables);
static Datum view_fill(const CqrsView *view, const CqrsViewTables *tables,
					   const CqrsProjectionColumns *columns, const CqrsSettings *settings);
static void view_finish_tables(const CqrsView *view, const CqrsViewTables *tables,
							   const char *name);
static void run_ddl(char *sql);
static bool read_snapshot(TupleTableSlot *slot, void *arg);

/*
 * cqrs.create_view(name, query, mode, event_types, aggregate_types, sources,
 * start_at, on_error, notify, batch_size, segments) RETURNS regclass
 *
 * Makes a table of that name in the first schema of the search_path, fills it
 * from all events there are, unless start_at is "now", and registers the
 * projection that maintains it. Returns the table. Errors: see the checks of
 * view.c and define.c. Locks: none but the new tables; in mode inline, with a
 * backlog of one batch or less, SHARE ROW EXCLUSIVE on the outbox.
 */
Datum
cqrs_sql_create_view(PG_FUNCTION_ARGS)
{
	CqrsProjectionColumns columns = {.owner = GetUserId(),.kind = cqrs_handler_view_kind.name};
	const char *name;
	CqrsView   *view;
	CqrsViewTables tables = {0};
	Oid			written[2];
	Datum		read_table;
	CqrsSettings settings;
	CqrsUserContext user;
	Datum		done = (Datum) 0;
	int64		last = 0;

	cqrs_apply_refuse_handler("create a view");
	name = cqrs_sql_arg_name(fcinfo, VIEW_NAME, "view name");
	cqrs_define_refuse_existing(name);
	view_arguments(fcinfo, &columns);
	cqrs_outbox_check_rights(columns.owner, columns.mode == CQRS_MODE_INLINE);
	if (columns.mode == CQRS_MODE_INLINE)
		cqrs_mode_require_clean_transaction("create an inline projection");

	cqrs_settings_load(&settings, cqrs_settings_save());
	cqrs_query_enter_user(&user, columns.owner, &settings);
	view = cqrs_view_parse(columns.query);
	cqrs_query_leave_user(&user);
	columns.key = view->key;
	columns.event_types = cqrs_sql_arg_narrow_filter(columns.event_types, view->event_types);
	columns.aggregate_types = cqrs_sql_arg_narrow_filter(columns.aggregate_types,
														 view->aggregate_types);
	columns.sources = cqrs_sql_arg_narrow_filter(columns.sources, view->sources);

	view_create_tables(view, name, &tables);
	if (strcmp(columns.start_at, "now") != 0)
	{
		done = view_fill(view, &tables, &columns, &settings);
		last = cqrs_outbox_last_position();
	}
	view_finish_tables(view, &tables, name);

	written[0] = tables.read_table;
	written[1] = tables.state_table;
	read_table = ObjectIdGetDatum(tables.read_table);
	columns.read_tables = PointerGetDatum(construct_array(&read_table, 1, REGCLASSOID,
														  sizeof(Oid), true, TYPALIGN_INT));
	columns.state_table = tables.state_table;
	cqrs_define_claim(written, OidIsValid(written[1]) ? 2 : 1, columns.owner);
	cqrs_define_projection(&columns, written, OidIsValid(written[1]) ? 2 : 1, done, last);
	PG_RETURN_OID(tables.read_table);
}

/*
 * cqrs.view_definition(name) RETURNS text
 *
 * The query as create_view got it. NULL for a projection that has a handler.
 */
Datum
cqrs_sql_view_definition(PG_FUNCTION_ARGS)
{
	const char *name = cqrs_sql_arg_name(fcinfo, 0, "view name");
	CqrsProjection *projection = cqrs_projection_find(name, false);

	if (projection->query == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(projection->query));
}

/* All arguments but the name, checked as far as they stand for themselves. */
static void
view_arguments(FunctionCallInfo fcinfo, CqrsProjectionColumns *columns)
{
	columns->name = PG_GETARG_DATUM(VIEW_NAME);
	columns->query = cqrs_sql_arg_text(fcinfo, VIEW_QUERY, "query", false);
	columns->mode = cqrs_projection_mode_parse(cqrs_sql_arg_text(fcinfo, VIEW_MODE, "mode", false));
	columns->event_types = cqrs_sql_arg_filter(fcinfo, VIEW_EVENT_TYPES, "event_types", NULL);
	columns->aggregate_types = cqrs_sql_arg_filter(fcinfo, VIEW_AGGREGATE_TYPES,
												   "aggregate_types", NULL);
	columns->sources = cqrs_sql_arg_filter(fcinfo, VIEW_SOURCES, "sources", NULL);
	columns->start_at = cqrs_sql_arg_start_at(fcinfo, VIEW_START_AT);
	columns->on_error = cqrs_sql_arg_on_error(fcinfo, VIEW_ON_ERROR);
	columns->notify = cqrs_projection_notify_parse(cqrs_sql_arg_text(fcinfo, VIEW_NOTIFY,
																	 "notify", false));
	columns->batch_size = cqrs_sql_arg_batch_size(fcinfo, VIEW_BATCH_SIZE);
	cqrs_sql_arg_segments(fcinfo, VIEW_SEGMENTS);
}

/* Make the read table, and the state table where one is needed, without indexes. */
static void
view_create_tables(const CqrsView *view, const char *name, CqrsViewTables *tables)
{
	Oid			schema = RangeVarGetCreationNamespace(makeRangeVar(NULL, pstrdup(name), -1));

	run_ddl(cqrs_view_table_create(view, schema, name, false));
	tables->read_table = get_relname_relid(name, schema);
	if (view->nkept > 0)
	{
		char	   *state = ChooseRelationName(name, NULL, "state", schema, false);

		run_ddl(cqrs_view_table_create(view, schema, state, true));
		tables->state_table = get_relname_relid(state, schema);
	}
}

/* Fill the tables from all events that there are. Returns the snapshot of that. */
static Datum
view_fill(const CqrsView *view, const CqrsViewTables *tables,
		  const CqrsProjectionColumns *columns, const CqrsSettings *settings)
{
	CqrsUserContext user;
	CqrsQuery	query = {
		.sql = cqrs_view_sql_fill(view, tables, cqrs_outbox_read_all()),
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_CUSTOM,
		.nargs = 6,
		.argtypes = {INT8OID, XID8OID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, INT8OID}
	};
	Datum		args[6];
	char		nulls[6] = {' ', ' ', ' ', ' ', ' ', ' '};
	Datum		snapshot = (Datum) 0;

	/* before the statement takes its snapshot */
	args[0] = Int64GetDatum(view->nkept > 0 ? cqrs_horizon_settled() : 0);
	args[1] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	args[2] = columns->event_types;
	args[3] = columns->aggregate_types;
	args[4] = columns->sources;
	for (int i = 2; i < 5; i++)
		if (args[i] == (Datum) 0)
			nulls[i] = 'n';
	cqrs_outbox_begin_era();
	args[5] = Int64GetDatum(cqrs_era_first_position());

	cqrs_query_enter_user(&user, columns->owner, settings);
	cqrs_query_run(&query, args, nulls, read_snapshot, &snapshot);
	cqrs_query_leave_user(&user);
	cqrs_query_forget(&query);
	return cqrs_checkpoint_snapshot_without_self(snapshot);
}

/* Give the filled tables their keys, and say what they are. */
static void
view_finish_tables(const CqrsView *view, const CqrsViewTables *tables, const char *name)
{
	ListCell   *lc;

	foreach(lc, cqrs_view_table_constraints(view, tables->read_table, false))
		run_ddl(lfirst(lc));
	if (OidIsValid(tables->state_table))
		foreach(lc, cqrs_view_table_constraints(view, tables->state_table, true))
			run_ddl(lfirst(lc));
	cqrs_view_depend_describe(view, tables, name);
	cqrs_view_depend_record(view, tables);
}

/* Run a statement that defines something, as the current user. */
static void
run_ddl(char *sql)
{
	CqrsQuery	query = {.sql = sql,.flags = CQRS_QUERY_IN_PLACE};

	cqrs_query_run(&query, NULL, NULL, NULL, NULL);
	cqrs_query_forget(&query);
}

static bool
read_snapshot(TupleTableSlot *slot, void *arg)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, 1, &isnull);
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	*(Datum *) arg = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	MemoryContextSwitchTo(old);
	return true;
}
