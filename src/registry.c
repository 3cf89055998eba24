/*
 * registry.c
 *		The table cqrs.registry, written: register, change and forget
 *		projections; record their errors.
 *
 * A trigger on the table tells all processes, so that whoever takes the
 * projection's lock next sees the change. The caller holds that lock.
 */
#include "postgres.h"

#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "catalog.h"
#include "era.h"
#include "query.h"
#include "registry.h"
#include "trigger.h"

#define WATCH_TRIGGER "cqrs_registry_changed"

/*
 * In SQL: what is kept of inline_in where publishers leave a projection alone. That
 * they applied events before a restore stays true; here, the checkpoint has caught up.
 */
#define INLINE_BEFORE "nullif(inline_in, " CQRS_ERA_INCARNATION ")"

/* $1 to $12: what both an insert and an update write */
#define CHANGEABLE_TYPES \
	NAMEOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, \
	TEXTOID, TEXTOID, INT4OID, TEXTOID

static void fill_changeable(const CqrsProjectionColumns *columns, Datum *args, char *nulls);
static void fill_text(const char *value, int argno, Datum *args, char *nulls);
static void change_row(CqrsQuery *query, Datum *args, const char *nulls);
static bool change_read_id(TupleTableSlot *slot, void *arg);

/*
 * Insert a row, with the session's current settings. Returns its id. Throws
 * where the name is taken, also by a transaction in flight.
 */
int32
cqrs_registry_insert(const CqrsProjectionColumns *columns)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.registry (name, kind, handler, mode, event_types,"
		" aggregate_types, sources, key, on_error, notify, batch_size, state, owner, query,"
		" read_tables, state_table, start_at, settings, segments)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,"
		" $18, 1)"
		" ON CONFLICT (name) DO NOTHING RETURNING id",
		.nargs = 18,
		.argtypes = {CHANGEABLE_TYPES, REGROLEOID, TEXTOID, REGCLASSARRAYOID, REGCLASSOID,
		TEXTOID, TEXTARRAYOID}
	};
	Datum		args[18];
	char		nulls[18];
	int32		id = 0;

	memset(nulls, ' ', sizeof(nulls));
	fill_changeable(columns, args, nulls);
	args[12] = ObjectIdGetDatum(columns->owner);
	fill_text(columns->query, 13, args, nulls);
	args[14] = columns->read_tables;
	args[15] = ObjectIdGetDatum(columns->state_table);
	if (!OidIsValid(columns->state_table))
		nulls[15] = 'n';
	fill_text(columns->start_at, 16, args, nulls);
	args[17] = cqrs_settings_save();

	if (cqrs_query_run(&query, args, nulls, change_read_id, &id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists",
						NameStr(*DatumGetName(columns->name))),
				 errhint("Choose another name, or change that one: cqrs.alter_projection, cqrs.drop_projection.")));
	return id;
}

/* Write back all that alter_projection can change. */
void
cqrs_registry_update(int32 id, const CqrsProjectionColumns *columns)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET name = $1, kind = $2, handler = $3, mode = $4,"
		" event_types = $5, aggregate_types = $6, sources = $7, key = $8, on_error = $9,"
		" notify = $10, batch_size = $11, state = $12,"
		" inline_in = CASE WHEN $12 = 'running' AND $4 = 'inline' THEN inline_in"
		"  ELSE " INLINE_BEFORE " END WHERE id = $13",
		.nargs = 13,
		.argtypes = {CHANGEABLE_TYPES, INT4OID}
	};
	Datum		args[13];
	char		nulls[13];

	memset(nulls, ' ', sizeof(nulls));
	fill_changeable(columns, args, nulls);
	args[12] = Int32GetDatum(id);
	change_row(&query, args, nulls);
}

void
cqrs_registry_delete(int32 id)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.registry WHERE id = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(id);

	change_row(&query, &arg, NULL);
}

void
cqrs_registry_set_owner(int32 id, Oid owner)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET owner = $2 WHERE id = $1",
		.nargs = 2,
		.argtypes = {INT4OID, REGROLEOID}
	};
	Datum		args[2] = {Int32GetDatum(id), ObjectIdGetDatum(owner)};

	change_row(&query, args, NULL);
}

