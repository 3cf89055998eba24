/*
 * sql_aggregate.h
 *		SQL functions behind the aggregates first and last.
 */
#ifndef CQRS_SQL_AGGREGATE_H
#define CQRS_SQL_AGGREGATE_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_last_transition(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_first_transition(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_last_at_transition(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_first_at_transition(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_kept_value(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_AGGREGATE_H */
