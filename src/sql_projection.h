/*
 * sql_projection.h
 *		SQL functions that define and manage projections.
 */
#ifndef CQRS_SQL_PROJECTION_H
#define CQRS_SQL_PROJECTION_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_create_projection(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_alter_projection(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_drop_projection(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_pause_projection(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_resume_projection(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_PROJECTION_H */
