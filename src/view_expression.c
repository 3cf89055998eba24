/*
 * view_expression.c
 *		What an expression of a view's query may contain.
 *
 * It must depend on the event alone, so that whoever evaluates it, and whenever,
 * gets the same: volatile functions, the clock, the session and other tables
 * would make a rebuild give another answer.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/formatting.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "event.h"
#include "function.h"
#include "view_expression.h"

/*
 * Functions of PostgreSQL's own that are marked stable only for what is fixed
 * for a projection (its time zone, its styles) or because a type's functions may
 * be. All others that are stable look at the clock, the session or the catalogs.
 */
static const char *const safe_stable[] = {
	"anytextcat", "array_in", "array_out", "array_to_json", "array_to_string", "cash_in",
	"cash_out", "concat", "concat_ws", "convert", "convert_from", "convert_to", "date",
	"date_in", "date_out", "date_part", "date_trunc", "domain_in", "enum_in", "enum_out",
	"extract", "format", "interval_in", "interval_out", "interval_pl_timestamptz",
	"json_build_array", "json_build_object", "jsonb_build_array", "jsonb_build_object",
	"jsonb_path_exists_tz", "jsonb_path_match_tz", "jsonb_path_query_array_tz",
	"jsonb_path_query_first_tz", "jsonb_populate_record", "json_populate_record",
	"make_timestamptz", "money", "multirange_in", "multirange_out", "numeric", "overlaps",
	"quote_literal", "quote_nullable", "range_in", "range_out", "record_in", "record_out",
	"row_to_json", "textanycat", "time", "time_in", "timestamp", "timestamp_in",
	"timestamp_out", "timestamptz", "timestamptz_in", "timestamptz_mi_interval",
	"timestamptz_out", "timestamptz_pl_interval", "to_char", "to_date", "to_json",
	"to_jsonb", "to_number", "to_timestamp"
};

static bool find_moments(Node *node, void *context);
static bool is_moment(Node *node);
static bool is_of_time(Oid type);
static bool is_row_of_time(Oid type);
static bool is_of_catalogs(Oid type);
static bool means_moment(Node *node, const CqrsExpressionCheck *check);
static bool check_walker(Node *node, void *context);
static void check_node(Node *node, CqrsExpressionCheck *check);
static void check_defaults(const FuncExpr *call, CqrsExpressionCheck *check);
static bool check_function(Oid function, void *context);
static bool function_is_safe(Oid function, const char *name);
static bool call_never_null(Node *node, Node *where);

/* Refuse a part of the query, at its location in it (-1 = unknown). */
void
cqrs_view_expression_refuse(ParseState *pstate, int location, const char *what,
							const char *why, const char *way_out)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("a view's query can't contain %s", what),
			 errdetail("%s", why),
			 errhint("%s", way_out),
			 parser_errposition(pstate, location)));
}

/*
 * Look at the unanalysed query for literals that mean the moment of parsing if
 * they are taken for a date or time: a view's query is parsed again and again.
 */
void
cqrs_view_expression_scan(CqrsExpressionCheck *check, Node *raw)
{
	(void) find_moments(raw, check);
}

/* Throw unless an expression depends on its event alone. NULL is one that does. */
void
cqrs_view_expression_check(CqrsExpressionCheck *check, Node *node)
{
	check->location = -1;
	(void) check_walker(node, check);
}

/*
 * Can the expression not be NULL, for an event for which "where" holds? Returns
 * false where that is not plain to see.
 */
bool
cqrs_view_expression_never_null(Node *node, Node *where)
{
	ListCell   *lc;

	foreach(lc, make_ands_implicit((Expr *) where))
	{
		NullTest   *test = lfirst(lc);

		if (IsA(test, NullTest) && test->nulltesttype == IS_NOT_NULL && equal(test->arg, node))
			return true;
	}
	switch (nodeTag(node))
	{
		case T_Var:
			return ((Var *) node)->varattno != CQRS_EVENT_AGGREGATE_VERSION;
		case T_Const:
			return !((Const *) node)->constisnull;
		case T_RelabelType:
			return cqrs_view_expression_never_null((Node *) ((RelabelType *) node)->arg, where);
		case T_CollateExpr:
			return cqrs_view_expression_never_null((Node *) ((CollateExpr *) node)->arg, where);
		case T_CoalesceExpr:
			foreach(lc, ((CoalesceExpr *) node)->args)
				if (cqrs_view_expression_never_null(lfirst(lc), where))
					return true;
			return false;
		case T_BoolExpr:
			foreach(lc, ((BoolExpr *) node)->args)
				if (!cqrs_view_expression_never_null(lfirst(lc), where))
					return false;
			return true;
		case T_NullTest:
		case T_BooleanTest:
		case T_DistinctExpr:
			return true;
		case T_CaseExpr:
			foreach(lc, ((CaseExpr *) node)->args)
				if (!cqrs_view_expression_never_null((Node *) lfirst_node(CaseWhen, lc)->result, where))
					return false;
			return ((CaseExpr *) node)->defresult != NULL &&
				cqrs_view_expression_never_null((Node *) ((CaseExpr *) node)->defresult, where);
		case T_FuncExpr:
		case T_OpExpr:
			return call_never_null(node, where);
		default:
			return false;
	}
}

