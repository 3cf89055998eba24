/*
 * view_table.h
 *		A view's tables: the statements that make them, and do they still fit the
 *		query?
 */
#ifndef CQRS_VIEW_TABLE_H
#define CQRS_VIEW_TABLE_H

#include "view.h"
#include "view_merge.h"

extern char *cqrs_view_table_create(const CqrsView *view, Oid schema, const char *name,
									bool is_state);
extern List *cqrs_view_table_constraints(const CqrsView *view, Oid relid, bool is_state);
extern bool cqrs_view_table_has_deciding_triggers(Oid read_table);
extern void cqrs_view_table_check(const CqrsView *view, const CqrsViewTables *tables);

#endif							/* CQRS_VIEW_TABLE_H */
