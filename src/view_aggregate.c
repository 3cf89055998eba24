/*
 * view_aggregate.c
 *		Which aggregates a view's query may have, and why each merge is right.
 *
 * One of which the result over two disjoint sets of events follows from the
 * results over each. Let a, b be those results; NULL is the result over no
 * (non-null) values:
 *		count			a + b
 *		sum				a + b; what is not NULL where only one is. Addition is
 *						associative and commutative, but for the rounding of
 *						real and double precision
 *		min, max		the smaller, the larger, by the type's default order;
 *						NULL only if both are
 *		bool_and, every, bool_or, bit_and, bit_or
 *						a AND b, a OR b, a & b, a | b; what is not NULL where
 *						only one is
 *		first, last		that of the smaller, the greater position. A value may
 *						be NULL, so it takes the position to know, which is
 *						kept beside: see view_sql.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "catalog.h"
#include "compat.h"
#include "event.h"
#include "view_aggregate.h"

static bool aggregate_role(Aggref *aggref, CqrsViewRole *role);
static const char *aggregate_way_out(const char *name);
static void aggregate_add_position(Aggref *aggref, const char *name);

/*
 * What an aggregate of a query is. Throws where it can't be merged, or depends on
 * more than its events. A first or last value that goes by the order in which
 * rows are read is made one that goes by their position.
 */
CqrsViewRole
cqrs_view_aggregate_read(CqrsExpressionCheck *check, Aggref *aggref)
{
	const char *name = get_func_name(aggref->aggfnoid);
	const char *what = psprintf("aggregate %s", format_procedure(aggref->aggfnoid));
	CqrsViewRole role;

	if (!aggregate_role(aggref, &role))
		cqrs_view_expression_refuse(check->pstate, aggref->location, what,
									"Its result over all events does not follow from the results over some and over the others.",
									aggregate_way_out(name));
	if (aggref->aggdistinct != NIL)
		cqrs_view_expression_refuse(check->pstate, aggref->location, "DISTINCT in an aggregate",
									"All distinct values would have to be kept.",
									"GROUP BY the value as well, and aggregate once more in a view on top of the read table.");
	if (aggref->aggorder != NIL)
		cqrs_view_expression_refuse(check->pstate, aggref->location, "ORDER BY in an aggregate",
									"Events are merged in whatever order they are committed.",
									"Leave it out; cqrs.first and cqrs.last go by position.");
	cqrs_view_expression_check(check, (Node *) aggref->args);
	cqrs_view_expression_check(check, (Node *) aggref->aggfilter);
	if (role != CQRS_VIEW_FIRST && role != CQRS_VIEW_LAST)
	{
		if (aggref->aggfnoid >= FirstNormalObjectId)
			check->functions = list_append_unique_oid(check->functions, aggref->aggfnoid);
	}
	else if (list_length(aggref->args) == 1)
		aggregate_add_position(aggref, name);
	return role;
}

/* Is a value of the query the event's position? */
bool
cqrs_view_aggregate_is_position(Node *node)
{
	return IsA(node, Var) && ((Var *) node)->varattno == CQRS_EVENT_POSITION;
}

/* What an aggregate is, if it can be merged. */
static bool
aggregate_role(Aggref *aggref, CqrsViewRole *role)
{
	static const struct
	{
		const char *name;
		CqrsViewRole role;
	}			roles[] = {
		{"count", CQRS_VIEW_COUNT}, {"sum", CQRS_VIEW_SUM},
		{"bool_and", CQRS_VIEW_ALL_TRUE}, {"every", CQRS_VIEW_ALL_TRUE},
		{"bool_or", CQRS_VIEW_ANY_TRUE},
		{"bit_and", CQRS_VIEW_BIT_AND}, {"bit_or", CQRS_VIEW_BIT_OR}
	};
	const char *name = get_func_name(aggref->aggfnoid);
	Oid			schema = get_func_namespace(aggref->aggfnoid);
	HeapTuple	tuple;
	Oid			sort_operator;
	TypeCacheEntry *type;

	if (aggref->aggkind != AGGKIND_NORMAL)
		return false;
	if (schema == PG_CATALOG_NAMESPACE)
		for (int i = 0; i < lengthof(roles); i++)
			if (strcmp(name, roles[i].name) == 0)
			{
				*role = roles[i].role;
				return true;
			}
	if (schema == get_rel_namespace(cqrs_catalog_relation("events", false)))
	{
		Node	   *at = list_length(aggref->args) < 2 ? NULL :
			(Node *) lsecond_node(TargetEntry, aggref->args)->expr;

		*role = strcmp(name, "first") == 0 ? CQRS_VIEW_FIRST : CQRS_VIEW_LAST;
		return (strcmp(name, "first") == 0 || strcmp(name, "last") == 0) &&
			(at == NULL || cqrs_view_aggregate_is_position(at));
	}

	/* one with a sort operator is by definition the first value in that order */
	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(aggref->aggfnoid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for aggregate %u", aggref->aggfnoid);
	sort_operator = ((Form_pg_aggregate) GETSTRUCT(tuple))->aggsortop;
	ReleaseSysCache(tuple);
	type = lookup_type_cache(aggref->aggtype, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	if (!OidIsValid(sort_operator) ||
		(sort_operator != type->lt_opr && sort_operator != type->gt_opr))
	{
		/* the type of the result may be one that the argument's operators serve, too */
		Oid			family;
		Oid			input;
		CompareType comparison;

		if (!OidIsValid(sort_operator) ||
			!get_ordering_op_properties(sort_operator, &family, &input, &comparison) ||
			type->btree_opf != family)
			return false;
		*role = comparison == COMPARE_LT ? CQRS_VIEW_MIN : CQRS_VIEW_MAX;
		return true;
	}
	*role = sort_operator == type->lt_opr ? CQRS_VIEW_MIN : CQRS_VIEW_MAX;
	return true;
}

static const char *
aggregate_way_out(const char *name)
{
	if (strcmp(name, "first") == 0 || strcmp(name, "last") == 0)
		return "cqrs.first(x) and cqrs.last(x) go by the event's position: leave out the second argument.";
	if (strcmp(name, "avg") == 0)
		return "Keep sum(x) and count(x), and divide in a view on top of the read table.";
	if (strncmp(name, "stddev", 6) == 0 || strncmp(name, "var", 3) == 0)
		return "Keep count(x), sum(x) and sum(x * x), and compute it in a view on top of the read table.";
	if (strstr(name, "_agg") != NULL)
		return "Append the rows with a view without GROUP BY, and aggregate them in a view on top of the read table; or use a reducer.";
	return "Use count, sum, min, max, bool_and, bool_or, every, bit_and, bit_or, cqrs.first or cqrs.last; or append the rows with a view without GROUP BY, and aggregate them in a view on top of the read table; or use a reducer.";
}

/* The aggregate of the same name whose second argument is the position. */
static void
aggregate_add_position(Aggref *aggref, const char *name)
{
	Oid			argtypes[2] = {ANYELEMENTOID, INT8OID};
	List	   *names = list_make2(makeString("cqrs"), makeString(pstrdup(name)));

	aggref->aggfnoid = LookupFuncName(names, 2, argtypes, false);
	aggref->aggargtypes = lappend_oid(aggref->aggargtypes, INT8OID);
	aggref->args = lappend(aggref->args,
						   makeTargetEntry((Expr *) makeVar(1, CQRS_EVENT_POSITION, INT8OID, -1,
															InvalidOid, 0),
										   2, NULL, false));
}