/* The same function has another name. */
void
cqrs_registry_set_handler(int32 id, const char *handler)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET handler = $2 WHERE id = $1",
		.nargs = 2,
		.argtypes = {INT4OID, TEXTOID}
	};
	Datum		args[2] = {Int32GetDatum(id), CStringGetTextDatum(handler)};

	change_row(&query, args, NULL);
}

/* Change one of the settings that its code runs under. */
void
cqrs_registry_set_setting(int32 id, const char *name, const char *value)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET settings = " CQRS_SETTINGS_WITH(2, 3) " WHERE id = $1",
		.nargs = 3,
		.argtypes = {INT4OID, TEXTOID, TEXTOID}
	};
	Datum		args[3] = {
		Int32GetDatum(id), CStringGetTextDatum(name), CStringGetTextDatum(value)
	};

	change_row(&query, args, NULL);
}

/*
 * Enter a state other than "rebuilding". Leaving "stopped" forgets the error;
 * ending a rebuild forgets when it began, pausing or stopping it does not.
 */
void
cqrs_registry_set_state(int32 id, CqrsState state)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET state = $2, retries = 0, next_retry_at = NULL,"
		" inline_in = CASE WHEN $2 = 'running' AND mode = 'inline' THEN " CQRS_ERA_INCARNATION
		"  ELSE " INLINE_BEFORE " END,"
		" last_error = CASE WHEN state = 'stopped' AND $2 <> 'paused' THEN NULL ELSE last_error END,"
		" last_error_at = CASE WHEN state = 'stopped' AND $2 <> 'paused' THEN NULL ELSE last_error_at END,"
		" rebuild_started_at = CASE WHEN $2 = 'paused' OR $2 = 'stopped'"
		"  THEN rebuild_started_at END"
		" WHERE id = $1",
		.nargs = 2,
		.argtypes = {INT4OID, TEXTOID}
	};
	Datum		args[2] = {Int32GetDatum(id), CStringGetTextDatum(cqrs_projection_state_name(state))};

	change_row(&query, args, NULL);
}

/* Enter the state "rebuilding", or go on in it. */
void
cqrs_registry_set_rebuilding(int32 id)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET state = 'rebuilding', inline_in = NULL, retries = 0,"
		" next_retry_at = NULL, last_error = NULL, last_error_at = NULL,"
		" rebuild_started_at = coalesce(rebuild_started_at, clock_timestamp())"
		" WHERE id = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(id);

	change_row(&query, &arg, NULL);
}

/*
 * Note whether there are events put aside that others have to wait for, and when
 * the first is to be tried again (0 = never); error is NULL to leave the last one.
 */
void
cqrs_registry_set_parked(int32 id, bool parked, TimestampTz retry_at, const char *error)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET parked = $2, parked_retry_at = $3,"
		" last_error = coalesce($4, last_error),"
		" last_error_at = CASE WHEN $4 IS NULL THEN last_error_at ELSE clock_timestamp() END"
		" WHERE id = $1",
		.nargs = 4,
		.argtypes = {INT4OID, BOOLOID, TIMESTAMPTZOID, TEXTOID}
	};
	char		nulls[4] = {' ', ' ', ' ', ' '};
	Datum		args[4] = {
		Int32GetDatum(id), BoolGetDatum(parked), TimestampTzGetDatum(retry_at)
	};

	if (retry_at == 0)
		nulls[2] = 'n';
	fill_text(error, 3, args, nulls);
	change_row(&query, args, nulls);
}

/* Stop a projection for an error. */
void
cqrs_registry_record_stop(int32 id, const char *error)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET state = 'stopped', retries = 0, next_retry_at = NULL,"
		" inline_in = " INLINE_BEFORE ","
		" last_error = $2, last_error_at = clock_timestamp() WHERE id = $1",
		.nargs = 2,
		.argtypes = {INT4OID, TEXTOID}
	};
	Datum		args[2] = {Int32GetDatum(id), CStringGetTextDatum(error)};

	change_row(&query, args, NULL);
}

