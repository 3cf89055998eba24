/*
 * row_json.c
 *		Keep a row of an attached table as JSON, and make the row of that again.
 *
 * A column has its value as its type's output function writes it, and gets it back
 * from the type's input function. Nothing is lost by that, whatever the type, and
 * whatever the column's type is by then. PostgreSQL's own functions for JSON would lose
 * some: there are types with a cast to JSON that can't be undone, such as hstore's. For
 * the same reason JSON is a string here, too: null is a value of its, and it may hold
 * what nobody can read, such as \u0000.
 *
 * A column that was added since has what PostgreSQL gives to rows that were there. One
 * that was renamed can't be told from two that came and went: so what would lose a
 * value, and gives the mapping none, is an error.
 *
 * The functions may be a user's, so they run as the table's owner, under the settings
 * of when the table was attached, but for the styles of times: not all styles can be
 * read back.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "apply.h"
#include "mapping.h"
#include "query.h"
#include "row_json.h"

/* a row that is made of its JSON again */
typedef struct Rereading
{
	CqrsAttachment *attachment;
	Relation	rel;
	text	   *json;
	MemoryContext context;		/* that the rest is in */
	const Bitmapset *used;		/* columns that the mapping needs, as pull_varattnos says it */
	bool	   *there;			/* of each column: has the JSON a field of it? */
	char	  **fields;			/* its text; NULL = none, or null */
	char	   *surplus;		/* a field with a value that no column takes; NULL = none */
	HeapTuple	row;
} Rereading;

static void enter_owner(CqrsAttachment *attachment, CqrsUserContext *user);
static void write_value(StringInfo json, Oid type, Datum value);
static void reread_row(void *arg);
static bool read_field(TupleTableSlot *slot, void *arg);
static void check_columns(const Rereading *rereading);
static HeapTuple form_row(const Rereading *rereading);

/*
 * A row as a JSON object with the names of its columns, in the current memory context.
 * Throws what the types' output functions throw.
 */
text *
cqrs_row_json_of(CqrsAttachment *attachment, Relation rel, HeapTuple row)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData json;
	CqrsUserContext user;

	initStringInfo(&json);
	enter_owner(attachment, &user);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		Datum		value;
		bool		isnull;

		if (column->attisdropped)
			continue;
		value = heap_getattr(row, i + 1, desc, &isnull);
		appendStringInfoChar(&json, json.len == 0 ? '{' : ',');
		escape_json(&json, NameStr(column->attname));
		appendStringInfoChar(&json, ':');
		if (isnull)
			appendStringInfoString(&json, "null");
		else
			write_value(&json, column->atttypid, value);
	}
	cqrs_query_leave_user(&user);
	appendStringInfoString(&json, json.len == 0 ? "{}" : "}");
	return cstring_to_text_with_len(json.data, json.len);
}

/*
 * The reverse, in the current memory context. Returns NULL, or the error, where the
 * table has columns by now that the row does not fit into. Throws transient errors, and
 * those of the mapping as a whole.
 */
ErrorData *
cqrs_row_json_to_row(CqrsAttachment *attachment, Relation rel, text *json, HeapTuple *row)
{
	Rereading	rereading = {
		.attachment = attachment,.rel = rel,.json = json,.context = CurrentMemoryContext,
		.used = cqrs_mapping_columns(attachment),
		.there = palloc0(RelationGetNumberOfAttributes(rel) * sizeof(bool)),
		.fields = palloc0(RelationGetNumberOfAttributes(rel) * sizeof(char *))
	};
	ErrorData  *error = cqrs_apply_try(reread_row, &rereading);

	if (error != NULL && cqrs_apply_error_is_transient(error))
		ReThrowError(error);
	*row = rereading.row;
	return error;
}

/* Until cqrs_query_leave_user. */
static void
enter_owner(CqrsAttachment *attachment, CqrsUserContext *user)
{
	cqrs_query_enter_user(user, attachment->owner, &attachment->settings);
	cqrs_settings_put_portable();
}

