/*
 * projection.c
 *		The table cqrs.registry: registered projections, their definition and
 *		state.
 *
 * All rows are cached in this process. Every change sends, by a trigger, a
 * relcache invalidation for the table, so a cache is right from the
 * next lock on that its process takes; whoever holds a projection's lock (see
 * checkpoint.c) and has asked for the projection after that has its current
 * state. Rows are read under a snapshot of their own: an inline trigger under
 * repeatable read must know today's projections, too.
 *
 * A cache that became stale is not freed before the transaction ends, since
 * code further up the stack may be using it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "projection.h"

static const char *const mode_names[] = {"async", "inline"};
static const char *const state_names[] = {
	"running", "paused", "stopped", "rebuilding", "switching"
};
static const char *const notify_names[] = {"keys", "batch", "none"};

/* a generation of the cache */
typedef struct Registry
{
	MemoryContext context;
	List	   *projections;	/* of CqrsProjection, by id */
} Registry;

static Registry *registry = NULL;
static Oid	registry_relid = InvalidOid;
static bool registry_stale = true;
static List *retired = NIL;		/* memory contexts, to free at transaction end */

static Registry *registry_current(void);
static void registry_relcache_callback(Datum arg, Oid relid);
static void registry_xact_callback(XactEvent event, void *arg);
static bool registry_add_row(TupleTableSlot *slot, void *arg);
static void registry_write(CqrsQuery *query, Datum *args, const char *nulls);
static void filter_load(CqrsFilter *filter, TupleTableSlot *slot, int column);
static bool filter_matches(const CqrsFilter *filter, const CqrsEvent *event, TupleDesc desc,
						   CqrsEventColumn column);
static int	name_lookup(const char *what, const char *value, const char *const *names, int n);
static bool projection_read_id(TupleTableSlot *slot, void *arg);
static char *slot_text(TupleTableSlot *slot, int column);
static TimestampTz slot_timestamp(TupleTableSlot *slot, int column);

/* Called once per process, from _PG_init. */
void
cqrs_projection_init(void)
{
	CacheRegisterRelcacheCallback(registry_relcache_callback, (Datum) 0);
	RegisterXactCallback(registry_xact_callback, NULL);
}

/*
 * A row of the table was changed by the current statement: tell all processes,
 * when the transaction commits, and this one. Called by a trigger, so that no
 * way of changing it is missed, a restore included.
 */
void
cqrs_projection_changed(void)
{
	CacheInvalidateRelcacheByRelid(cqrs_query_relation("registry", false));
}

/* All projections of this database, ordered by id. */
List *
cqrs_projection_list(void)
{
	return registry_current()->projections;
}

/* The projection of that name; throws, or returns NULL with missing_ok. */
CqrsProjection *
cqrs_projection_find(const char *name, bool missing_ok)
{
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		if (strcmp(NameStr(projection->name), name) == 0)
			return projection;
	}
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", name),
				 errhint("SELECT name FROM cqrs.projection; lists those of this database.")));
	return NULL;
}

/* The projection of that id, or NULL where it is gone. */
CqrsProjection *
cqrs_projection_get(int32 id)
{
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		if (projection->id == id)
			return projection;
	}
	return NULL;
}

/* The projection that maintains a table, or NULL. */
CqrsProjection *
cqrs_projection_of_table(Oid relid)
{
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		for (int i = 0; i < projection->nread_tables; i++)
			if (projection->read_tables[i] == relid)
				return projection;
	}
	return NULL;
}

/* Does the event pass all three filters? */
bool
cqrs_projection_wants(const CqrsProjection *projection, const CqrsEvent *event,
					  TupleDesc desc)
{
	return filter_matches(&projection->event_types, event, desc, CQRS_EVENT_EVENT_TYPE) &&
		filter_matches(&projection->aggregate_types, event, desc, CQRS_EVENT_AGGREGATE_TYPE) &&
		filter_matches(&projection->sources, event, desc, CQRS_EVENT_SOURCE);
}

