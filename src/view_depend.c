/*
 * view_depend.c
 *		What the catalogs know of a view's tables: the functions that its query
 *		calls can't be dropped, and the state table goes with the read table.
 *
 * A dump does not have such dependencies, so they are recorded again after it was
 * restored.
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
#include "utils/fmgroids.h"

#include "view_depend.h"

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
