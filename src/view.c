/*
 * view.c
 *		A view's query: parse it, and see that it can be maintained.
 *
 * The query is analysed by PostgreSQL's own parser, with the relation "events"
 * bound to rows in memory that have the columns of cqrs.event. What it may
 * contain follows from one demand: the read table must always equal the query
 * over all events in position order, while each batch of events is seen once
 * and in whatever order transactions commit. So a column is
 *
 *	a grouping column, or computed from grouping columns: it never changes;
 *	an aggregate of which the result over two disjoint sets of events follows
 *	from the results over each: see view_aggregate.c.
 *
 * Anything else is refused here, where the user can do something about it.
 */
#include "postgres.h"

#include "catalog/heap.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/analyze.h"
#include "parser/parse_node.h"
#include "parser/parser.h"
#include "rewrite/rewriteManip.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/regproc.h"
#include "utils/ruleutils.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "function.h"
#include "settings.h"
#include "view.h"
#include "view_aggregate.h"
#include "view_expression.h"
#include "view_filter.h"
#include "view_form.h"

/* the parse of one query */
typedef struct ViewParse
{
	const char *text;
	CqrsExpressionCheck check;
	Query	   *query;
	List	   *names;			/* how deparsing calls the columns */
	CqrsView   *view;
	List	   *filters;		/* of each aggregate: its Expr or NULL */
} ViewParse;

static void view_error_callback(void *arg);
static SelectStmt *view_raw_parse(ViewParse *parse, RawStmt **statement);
static int	view_raw_position(ViewParse *parse, const RawStmt *statement);
static void view_analyse(ViewParse *parse, RawStmt *statement);
static void view_add_columns(ViewParse *parse);
static void view_add_column(ViewParse *parse, TargetEntry *target, CqrsViewColumn *column);
static void view_add_aggregate(ViewParse *parse, Aggref *aggref, CqrsViewColumn *column);
static void view_check_keys(ViewParse *parse);
static void view_check_unset(ViewParse *parse);
static void view_check_null(ViewParse *parse, const CqrsViewColumn *column);
static void view_find_positions(ViewParse *parse);
static bool same_filter(const CqrsViewColumn *a, const CqrsViewColumn *b);
static Expr *aggregate_argument(const CqrsViewColumn *column);
static void view_make_key(ViewParse *parse);
static void view_make_filters(ViewParse *parse);
static List *view_filter(ViewParse *parse, AttrNumber column);
static char *view_deparse(ViewParse *parse, Node *node);

/*
 * Parse a view's query, as the current user under the current search_path.
 * Throws what the parser throws, or what can't be maintained and the way out,
 * with the cursor inside the query.
 */
CqrsView *
cqrs_view_parse(const char *query)
{
	ViewParse	parse = {.text = query};
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = view_error_callback,
		.arg = unconstify(char *, query)
	};
	RawStmt    *statement;
	SelectStmt *select;

	error_context_stack = &callback;
	parse.check.pstate = make_parsestate(NULL);
	parse.check.pstate->p_sourcetext = query;
	parse.view = palloc0(sizeof(CqrsView));

	select = view_raw_parse(&parse, &statement);
	cqrs_view_form_check(parse.check.pstate, select);
	cqrs_view_expression_scan(&parse.check, (Node *) select);
	view_analyse(&parse, statement);
	view_add_columns(&parse);
	view_check_keys(&parse);
	view_check_unset(&parse);
	view_find_positions(&parse);
	view_make_key(&parse);
	view_make_filters(&parse);
	parse.view->functions = parse.check.functions;
	parse.view->types = parse.check.types;
	cqrs_view_check_owners(parse.view);

	free_parsestate(parse.check.pstate);
	error_context_stack = callback.previous;
	return parse.view;
}

/*
 * Throw unless each function that the query calls is still immutable, and the
 * current user's own or a superuser's: whoever owns it can replace it, and it
 * runs as the current user. The same for types, whose owners can give them
 * constraints and casts.
 */
void
cqrs_view_check_owners(const CqrsView *view)
{
	ListCell   *lc;

	foreach(lc, view->functions)
	{
		Oid			function = lfirst_oid(lc);

		if (func_volatile(function) != PROVOLATILE_IMMUTABLE)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
					 errmsg("function %s of a view's query is not immutable any more",
							format_procedure(function)),
					 errhint("ALTER FUNCTION %s IMMUTABLE;", format_procedure(function))));
		cqrs_function_check_owner(function, GetUserId(),
								  "function %s belongs to neither the view's owner nor a superuser");
	}
	foreach(lc, view->types)
		cqrs_function_check_type_owner(lfirst_oid(lc), GetUserId(),
									   "type %s belongs to neither the view's owner nor a superuser");
}

