/*
 * view_merge.c
 *		How the rows of a view's table and those of a batch are matched and merged,
 *		as parts of SQL statements.
 *
 * view_aggregate.c says why each merge is right, view_sql.c what the aliases
 * stand for.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_operator.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "view_merge.h"

static void sql_match(CqrsViewSql *sql, const char *left, bool left_is_read,
					  const char *right, bool has_null);
static void sql_merge(CqrsViewSql *sql, int number, bool special);
static void sql_merge_position(CqrsViewSql *sql, int number, const char *old,
							   const char *new, bool special);
static char *equality(Oid type);

/* ON CONFLICT …, for rows of the table "t"; nothing for appended rows. */
void
cqrs_view_merge_conflict(CqrsViewSql *sql)
{
	const CqrsView *view = sql->view;
	StringInfo	text = &sql->text;
	bool		first = true;
	bool		merges = false;

	if (!view->grouped)
		return;
	appendStringInfoString(text, " ON CONFLICT (");
	for (int i = 0; i < view->ncolumns; i++)
	{
		if (view->columns[i].role == CQRS_VIEW_KEY)
		{
			appendStringInfo(text, "%s%s", first ? "" : ", ",
							 quote_identifier(cqrs_view_merge_column(sql->tables->read_table, i + 1)));
			first = false;
		}
		merges |= view->columns[i].role >= CQRS_VIEW_COUNT;
	}
	appendStringInfo(text, "%s) DO %s", first ? "(true)" : "",
					 merges ? "UPDATE SET " : "NOTHING");
	if (merges)
		cqrs_view_merge_columns(sql, false);
}

/* column = merged value, …; what merges nothing is left as it is */
void
cqrs_view_merge_columns(CqrsViewSql *sql, bool special)
{
	bool		first = true;

	for (int i = 0; i < sql->view->ncolumns; i++)
	{
		if (sql->view->columns[i].role < CQRS_VIEW_COUNT)
			continue;
		appendStringInfo(&sql->text, "%s%s = ", first ? "" : ", ",
						 quote_identifier(cqrs_view_merge_column(sql->tables->read_table, i + 1)));
		sql_merge(sql, i, special);
		first = false;
	}
}

/*
 * Is a row of a table that of a group? left is an alias, of the read table or of
 * the state table; right is "t", the read table, or "d.v", the batch.
 *
 * No condition on several columns of which one may be NULL is served by the whole
 * index, so then the row is looked up, by its place: once for a group without a
 * NULL, and only for one with a NULL once more.
 */
void
cqrs_view_merge_match(CqrsViewSql *sql, const char *left, bool left_is_read,
					  const char *right)
{
	const char *table;

	if (!sql->view->nullable_key)
	{
		sql_match(sql, left, left_is_read, right, false);
		return;
	}
	table = cqrs_view_merge_relation(left_is_read ? sql->tables->read_table :
									 sql->tables->state_table);
	appendStringInfo(&sql->text, "%s.ctid " CQRS_VIEW_EQUAL " COALESCE((SELECT x.ctid FROM %s AS x WHERE ",
					 left, table);
	sql_match(sql, "x", left_is_read, right, false);
	appendStringInfo(&sql->text, "), (SELECT x.ctid FROM %s AS x WHERE ", table);
	sql_match(sql, "x", left_is_read, right, true);
	appendStringInfoString(&sql->text, "))");
}

/*
 * The same as a condition on the key's columns: with equality alone, or for a
 * group that has a NULL in its key.
 */
static void
sql_match(CqrsViewSql *sql, const char *left, bool left_is_read, const char *right,
		  bool has_null)
{
	const CqrsView *view = sql->view;
	StringInfo	text = &sql->text;
	StringInfoData nulls;
	int			nnullable = 0;
	int			key = 0;

	initStringInfo(&nulls);
	for (int i = 0; i < view->ncolumns; i++)
		nnullable += view->columns[i].role == CQRS_VIEW_KEY && view->columns[i].nullable;
	for (int i = 0; i < view->ncolumns; i++)
	{
		const CqrsViewColumn *column = &view->columns[i];
		const char *read_name;
		char	   *mine;
		char	   *other;
		char	   *equal;

		if (column->role != CQRS_VIEW_KEY)
			continue;
		key++;
		read_name = quote_identifier(cqrs_view_merge_column(sql->tables->read_table, i + 1));
		mine = psprintf("%s.%s", left, left_is_read ? read_name :
						quote_identifier(cqrs_view_merge_column(sql->tables->state_table, key)));
		other = strcmp(right, "t") == 0 ? psprintf("t.%s", read_name) :
			psprintf("%s%d", right, i + 1);
		equal = psprintf("%s %s %s", mine, equality(column->type), other);
		appendStringInfoString(text, key > 1 ? " AND " : "");
		if (!has_null || !column->nullable)
			appendStringInfoString(text, equal);
		else if (nnullable == 1)
			appendStringInfo(text, "%s " CQRS_VIEW_IS_NULL, mine);
		else
			appendStringInfo(text, "(%s OR (%s " CQRS_VIEW_IS_NULL " AND %s " CQRS_VIEW_IS_NULL "))",
							 equal, mine, other);
		if (column->nullable)
			appendStringInfo(&nulls, "%s%s " CQRS_VIEW_IS_NULL, nulls.len > 0 ? " OR " : "", other);
	}
	if (key == 0)
		appendStringInfoString(text, "true");
	if (has_null)
		appendStringInfo(text, " AND (%s)", nulls.data);
}

/*
 * Can there be a row of which no event has given the first value? One that a
 * filter has kept off, or the row that is there before any event.
 */