/* The parsed key; parses it, so call it as the projection's owner. */
const CqrsKey *
cqrs_projection_key(CqrsProjection *projection)
{
	if (projection->key == NULL)
	{
		CqrsKey    *parsed = cqrs_event_key_parse(projection->key_expression);
		MemoryContext old = MemoryContextSwitchTo(projection->context);
		CqrsKey    *key = palloc(sizeof(CqrsKey));

		key->column = parsed->column;
		key->expr = copyObject(parsed->expr);
		projection->key = key;
		MemoryContextSwitchTo(old);
	}
	return projection->key;
}

/* Do publishers apply their events themselves? */
bool
cqrs_projection_is_inline(const CqrsProjection *projection)
{
	return projection->mode == CQRS_MODE_INLINE &&
		projection->state == CQRS_STATE_RUNNING;
}

/* Is there anything for a worker, or catch_up, to do for it? */
bool
cqrs_projection_is_active(const CqrsProjection *projection)
{
	return projection->state != CQRS_STATE_PAUSED &&
		projection->state != CQRS_STATE_STOPPED;
}

/*
 * May the current user see the projection's errors, which may tell what is in an
 * event? Its owner and monitors may.
 */
bool
cqrs_projection_shows_error(const CqrsProjection *projection)
{
	return has_privs_of_role(GetUserId(), projection->owner) ||
		has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_STATS);
}

/* Throw unless the current user may manage the projection. */
void
cqrs_projection_check_owner(const CqrsProjection *projection)
{
	if (!has_privs_of_role(GetUserId(), projection->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of projection \"%s\"", NameStr(projection->name)),
				 errhint("SET ROLE %s;",
						 quote_identifier(GetUserNameFromId(projection->owner, false)))));
}

/* --------------------------------------------------------------- changes */

/*
 * Insert a row, with the session's current settings. Returns its id. Throws
 * where the name is taken, also by a transaction in flight.
 */
int32
cqrs_projection_insert(const CqrsProjectionColumns *columns)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.registry (name, owner, kind, handler, read_tables, mode,"
		" event_types, aggregate_types, sources, key, start_at, on_error, notify,"
		" batch_size, segments, state, search_path, time_zone, date_style, interval_style)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 1, $15,"
		" $16, $17, $18, $19)"
		" ON CONFLICT (name) DO NOTHING RETURNING id",
		.flags = CQRS_QUERY_WRITE,
		.nargs = 19,
		.argtypes = {NAMEOID, REGROLEOID, TEXTOID, TEXTOID, REGCLASSARRAYOID, TEXTOID,
			TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID,
		INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID}
	};
	Datum		args[19];
	char		nulls[19];
	int32		id = 0;

	memset(nulls, ' ', sizeof(nulls));
	args[0] = columns->name;
	args[1] = ObjectIdGetDatum(columns->owner);
	args[2] = CStringGetTextDatum(columns->kind);
	args[3] = CStringGetTextDatum(columns->handler);
	args[4] = columns->read_tables;
	args[5] = CStringGetTextDatum(mode_names[columns->mode]);
	args[6] = columns->event_types;
	args[7] = columns->aggregate_types;
	args[8] = columns->sources;
	args[9] = CStringGetTextDatum(columns->key);
	args[10] = CStringGetTextDatum(columns->start_at);
	args[11] = CStringGetTextDatum(columns->on_error);
	args[12] = CStringGetTextDatum(notify_names[columns->notify]);
	args[13] = Int32GetDatum(columns->batch_size);
	args[14] = CStringGetTextDatum(state_names[columns->state]);
	args[15] = CStringGetTextDatum(GetConfigOption("search_path", false, false));
	args[16] = CStringGetTextDatum(GetConfigOption("TimeZone", false, false));
	args[17] = CStringGetTextDatum(GetConfigOption("DateStyle", false, false));
	args[18] = CStringGetTextDatum(GetConfigOption("IntervalStyle", false, false));
	for (int i = 6; i <= 8; i++)
		if (args[i] == (Datum) 0)
			nulls[i] = 'n';
	if (columns->batch_size == 0)
		nulls[13] = 'n';

	if (cqrs_query_run(&query, args, nulls, projection_read_id, &id) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists",
						NameStr(*DatumGetName(columns->name)))));
	return id;
}

