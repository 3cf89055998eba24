/*
 * view_sql.c
 *		The statements that fill and maintain a view's read table.
 *
 * Names come from the catalogs and expressions from PostgreSQL's deparser; the
 * user's text is in none of the statements. Columns of the read table are found
 * by number, so they may be renamed, and others may be added behind them.
 *
 * Without first and last values, a batch is one INSERT .. SELECT .. ON CONFLICT
 * DO UPDATE over its events, which merges each group's old row and the batch's.
 *
 * First and last values
 * ---------------------
 * An event may come late, with an earlier position than one that was processed.
 * So whether a batch's value takes the place of the table's depends on the
 * position behind that, which the user did not ask to see. If the query shows
 * it anyway, as max(position) or min(position) under the same filter, that is
 * used. Otherwise it is kept in a state table beside, by group, but only where
 * it can matter: for positions above "settled", up to which no event can come
 * any more (horizon.c). A group without one has a position that is below all
 * that may still come. In a backlog nearly all is settled, and the state table
 * is not touched.
 *
 * And it is looked up only where it can matter, for "special" groups: with an
 * event below "peak", the highest position that was processed before; or with a
 * value that is NULL, which in the row that an INSERT proposes looks like no
 * value at all. For all others, of last values the batch's wins if it has one,
 * of first values the table's if it has one. A first value that is NULL because
 * the event said so is told from none by its position, which is always kept.
 *
 * All of that is one statement: the batch's groups ("delta"), then writes which
 * each take their share of them, and of which no two touch the same row.
 */
#include "postgres.h"

#include "access/attnum.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "view_merge.h"
#include "view_sql.h"

static void sql_names(CqrsViewSql *sql, const char *prefix);
static void sql_values(CqrsViewSql *sql, const char *prefix);
static char *sql_apply(CqrsViewSql *sql, bool return_keys);
static void sql_select(CqrsViewSql *sql, bool with_positions);
static void sql_one_value(StringInfo text, const CqrsViewColumn *column);
static void sql_position(CqrsViewSql *sql, const CqrsViewColumn *column);
static void sql_simple(CqrsViewSql *sql);
static void sql_delta(CqrsViewSql *sql);
static void sql_plain(CqrsViewSql *sql);
static void sql_known(CqrsViewSql *sql);
static void sql_fresh(CqrsViewSql *sql);
static void sql_kept(CqrsViewSql *sql, bool fill);
static void sql_kept_position(CqrsViewSql *sql, const CqrsViewColumn *column, int number, bool fill);
static void sql_special(CqrsViewSql *sql, const char *prefix);
static void sql_return_key(CqrsViewSql *sql);
static void sql_key(CqrsViewSql *sql, const char *prefix, bool is_delta);
static const CqrsViewColumn *kept_column(const CqrsView *view, int kept);

/* ---------------------------------------------------------- whole batches */

/*
 * Fill empty tables, without their constraints, from all events at once. outbox
 * is what to select from, under the alias "events"; $1 is "settled". Returns one
 * row: the snapshot.
 */
char *
cqrs_view_sql_fill(const CqrsView *view, const CqrsViewTables *tables, const char *outbox)
{
	CqrsViewSql		sql = {.view = view,.tables = tables,.source = outbox};
	StringInfo	text = &sql.text;

	initStringInfo(text);
	appendStringInfoString(text, "WITH ");
	if (view->nkept > 0)
	{
		sql_delta(&sql);
		appendStringInfoString(text, ", kept AS (");
		sql_kept(&sql, true);
		appendStringInfoString(text, "), ");
	}
	appendStringInfo(text, "filled AS (INSERT INTO %s (", cqrs_view_merge_relation(tables->read_table));
	sql_names(&sql, "");
	appendStringInfoString(text, ") ");
	if (view->nkept > 0)
	{
		appendStringInfoString(text, "SELECT ");
		sql_values(&sql, "d.v");
		appendStringInfoString(text, " FROM delta AS d");
	}
	else
		sql_select(&sql, false);
	appendStringInfoString(text, ") SELECT pg_catalog.pg_current_snapshot()"
						   " WHERE $1 IS NOT NULL");
	return text->data;
}

/*
 * Apply the rows "events". With return_keys, returns the keys of the groups as
 * text. With a state table, $1 is "peak" and $2 is "settled", and it returns at
 * least one row, with a second column: were all special groups written?
 */
