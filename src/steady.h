/*
 * steady.h
 *		Run a kept plan as it is, under whatever settings, where none can matter.
 */
#ifndef CQRS_STEADY_H
#define CQRS_STEADY_H

#include "query.h"

extern bool cqrs_steady_expected(const CqrsQuery *query);
extern bool cqrs_steady_run(CqrsQuery *query, const Datum *args, const char *nulls,
							CqrsRowFn row_fn, void *arg);
extern void cqrs_steady_judge(CqrsQuery *query);
extern void cqrs_steady_doubt(CqrsQuery *query);
extern bool cqrs_steady_is_expression(Node *expression);

#endif							/* CQRS_STEADY_H */
