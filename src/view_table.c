/*
 * view_table.c
 *		A view's tables: the statements that make them, and do they still fit the
 *		query?
 *
 * Their owner may alter them as any other table. What merges old and new relies on
 * the types, the collations, and a unique index over the groups.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_collation.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "view_table.h"

/*
 * How much of a page is filled, in per cent, where rows are updated again and again,
 * as a group's are: a batch may write each of a page's rows anew. Where the new ones
 * fit beside the old they need no entries in indexes, and once the old are removed
 * their place serves the next batch. In full pages new rows go elsewhere: by the tenth
 * batch the table is larger than one that was begun half empty, and batches that touch
 * all rows take a fifth to three fifths longer.
 */
#define UPDATED_FILLFACTOR 50

static bool table_is_updated(const CqrsView *view);
static void table_columns(StringInfo sql, const CqrsView *view, bool keys_only);
static void check_types(const CqrsView *view, Oid read_table);
static void check_key(const CqrsView *view, Oid relid, bool is_state);
static bool index_is_key(const CqrsView *view, Relation index, bool is_state);

/*
 * CREATE TABLE for the read table, or for the state table: the read table's key, and
 * positions. The name is not yet quoted.
 */
char *
cqrs_view_table_create(const CqrsView *view, Oid schema, const char *name, bool is_state)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (",
					 quote_qualified_identifier(get_namespace_name(schema), name));
	table_columns(&sql, view, is_state);
	for (int i = 0; i < view->nkept && is_state; i++)
		appendStringInfo(&sql, "%sposition_%d pg_catalog.int8",
						 i == 0 && view->nkeys == 0 ? "" : ", ", i + 1);
	appendStringInfoChar(&sql, ')');
	if (is_state || table_is_updated(view))
		appendStringInfo(&sql, " WITH (fillfactor = %d)", UPDATED_FILLFACTOR);
	return sql.data;
}

/*
 * What a table gets once it is filled: a list of statements. NULL is a group
 * like any other; a table of one row has an index that says so.
 */
List *
cqrs_view_table_constraints(const CqrsView *view, Oid relid, bool is_state)
{
	StringInfoData key;
	char	   *name = cqrs_view_merge_relation(relid);
	List	   *result = NIL;
	int			number = 0;

	initStringInfo(&key);
	for (int i = 0; i < view->ncolumns; i++)
	{
		bool		is_key = view->columns[i].role == CQRS_VIEW_KEY;

		if (is_key || !is_state)
			number++;
		if (is_key || (view->columns[i].is_position && key.len == 0))
			appendStringInfo(&key, "%s%s", key.len > 0 ? ", " : "",
							 quote_identifier(cqrs_view_merge_column(relid, number)));
	}
	if (key.len > 0 && !view->nullable_key)
		return list_make1(psprintf("ALTER TABLE %s ADD PRIMARY KEY (%s)", name, key.data));
	if (key.len > 0)
		result = lappend(result, psprintf("ALTER TABLE %s ADD UNIQUE NULLS NOT DISTINCT (%s)",
										  name, key.data));
	else if (view->grouped)
		result = lappend(result, psprintf("CREATE UNIQUE INDEX ON %s ((true))", name));

	/* without a primary key, updates could not be replicated from here */
	return lappend(result, psprintf("ALTER TABLE %s REPLICA IDENTITY FULL", name));
}

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

/*
 * Do triggers of its owner's decide whether a row is written to a view's read table, which
 * is locked?
 */
bool
cqrs_view_table_has_deciding_triggers(Oid read_table)
{
	Relation	rel = table_open(read_table, NoLock);
	bool		result = rel->trigdesc != NULL &&
		(rel->trigdesc->trig_insert_before_row || rel->trigdesc->trig_update_before_row);

	table_close(rel, NoLock);
	return result;
}

/* Do batches update rows of the read table, or only append to it? */
static bool
table_is_updated(const CqrsView *view)
{
	for (int i = 0; i < view->ncolumns; i++)
		if (view->columns[i].role >= CQRS_VIEW_COUNT)
			return true;
	return false;
}

static void
table_columns(StringInfo sql, const CqrsView *view, bool keys_only)
{
	int			number = 0;

	for (int i = 0; i < view->ncolumns; i++)
	{
		const CqrsViewColumn *column = &view->columns[i];

		if (keys_only && column->role != CQRS_VIEW_KEY)
			continue;
		number++;
		appendStringInfoString(sql, number > 1 ? ", " : "");
		if (keys_only)
			appendStringInfo(sql, "key_%d", number);
		else
			appendStringInfoString(sql, quote_identifier(column->name));
		appendStringInfo(sql, " %s", format_type_extended(column->type, column->typmod,
														  FORMAT_TYPE_TYPEMOD_GIVEN |
														  FORMAT_TYPE_FORCE_QUALIFY));
		if (OidIsValid(column->collation))
		{
			HeapTuple	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(column->collation));
			Form_pg_collation collation;

			if (!HeapTupleIsValid(tuple))
				elog(ERROR, "cache lookup failed for collation %u", column->collation);
			collation = (Form_pg_collation) GETSTRUCT(tuple);
			appendStringInfo(sql, " COLLATE %s",
							 quote_qualified_identifier(get_namespace_name(collation->collnamespace),
														NameStr(collation->collname)));
			ReleaseSysCache(tuple);
		}
	}
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
				 errhint("%s;", (char *) linitial(cqrs_view_table_constraints(view, relid, is_state)))));
}

/* Is it a unique index over a view's groups? That of a table of one row is over an expression. */
static bool
index_is_key(const CqrsView *view, Relation index, bool is_state)
{
	Form_pg_index form = index->rd_index;
	int			attno = 0;

	if (!form->indisunique || !form->indisvalid || !form->indimmediate ||
		RelationGetIndexPredicate(index) != NIL || form->indnkeyatts != Max(view->nkeys, 1) ||
		(view->nullable_key && !form->indnullsnotdistinct))
		return false;
	if (view->nkeys == 0)
		return form->indkey.values[0] == 0;
	for (int i = 0; i < view->ncolumns; i++)
	{
		bool		is_key = view->columns[i].role == CQRS_VIEW_KEY;
		bool		found = false;

		attno += is_key || !is_state;
		for (int k = 0; is_key && k < form->indnkeyatts; k++)
			found |= form->indkey.values[k] == attno &&
				index->rd_indcollation[k] == view->columns[i].collation;
		if (is_key && !found)
			return false;
	}
	return true;
}
