/*
 * format.c
 *		What the columns of an attached table mean: an expression for each column of
 *		an event.
 *
 * A format is a list of them, by the columns that a table of that layout has; a
 * mapping adds to it, or replaces some. Columns that a layout may have or not count
 * where they are there.
 *
 * Debezium's outbox event router names five columns. Further ones go with the
 * message as headers, as its users configure it, so here they are metadata; but
 * "timestamp", which its extension for Quarkus writes, says when the event occurred.
 *
 * Eventuate Tram keeps all kinds of messages in one table. Domain events are those
 * whose headers have an event type; commands and replies pass by. Where the database
 * numbers the messages (column dbid), an id may be missing.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "format.h"

/* where a layout has one of an event's columns */
typedef struct FormatColumn
{
	int			entry;
	const char *column;			/* which the table has to have for it */
	const char *expression;		/* NULL = the column itself */
} FormatColumn;

typedef struct Format
{
	const char *name;
	const FormatColumn *columns;
	int			ncolumns;
	bool		metadata;		/* further columns are metadata */
} Format;

static const char *const entry_names[CQRS_FORMAT_NENTRIES] = {
	NULL, NULL, "event_id", NULL, "aggregate_type", "aggregate_id", "aggregate_version",
	"event_type", "payload", "metadata", "occurred_at", "where", "order_by"
};

static const FormatColumn cqrs_views_columns[] = {
	{CQRS_EVENT_EVENT_ID, "event_id", NULL},
	{CQRS_EVENT_AGGREGATE_TYPE, "aggregate_type", NULL},
	{CQRS_EVENT_AGGREGATE_ID, "aggregate_id", NULL},
	{CQRS_EVENT_AGGREGATE_VERSION, "aggregate_version", NULL},
	{CQRS_EVENT_EVENT_TYPE, "event_type", NULL},
	{CQRS_EVENT_PAYLOAD, "payload", NULL},
	{CQRS_EVENT_METADATA, "metadata", NULL},
	{CQRS_EVENT_OCCURRED_AT, "occurred_at", NULL},
	{CQRS_FORMAT_ORDER_BY, "position", NULL}
};

static const FormatColumn debezium_columns[] = {
	{CQRS_EVENT_EVENT_ID, "id", NULL},
	{CQRS_EVENT_AGGREGATE_TYPE, "aggregatetype", NULL},
	{CQRS_EVENT_AGGREGATE_ID, "aggregateid", NULL},
	{CQRS_EVENT_EVENT_TYPE, "type", NULL},
	{CQRS_EVENT_PAYLOAD, "payload", NULL},
	{CQRS_EVENT_OCCURRED_AT, "timestamp", NULL},
	{CQRS_FORMAT_ORDER_BY, "timestamp", NULL}
};

/* where two are for one thing, the last that the table has a column for counts */
static const FormatColumn eventuate_columns[] = {
	{CQRS_EVENT_EVENT_ID, "id", NULL},
	{CQRS_EVENT_EVENT_ID, "dbid", "coalesce(nullif(id, ''), dbid::text)"},
	{CQRS_EVENT_AGGREGATE_TYPE, "headers", "headers::jsonb ->> 'event-aggregate-type'"},
	{CQRS_EVENT_AGGREGATE_ID, "headers", "headers::jsonb ->> 'event-aggregate-id'"},
	{CQRS_EVENT_EVENT_TYPE, "headers", "headers::jsonb ->> 'event-type'"},
	{CQRS_EVENT_PAYLOAD, "payload", NULL},
	{CQRS_EVENT_METADATA, "headers", "headers::jsonb"},
	{CQRS_EVENT_OCCURRED_AT, "creation_time", "to_timestamp(creation_time / 1000.0)"},
	{CQRS_FORMAT_WHERE, "headers", "headers::jsonb ? 'event-type'"},
	{CQRS_FORMAT_ORDER_BY, "id", "id COLLATE \"C\""},
	{CQRS_FORMAT_ORDER_BY, "creation_time", "ROW(creation_time, id COLLATE \"C\")"},
	{CQRS_FORMAT_ORDER_BY, "dbid", NULL}
};

static const Format formats[] = {
	{"cqrs_views", cqrs_views_columns, lengthof(cqrs_views_columns), false},
	{"debezium", debezium_columns, lengthof(debezium_columns), true},
	{"eventuate", eventuate_columns, lengthof(eventuate_columns), false},
	{"mapping", NULL, 0, false}
};

static const Format *format_find(const char *name);
static void format_fill(const Format *format, Oid relid, const char **expressions);
static bool format_knows(const Format *format, const char *column);
static const char *format_metadata(const Format *format, Oid relid);
static void mapping_fill(Jsonb *mapping, Oid relid, const char **expressions, bool *all_else);
static int	entry_find(const char *name);
static void format_check(const Format *format, Oid relid, const char **expressions);
static const char *column_expression(Oid relid, const char *column);

/* What the entry is called in a mapping; NULL for what can't be in one. */
const char *
cqrs_format_entry_name(int entry)
{
	return entry_names[entry];
}

/*
 * Set expressions, of CQRS_FORMAT_NENTRIES, to what the format and the mapping
 * (NULL = none) say for a table: SQL text, or NULL where an event gets its default.
 * Set *all_else to whether metadata is what the table has besides, whatever that is.
 * Throws for an unknown format, a mapping that is none, or where nothing is said about
 * what an event can't do without.
 */
