/*
 * sql_dead_letter.h
 *		SQL functions about events that were put aside.
 */
#ifndef CQRS_SQL_DEAD_LETTER_H
#define CQRS_SQL_DEAD_LETTER_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_sql_retry_dead_letters(PG_FUNCTION_ARGS);
extern PGDLLEXPORT Datum cqrs_sql_discard_dead_letters(PG_FUNCTION_ARGS);

#endif							/* CQRS_SQL_DEAD_LETTER_H */
