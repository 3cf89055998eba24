/*
 * sql_progress.h
 *		SQL procedures that process events, and the function that waits.
 */
#ifndef CQRS_SQL_PROGRESS_H
#define CQRS_SQL_PROGRESS_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_catch_up(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_rebuild_projection(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_wait_for(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_PROGRESS_H */
