/*
 * view_table.h
 *		Do a view's tables still fit its query?
 */
#ifndef CQRS_VIEW_TABLE_H
#define CQRS_VIEW_TABLE_H

#include "view.h"
#include "view_sql.h"

extern void cqrs_view_table_check(const CqrsView *view, const CqrsViewTables *tables);

#endif							/* CQRS_VIEW_TABLE_H */
