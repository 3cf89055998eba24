/*
 * sql_source.h
 *		SQL functions about services in other databases.
 */
#ifndef CQRS_SQL_SOURCE_H
#define CQRS_SQL_SOURCE_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_attach_outbox(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_detach_outbox(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_retry_source_dead_letters(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_discard_source_dead_letters(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_receive(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_attachment_changed(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_guard_alter(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_SOURCE_H */
