/*
 * view_aggregate.h
 *		Which aggregates a view's query may have, and why each merge is right.
 */
#ifndef CQRS_VIEW_AGGREGATE_H
#define CQRS_VIEW_AGGREGATE_H

#include "nodes/primnodes.h"

#include "view_expression.h"

/* what a column of the query is, and so how old and new are merged */
typedef enum CqrsViewRole
{
	CQRS_VIEW_KEY,				/* a grouping column */
	CQRS_VIEW_DERIVED,			/* computed from grouping columns */
	CQRS_VIEW_APPENDED,			/* of a query without groups */
	CQRS_VIEW_COUNT,
	CQRS_VIEW_SUM,
	CQRS_VIEW_MIN,
	CQRS_VIEW_MAX,
	CQRS_VIEW_ALL_TRUE,
	CQRS_VIEW_ANY_TRUE,
	CQRS_VIEW_BIT_AND,
	CQRS_VIEW_BIT_OR,
	CQRS_VIEW_FIRST,
	CQRS_VIEW_LAST
} CqrsViewRole;

extern CqrsViewRole cqrs_view_aggregate_read(CqrsExpressionCheck *check, Aggref *aggref);
extern bool cqrs_view_aggregate_is_position(Node *node);

#endif							/* CQRS_VIEW_AGGREGATE_H */
