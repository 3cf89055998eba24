/*
 * view_depend.h
 *		What the catalogs know of a view's tables.
 */
#ifndef CQRS_VIEW_DEPEND_H
#define CQRS_VIEW_DEPEND_H

#include "view.h"
#include "view_sql.h"

extern void cqrs_view_depend_record(const CqrsView *view, const CqrsViewTables *tables);
extern void cqrs_view_depend_describe(const CqrsView *view, const CqrsViewTables *tables,
									  const char *name);
extern void cqrs_view_depend_rename(Oid relid, const char *name, const char *new_name);
extern void cqrs_view_depend_release(Oid relid, const char *name);

#endif							/* CQRS_VIEW_DEPEND_H */
