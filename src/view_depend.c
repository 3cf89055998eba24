/*
 * view_depend.c
 *		What the catalogs know of a view's tables: comments say who maintains them,
 *		the functions that its query calls can't be dropped, and the state table
 *		goes with the read table.
 *
 * A dump does not have such dependencies, so they are recorded again after it was
 * restored. A comment is ours as long as it says what we had it say.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_proc.h"
#include "commands/comment.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "view_depend.h"

#define COMMENT_PREFIX "maintained by cqrs_views: "

static char *comment_rename(const char *comment, const char *name, const char *new_name);
static void depend(Oid relid, Oid classid, Oid objid, DependencyType type);
static bool depends(Oid relid, Oid classid, Oid objid);

/* Record what a view's tables depend on, as far as it is not. */
void
cqrs_view_depend_record(const CqrsView *view, const CqrsViewTables *tables)
{
	ListCell   *lc;

	foreach(lc, view->functions)
		depend(tables->read_table, ProcedureRelationId, lfirst_oid(lc), DEPENDENCY_NORMAL);
	if (OidIsValid(tables->state_table))
		depend(tables->state_table, RelationRelationId, tables->read_table, DEPENDENCY_AUTO);
	CommandCounterIncrement();
}

/* Have comments on a new view's tables and columns say who maintains them, and how. */
void
cqrs_view_depend_describe(const CqrsView *view, const CqrsViewTables *tables, const char *name)
{
	CreateComments(tables->read_table, RelationRelationId, 0,
				   psprintf(COMMENT_PREFIX "view \"%s\"", name));
	for (int i = 0; i < view->ncolumns; i++)
		CreateComments(tables->read_table, RelationRelationId, i + 1,
					   psprintf("view \"%s\": %s", name, view->columns[i].sql));
	if (OidIsValid(tables->state_table))
		CreateComments(tables->state_table, RelationRelationId, 0,
					   psprintf(COMMENT_PREFIX "positions behind first and last values of view \"%s\"",
								name));
}

/*
 * Have them say another name; or nothing (NULL), where the view is no more. The
 * table is one of the view's, or was.
 */
void
cqrs_view_depend_rename(Oid relid, const char *name, const char *new_name)
{
	int			attnum = 0;

	/* of the table, then of its columns */
	do
	{
		char	   *comment = GetComment(relid, RelationRelationId, attnum);
		char	   *renamed = comment ? comment_rename(comment, name, new_name) : NULL;

		if (renamed != NULL)
			CreateComments(relid, RelationRelationId, attnum, renamed);
	} while (get_attname(relid, ++attnum, true) != NULL);
	CommandCounterIncrement();
}

/* A view's read table becomes an ordinary one. */
void
cqrs_view_depend_release(Oid relid, const char *name)
{
	deleteDependencyRecordsForClass(RelationRelationId, relid, ProcedureRelationId,
									DEPENDENCY_NORMAL);
	cqrs_view_depend_rename(relid, name, NULL);
}

/*
 * A comment of ours under the view's new name; an empty one, which is none, where it
 * has no name. NULL where the comment is not ours.
 */
static char *
comment_rename(const char *comment, const char *name, const char *new_name)
{
	char	   *view = psprintf("view \"%s\"", name);
	const char *found = strstr(comment, view);

	if (found == NULL ||
		(found != comment && strncmp(comment, COMMENT_PREFIX, strlen(COMMENT_PREFIX)) != 0))
		return NULL;
	if (new_name == NULL)
		return "";
	return psprintf("%.*sview \"%s\"%s", (int) (found - comment), comment, new_name,
					found + strlen(view));
}

static void
depend(Oid relid, Oid classid, Oid objid, DependencyType type)
{
	ObjectAddress table;
	ObjectAddress object;

	if (depends(relid, classid, objid))
		return;
	ObjectAddressSet(table, RelationRelationId, relid);
	ObjectAddressSet(object, classid, objid);
	recordDependencyOn(&table, &object, type);
}

/* Is it recorded that a table depends on an object? */
static bool
depends(Oid relid, Oid classid, Oid objid)
{
	Relation	rel = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&keys[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, DependDependerIndexId, true, NULL, 2, keys);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend row = (Form_pg_depend) GETSTRUCT(tuple);

		found = row->objsubid == 0 && row->refclassid == classid &&
			row->refobjid == objid && row->refobjsubid == 0;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}
