/*
 * view_sql.h
 *		The statements that fill and maintain a view's read table.
 */
#ifndef CQRS_VIEW_SQL_H
#define CQRS_VIEW_SQL_H

#include "view_merge.h"

extern char *cqrs_view_sql_fill(const CqrsView *view, const CqrsViewTables *tables,
								const char *outbox);
extern char *cqrs_view_sql_apply(const CqrsView *view, const CqrsViewTables *tables,
								 bool return_keys);
extern char *cqrs_view_sql_apply_one(const CqrsView *view, const CqrsViewTables *tables,
									 const char *source, bool return_keys);
extern char *cqrs_view_sql_merge(const CqrsView *view, const CqrsViewTables *tables,
								 bool return_keys);
extern char *cqrs_view_sql_apply_from(const CqrsView *view, const CqrsViewTables *tables,
									  const char *source, const char *condition,
									  const char *having, bool return_keys);

#endif							/* CQRS_VIEW_SQL_H */
