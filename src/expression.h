/*
 * expression.h
 *		One SQL expression over a relation's columns: parse and check it.
 */
#ifndef CQRS_EXPRESSION_H
#define CQRS_EXPRESSION_H

#include "nodes/primnodes.h"
#include "utils/relcache.h"

/* what an expression is for; the texts are for messages */
typedef struct CqrsExpressionUse
{
	const char *what;			/* "a key" */
	const char *title;			/* "key expression" */
	const char *one_hint;		/* how to make one of several */
	const char *columns_hint;	/* instead of the whole row */
	const char *stable_detail;	/* why it can't be volatile */
	const char *whose;			/* as whom it is evaluated: "the table's owner" */
	Oid			type;			/* what it is cast to; InvalidOid = any type */
} CqrsExpressionUse;

extern Expr *cqrs_expression_parse(const char *expression, Relation rel,
								   const CqrsExpressionUse *use);

#endif							/* CQRS_EXPRESSION_H */
