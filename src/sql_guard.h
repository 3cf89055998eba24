/*
 * sql_guard.h
 *		Trigger functions that guard our tables and the read tables.
 */
#ifndef CQRS_SQL_GUARD_H
#define CQRS_SQL_GUARD_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_guard_outbox(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_guard_read_table(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_guard_drop(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_registry_changed(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_GUARD_H */