/* Remember where literals such as 'now' are. */
static bool
find_moments(Node *node, void *context)
{
	CqrsExpressionCheck *check = (CqrsExpressionCheck *) context;

	if (node == NULL)
		return false;
	if (is_moment(node))
		check->moments = lappend_int(check->moments, ((A_Const *) node)->location);
	if (IsA(node, TypeCast) && is_moment(((TypeCast *) node)->arg))
		check->moments = lappend_int(check->moments, exprLocation(node));
	return raw_expression_tree_walker(node, find_moments, context);
}

static bool
is_moment(Node *node)
{
	static const char *const words[] = {"now", "today", "tomorrow", "yesterday"};
	char	   *text;

	if (!IsA(node, A_Const) || ((A_Const *) node)->isnull ||
		!IsA(&((A_Const *) node)->val, String))
		return false;
	text = asc_tolower(strVal(&((A_Const *) node)->val), strlen(strVal(&((A_Const *) node)->val)));
	for (int i = 0; i < lengthof(words); i++)
		if (strstr(text, words[i]) != NULL)
			return true;
	return false;
}

/* A type of dates or times, or of arrays, ranges or rows of them? */
static bool
is_of_time(Oid type)
{
	Oid			element;
	char		category;
	bool		preferred;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		return is_of_time(element);
	if (type_is_range(type))
		return is_of_time(get_range_subtype(type));
	if (type_is_multirange(type))
		return is_of_time(get_multirange_range(type));
	if (type_is_rowtype(type))
		return is_row_of_time(type);
	get_type_category_preferred(type, &category, &preferred);
	return category == TYPCATEGORY_DATETIME;
}

static bool
is_row_of_time(Oid type)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_noerror(type, -1, true);
	bool		result = false;

	if (desc == NULL)
		return false;
	for (int i = 0; i < desc->natts && !result; i++)
		result = !TupleDescAttr(desc, i)->attisdropped &&
			is_of_time(TupleDescAttr(desc, i)->atttypid);
	ReleaseTupleDesc(desc);
	return result;
}

/* Is it such a literal, or one that is a text first, and then a date or time? */
static bool
means_moment(Node *node, const CqrsExpressionCheck *check)
{
	Node	   *literal = node;

	if (IsA(node, CoerceViaIO))
		literal = (Node *) ((CoerceViaIO *) node)->arg;
	while (IsA(literal, RelabelType))
		literal = (Node *) ((RelabelType *) literal)->arg;
	return IsA(literal, Const) && is_of_time(exprType(node)) &&
		list_member_int(check->moments, ((Const *) literal)->location);
}

static bool
check_walker(Node *node, void *context)
{
	CqrsExpressionCheck *check = (CqrsExpressionCheck *) context;
	int			outer = check->location;
	bool		result;

	if (node == NULL)
		return false;

	/* what comes from a default has no place of its own in the query */
	if (exprLocation(node) >= 0)
		check->location = exprLocation(node);
	check_node(node, check);
	(void) check_functions_in_node(node, check_function, check);
	check->types = cqrs_function_note_types(check->types, node);
	if (IsA(node, FuncExpr))
		check_defaults((FuncExpr *) node, check);
	result = expression_tree_walker(node, check_walker, context);
	check->location = outer;
	return result;
}

/* Is a type's text looked up in the catalogs? */
static bool
is_of_catalogs(Oid type)
{
	switch (type)
	{
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGNAMESPACEOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGROLEOID:
		case REGTYPEOID:
			return true;
		default:
			return false;
	}
}

