/*
 * view_filter.c
 *		What a condition says about a column of the event: the values that it
 *		must have one of.
 *
 * Such lists become a projection's filters, by which the engine passes events by
 * without a look at the query. So a list is given only where the condition can't
 * hold for any other value.
 */
#include "postgres.h"

#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "nodes/primnodes.h"
#include "nodes/value.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "view_filter.h"

static bool filter_of_comparison(Node *node, AttrNumber column, List **values);
static List *filter_add(List *values, const char *value);

/*
 * Add to values those that the column must have one of for the condition to
 * hold. Returns false, with whatever in values, where there is no such list.
 */
bool
cqrs_view_filter_of(Node *node, AttrNumber column, List **values)
{
	BoolExpr   *condition = (BoolExpr *) node;
	ListCell   *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, BoolExpr))
		return filter_of_comparison(node, column, values);
	switch (condition->boolop)
	{
		case AND_EXPR:
			/* any of the lists will do */
			foreach(lc, condition->args)
			{
				List	   *found = NIL;

				if (cqrs_view_filter_of(lfirst(lc), column, &found))
				{
					ListCell   *value;

					foreach(value, found)
						*values = filter_add(*values, strVal(lfirst(value)));
					return true;
				}
			}
			return false;
		case OR_EXPR:
			foreach(lc, condition->args)
				if (!cqrs_view_filter_of(lfirst(lc), column, values))
					return false;
			return true;
		default:
			return false;
	}
}

/* The same for column = 'x', column IN ('x', …) and column = ANY ('{x, …}'). */
static bool
filter_of_comparison(Node *node, AttrNumber column, List **values)
{
	List	   *args;
	Oid			collation;
	Var		   *var;
	Node	   *other;
	List	   *constants;
	ListCell   *lc;

	if (IsA(node, OpExpr) && ((OpExpr *) node)->opno == TextEqualOperator)
	{
		args = ((OpExpr *) node)->args;
		collation = ((OpExpr *) node)->inputcollid;
	}
	else if (IsA(node, ScalarArrayOpExpr) && ((ScalarArrayOpExpr *) node)->useOr &&
			 ((ScalarArrayOpExpr *) node)->opno == TextEqualOperator)
	{
		args = ((ScalarArrayOpExpr *) node)->args;
		collation = ((ScalarArrayOpExpr *) node)->inputcollid;
	}
	else
		return false;

	/* the engine compares bytes */
	if (!OidIsValid(collation) || !get_collation_isdeterministic(collation))
		return false;
	var = linitial(args);
	other = lsecond(args);
	if (IsA(node, OpExpr) && !IsA(var, Var))
	{
		var = lsecond(args);
		other = linitial(args);
	}
	if (!IsA(var, Var) || var->varattno != column)
		return false;
	constants = IsA(other, ArrayExpr) ? ((ArrayExpr *) other)->elements : list_make1(other);
	foreach(lc, constants)
	{
		Const	   *constant = lfirst(lc);

		if (!IsA(constant, Const))
			return false;
		if (constant->constisnull)
			continue;
		if (constant->consttype == TEXTOID)
			*values = filter_add(*values, TextDatumGetCString(constant->constvalue));
		else if (constant->consttype == TEXTARRAYOID)
		{
			Datum	   *elements;
			bool	   *nulls;
			int			nelements;

			deconstruct_array(DatumGetArrayTypeP(constant->constvalue), TEXTOID, -1, false,
							  TYPALIGN_INT, &elements, &nulls, &nelements);
			for (int i = 0; i < nelements; i++)
				if (!nulls[i])
					*values = filter_add(*values, TextDatumGetCString(elements[i]));
		}
		else
			return false;
	}

	/* an empty filter would be none */
	return *values != NIL;
}

static List *
filter_add(List *values, const char *value)
{
	ListCell   *lc;

	foreach(lc, values)
		if (strcmp(strVal(lfirst(lc)), value) == 0)
			return values;
	return lappend(values, makeString(pstrdup(value)));
}
