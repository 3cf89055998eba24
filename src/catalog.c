/*
 * catalog.c
 *		What the system catalogs say of our own tables, and of whose a table is: looked
 *		up once, and again where something has changed.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "catalog.h"

#define CQRS_SCHEMA "cqrs"
#define OUR_EXTENSION "cqrs_views"

/* a table of the extension's that was looked up before */
typedef struct KnownRelation
{
	const char *relname;
	Oid			relid;
} KnownRelation;

#define MAX_KNOWN 16

/* whoever wants to hear of changed relations */
typedef struct Watcher
{
	CqrsRelationFn fn;
	void	   *arg;
} Watcher;

#define MAX_WATCHERS 8

static Watcher watchers[MAX_WATCHERS];
static int	nwatchers = 0;

/* forgotten whenever a table or a schema changes, which is counted */
static KnownRelation known_relations[MAX_KNOWN];
static int	nknown = 0;
static uint64 names_changes = 0;

/* counts changes of tables, roles and rights that this process heard of */
static uint64 rights_changes = 1;

static Oid	catalog_schema(void);
static void catalog_relations_callback(Datum arg, Oid relid);
static void catalog_names_callback(Datum arg, int cacheid, uint32 hashvalue);
static void catalog_rights_callback(Datum arg, int cacheid, uint32 hashvalue);

/* Called once per process, from _PG_init. */
void
cqrs_catalog_init(void)
{
	const int	rights[] = {AUTHMEMROLEMEM, AUTHOID, DATABASEOID, RELOID, SUBSCRIPTIONRELMAP};

	CacheRegisterRelcacheCallback(catalog_relations_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(RELNAMENSP, catalog_names_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACENAME, catalog_names_callback, (Datum) 0);
	for (int i = 0; i < lengthof(rights); i++)
		CacheRegisterSyscacheCallback(rights[i], catalog_rights_callback, (Datum) 0);
}

/*
 * Call fn, for the rest of the process, whenever a relation may have changed, like a
 * callback of the relcache. A process has room for ten of those, for all extensions in
 * it; so all of ours are one.
 */
void
cqrs_catalog_watch_relations(CqrsRelationFn fn, void *arg)
{
	Assert(nwatchers < MAX_WATCHERS);
	watchers[nwatchers++] = (Watcher) {fn, arg};
}

/*
 * The OID of one of the extension's tables in this database, from the system
 * caches; relname is a constant. With missing_ok, InvalidOid where the extension is
 * not installed.
 */
Oid
cqrs_catalog_relation(const char *relname, bool missing_ok)
{
	uint64		changes;
	Oid			nspid;
	Oid			relid;

	for (int i = 0; i < nknown; i++)
	{
		KnownRelation known = known_relations[i];

		if (strcmp(known.relname, relname) != 0)
			continue;

		/* what is asked for most often comes to stand first */
		if (i > 0)
		{
			known_relations[i] = known_relations[i - 1];
			known_relations[i - 1] = known;
		}
		return known.relid;
	}
	changes = names_changes;
	nspid = catalog_schema();
	relid = OidIsValid(nspid) ? get_relname_relid(relname, nspid) : InvalidOid;
	if (OidIsValid(relid) && changes == names_changes && nknown < MAX_KNOWN)
		known_relations[nknown++] = (KnownRelation) {relname, relid};

	if (!OidIsValid(relid) && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", CQRS_SCHEMA, relname),
				 errhint("Run CREATE EXTENSION cqrs_views.")));
	return relid;
}

/* The role that owns the extension's tables. */
Oid
cqrs_catalog_owner(void)
{
	return cqrs_catalog_table_owner(cqrs_catalog_relation("registry", false));
}

/*
 * A count that rises whenever a table, what may be done with it, or a role may have
 * changed: what a role was found to have the right to at the same count it still has.
 * Read it before the check. Subscriptions, which say who else writes to a table, count.
 */
uint64
cqrs_catalog_rights_changes(void)
{
	return rights_changes;
}

/* The role that owns a table, anybody's, that exists. */
Oid
cqrs_catalog_table_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Keep the extension from being dropped until the end of the transaction.
 * Returns false, without waiting, if somebody is about to drop or alter it. DROP
 * EXTENSION locks that first of all, so it waits there instead of in a deadlock.
 */
bool
cqrs_catalog_lock_extension(void)
{
	static Oid	registry = InvalidOid;
	static Oid	extension = InvalidOid;
	Oid			relid = cqrs_catalog_relation("registry", false);
	LOCKTAG		tag;

	/* there is no cache for extensions; a new one has new tables */
	if (relid != registry)
	{
		extension = get_extension_oid(OUR_EXTENSION, false);
		registry = relid;
	}
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, extension, 0);
	return LockAcquire(&tag, AccessShareLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * The schema, or InvalidOid where there is none that the extension made. In a
 * database without the extension anybody who may create schemas can make one of
 * that name, with tables like ours in it; workers come by, and must not take
 * those tables' word for who owns a projection.
 */
static Oid
catalog_schema(void)
{
	static Oid	ours = InvalidOid;
	Oid			nspid = get_namespace_oid(CQRS_SCHEMA, true);
	Oid			extension;

	/* a schema leaves its extension only with it */
	if (!OidIsValid(nspid) || nspid == ours)
		return nspid;
	extension = get_extension_oid(OUR_EXTENSION, true);
	if (!OidIsValid(extension) ||
		getExtensionOfObject(NamespaceRelationId, nspid) != extension)
		return InvalidOid;
	ours = nspid;
	return nspid;
}

static void
catalog_relations_callback(Datum arg, Oid relid)
{
	for (int i = 0; i < nwatchers; i++)
		watchers[i].fn(relid, watchers[i].arg);
}

static void
catalog_names_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	nknown = 0;
	names_changes++;
}

static void
catalog_rights_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	rights_changes++;
}
