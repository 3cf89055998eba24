/*
 * expression.c
 *		One SQL expression over a relation's columns: parse and check it.
 *
 * Users write such expressions for keys, and for what a row of an attached table
 * means. They are parsed as what "SELECT <expression>" would select, by
 * PostgreSQL's own parser, and must depend on the row alone.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "expression.h"
#include "function.h"

#define PREFIX "SELECT "

/* what is being parsed, for the error context */
typedef struct Parsing
{
	const char *expression;
	const CqrsExpressionUse *use;
} Parsing;

static Node *expression_raw_parse(const char *sql, const CqrsExpressionUse *use);
static void expression_error_callback(void *arg);
static Expr *expression_check(ParseState *pstate, Node *node, const CqrsExpressionUse *use);

/*
 * Parse an expression over the columns of a relation, which the caller has opened,
 * under the current search_path and as the user whose code it may call. The result, in
 * the current memory context, has the wanted type, and its variables are of varno 1.
 * Throws what the parser throws, with the cursor inside the expression;
 * ERRCODE_INVALID_OBJECT_DEFINITION for what it can't contain, and
 * ERRCODE_INSUFFICIENT_PRIVILEGE for others' functions and types.
 */
Expr *
cqrs_expression_parse(const char *expression, Relation rel, const CqrsExpressionUse *use)
{
	char	   *sql = psprintf(PREFIX "%s", expression);
	Parsing		parsing = {.expression = expression,.use = use};
	ErrorContextCallback callback = {
		.previous = error_context_stack,
		.callback = expression_error_callback,
		.arg = &parsing
	};
	ParseState *pstate;
	ParseNamespaceItem *nsitem;
	Expr	   *result;

	error_context_stack = &callback;
	pstate = make_parsestate(NULL);
	pstate->p_sourcetext = sql;
	nsitem = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true);
	addNSItemToQuery(pstate, nsitem, false, true, true);
	result = expression_check(pstate,
							  transformExpr(pstate, expression_raw_parse(sql, use), EXPR_KIND_OTHER),
							  use);
	free_parsestate(pstate);
	error_context_stack = callback.previous;
	return result;
}

/*
 * The one expression in "SELECT <expression>", unanalysed. Whatever else the
 * text may hold after its first expression shows in the parse tree.
 */
static Node *
expression_raw_parse(const char *sql, const CqrsExpressionUse *use)
{
	List	   *statements = raw_parser(sql, RAW_PARSE_DEFAULT);
	SelectStmt *expected = makeNode(SelectStmt);
	SelectStmt *select = NULL;
	ResTarget  *target = NULL;

	if (list_length(statements) == 1)
		select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (select && IsA(select, SelectStmt) && list_length(select->targetList) == 1)
		target = linitial_node(ResTarget, select->targetList);

	if (target)
	{
		expected->targetList = select->targetList;
		expected->limitOption = select->limitOption;
	}
	/* "*" is no expression, and transformExpr relies on that */
	if (target && IsA(target->val, ColumnRef) &&
		IsA(linitial(((ColumnRef *) target->val)->fields), A_Star))
		target = NULL;
	if (target == NULL || target->name != NULL || IsA(target->val, SetToDefault) ||
		!equal(select, expected))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("%s must be one expression", use->what),
				 errhint("%s", use->one_hint)));
	return target->val;
}

/* Turns cursor positions of the SELECT into such of the expression. */
static void
expression_error_callback(void *arg)
{
	const Parsing *parsing = (const Parsing *) arg;
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position - (int) strlen(PREFIX));
		internalerrquery(parsing->expression);
	}
	errcontext("%s \"%s\"", parsing->use->title, parsing->expression);
}

/* Make an analysed expression one of the wanted type, or say why it can't be used. */
static Expr *
expression_check(ParseState *pstate, Node *node, const CqrsExpressionUse *use)
{
	Bitmapset  *columns = NULL;
	int			member = -1;
	Oid			type = use->type;
	Node	   *result;

	if (pstate->p_hasSubLinks || pstate->p_hasAggs || pstate->p_hasWindowFuncs ||
		expression_returns_set(node))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("%s can't contain subqueries, aggregates, window functions or set-returning functions",
						use->what),
				 errhint("Compute it from the columns alone.")));

	pull_varattnos(node, 1, &columns);
	while ((member = bms_next_member(columns, member)) >= 0)
		if (member + FirstLowInvalidHeapAttributeNumber <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("%s can't contain a whole row or system columns", use->what),
					 errhint("%s", use->columns_hint)));

	if (!OidIsValid(type))
		type = exprType(node) == UNKNOWNOID ? TEXTOID : exprType(node);
	result = coerce_to_target_type(pstate, node, exprType(node), type, -1,
								   COERCION_EXPLICIT, COERCE_EXPLICIT_CAST, -1);
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CANNOT_COERCE),
				 errmsg("%s of type %s can't be cast to %s", use->what,
						format_type_be(exprType(node)), format_type_be(type)),
				 errhint("Write an expression of a type that can.")));
	assign_expr_collations(pstate, result);

	/* before the planner evaluates any of it */
	cqrs_function_check_owners(result, GetUserId(), use->whose);
	if (contain_volatile_functions((Node *) expression_planner(copyObject((Expr *) result))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("%s can't contain volatile functions", use->what),
				 errdetail("%s", use->stable_detail),
				 errhint("Call functions only that are immutable or stable.")));
	return (Expr *) result;
}
