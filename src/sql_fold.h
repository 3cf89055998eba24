/*
 * sql_fold.h
 *		SQL functions that compute a state without a read table.
 */
#ifndef CQRS_SQL_FOLD_H
#define CQRS_SQL_FOLD_H

#endif							/* CQRS_SQL_FOLD_H */
