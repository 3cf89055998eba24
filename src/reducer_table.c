/*
 * reducer_table.c
 *		A reducer's read table: its columns, and the statements that fetch its rows
 *		and write them back.
 *
 * The statements are made from the catalogs, with the names and columns of the
 * moment, and kept until the table, or a schema's name, changes. They run under
 * the owner's search_path, so all that they name is qualified, the operator too.
 * Rows come in through a function, unnest, so that tables which are spread over
 * other servers can be read tables, too; a tuplestore would be no faster.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "query.h"
#include "reducer.h"
#include "reducer_table.h"

static HTAB *tables = NULL;

static void tables_sweep(void);
static void table_forget(CqrsReducerTable *table);
static void table_changed(Oid relid, void *arg);
static void table_syscache_callback(Datum arg, int cacheid, uint32 hashvalue);
static void table_describe(CqrsReducerTable *table, Relation rel);
static void table_choose_columns(CqrsReducerTable *table, TupleDesc desc);
static const char *table_write_sql(const CqrsReducerTable *table, TupleDesc desc,
								   const char *name);
static const char *column_list(const CqrsReducerTable *table, TupleDesc desc);
static const char *column_name(TupleDesc desc, int attnum);

/*
 * What there is to know about a table, which the caller has locked against
 * changes. Throws where it is not fit for a reducer any more. It may be made
 * anew, so nobody may be at work with it; nobody is, because a batch of one
 * projection's never nests in another one of its own.
 */
CqrsReducerTable *
cqrs_reducer_table_get(Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	CqrsReducerTable *table;
	bool		found;

	if (tables == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(Oid),.entrysize = sizeof(CqrsReducerTable)};

		tables = hash_create("cqrs_views reducer tables", 16, &info, HASH_ELEM | HASH_BLOBS);
		cqrs_catalog_watch_relations(table_changed, NULL);
		CacheRegisterSyscacheCallback(NAMESPACEOID, table_syscache_callback, (Datum) 0);
	}
	table = hash_search(tables, &relid, HASH_ENTER, &found);
	if (!found)
	{
		memset(table, 0, sizeof(CqrsReducerTable));
		table->relid = relid;
		tables_sweep();
	}
	if (!table->described || table->changes_read != table->changes)
		table_describe(table, rel);
	return table;
}

/* Forget the tables that are gone. */
static void
tables_sweep(void)
{
	HASH_SEQ_STATUS status;
	CqrsReducerTable *table;

	hash_seq_init(&status, tables);
	while ((table = hash_seq_search(&status)) != NULL)
		if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(table->relid)))
		{
			table_forget(table);
			hash_search(tables, &table->relid, HASH_REMOVE, NULL);
		}
}

static void
table_forget(CqrsReducerTable *table)
{
	if (table->context == NULL)
		return;
	cqrs_query_forget(&table->fetch_one);
	cqrs_query_forget(&table->fetch);
	cqrs_query_forget(&table->write);
	cqrs_query_forget(&table->remove);
	MemoryContextDelete(table->context);
	table->context = NULL;
	table->described = false;
}

static void
table_changed(Oid relid, void *arg)
{
	HASH_SEQ_STATUS status;
	CqrsReducerTable *table;

	if (OidIsValid(relid))
	{
		table = hash_search(tables, &relid, HASH_FIND, NULL);
		if (table != NULL)
			table->changes++;
		return;
	}
	hash_seq_init(&status, tables);
	while ((table = hash_seq_search(&status)) != NULL)
		table->changes++;
}

static void
table_syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	table_changed(InvalidOid, NULL);
}

/* What changes while we look makes the result old at once: changes are counted before. */
static void
table_describe(CqrsReducerTable *table, Relation rel)
{
	uint64		changes = table->changes;
	TupleDesc	desc = RelationGetDescr(rel);
	AttrNumber	key_column = cqrs_reducer_key_column(table->relid, false);
	MemoryContext old;
	const char *name;
	const char *key;

	table_forget(table);
	table->context = AllocSetContextCreate(TopMemoryContext, "cqrs_views reducer table",
										   ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(table->context);
	table->key_column = key_column;
	table_choose_columns(table, desc);
	name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
	key = column_name(desc, key_column);
	table->fetch_one = (CqrsQuery)
	{
		.sql = psprintf("SELECT %s FROM %s WHERE %s OPERATOR(pg_catalog.=) $1",
						column_list(table, desc), name, key),
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_BY_KEY,
		.nargs = 1,
		.argtypes = {TEXTOID}
	};
	table->fetch = (CqrsQuery)
	{
		.sql = psprintf("SELECT %s FROM %s WHERE %s OPERATOR(pg_catalog.=) ANY ($1)",
						column_list(table, desc), name, key),
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_CUSTOM | CQRS_QUERY_NO_JIT,
		.nargs = 1,
		.argtypes = {TEXTARRAYOID}
	};
	table->write = (CqrsQuery)
	{
		.sql = table_write_sql(table, desc, name),
		.flags = CQRS_QUERY_IN_PLACE,
		.nargs = 1,
		.argtypes = {get_array_type(RelationGetForm(rel)->reltype)}
	};
	table->remove = (CqrsQuery)
	{
		.sql = psprintf("DELETE FROM %s WHERE %s OPERATOR(pg_catalog.=) ANY ($1)", name, key),
		.flags = CQRS_QUERY_IN_PLACE | CQRS_QUERY_CUSTOM | CQRS_QUERY_NO_JIT,
		.nargs = 1,
		.argtypes = {TEXTARRAYOID}
	};
	MemoryContextSwitchTo(old);
	table->changes_read = changes;
	table->described = true;
}

static void
table_choose_columns(CqrsReducerTable *table, TupleDesc desc)
{
	table->columns = palloc(desc->natts * sizeof(int));
	table->hidden = palloc(desc->natts * sizeof(int));
	table->ncolumns = 0;
	table->nhidden = 0;
	for (int attnum = 1; attnum <= desc->natts; attnum++)
	{
		Form_pg_attribute attribute = TupleDescAttr(desc, attnum - 1);

		if (attribute->attisdropped)
			continue;
		if (attribute->attgenerated != '\0' || attribute->attidentity != '\0')
			table->hidden[table->nhidden++] = attnum;
		else
			table->columns[table->ncolumns++] = attnum;
	}
}

/* The table goes by an alias, so that it may well be named "excluded". */
static const char *
table_write_sql(const CqrsReducerTable *table, TupleDesc desc, const char *name)
{
	StringInfoData sql;
	const char *columns = column_list(table, desc);
	const char *separator = " DO UPDATE SET ";

	initStringInfo(&sql);
	appendStringInfo(&sql, "INSERT INTO %s AS cqrs_table (%s) SELECT %s"
					 " FROM pg_catalog.unnest($1) ON CONFLICT (%s)",
					 name, columns, columns, column_name(desc, table->key_column));
	for (int i = 0; i < table->ncolumns; i++)
		if (table->columns[i] != table->key_column)
		{
			const char *column = column_name(desc, table->columns[i]);

			appendStringInfo(&sql, "%s%s = excluded.%s", separator, column, column);
			separator = ", ";
		}
	if (table->ncolumns == 1)
		appendStringInfoString(&sql, " DO NOTHING");
	return sql.data;
}

static const char *
column_list(const CqrsReducerTable *table, TupleDesc desc)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(&list, "%s%s", i == 0 ? "" : ", ",
						 column_name(desc, table->columns[i]));
	return list.data;
}

static const char *
column_name(TupleDesc desc, int attnum)
{
	return quote_identifier(NameStr(TupleDescAttr(desc, attnum - 1)->attname));
}