void
cqrs_format_expressions(Oid relid, const char *name, Jsonb *mapping, const char **expressions,
						bool *all_else)
{
	const Format *format = format_find(name);

	memset(expressions, 0, CQRS_FORMAT_NENTRIES * sizeof(char *));
	*all_else = format->metadata;
	format_fill(format, relid, expressions);
	if (mapping != NULL)
		mapping_fill(mapping, relid, expressions, all_else);
	format_check(format, relid, expressions);
}

static const Format *
format_find(const char *name)
{
	for (int i = 0; i < lengthof(formats); i++)
		if (strcmp(formats[i].name, name) == 0)
			return &formats[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized format \"%s\"", name),
			 errhint("Use \"cqrs_views\", \"debezium\", \"eventuate\" or \"mapping\".")));
}

static void
format_fill(const Format *format, Oid relid, const char **expressions)
{
	for (int i = 0; i < format->ncolumns; i++)
	{
		const FormatColumn *column = &format->columns[i];

		if (get_attnum(relid, column->column) <= 0)
			continue;
		expressions[column->entry] = column->expression != NULL ? column->expression :
			column_expression(relid, column->column);
	}
	/* milliseconds, as everywhere in Debezium */
	if (format->metadata && expressions[CQRS_EVENT_OCCURRED_AT] != NULL &&
		get_atttype(relid, get_attnum(relid, "timestamp")) == INT8OID)
		expressions[CQRS_EVENT_OCCURRED_AT] = "to_timestamp(\"timestamp\" / 1000.0)";
	if (format->metadata)
		expressions[CQRS_EVENT_METADATA] = format_metadata(format, relid);
}

static bool
format_knows(const Format *format, const char *column)
{
	for (int i = 0; i < format->ncolumns; i++)
		if (strcmp(format->columns[i].column, column) == 0)
			return true;
	return false;
}

/* A JSON object of the columns that the format does not know, but for those that are NULL. */
static const char *
format_metadata(const Format *format, Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData sql;
	bool		any = false;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "'{}'::jsonb");
	for (int i = 0; i < desc->natts; i++)
	{
		const char *column = NameStr(TupleDescAttr(desc, i)->attname);

		if (TupleDescAttr(desc, i)->attisdropped || format_knows(format, column))
			continue;
		appendStringInfo(&sql, " || CASE WHEN %s IS NULL THEN '{}' ELSE jsonb_build_object(%s, %s) END",
						 quote_identifier(column), quote_literal_cstr(column),
						 quote_identifier(column));
		any = true;
	}
	table_close(rel, NoLock);
	return any ? sql.data : NULL;
}

/* What the mapping says replaces what is there; null takes the default. */
static void
mapping_fill(Jsonb *mapping, Oid relid, const char **expressions, bool *all_else)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			entry = 0;

	if (!JB_ROOT_IS_OBJECT(mapping))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("mapping must be a JSON object"),
				 errhint("For example: '{\"event_id\": \"id\", \"event_type\": \"lower(kind)\"}'")));
	iterator = JsonbIteratorInit(&mapping->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			entry = entry_find(pnstrdup(value.val.string.val, value.val.string.len));
			if (entry == CQRS_EVENT_METADATA)
				*all_else = false;
		}
		else if (token == WJB_VALUE && value.type == jbvNull)
			expressions[entry] = NULL;
		else if (token == WJB_VALUE && value.type == jbvString)
			expressions[entry] = column_expression(relid,
												   pnstrdup(value.val.string.val,
															value.val.string.len));
		else if (token == WJB_VALUE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the mapping of %s must be a JSON string", entry_names[entry]),
					 errhint("It is the name of a column, or an SQL expression.")));
	}
}

static int
entry_find(const char *name)
{
	for (int i = 1; i < CQRS_FORMAT_NENTRIES; i++)
		if (entry_names[i] != NULL && strcmp(entry_names[i], name) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized key in mapping: \"%s\"", name),
			 errhint("The keys are event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, metadata, occurred_at, where and order_by.")));
}

/* Throw where an event would lack what it can't do without. */
static void
format_check(const Format *format, Oid relid, const char **expressions)
{
	static const int required[] = {
		CQRS_EVENT_EVENT_ID, CQRS_EVENT_AGGREGATE_TYPE, CQRS_EVENT_AGGREGATE_ID,
		CQRS_EVENT_EVENT_TYPE
	};

	for (int i = 0; i < lengthof(required); i++)
	{
		const char *column = NULL;

		if (expressions[required[i]] != NULL)
			continue;
		for (int j = 0; j < format->ncolumns && column == NULL; j++)
			if (format->columns[j].entry == required[i])
				column = format->columns[j].column;
		ereport(ERROR,
				(errcode(column == NULL ? ERRCODE_INVALID_PARAMETER_VALUE :
						 ERRCODE_UNDEFINED_COLUMN),
				 errmsg("nothing says what %s of an event is in table \"%s\"",
						entry_names[required[i]], get_rel_name(relid)),
				 column == NULL ? 0 :
				 errdetail("Format \"%s\" takes it from a column \"%s\".", format->name, column),
				 errhint("Name a column or an SQL expression: mapping => '{\"%s\": \"…\"}'",
						 entry_names[required[i]])));
	}
}

/* A column's name as an expression, and anything else as it is. */
static const char *
column_expression(Oid relid, const char *column)
{
	return get_attnum(relid, column) > 0 ? quote_identifier(column) : column;
}
