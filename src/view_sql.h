/*
 * view_sql.h
 *		The statements that make, fill and maintain a view's read table.
 */
#ifndef CQRS_VIEW_SQL_H
#define CQRS_VIEW_SQL_H

#include "view_merge.h"

extern char *cqrs_view_sql_create(const CqrsView *view, Oid schema, const char *name);
extern char *cqrs_view_sql_create_state(const CqrsView *view, Oid schema, const char *name);
extern List *cqrs_view_sql_constraints(const CqrsView *view, Oid relid, bool is_state);
extern char *cqrs_view_sql_fill(const CqrsView *view, const CqrsViewTables *tables,
								const char *outbox);
extern char *cqrs_view_sql_apply(const CqrsView *view, const CqrsViewTables *tables,
								 bool return_keys);
extern char *cqrs_view_sql_apply_one(const CqrsView *view, const CqrsViewTables *tables,
									 const char *source, bool return_keys);
extern char *cqrs_view_sql_apply_from(const CqrsView *view, const CqrsViewTables *tables,
									  const char *source, const char *condition,
									  bool return_keys);

#endif							/* CQRS_VIEW_SQL_H */
