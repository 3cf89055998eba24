/*
 * sql_status.h
 *		SQL functions behind the views to look at.
 */
#ifndef CQRS_SQL_STATUS_H
#define CQRS_SQL_STATUS_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_reset_stats(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_get_projection_status(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_get_worker_status(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_get_rebuild_progress(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_STATUS_H */
