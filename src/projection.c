/*
 * projection.c
 *		The table cqrs.registry: registered projections, their definition and
 *		state.
 *
 * All rows are cached in this process, see table_cache.c: whoever holds a
 * projection's lock (see checkpoint.c) and has asked for the projection after that
 * has its current state.
 *
 * An inline projection that was running when it was dumped is switching after the
 * restore: in the new database, publishers don't apply its events. Its row says in
 * which incarnation they did, so there is no moment in which anybody could take it
 * for one that they look after.
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "era.h"
#include "function.h"
#include "projection.h"
#include "query.h"
#include "table_cache.h"

static const char *const mode_names[] = {"async", "inline"};
static const char *const state_names[] = {
	"running", "paused", "stopped", "rebuilding", "switching"
};
static const char *const notify_names[] = {"keys", "batch", "none"};

static void *registry_load_row(TupleTableSlot *slot);
static void tables_load(CqrsProjection *projection, TupleTableSlot *slot);
static void filter_load(CqrsFilter *filter, TupleTableSlot *slot, int column);
static bool filter_matches(const CqrsFilter *filter, const CqrsEvent *event, TupleDesc desc,
						   CqrsEventColumn column);
static int	name_lookup(const char *what, const char *value, const char *const *names, int n);
static char *slot_text(TupleTableSlot *slot, int column);
static TimestampTz slot_timestamp(TupleTableSlot *slot, int column);

/* of CqrsProjection, by id */
static CqrsTableCache registry = {
	.relname = "registry",
	.query = {
		.sql = "SELECT id, name, owner, kind, handler, read_tables, mode, event_types,"
		" aggregate_types, sources, key, query, on_error, notify, batch_size,"
		" settings, state, rebuild_started_at,"
		" retries, next_retry_at, last_error, last_error_at, state_table,"
		" parked, parked_retry_at, inline_in, inline_in = " CQRS_ERA_INCARNATION
		" FROM cqrs.registry ORDER BY id",
		.flags = CQRS_QUERY_LATEST
	},
	.load = registry_load_row
};

/* Called once per process, from _PG_init. */
void
cqrs_projection_init(void)
{
	cqrs_table_cache_init(&registry);
}

/* A row of cqrs.registry was changed by the current statement: tell all processes. */
void
cqrs_projection_changed(void)
{
	cqrs_table_cache_changed(&registry);
}