/* Refuse a node for what it is. check->location is where. */
static void
check_node(Node *node, CqrsExpressionCheck *check)
{
	if (IsA(node, SubLink))
		cqrs_view_expression_refuse(check->pstate, check->location, "a sub-select",
					"A change in another table is no event, and the view would not see it.",
					"Put the data into the event, or join in a view on top of the read table.");
	if (IsA(node, RelabelType) && !IsA(((RelabelType *) node)->arg, Const) &&
		is_of_catalogs(((RelabelType *) node)->resulttype))
		cqrs_view_expression_refuse(check->pstate, check->location, "a name that an OID stands for",
					"It is another one once something is renamed or dropped, and the view would not see it.",
					"Put the name into the event.");
	if (IsA(node, WindowFunc))
		cqrs_view_expression_refuse(check->pstate, check->location, "a window function",
					"It is about all rows together, and the read table is kept group by group.",
					"Compute it in a view on top of the read table.");
	if (IsA(node, GroupingFunc))
		cqrs_view_expression_refuse(check->pstate, check->location, "GROUPING", "There is one grouping set.",
					"Leave it out.");
	if (IsA(node, SQLValueFunction))
		cqrs_view_expression_refuse(check->pstate, check->location,
					"the current time, user or schema",
					"A rebuild would give another answer than the first time.",
					"Use the event's own columns, for example occurred_at or source.");
	if (IsA(node, Var) && ((Var *) node)->varattno <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a view's query can't contain a whole row or system columns"),
				 errdetail("What an event consists of may grow, and the view would become another."),
				 errhint("Name the columns of cqrs.event one by one."),
				 parser_errposition(check->pstate, check->location)));
	if (means_moment(node, check))
		cqrs_view_expression_refuse(check->pstate, check->location, "a date or time that depends on the current one",
					"A rebuild would give another answer than the first time.",
					"Use the event's own columns, for example occurred_at, or write the date.");
}

/*
 * Check the arguments that a call leaves out: the parser leaves it to the planner
 * to look up their defaults.
 */
static void
check_defaults(const FuncExpr *call, CqrsExpressionCheck *check)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->funcid));
	List	   *args = call->args;
	ListCell   *lc;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", call->funcid);
	if (list_length(args) < ((Form_pg_proc) GETSTRUCT(tuple))->pronargs)
		foreach(lc, expand_function_arguments(copyObject(args), false, call->funcresulttype, tuple))
			(void) check_walker(lfirst(lc), check);
	ReleaseSysCache(tuple);
}

static bool
check_function(Oid function, void *context)
{
	CqrsExpressionCheck *check = (CqrsExpressionCheck *) context;
	const char *name = get_func_name(function);
	const char *what = psprintf("function %s", format_procedure(function));
	char		volatility = func_volatile(function);

	if (volatility == PROVOLATILE_VOLATILE)
		cqrs_view_expression_refuse(check->pstate, check->location, psprintf("volatile %s", what),
					"A rebuild would give another answer than the first time.",
					"Compute the value when the event is published, and put it into the payload.");
	if (volatility == PROVOLATILE_STABLE && !function_is_safe(function, name))
		cqrs_view_expression_refuse(check->pstate, check->location, psprintf("stable %s", what),
					"Its result may depend on the clock, the session or other tables.",
					function >= FirstNormalObjectId ?
					"If it depends on its arguments alone: ALTER FUNCTION ... IMMUTABLE" :
					"Use the event's own columns, for example occurred_at or source.");
	if (function >= FirstNormalObjectId)
		check->functions = list_append_unique_oid(check->functions, function);
	return false;
}

static bool
function_is_safe(Oid function, const char *name)
{
	if (get_func_namespace(function) != PG_CATALOG_NAMESPACE)
		return false;

	/* unlike timetz(time), which takes the offset of today */
	if (function == F_TIMETZ_TIMESTAMPTZ)
		return true;
	for (int i = 0; i < lengthof(safe_stable); i++)
		if (strcmp(safe_stable[i], name) == 0)
			return true;

	/* comparisons of timestamptz with date and timestamp: date_lt_timestamptz, … */
	return strstr(name, "_timestamptz") != NULL ||
		strncmp(name, "timestamptz_", strlen("timestamptz_")) == 0;
}

/* The same for a call of one of PostgreSQL's functions, where they are known. */
static bool
call_never_null(Node *node, Node *where)
{
	static const char *const functions[] = {
		"btrim", "date", "date_trunc", "left", "length", "lower", "ltrim", "md5", "replace",
		"right", "rtrim", "split_part", "substr", "textcat", "timestamp", "timestamptz",
		"timezone", "upper"
	};
	Oid			function;
	List	   *args;
	ListCell   *lc;

	if (IsA(node, OpExpr))
	{
		function = get_opcode(((OpExpr *) node)->opno);
		args = ((OpExpr *) node)->args;
	}
	else
	{
		function = ((FuncExpr *) node)->funcid;
		args = ((FuncExpr *) node)->args;
	}
	foreach(lc, args)
	{
		Oid			type = exprType(lfirst(lc));

		/* there are other functions of these names: the lower bound of a range may be NULL */
		if (type_is_range(type) || type_is_multirange(type) ||
			!cqrs_view_expression_never_null(lfirst(lc), where))
			return false;
	}
	if (get_func_namespace(function) == PG_CATALOG_NAMESPACE)
		for (int i = 0; i < lengthof(functions); i++)
			if (strcmp(get_func_name(function), functions[i]) == 0)
				return true;
	return false;
}