/* Write back all that alter_projection can change. */
void
cqrs_projection_update(int32 id, const CqrsProjectionColumns *columns)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET name = $2, kind = $3, handler = $4, mode = $5,"
		" event_types = $6, aggregate_types = $7, sources = $8, key = $9, on_error = $10,"
		" notify = $11, batch_size = $12, state = $13 WHERE id = $1",
		.flags = CQRS_QUERY_WRITE,
		.nargs = 13,
		.argtypes = {INT4OID, NAMEOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID,
		TEXTARRAYOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID, INT4OID, TEXTOID}
	};
	Datum		args[13];
	char		nulls[13];

	memset(nulls, ' ', sizeof(nulls));
	args[0] = Int32GetDatum(id);
	args[1] = columns->name;
	args[2] = CStringGetTextDatum(columns->kind);
	args[3] = CStringGetTextDatum(columns->handler);
	args[4] = CStringGetTextDatum(mode_names[columns->mode]);
	args[5] = columns->event_types;
	args[6] = columns->aggregate_types;
	args[7] = columns->sources;
	args[8] = CStringGetTextDatum(columns->key);
	args[9] = CStringGetTextDatum(columns->on_error);
	args[10] = CStringGetTextDatum(notify_names[columns->notify]);
	args[11] = Int32GetDatum(columns->batch_size);
	args[12] = CStringGetTextDatum(state_names[columns->state]);
	for (int i = 5; i <= 7; i++)
		if (args[i] == (Datum) 0)
			nulls[i] = 'n';
	if (columns->batch_size == 0)
		nulls[11] = 'n';
	registry_write(&query, args, nulls);
}

void
cqrs_projection_delete(int32 id)
{
	static CqrsQuery query = {
		.sql = "DELETE FROM cqrs.registry WHERE id = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(id);

	registry_write(&query, &arg, NULL);
}

/*
 * Enter a state other than "rebuilding". Leaving "stopped" forgets the error;
 * ending a rebuild forgets when it began, pausing or stopping it does not.
 */
void
cqrs_projection_set_state(int32 id, CqrsState state)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET state = $2, retries = 0, next_retry_at = NULL,"
		" last_error = CASE WHEN state = 'stopped' AND $2 <> 'paused' THEN NULL ELSE last_error END,"
		" last_error_at = CASE WHEN state = 'stopped' AND $2 <> 'paused' THEN NULL ELSE last_error_at END,"
		" rebuild_started_at = CASE WHEN $2 = 'paused' OR $2 = 'stopped'"
		"  THEN rebuild_started_at END"
		" WHERE id = $1",
		.nargs = 2,
		.argtypes = {INT4OID, TEXTOID}
	};
	Datum		args[2] = {Int32GetDatum(id), CStringGetTextDatum(state_names[state])};

	registry_write(&query, args, NULL);
}

/* Enter the state "rebuilding", or go on in it. */
void
cqrs_projection_set_rebuilding(int32 id)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET state = 'rebuilding', retries = 0,"
		" next_retry_at = NULL, last_error = NULL, last_error_at = NULL,"
		" rebuild_started_at = coalesce(rebuild_started_at, clock_timestamp())"
		" WHERE id = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(id);

	registry_write(&query, &arg, NULL);
}

/* Stop a projection for an error. */
void
cqrs_projection_record_stop(int32 id, const char *error)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET state = 'stopped', next_retry_at = NULL,"
		" last_error = $2, last_error_at = clock_timestamp() WHERE id = $1",
		.nargs = 2,
		.argtypes = {INT4OID, TEXTOID}
	};
	Datum		args[2] = {Int32GetDatum(id), CStringGetTextDatum(error)};

	registry_write(&query, args, NULL);
}

