/*
 * view_form.h
 *		What clauses a view's query may have.
 */
#ifndef CQRS_VIEW_FORM_H
#define CQRS_VIEW_FORM_H

#include "nodes/parsenodes.h"
#include "parser/parse_node.h"

/* the relation that a view selects from */
#define CQRS_VIEW_EVENTS "events"

extern void cqrs_view_form_check(ParseState *pstate, const SelectStmt *select);

#endif							/* CQRS_VIEW_FORM_H */