/* All projections of this database, ordered by id. */
List *
cqrs_projection_list(void)
{
	return cqrs_table_cache_rows(&registry);
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

/* The projection that maintains a table, be it for itself, or NULL. */
CqrsProjection *
cqrs_projection_of_table(Oid relid)
{
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		for (int i = 0; i < projection->ntables; i++)
			if (projection->tables[i] == relid)
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

/*
 * The parsed key; parses it, so call it as the projection's owner. Like a handler, it
 * is checked again whenever a function, a type or a role has changed, since it may no
 * longer be the owner's to run.
 */
const CqrsKey *
cqrs_projection_key(CqrsProjection *projection)
{
	uint64		changes = cqrs_function_changes();
	uint64		type_changes = cqrs_function_type_changes();
	CqrsKey    *key = projection->key;
	CqrsKey    *parsed;
	MemoryContext old;

	/* a column calls nothing */
	if (key != NULL &&
		(key->column != 0 ||
		 (projection->key_checked == changes && projection->key_types_checked == type_changes)))
		return key;

	parsed = cqrs_event_key_parse(projection->key_expression);
	if (key == NULL || !equal(parsed->expr, key->expr))
	{
		old = MemoryContextSwitchTo(projection->context);
		key = palloc(sizeof(CqrsKey));
		key->column = parsed->column;
		key->expr = copyObject(parsed->expr);
		MemoryContextSwitchTo(old);
	}
	projection->key = key;
	projection->key_checked = changes;
	projection->key_types_checked = type_changes;
	return key;
}

/* Do publishers apply their events themselves? */
bool
cqrs_projection_is_inline(const CqrsProjection *projection)
{
	return projection->mode == CQRS_MODE_INLINE &&
		projection->state == CQRS_STATE_RUNNING;
}

/* Have publishers applied the events of an older incarnation's era themselves? */
bool
cqrs_projection_was_inline(const CqrsProjection *projection, const pg_uuid_t *incarnation)
{
	return projection->was_inline &&
		memcmp(&projection->inline_in, incarnation, sizeof(pg_uuid_t)) == 0;
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

const char *
cqrs_projection_notify_name(CqrsNotify notify)
{
	return notify_names[notify];
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

static void *
registry_load_row(TupleTableSlot *slot)
{
	CqrsProjection *projection = palloc0(sizeof(CqrsProjection));
	bool		isnull;
	int32		batch_size;
	Datum		inline_in;

	slot_getallattrs(slot);
	projection->context = CurrentMemoryContext;
	projection->id = DatumGetInt32(slot->tts_values[0]);
	projection->name = *DatumGetName(slot->tts_values[1]);
	projection->owner = DatumGetObjectId(slot->tts_values[2]);
	projection->kind = slot_text(slot, 4);
	projection->handler = slot_text(slot, 5);
	tables_load(projection, slot);
	projection->mode = cqrs_projection_mode_parse(slot_text(slot, 7));
	filter_load(&projection->event_types, slot, 8);
	filter_load(&projection->aggregate_types, slot, 9);
	filter_load(&projection->sources, slot, 10);
	projection->key_expression = slot_text(slot, 11);
	projection->query = slot_text(slot, 12);
	projection->on_error = slot_text(slot, 13);
	projection->notify = cqrs_projection_notify_parse(slot_text(slot, 14));
	batch_size = DatumGetInt32(slot_getattr(slot, 15, &isnull));
	projection->batch_size = isnull ? 0 : batch_size;
	cqrs_settings_load(&projection->settings, slot_getattr(slot, 16, &isnull));
	projection->state = name_lookup("state", slot_text(slot, 17), state_names,
									lengthof(state_names));
	inline_in = slot_getattr(slot, 26, &isnull);
	projection->was_inline = !isnull;
	if (!isnull)
		projection->inline_in = *DatumGetUUIDP(inline_in);
	if (projection->mode == CQRS_MODE_INLINE && projection->state == CQRS_STATE_RUNNING &&
		!DatumGetBool(slot_getattr(slot, 27, &isnull)))
		projection->state = CQRS_STATE_SWITCHING;
	projection->rebuild_started_at = slot_timestamp(slot, 18);
	projection->retries = DatumGetInt64(slot_getattr(slot, 19, &isnull));
	projection->next_retry_at = slot_timestamp(slot, 20);
	projection->last_error = slot_text(slot, 21);
	projection->last_error_at = slot_timestamp(slot, 22);
	projection->parked = DatumGetBool(slot_getattr(slot, 24, &isnull));
	projection->parked_retry_at = slot_timestamp(slot, 25);
	return projection;
}

static void
tables_load(CqrsProjection *projection, TupleTableSlot *slot)
{
	ArrayType  *array = DatumGetArrayTypeP(slot->tts_values[5]);
	bool		isnull;
	Datum		state_table = slot_getattr(slot, 23, &isnull);

	projection->nread_tables = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	projection->tables = palloc((projection->nread_tables + 1) * sizeof(Oid));
	memcpy(projection->tables, ARR_DATA_PTR(array), projection->nread_tables * sizeof(Oid));
	projection->ntables = projection->nread_tables;
	projection->state_table = isnull ? InvalidOid : DatumGetObjectId(state_table);
	if (!isnull)
		projection->tables[projection->ntables++] = projection->state_table;
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
	filter->array = PointerGetDatum(DatumGetArrayTypePCopy(value));
	deconstruct_array(DatumGetArrayTypeP(filter->array), TEXTOID, -1, false, TYPALIGN_INT,
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

	if (filter->all)
		return true;
	value = cqrs_event_text(event, desc, column);
	for (int i = 0; i < filter->nvalues; i++)
		if (cqrs_event_same_text(filter->values[i], value))
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
