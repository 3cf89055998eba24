/*
 * sql_publish.h
 *		SQL functions of publishers.
 */
#ifndef CQRS_SQL_PUBLISH_H
#define CQRS_SQL_PUBLISH_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_current_xid(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_publish(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_grant_publish(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_PUBLISH_H */