/* Write a value: as a number where it is one that JSON knows, for who looks at it. */
static void
write_value(StringInfo json, Oid type, Datum value)
{
	Oid			output;
	bool		is_varlena;
	char	   *text;

	getTypeOutputInfo(type, &output, &is_varlena);
	text = OidOutputFunctionCall(output, value);
	switch (getBaseType(type))
	{
		case BOOLOID:
			appendStringInfoString(json, *text == 't' ? "true" : "false");
			break;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			if (IsValidJsonNumber(text, strlen(text)))
			{
				appendStringInfoString(json, text);
				break;
			}
			/* FALLTHROUGH */
		default:
			escape_json(json, text);
	}
}

/* Do a Rereading. */
static void
reread_row(void *arg)
{
	static CqrsQuery query = {
		.sql = "SELECT key, value FROM json_each_text($1::json)",
		.flags = CQRS_QUERY_ACTIVE,
		.nargs = 1,
		.argtypes = {TEXTOID}
	};
	Rereading  *rereading = (Rereading *) arg;
	Datum		json = PointerGetDatum(rereading->json);
	CqrsUserContext user;

	cqrs_query_run(&query, &json, NULL, read_field, rereading);
	check_columns(rereading);
	enter_owner(rereading->attachment, &user);
	rereading->row = form_row(rereading);
	cqrs_query_leave_user(&user);
}

/* A CqrsRowFn: keeps what a field says for the column of its name. */
static bool
read_field(TupleTableSlot *slot, void *arg)
{
	Rereading  *rereading = (Rereading *) arg;
	bool		isnull;
	char	   *name = TextDatumGetCString(slot_getattr(slot, 1, &isnull));
	AttrNumber	column = get_attnum(RelationGetRelid(rereading->rel), name);
	Datum		value = slot_getattr(slot, 2, &isnull);

	if (column > 0)
		rereading->there[column - 1] = true;
	if (isnull)
		return true;
	if (column > 0)
		rereading->fields[column - 1] = MemoryContextStrdup(rereading->context,
															TextDatumGetCString(value));
	else
		rereading->surplus = MemoryContextStrdup(rereading->context, name);
	return true;
}

/* Throw where a column that the mapping needs may be what is surplus, by another name. */
static void
check_columns(const Rereading *rereading)
{
	TupleDesc	desc = RelationGetDescr(rereading->rel);
	int			member = -1;

	if (rereading->surplus == NULL)
		return;
	while ((member = bms_next_member(rereading->used, member)) >= 0)
	{
		Form_pg_attribute column =
			TupleDescAttr(desc, member + FirstLowInvalidHeapAttributeNumber - 1);

		if (!rereading->there[column->attnum - 1] && column->attgenerated == '\0')
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("the row that was put aside has no column \"%s\"",
							NameStr(column->attname)),
					 errdetail("It has a column \"%s\", which table \"%s\" has not.",
							   rereading->surplus, RelationGetRelationName(rereading->rel)),
					 errhint("Add that column to the table, and try again; if it was renamed, map it under both names.")));
	}
}

/* Make the row of its fields. A domain has a say about NULL, too; what is generated is NULL for now. */
static HeapTuple
form_row(const Rereading *rereading)
{
	TupleDesc	desc = RelationGetDescr(rereading->rel);
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc0(desc->natts * sizeof(bool));
	HeapTuple	row;

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		char	   *field = rereading->fields[i];
		Oid			input;
		Oid			argument;

		nulls[i] = field == NULL;
		if (column->attisdropped || (field == NULL && column->attgenerated != '\0'))
			continue;
		if (!rereading->there[i] && column->atthasmissing)
		{
			values[i] = getmissingattr(desc, i + 1, &nulls[i]);
			continue;
		}
		getTypeInputInfo(column->atttypid, &input, &argument);
		values[i] = OidInputFunctionCall(input, field, argument, column->atttypmod);
	}
	row = heap_form_tuple(desc, values, nulls);
	row->t_tableOid = RelationGetRelid(rereading->rel);
	return row;
}
