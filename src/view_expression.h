/*
 * view_expression.h
 *		What an expression of a view's query may contain.
 */
#ifndef CQRS_VIEW_EXPRESSION_H
#define CQRS_VIEW_EXPRESSION_H

#include "nodes/pg_list.h"
#include "parser/parse_node.h"

#include "compat.h"

/* the check of one query */
typedef struct CqrsExpressionCheck
{
	ParseState *pstate;			/* for error positions */
	List	   *moments;		/* locations of 'now', 'today', …; filled by scan */
	List	   *functions;		/* OIDs of those that users made; filled by check */
	List	   *types;			/* the same for types, and for what these consist of */
	int			location;		/* of the node being checked */
} CqrsExpressionCheck;

pg_noreturn extern void cqrs_view_expression_refuse(ParseState *pstate, int location,
													const char *what, const char *why,
													const char *way_out);
extern void cqrs_view_expression_scan(CqrsExpressionCheck *check, Node *raw);
extern void cqrs_view_expression_check(CqrsExpressionCheck *check, Node *node);
extern bool cqrs_view_expression_never_null(Node *node, Node *where);

#endif							/* CQRS_VIEW_EXPRESSION_H */