char *
cqrs_view_sql_apply(const CqrsView *view, const CqrsViewTables *tables, bool return_keys)
{
	CqrsViewSql sql = {.view = view,.tables = tables,.source = "events"};

	return sql_apply(&sql, return_keys);
}

/*
 * The same for a single event: source is something to select exactly one row from,
 * with the alias "events".
 */
char *
cqrs_view_sql_apply_one(const CqrsView *view, const CqrsViewTables *tables,
						const char *source, bool return_keys)
{
	CqrsViewSql sql = {.view = view,.tables = tables,.one_event = true,.source = source};

	return sql_apply(&sql, return_keys);
}

/*
 * The same for events that the statement finds by itself: in source, which is
 * something to select from, with the alias "events", where the condition holds.
 * That is asked of each row of the source before anything of the query is. Of a query
 * that makes groups, having can be asked of each group. Both may be NULL.
 */
char *
cqrs_view_sql_apply_from(const CqrsView *view, const CqrsViewTables *tables,
						 const char *source, const char *condition, const char *having,
						 bool return_keys)
{
	CqrsViewSql sql = {
		.view = view,.tables = tables,.source = source,.condition = condition,
		.having = having
	};

	return sql_apply(&sql, return_keys);
}

/*
 * Merge the rows "proposed", which are the read table's: what a batch has made of its
 * groups. With return_keys, returns their keys as text. For views without a state table.
 */
char *
cqrs_view_sql_merge(const CqrsView *view, const CqrsViewTables *tables, bool return_keys)
{
	CqrsViewSql sql = {.view = view,.tables = tables,.source = "proposed"};

	initStringInfo(&sql.text);
	appendStringInfo(&sql.text, "INSERT INTO %s AS t (", cqrs_view_merge_relation(tables->read_table));
	sql_names(&sql, "");
	appendStringInfoString(&sql.text, ") SELECT ");
	sql_names(&sql, "");
	appendStringInfo(&sql.text, " FROM %s", sql.source);
	cqrs_view_merge_conflict(&sql);
	if (return_keys)
		sql_return_key(&sql);
	return sql.text.data;
}

static char *
sql_apply(CqrsViewSql *sql, bool return_keys)
{
	StringInfo	text = &sql->text;

	initStringInfo(text);
	if (sql->view->nkept == 0)
	{
		sql_simple(sql);
		if (return_keys)
			sql_return_key(sql);
		return text->data;
	}
	appendStringInfoString(text, "WITH ");
	sql_delta(sql);
	appendStringInfoString(text, ", plain AS (");
	sql_plain(sql);
	appendStringInfoString(text, "), known AS (");
	sql_known(sql);
	appendStringInfoString(text, "), fresh AS (");
	sql_fresh(sql);
	appendStringInfoString(text, "), kept AS (");
	sql_kept(sql, false);
	appendStringInfoString(text, ") SELECT ");
	if (return_keys)
		sql_key(sql, "d.v", true);
	else
		appendStringInfoString(text, "NULL");
	appendStringInfoString(text, ", (SELECT pg_catalog.count(*) FROM known) " CQRS_VIEW_PLUS " (SELECT pg_catalog.count(*) FROM fresh)"
						   " OPERATOR(pg_catalog.=) (SELECT pg_catalog.count(*) FROM delta AS d WHERE ");
	sql_special(sql, "d.");
	appendStringInfo(text, ") FROM delta AS d%s", return_keys ? "" : " LIMIT 1");
	return text->data;
}

/* --------------------------------------------------------------- selects */

/* The read table's columns that the query has, each behind a prefix. */
static void
sql_names(CqrsViewSql *sql, const char *prefix)
{
	for (int i = 0; i < sql->view->ncolumns; i++)
		appendStringInfo(&sql->text, "%s%s%s", i > 0 ? ", " : "", prefix,
						 quote_identifier(cqrs_view_merge_column(sql->tables->read_table, i + 1)));
}

/* The same columns of delta: v1, v2, …, each behind a prefix that ends in v. */
static void
sql_values(CqrsViewSql *sql, const char *prefix)
{
	for (int i = 0; i < sql->view->ncolumns; i++)
		appendStringInfo(&sql->text, "%s%s%d", i > 0 ? ", " : "", prefix, i + 1);
}