/* Record an error that is nobody's fault, and when to try again. */
void
cqrs_registry_record_retry(int32 id, const char *error, TimestampTz next_retry_at)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET retries = retries + 1, next_retry_at = $3,"
		" last_error = $2, last_error_at = clock_timestamp() WHERE id = $1",
		.nargs = 3,
		.argtypes = {INT4OID, TEXTOID, TIMESTAMPTZOID}
	};
	Datum		args[3] = {
		Int32GetDatum(id), CStringGetTextDatum(error), TimestampTzGetDatum(next_retry_at)
	};

	change_row(&query, args, NULL);
}

/*
 * Do publishers apply the projection as the active snapshot shows it? *files says in
 * which files its read tables were: TRUNCATE gives them others.
 */
bool
cqrs_registry_was_inline(int32 id, int64 *files)
{
	static CqrsQuery query = {
		.sql = "SELECT coalesce((SELECT pg_catalog.hashtextextended("
		"  pg_catalog.string_agg(c.relfilenode::pg_catalog.text, ' ' ORDER BY c.oid), 0)"
		"  FROM pg_catalog.pg_class c WHERE c.oid = ANY (r.read_tables::pg_catalog.oid[])), 0)"
		" FROM cqrs.registry r WHERE r.id = $1 AND r.mode = 'inline' AND r.state = 'running'",
		.flags = CQRS_QUERY_ACTIVE,
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(id);

	return cqrs_query_run(&query, &arg, NULL, cqrs_query_keep_bigint, files) > 0;
}

/* A batch worked after retries. The last error stays, as history. */
void
cqrs_registry_record_recovery(int32 id)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET retries = 0, next_retry_at = NULL WHERE id = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(id);

	change_row(&query, &arg, NULL);
}

/* Does the trigger fire that tells of changes, whoever makes them? */
bool
cqrs_registry_is_watched(void)
{
	return cqrs_trigger_fires_when(cqrs_catalog_relation("registry", false), WATCH_TRIGGER) ==
		TRIGGER_FIRES_ALWAYS;
}

/* Have it do so. Takes SHARE ROW EXCLUSIVE on the registry if it doesn't. */
void
cqrs_registry_watch(void)
{
	if (!cqrs_registry_is_watched())
		cqrs_trigger_set_fires_when(cqrs_catalog_relation("registry", false), WATCH_TRIGGER,
									TRIGGER_FIRES_ALWAYS);
}

/* The arguments that an insert and an update have in common. */
static void
fill_changeable(const CqrsProjectionColumns *columns, Datum *args, char *nulls)
{
	args[0] = columns->name;
	fill_text(columns->kind, 1, args, nulls);
	fill_text(columns->handler, 2, args, nulls);
	fill_text(cqrs_projection_mode_name(columns->mode), 3, args, nulls);
	args[4] = columns->event_types;
	args[5] = columns->aggregate_types;
	args[6] = columns->sources;
	for (int i = 4; i <= 6; i++)
		if (args[i] == (Datum) 0)
			nulls[i] = 'n';
	fill_text(columns->key, 7, args, nulls);
	fill_text(columns->on_error, 8, args, nulls);
	fill_text(cqrs_projection_notify_name(columns->notify), 9, args, nulls);
	args[10] = Int32GetDatum(columns->batch_size);
	if (columns->batch_size == 0)
		nulls[10] = 'n';
	fill_text(cqrs_projection_state_name(columns->state), 11, args, nulls);
}

static void
fill_text(const char *value, int argno, Datum *args, char *nulls)
{
	args[argno] = value == NULL ? (Datum) 0 : CStringGetTextDatum(value);
	if (value == NULL)
		nulls[argno] = 'n';
}

/* Change exactly one row. */
static void
change_row(CqrsQuery *query, Datum *args, const char *nulls)
{
	uint64		processed = cqrs_query_run(query, args, nulls, NULL, NULL);

	if (processed != 1)
		elog(ERROR, "expected to change one row of cqrs.registry, changed " UINT64_FORMAT,
			 processed);
}

static bool
change_read_id(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(int32 *) arg = DatumGetInt32(slot_getattr(slot, 1, &isnull));
	return true;
}