bool
cqrs_view_merge_may_be_unset(const CqrsView *view, const CqrsViewColumn *column)
{
	return column->filter != NULL || view->nkeys == 0;
}

/* Throws where the column was dropped. */
char *
cqrs_view_merge_column(Oid relid, AttrNumber number)
{
	if (!OidIsValid(get_atttype(relid, number)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column %d of read table \"%s\" was dropped", number,
						get_rel_name(relid)),
				 errdetail("A view's query can't be maintained without all of its columns."),
				 errhint("Drop the view with its read table, and create it again without the column.")));
	return get_attname(relid, number, false);
}

char *
cqrs_view_merge_relation(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}

/*
 * The merged value of one column: the table's is that of "t", the batch's that
 * of "excluded", or of "d" for special groups. view_aggregate.c says why each is
 * right.
 */
static void
sql_merge(CqrsViewSql *sql, int number, bool special)
{
	const CqrsViewColumn *column = &sql->view->columns[number];
	const char *name = quote_identifier(cqrs_view_merge_column(sql->tables->read_table, number + 1));
	const char *old = psprintf("t.%s", name);
	const char *new = special ? psprintf("d.v%d", number + 1) : psprintf("excluded.%s", name);
	const char *operator = NULL;

	switch (column->role)
	{
		case CQRS_VIEW_COUNT:
			appendStringInfo(&sql->text, "%s " CQRS_VIEW_PLUS " %s", old, new);
			return;
		case CQRS_VIEW_MIN:
			appendStringInfo(&sql->text, "LEAST(%s, %s)", new, old);
			return;
		case CQRS_VIEW_MAX:
			appendStringInfo(&sql->text, "GREATEST(%s, %s)", new, old);
			return;
		case CQRS_VIEW_FIRST:
		case CQRS_VIEW_LAST:
			if (column->shown_position >= 0)
				sql_merge_position(sql, number, old, new, special);
			else if (special)
			{
				const char *kept = quote_identifier(cqrs_view_merge_column(sql->tables->state_table,
																sql->view->nkeys + column->kept_position + 1));
				int			batch = column->kept_position + 1;

				if (column->role == CQRS_VIEW_LAST)
					appendStringInfo(&sql->text, "CASE WHEN d.p%d IS NOT NULL AND (s.%s IS NULL OR d.p%d " CQRS_VIEW_MORE " s.%s)",
									 batch, kept, batch, kept);
				else if (!cqrs_view_merge_may_be_unset(sql->view, column))
					appendStringInfo(&sql->text, "CASE WHEN d.p%d " CQRS_VIEW_LESS " s.%s", batch, kept);
				else
					appendStringInfo(&sql->text, "CASE WHEN d.p%d " CQRS_VIEW_LESS " s.%s OR (d.p%d IS NOT NULL AND s.%s IS NULL AND %s " CQRS_VIEW_IS_NULL ")",
									 batch, kept, batch, kept, old);
				appendStringInfo(&sql->text, " THEN %s ELSE %s END", new, old);
			}
			else if (column->role == CQRS_VIEW_LAST)
				appendStringInfo(&sql->text, "COALESCE(%s, %s)", new, old);
			else if (!cqrs_view_merge_may_be_unset(sql->view, column))
				appendStringInfoString(&sql->text, old);
			else
			{
				appendStringInfo(&sql->text, "CASE WHEN %s " CQRS_VIEW_IS_NULL " AND %s " CQRS_VIEW_NOT_NULL " AND NOT EXISTS (SELECT FROM %s AS s WHERE s.%s IS NOT NULL AND ",
								 old, new, cqrs_view_merge_relation(sql->tables->state_table),
								 quote_identifier(cqrs_view_merge_column(sql->tables->state_table,
															  sql->view->nkeys + column->kept_position + 1)));
				cqrs_view_merge_match(sql, "s", false, "t");
				appendStringInfo(&sql->text, ") THEN %s ELSE %s END", new, old);
			}
			return;
		case CQRS_VIEW_SUM:
			operator = CQRS_VIEW_PLUS;
			break;
		case CQRS_VIEW_ALL_TRUE:
			operator = "AND";
			break;
		case CQRS_VIEW_ANY_TRUE:
			operator = "OR";
			break;
		case CQRS_VIEW_BIT_AND:
			operator = "OPERATOR(pg_catalog.&)";
			break;
		case CQRS_VIEW_BIT_OR:
			operator = "OPERATOR(pg_catalog.|)";
			break;
		default:
			elog(ERROR, "column %d of a view is not merged", number + 1);
	}
	appendStringInfo(&sql->text, "COALESCE(%s %s %s, %s, %s)", old, operator, new, old, new);
}

/* A first or last value whose position is a column of the read table. */
static void
sql_merge_position(CqrsViewSql *sql, int number, const char *old, const char *new,
				   bool special)
{
	const CqrsViewColumn *column = &sql->view->columns[number];
	char	   *position = cqrs_view_merge_column(sql->tables->read_table, column->shown_position + 1);
	const char *table = psprintf("t.%s", quote_identifier(position));
	const char *batch = special ? psprintf("d.v%d", column->shown_position + 1) :
		psprintf("excluded.%s", quote_identifier(position));

	appendStringInfo(&sql->text, "CASE WHEN %s %s %s OR %s IS NULL THEN %s ELSE %s END", batch,
					 column->role == CQRS_VIEW_FIRST ? CQRS_VIEW_LESS : CQRS_VIEW_MORE, table, table, new, old);
}

/* The type's own "=", whatever the search_path. */
static char *
equality(Oid type)
{
	Oid			operator = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "type %s has no equality operator", format_type_be(type));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					  NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}