/* The query itself, over the source of events; positions come last. */
static void
sql_select(CqrsViewSql *sql, bool with_positions)
{
	const CqrsView *view = sql->view;
	StringInfo	text = &sql->text;
	bool		first = true;

	appendStringInfoString(text, "SELECT ");
	for (int i = 0; i < view->ncolumns; i++)
	{
		appendStringInfoString(text, i > 0 ? ", " : "");
		if (sql->one_event && view->columns[i].role >= CQRS_VIEW_COUNT)
			sql_one_value(text, &view->columns[i]);
		else
			appendStringInfoString(text, view->columns[i].sql);
	}
	for (int i = 0; i < view->nkept && with_positions; i++)
		sql_position(sql, kept_column(view, i));
	appendStringInfo(text, " FROM %s", sql->source);
	if (sql->condition != NULL && view->where != NULL)
		appendStringInfo(text, " WHERE CASE WHEN %s THEN %s ELSE false END", sql->condition,
						 view->where);
	else if (sql->condition != NULL)
		appendStringInfo(text, " WHERE %s", sql->condition);
	else if (view->where != NULL)
		appendStringInfo(text, " WHERE %s", view->where);
	if (!view->grouped || sql->one_event)
		return;
	appendStringInfoString(text, " GROUP BY ");
	for (int i = 0; i < view->ncolumns; i++)
		if (view->columns[i].role == CQRS_VIEW_KEY)
		{
			appendStringInfo(text, "%s%d", first ? "" : ", ", i + 1);
			first = false;
		}
	if (first)
		appendStringInfoString(text, "()");
	if (sql->having != NULL)
		appendStringInfo(text, " HAVING %s", sql->having);
}

/* An aggregate over one event. */
static void
sql_one_value(StringInfo text, const CqrsViewColumn *column)
{
	if (column->filter != NULL)
		appendStringInfo(text, "CASE WHEN %s THEN ", column->filter);
	if (column->role != CQRS_VIEW_COUNT)
		appendStringInfo(text, "(%s)::%s", column->argument,
						 format_type_extended(column->type, -1, FORMAT_TYPE_TYPEMOD_GIVEN |
											  FORMAT_TYPE_FORCE_QUALIFY));
	else if (column->argument == NULL)
		appendStringInfoString(text, "1");
	else
		appendStringInfo(text, "pg_catalog.num_nonnulls(%s)", column->argument);
	if (column->filter != NULL)
		appendStringInfo(text, " ELSE %s END", column->role == CQRS_VIEW_COUNT ? "0" : "NULL");
}

/* The position behind a first or last value, as a further column. */
static void
sql_position(CqrsViewSql *sql, const CqrsViewColumn *column)
{
	StringInfo	text = &sql->text;

	if (sql->one_event && column->filter != NULL)
		appendStringInfo(text, ", CASE WHEN %s THEN \"position\" END", column->filter);
	else if (sql->one_event)
		appendStringInfoString(text, ", \"position\"");
	else
	{
		appendStringInfo(text, ", pg_catalog.%s(\"position\")",
						 column->role == CQRS_VIEW_FIRST ? "min" : "max");
		if (column->filter != NULL)
			appendStringInfo(text, " FILTER (WHERE %s)", column->filter);
	}
}

/* delta (v1, …, p1, …): a row for each group of the batch, its positions last */
static void
sql_delta(CqrsViewSql *sql)
{
	appendStringInfoString(&sql->text, "delta (");
	sql_values(sql, "v");
	for (int i = 0; i < sql->view->nkept; i++)
		appendStringInfo(&sql->text, ", p%d", i + 1);
	appendStringInfoString(&sql->text, ") AS MATERIALIZED (");
	sql_select(sql, true);
	appendStringInfoChar(&sql->text, ')');
}

/* Is the group special? See the head. */
static void
sql_special(CqrsViewSql *sql, const char *prefix)
{
	const CqrsView *view = sql->view;
	StringInfo	text = &sql->text;
	bool		first = true;

	appendStringInfoChar(text, '(');
	for (int i = 0; i < view->ncolumns; i++)
	{
		const CqrsViewColumn *column = &view->columns[i];

		if (column->kept_position < 0)
			continue;
		appendStringInfo(text, "%s%sp%d IS NOT NULL AND (%sp%d %s $1", first ? "" : " OR ",
						 prefix, column->kept_position + 1,
						 prefix, column->kept_position + 1, CQRS_VIEW_LESS);
		if (column->role == CQRS_VIEW_LAST || cqrs_view_merge_may_be_unset(view, column))
			appendStringInfo(text, " OR %sv%d " CQRS_VIEW_IS_NULL, prefix, i + 1);
		appendStringInfoChar(text, ')');
		first = false;
	}
	appendStringInfoChar(text, ')');
}