/* -------------------------------------------------------------- the form */

/* Turns the cursor of an error into one inside the query. */
static void
view_error_callback(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery((const char *) arg);
	}
}

/* The one SELECT of the text, unanalysed. */
static SelectStmt *
view_raw_parse(ViewParse *parse, RawStmt **statement)
{
	List	   *statements = raw_parser(parse->text, RAW_PARSE_DEFAULT);

	if (list_length(statements) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a view's query must be one SELECT"),
				 errhint("For example: SELECT aggregate_id, count(*) FROM events GROUP BY aggregate_id"),
				 list_length(statements) < 2 ? 0 :
				 view_raw_position(parse, lsecond_node(RawStmt, statements))));
	*statement = linitial_node(RawStmt, statements);
	if (!IsA((*statement)->stmt, SelectStmt))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a view's query must be one SELECT"),
				 errhint("For example: SELECT aggregate_id, count(*) FROM events GROUP BY aggregate_id"),
				 view_raw_position(parse, *statement)));
	return (SelectStmt *) (*statement)->stmt;
}

/* The error position of where a statement begins: behind the blanks that may be counted in. */
static int
view_raw_position(ViewParse *parse, const RawStmt *statement)
{
	const char *text = parse->text + statement->stmt_location;

	return parser_errposition(parse->check.pstate,
							  statement->stmt_location + (int) strspn(text, " \t\n\r\f\v"));
}

/* ----------------------------------------------------------- the columns */

static void
view_analyse(ViewParse *parse, RawStmt *statement)
{
	QueryEnvironment *environment = create_queryEnv();
	EphemeralNamedRelation events = palloc0(sizeof(EphemeralNamedRelationData));
	Query	   *query;
	GroupingSet *set;

	events->md.name = CQRS_VIEW_EVENTS;
	events->md.reliddesc = cqrs_catalog_relation("events", false);
	LockRelationOid(events->md.reliddesc, AccessShareLock);
	events->md.enrtype = ENR_NAMED_TUPLESTORE;
	register_ENR(environment, events);
	query = parse_analyze_fixedparams(statement, parse->text, NULL, 0, environment);
	cqrs_compat_flatten_group(query);
	parse->query = query;
	parse->names = deparse_context_for(CQRS_VIEW_EVENTS, events->md.reliddesc);

	if (query->hasWindowFuncs || query->hasSubLinks)
		cqrs_view_expression_check(&parse->check, (Node *) query->targetList);
	if (query->hasTargetSRFs)
		cqrs_view_expression_refuse(parse->check.pstate, exprLocation((Node *) query->targetList), "a set-returning function",
					"Each event gives one row, or a part of one.",
					"Publish an event for each element, or use a handler.");

	/* GROUP BY () is one such set */
	set = query->groupingSets == NIL ? NULL : linitial_node(GroupingSet, query->groupingSets);
	if (set != NULL && (list_length(query->groupingSets) > 1 || set->kind != GROUPING_SET_EMPTY))
		cqrs_view_expression_refuse(parse->check.pstate, set->location, "GROUPING SETS, ROLLUP or CUBE",
					"An event belongs to one group.", "Create a view for each grouping set.");
	parse->view->grouped = query->hasAggs || query->groupClause != NIL || set != NULL;
	if (query->jointree->quals != NULL)
	{
		cqrs_view_expression_check(&parse->check, query->jointree->quals);
		parse->view->where_expr = (Expr *) query->jointree->quals;
		parse->view->where = view_deparse(parse, query->jointree->quals);
	}
}

static void
view_add_columns(ViewParse *parse)
{
	CqrsView   *view = parse->view;
	ListCell   *lc;

	view->columns = palloc0(list_length(parse->query->targetList) * sizeof(CqrsViewColumn));
	foreach(lc, parse->query->targetList)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);

		if (target->resjunk)
			continue;
		for (int i = 0; i < view->ncolumns; i++)
			if (strcmp(view->columns[i].name, target->resname) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" appears more than once in a view's query",
								target->resname),
						 errhint("Give it another name with AS."),
						 parser_errposition(parse->check.pstate, exprLocation((Node *) target->expr))));
		if (SystemAttributeByName(target->resname) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column name \"%s\" is that of a system column", target->resname),
					 errhint("Give it another name with AS."),
					 parser_errposition(parse->check.pstate, exprLocation((Node *) target->expr))));
		view_add_column(parse, target, &view->columns[view->ncolumns]);
		view->ncolumns++;
	}
	if (view->ncolumns == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a view's query must have columns"),
				 errhint("For example: SELECT aggregate_id, count(*) FROM events GROUP BY aggregate_id")));
}

