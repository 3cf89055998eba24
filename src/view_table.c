/*
 * view_table.c
 *		Do a view's tables still fit its query?
 *
 * Their owner may alter them as any other table. What merges old and new relies on
 * the types, the collations, and a unique index over the groups.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"

#include "view_table.h"

static void check_types(const CqrsView *view, Oid read_table);
static void check_key(const CqrsView *view, Oid relid, bool is_state);
static bool index_is_key(const CqrsView *view, Relation index, bool is_state);

/*
 * Throw where a view's tables can't be maintained any more. Locks them, and their
 * indexes, in ACCESS SHARE mode until the end of the transaction.
 */
void
cqrs_view_table_check(const CqrsView *view, const CqrsViewTables *tables)
{
	check_types(view, tables->read_table);
	check_key(view, tables->read_table, false);
	if (OidIsValid(tables->state_table))
		check_key(view, tables->state_table, true);
}

/* Throw where the read table's columns are not of the query's types any more. */
static void
check_types(const CqrsView *view, Oid read_table)
{
	for (int i = 0; i < view->ncolumns; i++)
	{
		const CqrsViewColumn *column = &view->columns[i];
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(read_table, i + 1, &type, &typmod, &collation);

		/* a dropped column is found when it is named */
		if (!OidIsValid(type))
			continue;
		if (type != column->type || typmod != column->typmod)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of read table \"%s\" is of type %s, but the view's query gives %s",
							get_attname(read_table, i + 1, false), get_rel_name(read_table),
							format_type_with_typemod(type, typmod),
							format_type_with_typemod(column->type, column->typmod)),
					 errhint("Change the type back; for another type, drop the view and create it with a cast in the query.")));
		if (OidIsValid(column->collation) && collation != column->collation)
			ereport(ERROR,
					(errcode(ERRCODE_COLLATION_MISMATCH),
					 errmsg("column \"%s\" of read table \"%s\" has another collation than in the view's query",
							get_attname(read_table, i + 1, false), get_rel_name(read_table)),
					 errhint("Change it back; for another collation, drop the view and create it with COLLATE in the query.")));
	}
}

/* Throw where a table's rows can't be found by their group any more. */
static void
check_key(const CqrsView *view, Oid relid, bool is_state)
{
	Relation	rel;
	bool		found = !view->grouped;
	ListCell   *lc;

	rel = table_open(relid, AccessShareLock);
	foreach(lc, RelationGetIndexList(rel))
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		found |= index_is_key(view, index, is_state);
		index_close(index, NoLock);
	}
	table_close(rel, NoLock);
	if (!found)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
				 errmsg("read table \"%s\" has lost the unique constraint of its groups",
						get_rel_name(relid)),
				 errhint("%s;", (char *) linitial(cqrs_view_sql_constraints(view, relid, is_state)))));
}

/* Is it a unique index over a view's groups? That of a table of one row is over an expression. */
static bool
index_is_key(const CqrsView *view, Relation index, bool is_state)
{
	Form_pg_index form = index->rd_index;
	int			attno = 0;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		RelationGetIndexPredicate(index) != NIL || form->indnkeyatts != Max(view->nkeys, 1))
		return false;
	if (view->nkeys == 0)
		return form->indkey.values[0] == 0;
	for (int i = 0; i < view->ncolumns; i++)
	{
		bool		is_key = view->columns[i].role == CQRS_VIEW_KEY;
		bool		found = false;

		attno += is_key || !is_state;
		for (int k = 0; is_key && k < form->indnkeyatts; k++)
			found |= form->indkey.values[k] == attno;
		if (is_key && !found)
			return false;
	}
	return true;
}