/* Record an error that is nobody's fault, and when to try again. */
void
cqrs_projection_record_retry(int32 id, const char *error, TimestampTz next_retry_at)
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

	registry_write(&query, args, NULL);
}

/* A batch worked after retries. The last error stays, as history. */
void
cqrs_projection_record_recovery(int32 id)
{
	static CqrsQuery query = {
		.sql = "UPDATE cqrs.registry SET retries = 0, next_retry_at = NULL WHERE id = $1",
		.nargs = 1,
		.argtypes = {INT4OID}
	};
	Datum		arg = Int32GetDatum(id);

	registry_write(&query, &arg, NULL);
}

/* ----------------------------------------------------------------- names */

const char *
cqrs_projection_mode_name(CqrsMode mode)
{
	return mode_names[mode];
}

const char *
cqrs_projection_state_name(CqrsState state)
{
	return state_names[state];
}

CqrsMode
cqrs_projection_mode_parse(const char *value)
{
	return name_lookup("mode", value, mode_names, lengthof(mode_names));
}

CqrsNotify
cqrs_projection_notify_parse(const char *value)
{
	return name_lookup("notify", value, notify_names, lengthof(notify_names));
}

/* ----------------------------------------------------------------- cache */

static Registry *
registry_current(void)
{
	static CqrsQuery query = {
		.sql = "SELECT id, name, owner, kind, handler, read_tables, mode, event_types,"
		" aggregate_types, sources, key, start_at, on_error, notify, batch_size,"
		" search_path, time_zone, date_style, interval_style, state, rebuild_started_at,"
		" retries, next_retry_at, last_error, last_error_at"
		" FROM cqrs.registry ORDER BY id",
		.flags = CQRS_QUERY_LATEST
	};
	MemoryContext context;
	Registry   *fresh;

	if (registry != NULL && !registry_stale)
		return registry;

	context = AllocSetContextCreate(TopMemoryContext, "cqrs_views registry",
									ALLOCSET_SMALL_SIZES);
	fresh = MemoryContextAllocZero(context, sizeof(Registry));
	fresh->context = context;

	/* before reading: what changes while we read makes the result stale again */
	registry_relid = cqrs_query_relation("registry", false);
	registry_stale = false;
	PG_TRY();
	{
		cqrs_query_run(&query, NULL, NULL, registry_add_row, fresh);
	}
	PG_CATCH();
	{
		registry_stale = true;
		MemoryContextDelete(context);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (registry != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

		retired = lappend(retired, registry->context);
		MemoryContextSwitchTo(old);
	}
	registry = fresh;
	return registry;
}

static void
registry_relcache_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == registry_relid)
		registry_stale = true;
}

static void
registry_xact_callback(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	foreach(lc, retired)
		MemoryContextDelete(lfirst(lc));
	list_free(retired);
	retired = NIL;
}

/* Change exactly one row. The caller holds the projection's lock. */
static void
registry_write(CqrsQuery *query, Datum *args, const char *nulls)
{
	uint64		processed = cqrs_query_run(query, args, nulls, NULL, NULL);

	if (processed != 1)
		elog(ERROR, "expected to change one row of cqrs.registry, changed " UINT64_FORMAT,
			 processed);
}

