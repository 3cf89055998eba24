/*
 * view_form.c
 *		What clauses a view's query may have.
 *
 * It is one SELECT from events, with WHERE and GROUP BY. What else there is asks
 * for more than a group's own events, and is refused before it is analysed.
 *
 * Where in the text a clause begins, the parse tree often does not tell. Then
 * PostgreSQL's scanner does: the keyword that is in the fewest parentheses.
 */
#include "postgres.h"

#include "common/keywords.h"
#include "nodes/nodeFuncs.h"
#include "parser/parser.h"
#include "parser/scanner.h"

#include "view_expression.h"
#include "view_form.h"

static void form_check_set_operation(ParseState *pstate, const SelectStmt *select);
static void form_check_clauses(ParseState *pstate, const SelectStmt *select);
static void form_check_from(ParseState *pstate, const SelectStmt *select);
static int	from_location(Node *from);
static int	keyword_location(ParseState *pstate, const char *keyword);

/*
 * Throw where an unanalysed query has clauses that a view can't have, or selects
 * from anything but events. pstate has the query's text.
 */
void
cqrs_view_form_check(ParseState *pstate, const SelectStmt *select)
{
	if (select->withClause != NULL)
		cqrs_view_expression_refuse(pstate, select->withClause->location, "WITH",
									"A view is one SELECT from events.",
									"Write its expressions into the SELECT.");
	form_check_set_operation(pstate, select);
	if (select->valuesLists != NIL)
		cqrs_view_expression_refuse(pstate, keyword_location(pstate, "values"), "VALUES",
									"A view is a SELECT from events.", "SELECT ... FROM events");
	form_check_clauses(pstate, select);
	form_check_from(pstate, select);
}

static void
form_check_set_operation(ParseState *pstate, const SelectStmt *select)
{
	static const struct
	{
		SetOperation operation;
		const char *keyword;
	}			operations[] = {
		{SETOP_UNION, "union"}, {SETOP_INTERSECT, "intersect"}, {SETOP_EXCEPT, "except"}
	};

	for (int i = 0; i < lengthof(operations); i++)
		if (select->op == operations[i].operation)
			cqrs_view_expression_refuse(pstate, keyword_location(pstate, operations[i].keyword),
										"UNION, INTERSECT or EXCEPT",
										"A view is one SELECT from events.",
										"Create a view for each part, and combine their read tables with CREATE VIEW.");
}

static void
form_check_clauses(ParseState *pstate, const SelectStmt *select)
{
	const char *on_top = "Leave it out, and put it into a view on top of the read table: CREATE VIEW ... AS SELECT ...";
	const char *whole = "It is about all rows together, and the read table is kept group by group.";

	if (select->intoClause != NULL)
		cqrs_view_expression_refuse(pstate, select->intoClause->rel->location, "INTO",
									"The read table gets the view's name.", "Leave it out.");
	if (select->distinctClause != NIL)
		cqrs_view_expression_refuse(pstate, keyword_location(pstate, "distinct"), "DISTINCT", whole,
									"GROUP BY the columns instead.");
	if (select->havingClause != NULL)
		cqrs_view_expression_refuse(pstate, exprLocation(select->havingClause), "HAVING",
									"A group that does not qualify now may do so later, so it must be kept.",
									on_top);
	if (select->windowClause != NIL)
		cqrs_view_expression_refuse(pstate, linitial_node(WindowDef, select->windowClause)->location,
									"WINDOW", whole, on_top);
	if (select->sortClause != NIL)
		cqrs_view_expression_refuse(pstate, exprLocation(linitial_node(SortBy, select->sortClause)->node),
									"ORDER BY", "The rows of a table have no order.", on_top);
	if (select->limitCount != NULL || select->limitOffset != NULL)
	{
		int			location = exprLocation(select->limitCount ? select->limitCount :
											select->limitOffset);

		cqrs_view_expression_refuse(pstate, location >= 0 ? location : keyword_location(pstate, "fetch"),
									"LIMIT, OFFSET or FETCH", whole, on_top);
	}
	if (select->lockingClause != NIL)
		cqrs_view_expression_refuse(pstate, keyword_location(pstate, "for"),
									"FOR UPDATE or FOR SHARE", "Events are not locked.",
									"Leave it out.");
}

/* A view reads events, and nothing else. */
static void
form_check_from(ParseState *pstate, const SelectStmt *select)
{
	const char *why = "A change in another table is no event, and the view would not see it.";
	const char *way_out = "SELECT ... FROM events; join the read table with others in a view on top of it.";
	RangeVar   *from;

	if (select->fromClause == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("a view's query must select from events"),
				 errhint("SELECT ... FROM events")));
	if (list_length(select->fromClause) > 1)
		cqrs_view_expression_refuse(pstate, from_location(lsecond(select->fromClause)), "a join", why,
									way_out);
	from = linitial(select->fromClause);
	if (IsA(from, JoinExpr))
		cqrs_view_expression_refuse(pstate, from_location(((JoinExpr *) from)->rarg), "a join", why,
									way_out);
	if (!IsA(from, RangeVar))
		cqrs_view_expression_refuse(pstate, from_location((Node *) from),
									IsA(from, RangeSubselect) ? "a sub-select" : "a function or clause in FROM",
									"A view is a SELECT from events.", way_out);
	if (from->schemaname != NULL || strcmp(from->relname, CQRS_VIEW_EVENTS) != 0)
		cqrs_view_expression_refuse(pstate, from->location, "a table other than events", why, way_out);
}

/* Where an item of FROM is in the query's text; of a sub-select, its first column. */
static int
from_location(Node *from)
{
	SelectStmt *select;

	switch (nodeTag(from))
	{
		case T_RangeSubselect:
			select = castNode(SelectStmt, ((RangeSubselect *) from)->subquery);
			return exprLocation((Node *) (select->valuesLists ? select->valuesLists :
										  select->targetList));
		case T_RangeFunction:
			/* functions, each with its columns */
			return exprLocation(linitial(linitial_node(List, ((RangeFunction *) from)->functions)));
		case T_RangeTableFunc:
			return ((RangeTableFunc *) from)->location;
		case T_JoinExpr:
			return from_location(((JoinExpr *) from)->larg);
		default:
			return exprLocation(from);
	}
}

/*
 * Where a keyword is in the query's text, which parses; -1 = nowhere. Of several,
 * the first of those that are in the fewest parentheses.
 */
static int
keyword_location(ParseState *pstate, const char *keyword)
{
	int			wanted = ScanKeywordTokens[ScanKeywordLookup(keyword, &ScanKeywords)];
	core_yy_extra_type extra;
	core_yyscan_t scanner = scanner_init(pstate->p_sourcetext, &extra, &ScanKeywords,
										 ScanKeywordTokens);
	core_YYSTYPE value;
	YYLTYPE		location;
	int			token;
	int			depth = 0;
	int			depth_found = PG_INT32_MAX;
	int			result = -1;

	while ((token = core_yylex(&value, &location, scanner)) != 0)
	{
		if (token == '(')
			depth++;
		else if (token == ')')
			depth--;
		else if (token == wanted && depth < depth_found)
		{
			depth_found = depth;
			result = location;
		}
	}
	scanner_finish(scanner);
	return result;
}
