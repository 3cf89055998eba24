/*
 * sql_view.h
 *		SQL functions that define views.
 */
#ifndef CQRS_SQL_VIEW_H
#define CQRS_SQL_VIEW_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_create_view(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_view_definition(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_VIEW_H */