static bool
registry_add_row(TupleTableSlot *slot, void *arg)
{
	Registry   *fresh = (Registry *) arg;
	MemoryContext old = MemoryContextSwitchTo(fresh->context);
	CqrsProjection *projection = palloc0(sizeof(CqrsProjection));
	bool		isnull;
	ArrayType  *read_tables;
	int32		batch_size;

	slot_getallattrs(slot);
	projection->context = fresh->context;
	projection->id = DatumGetInt32(slot->tts_values[0]);
	projection->name = *DatumGetName(slot->tts_values[1]);
	projection->owner = DatumGetObjectId(slot->tts_values[2]);
	projection->kind = slot_text(slot, 4);
	projection->handler = slot_text(slot, 5);
	read_tables = DatumGetArrayTypePCopy(slot->tts_values[5]);
	projection->read_tables = (Oid *) ARR_DATA_PTR(read_tables);
	projection->nread_tables = ArrayGetNItems(ARR_NDIM(read_tables), ARR_DIMS(read_tables));
	projection->mode = cqrs_projection_mode_parse(slot_text(slot, 7));
	filter_load(&projection->event_types, slot, 8);
	filter_load(&projection->aggregate_types, slot, 9);
	filter_load(&projection->sources, slot, 10);
	projection->key_expression = slot_text(slot, 11);
	projection->start_at = slot_text(slot, 12);
	projection->on_error = slot_text(slot, 13);
	projection->notify = cqrs_projection_notify_parse(slot_text(slot, 14));
	batch_size = DatumGetInt32(slot_getattr(slot, 15, &isnull));
	projection->batch_size = isnull ? 0 : batch_size;
	projection->settings.search_path = slot_text(slot, 16);
	projection->settings.time_zone = slot_text(slot, 17);
	projection->settings.date_style = slot_text(slot, 18);
	projection->settings.interval_style = slot_text(slot, 19);
	projection->state = name_lookup("state", slot_text(slot, 20), state_names,
									lengthof(state_names));
	projection->rebuild_started_at = slot_timestamp(slot, 21);
	projection->retries = DatumGetInt64(slot_getattr(slot, 22, &isnull));
	projection->next_retry_at = slot_timestamp(slot, 23);
	projection->last_error = slot_text(slot, 24);
	projection->last_error_at = slot_timestamp(slot, 25);

	fresh->projections = lappend(fresh->projections, projection);
	MemoryContextSwitchTo(old);
	return true;
}

static void
filter_load(CqrsFilter *filter, TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);
	Datum	   *elements;

	filter->all = isnull;
	if (isnull)
		return;
	/* the elements point into the array */
	deconstruct_array(DatumGetArrayTypePCopy(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &filter->nvalues);
	filter->values = palloc(filter->nvalues * sizeof(text *));
	for (int i = 0; i < filter->nvalues; i++)
		filter->values[i] = DatumGetTextPP(elements[i]);
}

static bool
filter_matches(const CqrsFilter *filter, const CqrsEvent *event, TupleDesc desc,
			   CqrsEventColumn column)
{
	text	   *value;
	Size		length;

	if (filter->all)
		return true;
	value = cqrs_event_text(event, desc, column);
	length = VARSIZE_ANY_EXHDR(value);
	for (int i = 0; i < filter->nvalues; i++)
		if (VARSIZE_ANY_EXHDR(filter->values[i]) == length &&
			memcmp(VARDATA_ANY(filter->values[i]), VARDATA_ANY(value), length) == 0)
			return true;
	return false;
}

/* The index of value in names; throws, naming the possible values. */
static int
name_lookup(const char *what, const char *value, const char *const *names, int n)
{
	StringInfoData possible;

	for (int i = 0; i < n; i++)
		if (strcmp(names[i], value) == 0)
			return i;

	initStringInfo(&possible);
	for (int i = 0; i < n; i++)
		appendStringInfo(&possible, "%s\"%s\"", i == 0 ? "" : i == n - 1 ? " or " : ", ",
						 names[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for %s: \"%s\"", what, value),
			 errhint("Use %s.", possible.data)));
}

static bool
projection_read_id(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(int32 *) arg = DatumGetInt32(slot_getattr(slot, 1, &isnull));
	return true;
}

/* a column of type text, or NULL */
static char *
slot_text(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/* a column of type timestamptz, or 0 */
static TimestampTz
slot_timestamp(TupleTableSlot *slot, int column)
{
	bool		isnull;
	Datum		value = slot_getattr(slot, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}
