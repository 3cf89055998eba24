/*
 * sql_args.h
 *		Arguments of SQL-callable functions.
 */
#ifndef CQRS_SQL_ARGS_H
#define CQRS_SQL_ARGS_H

#include "fmgr.h"

#include "projection.h"

extern const char *cqrs_sql_arg_name(FunctionCallInfo fcinfo, int argno, const char *what);
extern CqrsProjection *cqrs_sql_arg_projection(FunctionCallInfo fcinfo);
extern const char *cqrs_sql_arg_text(FunctionCallInfo fcinfo, int argno, const char *what,
									 bool null_ok);
extern Datum cqrs_sql_arg_narrow_filter(Datum filter, List *values);
extern const char *cqrs_sql_arg_on_error(FunctionCallInfo fcinfo, int argno);
extern const char *cqrs_sql_arg_start_at(FunctionCallInfo fcinfo, int argno);
extern int	cqrs_sql_arg_batch_size(FunctionCallInfo fcinfo, int argno);
extern void cqrs_sql_arg_segments(FunctionCallInfo fcinfo, int argno);
extern Datum cqrs_sql_arg_filter(FunctionCallInfo fcinfo, int argno, const char *what,
								 bool *given);
extern int	cqrs_sql_arg_oids(FunctionCallInfo fcinfo, int argno, const char *what, Oid **oids);
extern void cqrs_sql_arg_refuse_atomic(FunctionCallInfo fcinfo, const char *what);

#endif							/* CQRS_SQL_ARGS_H */