/* ---------------------------------------------------------------- writes */

static void
sql_simple(CqrsViewSql *sql)
{
	appendStringInfo(&sql->text, "INSERT INTO %s AS t (", cqrs_view_merge_relation(sql->tables->read_table));
	sql_names(sql, "");
	appendStringInfoString(&sql->text, ") ");
	sql_select(sql, false);
	cqrs_view_merge_conflict(sql);
}

/* Groups that are not special: insert or merge. */
static void
sql_plain(CqrsViewSql *sql)
{
	appendStringInfo(&sql->text, "INSERT INTO %s AS t (", cqrs_view_merge_relation(sql->tables->read_table));
	sql_names(sql, "");
	appendStringInfoString(&sql->text, ") SELECT ");
	sql_values(sql, "d.v");
	appendStringInfoString(&sql->text, " FROM delta AS d WHERE NOT ");
	sql_special(sql, "d.");
	cqrs_view_merge_conflict(sql);
}

/* Special groups that the table has: merge, with the positions at hand. */
static void
sql_known(CqrsViewSql *sql)
{
	appendStringInfo(&sql->text, "UPDATE %s AS t SET ", cqrs_view_merge_relation(sql->tables->read_table));
	cqrs_view_merge_columns(sql, true);
	appendStringInfo(&sql->text, " FROM delta AS d LEFT JOIN %s AS s ON ",
					 cqrs_view_merge_relation(sql->tables->state_table));
	cqrs_view_merge_match(sql, "s", false, "d.v");
	appendStringInfoString(&sql->text, " WHERE ");
	sql_special(sql, "d.");
	appendStringInfoString(&sql->text, " AND ");
	cqrs_view_merge_match(sql, "t", true, "d.v");
	appendStringInfoString(&sql->text, " RETURNING 1");
}

/* Special groups that the table does not have. */
static void
sql_fresh(CqrsViewSql *sql)
{
	appendStringInfo(&sql->text, "INSERT INTO %s (", cqrs_view_merge_relation(sql->tables->read_table));
	sql_names(sql, "");
	appendStringInfoString(&sql->text, ") SELECT ");
	sql_values(sql, "d.v");
	appendStringInfoString(&sql->text, " FROM delta AS d WHERE ");
	sql_special(sql, "d.");
	appendStringInfoString(&sql->text, " ON CONFLICT DO NOTHING RETURNING 1");
}

/*
 * The positions to keep: of special groups, and those that are not settled. In a
 * fill, $1 is "settled", and constraints come later.
 */
static void
sql_kept(CqrsViewSql *sql, bool fill)
{
	const CqrsView *view = sql->view;
	StringInfo	text = &sql->text;
	Oid			state_table = sql->tables->state_table;
	bool		needs_rows = false;

	appendStringInfo(text, "INSERT INTO %s AS s SELECT ", cqrs_view_merge_relation(state_table));
	for (int i = 0; i < view->ncolumns; i++)
		if (view->columns[i].role == CQRS_VIEW_KEY)
			appendStringInfo(text, "d.v%d, ", i + 1);
	for (int i = 0; i < view->nkept; i++)
	{
		const CqrsViewColumn *column = kept_column(view, i);

		needs_rows |= column->role == CQRS_VIEW_FIRST;
		appendStringInfoString(text, i > 0 ? ", " : "");
		sql_kept_position(sql, column, column - view->columns, fill);
	}
	appendStringInfoString(text, " FROM delta AS d");
	if (needs_rows && !fill)
	{
		appendStringInfo(text, " LEFT JOIN %s AS t ON ", cqrs_view_merge_relation(sql->tables->read_table));
		cqrs_view_merge_match(sql, "t", true, "d.v");
		appendStringInfo(text, " LEFT JOIN %s AS k ON ", cqrs_view_merge_relation(state_table));
		cqrs_view_merge_match(sql, "k", false, "d.v");
	}
	appendStringInfoString(text, " WHERE ");
	if (!fill)
		sql_special(sql, "d.");
	for (int i = 0; i < view->nkept; i++)
		appendStringInfo(text, "%sd.p%d %s %s", fill && i == 0 ? "" : " OR ", i + 1, CQRS_VIEW_MORE,
						 fill ? "$1" : "$2");
	for (int i = 0; i < view->ncolumns && fill; i++)
		if (view->columns[i].role == CQRS_VIEW_FIRST && view->columns[i].kept_position >= 0)
			appendStringInfo(text, " OR d.p%d IS NOT NULL AND d.v%d " CQRS_VIEW_IS_NULL,
							 view->columns[i].kept_position + 1, i + 1);
	if (fill)
		return;

	appendStringInfoString(text, " ON CONFLICT (");
	if (view->nkeys == 0)
		appendStringInfoString(text, "(true)");
	for (int i = 0; i < view->nkeys; i++)
		appendStringInfo(text, "%s%s", i > 0 ? ", " : "",
						 quote_identifier(cqrs_view_merge_column(state_table, i + 1)));
	appendStringInfoString(text, ") DO UPDATE SET ");
	for (int i = 0; i < view->nkept; i++)
	{
		const char *name = quote_identifier(cqrs_view_merge_column(state_table, view->nkeys + i + 1));

		appendStringInfo(text, "%s%s = %s(s.%s, excluded.%s)", i > 0 ? ", " : "", name,
						 kept_column(view, i)->role == CQRS_VIEW_FIRST ? "LEAST" : "GREATEST",
						 name, name);
	}
}

