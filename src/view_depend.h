/*
 * view_depend.h
 *		What the catalogs know of a view's tables.
 */
#ifndef CQRS_VIEW_DEPEND_H
#define CQRS_VIEW_DEPEND_H

#include "view.h"
#include "view_sql.h"

extern void cqrs_view_depend_record(const CqrsView *view, const CqrsViewTables *tables);

#endif							/* CQRS_VIEW_DEPEND_H */