static void
view_add_column(ViewParse *parse, TargetEntry *target, CqrsViewColumn *column)
{
	Node	   *expr = (Node *) target->expr;
	ListCell   *lc;

	column->name = target->resname;
	column->type = exprType(expr);
	column->typmod = exprTypmod(expr);
	column->collation = exprCollation(expr);
	column->shown_position = -1;
	column->kept_position = -1;
	if (get_typtype(column->type) == TYPTYPE_PSEUDO)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("column \"%s\" has pseudo-type %s", column->name,
						format_type_be(column->type)),
				 errhint("Cast it, or name the columns of cqrs.event one by one."),
				 parser_errposition(parse->check.pstate, exprLocation(expr))));

	if (IsA(expr, GroupingFunc))
		cqrs_view_expression_check(&parse->check, expr);
	if (IsA(expr, Aggref))
		view_add_aggregate(parse, (Aggref *) expr, column);
	else if (contain_aggs_of_level(expr, 0))
		cqrs_view_expression_refuse(parse->check.pstate, exprLocation(expr), "an expression over aggregates",
					"The parts of it have to be kept, to be merged with later events.",
					"Make each aggregate a column, and compute the expression in a view on top of the read table.");
	else
	{
		cqrs_view_expression_check(&parse->check, expr);
		column->role = parse->view->grouped ? CQRS_VIEW_DERIVED : CQRS_VIEW_APPENDED;
		foreach(lc, parse->query->groupClause)
			if (lfirst_node(SortGroupClause, lc)->tleSortGroupRef == target->ressortgroupref)
				column->role = CQRS_VIEW_KEY;
		column->is_position = !parse->view->grouped && cqrs_view_aggregate_is_position(expr);
	}
	column->expr = target->expr;
	column->sql = view_deparse(parse, expr);
}

static void
view_add_aggregate(ViewParse *parse, Aggref *aggref, CqrsViewColumn *column)
{
	column->role = cqrs_view_aggregate_read(&parse->check, aggref);
	if (aggref->args != NIL)
		column->argument =
			view_deparse(parse, (Node *) linitial_node(TargetEntry, aggref->args)->expr);
	if (aggref->aggfilter != NULL)
		column->filter = view_deparse(parse, (Node *) aggref->aggfilter);
	parse->filters = lappend(parse->filters, aggref->aggfilter);
}

/* Each grouping column is shown, and the read table can have an index on it. */
static void
view_check_keys(ViewParse *parse)
{
	CqrsView   *view = parse->view;
	Node	   *where = (Node *) view->where_expr;
	int			column = 0;
	ListCell   *lc;

	foreach(lc, parse->query->targetList)
	{
		TargetEntry *target = lfirst_node(TargetEntry, lc);
		CqrsViewColumn *key = &view->columns[column];

		if (target->resjunk)
		{
			if (target->ressortgroupref == 0)
				continue;
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
					 errmsg("a grouping column is missing from the view's columns"),
					 errdetail("The grouping columns are the read table's key."),
					 errhint("Add it to the SELECT list."),
					 parser_errposition(parse->check.pstate, exprLocation((Node *) target->expr))));
		}
		column++;
		if (key->role != CQRS_VIEW_KEY)
			continue;
		if (!OidIsValid(lookup_type_cache(key->type, TYPECACHE_BTREE_OPFAMILY)->btree_opf))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("type %s can't be grouped by in a view",
							format_type_be(key->type)),
					 errdetail("The read table's key needs a default B-tree operator class."),
					 errhint("Cast it, for example to text."),
					 parser_errposition(parse->check.pstate, exprLocation((Node *) target->expr))));
		if (view->nkeys == INDEX_MAX_KEYS)
			ereport(ERROR,
					(errcode(ERRCODE_TOO_MANY_COLUMNS),
					 errmsg("a view can't have more than %d grouping columns", INDEX_MAX_KEYS),
					 errdetail("They are the read table's key, which needs an index."),
					 errhint("Combine some of them, for example in jsonb_build_array(...)."),
					 parser_errposition(parse->check.pstate, exprLocation((Node *) target->expr))));
		key->nullable = !cqrs_view_expression_never_null((Node *) target->expr, where);
		view->nullable_key |= key->nullable;
		view->nkeys++;
	}
}

/*
 * A first or last value is NULL as long as no event has given it. Where its type is
 * a domain that forbids that, such a table could be made, but no dump of it be
 * restored.
 */
static void
view_check_unset(ViewParse *parse)
{
	for (int i = 0; i < parse->view->ncolumns; i++)
	{
		CqrsViewColumn *column = &parse->view->columns[i];

		if ((column->role == CQRS_VIEW_FIRST || column->role == CQRS_VIEW_LAST) &&
			(column->filter != NULL || parse->view->nkeys == 0) &&
			get_typtype(column->type) == TYPTYPE_DOMAIN)
			view_check_null(parse, column);
	}
}