/*
 * The position that a group's state gets. A last value's is the batch's, or what
 * is there already. A first value's must be that of the value that the table
 * will have: the batch's only if that becomes the first.
 */
static void
sql_kept_position(CqrsViewSql *sql, const CqrsViewColumn *column, int number, bool fill)
{
	int			kept = column->kept_position + 1;
	char	   *state;

	if (fill || column->role == CQRS_VIEW_LAST)
	{
		appendStringInfo(&sql->text, "d.p%d", kept);
		return;
	}
	state = psprintf("k.%s", quote_identifier(cqrs_view_merge_column(sql->tables->state_table,
														  sql->view->nkeys + kept)));
	appendStringInfo(&sql->text, "CASE WHEN d.p%d %s %s OR (%s IS NULL AND (t.ctid IS NULL",
					 kept, CQRS_VIEW_LESS, state, state);
	if (cqrs_view_merge_may_be_unset(sql->view, column))
		appendStringInfo(&sql->text, " OR t.%s " CQRS_VIEW_IS_NULL,
						 quote_identifier(cqrs_view_merge_column(sql->tables->read_table, number + 1)));
	appendStringInfo(&sql->text, ")) THEN d.p%d END", kept);
}

/* --------------------------------------------------------------- helpers */

/* RETURNING the projection's key of a row. */
static void
sql_return_key(CqrsViewSql *sql)
{
	appendStringInfoString(&sql->text, " RETURNING ");
	sql_key(sql, "t.", false);
}

/* The projection's key of a row, as text. */
static void
sql_key(CqrsViewSql *sql, const char *prefix, bool is_delta)
{
	const CqrsView *view = sql->view;
	StringInfo	text = &sql->text;
	bool		first = true;

	if (view->grouped && view->nkeys == 0)
	{
		appendStringInfoString(text, "'*'::pg_catalog.text");
		return;
	}
	appendStringInfoString(text, view->nkeys > 1 ? "pg_catalog.jsonb_build_array(" : "(");
	for (int i = 0; i < view->ncolumns; i++)
	{
		if (view->grouped ? view->columns[i].role != CQRS_VIEW_KEY :
			!view->columns[i].is_position)
			continue;
		appendStringInfo(text, "%s%s", first ? "" : ", ", prefix);
		if (is_delta)
			appendStringInfo(text, "%d", i + 1);
		else
			appendStringInfoString(text, quote_identifier(cqrs_view_merge_column(sql->tables->read_table,
																	  i + 1)));
		first = false;
		if (!view->grouped)
			break;
	}
	appendStringInfo(text, "%s)::pg_catalog.text", first ? "NULL" : "");
}

/* A column whose position is kept in column "kept" of the state table. */
static const CqrsViewColumn *
kept_column(const CqrsView *view, int kept)
{
	for (int i = 0; i < view->ncolumns; i++)
		if (view->columns[i].kept_position == kept)
			return &view->columns[i];
	elog(ERROR, "position %d of a view is nobody's", kept + 1);
}

