/*
 * row_json.c
 *		Keep a row of an attached table as JSON, and make the row of that again.
 *
 * A column has its value as its type's output function writes it, and gets it back
 * from the type's input function. Nothing is lost by that, whatever the type.
 * PostgreSQL's own functions for JSON would lose some: there are types with a cast to
 * JSON that can't be undone, such as hstore's. Columns of JSON have it as it is; where
 * they are NULL they are left out, as null is a value of theirs.
 *
 * The functions may be a user's, so they run as the table's owner, under the settings
 * of when the table was attached, but for the styles of times: not all styles can be
 * read back.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/jsonapi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "apply.h"
#include "query.h"
#include "row_json.h"

/* a row that is made of its JSON again */
typedef struct Rereading
{
	CqrsAttachment *attachment;
	Relation	rel;
	text	   *json;
	MemoryContext context;		/* that the rest is in */
	char	  **fields;			/* as text, of each column; NULL = not there */
	HeapTuple	row;
} Rereading;

static void enter_owner(CqrsAttachment *attachment, CqrsUserContext *user);
static void write_value(StringInfo json, Oid type, Datum value);
static bool read_field(TupleTableSlot *slot, void *arg);
static void reread_row(void *arg);
static HeapTuple form_row(const Rereading *rereading);
static bool type_is_json(Oid type);

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
		if (isnull && type_is_json(column->atttypid))
			continue;
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
 * The reverse, in the current memory context: columns that there were not then are
 * NULL. Returns NULL, or the error, where the table has columns by now that the row
 * does not fit into. Throws transient errors.
 */
ErrorData *
cqrs_row_json_to_row(CqrsAttachment *attachment, Relation rel, text *json, HeapTuple *row)
{
	Rereading	rereading = {
		.attachment = attachment,.rel = rel,.json = json,.context = CurrentMemoryContext,
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
		case JSONOID:
		case JSONBOID:
			appendStringInfoString(json, text);
			break;
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

/* A CqrsRowFn: keeps what a field says for the column of its name, if there is one. */
static bool
read_field(TupleTableSlot *slot, void *arg)
{
	Rereading  *rereading = (Rereading *) arg;
	TupleDesc	desc = RelationGetDescr(rereading->rel);
	bool		isnull;
	char	   *name = TextDatumGetCString(slot_getattr(slot, 1, &isnull));
	AttrNumber	column = get_attnum(RelationGetRelid(rereading->rel), name);
	Datum		value;

	if (column <= 0)
		return true;
	value = slot_getattr(slot, type_is_json(TupleDescAttr(desc, column - 1)->atttypid) ? 2 : 3,
						 &isnull);
	if (!isnull)
		rereading->fields[column - 1] =
			MemoryContextStrdup(rereading->context, TextDatumGetCString(value));
	return true;
}

/* Do a Rereading. JSON that is none as jsonb, such as with \u0000 in it, is the row's own fault. */
static void
reread_row(void *arg)
{
	static CqrsQuery query = {
		.sql = "SELECT key, value::text, value #>> '{}' FROM json_each($1::json)",
		.flags = CQRS_QUERY_ACTIVE,
		.nargs = 1,
		.argtypes = {TEXTOID}
	};
	Rereading  *rereading = (Rereading *) arg;
	Datum		json = PointerGetDatum(rereading->json);
	CqrsUserContext user;

	cqrs_query_run(&query, &json, NULL, read_field, rereading);
	enter_owner(rereading->attachment, &user);
	rereading->row = form_row(rereading);
	cqrs_query_leave_user(&user);
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
		getTypeInputInfo(column->atttypid, &input, &argument);
		values[i] = OidInputFunctionCall(input, field, argument, column->atttypmod);
	}
	row = heap_form_tuple(desc, values, nulls);
	row->t_tableOid = RelationGetRelid(rereading->rel);
	return row;
}

/* Does a column of the type have JSON, as it is? */
static bool
type_is_json(Oid type)
{
	Oid			base = getBaseType(type);

	return base == JSONOID || base == JSONBOID;
}