static void
view_check_null(ViewParse *parse, const CqrsViewColumn *column)
{
	PG_TRY();
	{
		domain_check((Datum) 0, true, column->type, NULL, NULL);
	}
	PG_CATCH();
	{
		FlushErrorState();
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("column \"%s\" may be null, but type %s does not allow that",
						column->name, format_type_be(column->type)),
				 errdetail("It is null as long as there is no event that gives it a value."),
				 errhint("Cast it to %s.", format_type_be(getBaseType(column->type))),
				 parser_errposition(parse->check.pstate, exprLocation((Node *) column->expr))));
	}
	PG_END_TRY();
}

/*
 * Find where the position behind each first and last value is: in a column
 * min(position) or max(position) with the same filter, or else in the state
 * table, where values under the same filter share one.
 */
static void
view_find_positions(ViewParse *parse)
{
	CqrsView   *view = parse->view;

	for (int i = 0; i < view->ncolumns; i++)
	{
		CqrsViewColumn *column = &view->columns[i];
		CqrsViewRole wanted = column->role == CQRS_VIEW_FIRST ? CQRS_VIEW_MIN : CQRS_VIEW_MAX;

		if (column->role != CQRS_VIEW_FIRST && column->role != CQRS_VIEW_LAST)
			continue;
		for (int j = 0; j < view->ncolumns && column->shown_position < 0; j++)
			if (view->columns[j].role == wanted && same_filter(column, &view->columns[j]) &&
				cqrs_view_aggregate_is_position((Node *) aggregate_argument(&view->columns[j])))
				column->shown_position = j;
		for (int j = 0; j < i && column->shown_position < 0; j++)
			if (view->columns[j].role == column->role && view->columns[j].kept_position >= 0 &&
				same_filter(column, &view->columns[j]))
				column->kept_position = view->columns[j].kept_position;
		if (column->shown_position < 0 && column->kept_position < 0)
			column->kept_position = view->nkept++;
	}
}

static bool
same_filter(const CqrsViewColumn *a, const CqrsViewColumn *b)
{
	return equal(((Aggref *) a->expr)->aggfilter, ((Aggref *) b->expr)->aggfilter);
}

static Expr *
aggregate_argument(const CqrsViewColumn *column)
{
	return linitial_node(TargetEntry, ((Aggref *) column->expr)->args)->expr;
}

/* The projection's key: the group, or the position of an appended row. */
static void
view_make_key(ViewParse *parse)
{
	CqrsView   *view = parse->view;
	StringInfoData key;

	initStringInfo(&key);
	if (!view->grouped)
		appendStringInfoString(&key, "\"position\"");
	else if (view->nkeys == 0)
		appendStringInfoString(&key, "'*'");
	for (int i = 0; i < view->ncolumns; i++)
		if (view->columns[i].role == CQRS_VIEW_KEY)
			appendStringInfo(&key, "%s%s", key.len > 0 ? ", " : "", view->columns[i].sql);
	view->shows_key = view->grouped;
	for (int i = 0; i < view->ncolumns && !view->shows_key; i++)
		view->shows_key = view->columns[i].is_position;
	view->key = view->nkeys > 1 ? psprintf("jsonb_build_array(%s)", key.data) : key.data;
}

/*
 * What the query says about an event's types and source becomes the projection's
 * filter, where that is provably the same: what WHERE demands, and, in a view
 * of one row, what every aggregate demands. (With groups, an event that none of
 * the aggregates counts still makes its group appear.)
 */
static void
view_make_filters(ViewParse *parse)
{
	parse->view->event_types = view_filter(parse, CQRS_EVENT_EVENT_TYPE);
	parse->view->aggregate_types = view_filter(parse, CQRS_EVENT_AGGREGATE_TYPE);
	parse->view->sources = view_filter(parse, CQRS_EVENT_SOURCE);
}

static List *
view_filter(ViewParse *parse, AttrNumber column)
{
	CqrsView   *view = parse->view;
	List	   *values = NIL;
	ListCell   *lc;

	if (cqrs_view_filter_of((Node *) view->where_expr, column, &values))
		return values;
	if (!view->grouped || view->nkeys > 0)
		return NIL;
	foreach(lc, parse->filters)
		if (!cqrs_view_filter_of(lfirst(lc), column, &values))
			return NIL;
	return values;
}

/* --------------------------------------------------------------- helpers */

/* An expression of the query as text, its columns as those of "events". */
static char *
view_deparse(ViewParse *parse, Node *node)
{
	int			nest_level = cqrs_settings_enter_portable();
	char	   *result = deparse_expression(node, parse->names, false, false);

	cqrs_settings_leave_portable(nest_level);
	return result;
}
