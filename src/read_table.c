/*
 * read_table.c
 *		The tables that projections maintain: validate, guard, empty.
 *
 * The write guard is a pair of triggers on each read table. One is for each
 * statement and fires always, also for superusers, under
 * session_replication_role, for COPY, MERGE, TRUNCATE and for referential
 * actions. Logical replication calls row triggers only, so the other is for
 * each inserted row and enabled for replicas only. Row triggers for UPDATE cost
 * each update a fetch of its old row, disabled or not (a tenth of what a handler
 * can do); so for the rest a projection refuses to go on once its table is part
 * of a subscription. The triggers ask whether the engine has opened the table: a
 * list in this process's memory, nothing a session could set.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_subscription_rel.h"
#include "catalog/pg_trigger.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "catalog.h"
#include "compat.h"
#include "read_table.h"
#include "trigger.h"

#define ROW_GUARD CQRS_READ_TABLE_GUARD "_replica"

static CqrsWriters writers = {NULL, 0};

/* does pg_subscription_rel have rows? kept until it changes */
static bool subscriptions_known = false;
static bool subscriptions_exist = false;

static const char *read_table_problem(Oid relid);
static bool read_table_is_owners(Oid relid, Oid owner);
static void read_table_refuse_owner(Oid relid, Oid owner);
static void read_table_subscription_callback(Datum arg, int cacheid, uint32 hashvalue);
static void read_table_refuse_subscription(Oid relid);
static bool read_table_find_subscription(Oid relid);
static void read_table_add_trigger(Oid relid, const char *name, bool row, int16 events,
								   char fires_when);

/* Called once per process, from _PG_init. */
void
cqrs_read_table_init(void)
{
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, read_table_subscription_callback,
								  (Datum) 0);
}

/*
 * Throw unless relid can be a read table of owner's projection.
 */
void
cqrs_read_table_check(Oid relid, Oid owner)
{
	char	   *relname = get_rel_name(relid);
	char	   *nspname;

	if (relname == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("read table with OID %u does not exist", relid),
				 errhint("If it was dropped, its projection has nothing to maintain: drop that too, with cqrs.drop_projection.")));
	cqrs_read_table_check_form(relid);
	nspname = get_namespace_name(get_rel_namespace(relid));
	if (IsCatalogNamespace(get_rel_namespace(relid)) || strcmp(nspname, "cqrs") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s.%s\" can't be a read table", nspname, relname),
				 errhint("Create a table of your own outside this schema.")));
	if (!read_table_is_owners(relid, owner))
		read_table_refuse_owner(relid, owner);
	read_table_refuse_subscription(relid);
}

/*
 * Throw unless an existing table is such that it keeps what is written to it, and
 * that the write guard sees every write.
 */
void
cqrs_read_table_check_form(Oid relid)
{
	const char *problem = read_table_problem(relid);
	char	   *relname = get_rel_name(relid);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" can't be a read table", relname),
				 errdetail_internal("%s", problem),
				 errhint("A read table is an ordinary table, and stays one.")));
	if (get_rel_persistence(relid) != RELPERSISTENCE_PERMANENT)
	{
		bool		is_temporary = get_rel_persistence(relid) == RELPERSISTENCE_TEMP;

		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s table \"%s\" can't be a read table",
						is_temporary ? "temporary" : "unlogged", relname),
				 errdetail("A crash would empty it while its projection believes it filled."),
				 is_temporary ? 0 :
				 errhint("ALTER TABLE %s SET LOGGED;", quote_identifier(relname))));
	}
}

/* The same as a question; false where there is no table, too. */
bool
cqrs_read_table_is_sound(Oid relid)
{
	return get_rel_relkind(relid) != '\0' && read_table_problem(relid) == NULL &&
		get_rel_persistence(relid) == RELPERSISTENCE_PERMANENT;
}

/*
 * The cheap part of the check, for each batch: it is there, sound, and still owner's.
 * Returns whether that holds until cqrs_catalog_rights_changes: where the table has had a
 * rule or a child, no change of pg_class tells of the next one.
 */
bool
cqrs_read_table_verify(Oid relid, Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		suspect = !HeapTupleIsValid(tuple);

	if (!suspect)
	{
		Form_pg_class form = (Form_pg_class) GETSTRUCT(tuple);

		suspect = form->relkind != RELKIND_RELATION ||
			form->relpersistence != RELPERSISTENCE_PERMANENT ||
			form->relispartition || form->relhassubclass || form->relhasrules;
		ReleaseSysCache(tuple);
	}
	if (suspect || !read_table_is_owners(relid, owner))
		cqrs_read_table_check(relid, owner);
	read_table_refuse_subscription(relid);
	return !suspect;
}

/* Throw unless a role may drop a read table together with its projection. */
void
cqrs_read_table_check_drop(Oid relid, Oid role)
{
	if (!cqrs_compat_class_ownercheck(relid, role))
		read_table_refuse_owner(relid, role);
}

/*
 * Put the write guard on a table, replacing what is left of an older one. Takes
 * SHARE ROW EXCLUSIVE. The triggers go with the extension, without CASCADE.
 */
void
cqrs_read_table_guard(Oid relid)
{
	cqrs_read_table_unguard(relid);
	read_table_add_trigger(relid, CQRS_READ_TABLE_GUARD, false,
						   TRIGGER_TYPE_INSERT | TRIGGER_TYPE_UPDATE |
						   TRIGGER_TYPE_DELETE | TRIGGER_TYPE_TRUNCATE,
						   TRIGGER_FIRES_ALWAYS);
	read_table_add_trigger(relid, ROW_GUARD, true,
						   TRIGGER_TYPE_INSERT, TRIGGER_FIRES_ON_REPLICA);
}

/*
 * Take the write guard off, if it is there. Takes ACCESS EXCLUSIVE then. Nothing
 * happens where the table is gone.
 */
void
cqrs_read_table_unguard(Oid relid)
{
	cqrs_trigger_drop(relid, CQRS_READ_TABLE_GUARD);
	cqrs_trigger_drop(relid, ROW_GUARD);
}

/* Is the table there, with the write guard on it? */
bool
cqrs_read_table_is_guarded(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_RELATION &&
		OidIsValid(get_trigger_oid(relid, CQRS_READ_TABLE_GUARD, true));
}

/* Does the write guard stand, as far as it does? The table may be gone. */
CqrsGuardState
cqrs_read_table_guard_state(Oid relid)
{
	char		statement = cqrs_trigger_fires_when(relid, CQRS_READ_TABLE_GUARD);
	char		row = cqrs_trigger_fires_when(relid, ROW_GUARD);

	if (statement == '\0' || row == '\0')
		return CQRS_GUARD_MISSING;
	if (statement == TRIGGER_DISABLED)
		return CQRS_GUARD_DISABLED;
	return statement == TRIGGER_FIRES_ALWAYS && row == TRIGGER_FIRES_ON_REPLICA ?
		CQRS_GUARD_STANDS : CQRS_GUARD_ORDINARY;
}

/* Let a write guard that is there stand again. Takes SHARE ROW EXCLUSIVE if it does not. */
void
cqrs_read_table_restore_guard(Oid relid)
{
	CqrsGuardState state = cqrs_read_table_guard_state(relid);

	if (state == CQRS_GUARD_MISSING || state == CQRS_GUARD_STANDS)
		return;
	cqrs_trigger_set_fires_when(relid, CQRS_READ_TABLE_GUARD, TRIGGER_FIRES_ALWAYS);
	cqrs_trigger_set_fires_when(relid, ROW_GUARD, TRIGGER_FIRES_ON_REPLICA);
}

/*
 * Empty the tables, in one TRUNCATE, as the current user. Takes ACCESS
 * EXCLUSIVE on each. The caller has opened them.
 */
void
cqrs_read_table_truncate(const Oid *relids, int nrelids)
{
	TruncateStmt *stmt = makeNode(TruncateStmt);

	for (int i = 0; i < nrelids; i++)
		stmt->relations = lappend(stmt->relations,
								  makeRangeVar(get_namespace_name(get_rel_namespace(relids[i])),
											   get_rel_name(relids[i]), -1));
	stmt->behavior = DROP_RESTRICT;
	if (nrelids > 0)
		ExecuteTruncate(stmt);
}

/* Drop the tables that are still there, as DROP TABLE without CASCADE does. */
void
cqrs_read_table_drop(const Oid *relids, int nrelids)
{
	ObjectAddresses *addresses = new_object_addresses();

	for (int i = 0; i < nrelids; i++)
	{
		ObjectAddress address;

		if (get_rel_name(relids[i]) == NULL)
			continue;
		LockRelationOid(relids[i], AccessExclusiveLock);
		ObjectAddressSet(address, RelationRelationId, relids[i]);
		add_exact_object_address(&address, addresses);
	}
	performMultipleDeletions(addresses, DROP_RESTRICT, 0);
	free_object_addresses(addresses);
}

/*
 * Let what runs now write to these tables, and to no other read table. Returns
 * what cqrs_read_table_close is to put back. After an error the caller's
 * PG_CATCH, or PG_FINALLY, closes; relids must live until then.
 */
CqrsWriters
cqrs_read_table_open(const Oid *relids, int nrelids)
{
	CqrsWriters previous = writers;

	writers.relids = relids;
	writers.nrelids = nrelids;
	return previous;
}

void
cqrs_read_table_close(CqrsWriters previous)
{
	writers = previous;
}

bool
cqrs_read_table_is_open(Oid relid)
{
	for (int i = 0; i < writers.nrelids; i++)
		if (writers.relids[i] == relid)
			return true;
	return false;
}

/* What keeps an existing relation from being a read table, but for what it survives; or NULL. */
static const char *
read_table_problem(Oid relid)
{
	HeapTuple	tuple;
	bool		has_rules = false;

	if (get_rel_relkind(relid) != RELKIND_RELATION || get_rel_relispartition(relid) ||
		has_superclass(relid) ||
		(has_subclass(relid) && find_inheritance_children(relid, NoLock) != NIL))
		return "A read table is an ordinary table, not partitioned, a partition, or part of an inheritance tree: its write guard would not see every write.";

	/* pg_class only says that there may be some; a lock that is kept would make two ALTER TABLE deadlock */
	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	if (HeapTupleIsValid(tuple))
	{
		has_rules = ((Form_pg_class) GETSTRUCT(tuple))->relhasrules;
		ReleaseSysCache(tuple);
	}
	if (has_rules)
	{
		Relation	rel = table_open(relid, AccessShareLock);

		has_rules = rel->rd_rules != NULL;
		table_close(rel, AccessShareLock);
	}
	if (has_rules)
		return "A read table has no rules: what is written to it would go elsewhere, or nowhere.";
	return NULL;
}

/*
 * May a projection of owner's write to the table? Whoever owns a table decides
 * what runs when it is written to: triggers, defaults, constraints, expressions
 * of indexes. That runs as the projection's owner, so to have the rights of the
 * table's owner, as superusers have everybody's, does not do: it must be the same
 * role, or a superuser who owns what the projection's owner has the rights of.
 */
static bool
read_table_is_owners(Oid relid, Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			table_owner;

	if (!HeapTupleIsValid(tuple))
		return false;
	table_owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return table_owner == owner ||
		(superuser_arg(table_owner) && cqrs_compat_class_ownercheck(relid, owner));
}

static void
read_table_refuse_owner(Oid relid, Oid owner)
{
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("must be owner of read table \"%s\"", get_rel_name(relid)),
			 errhint("The owner of a projection owns its read tables: ALTER TABLE %s OWNER TO %s;",
					 quote_identifier(get_rel_name(relid)),
					 quote_identifier(GetUserNameFromId(owner, false)))));
}

static void
read_table_subscription_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	subscriptions_known = false;
}

/* Throw where a subscription writes, or will write, to the table. */
static void
read_table_refuse_subscription(Oid relid)
{
	if (!subscriptions_known)
	{
		subscriptions_exist = read_table_find_subscription(InvalidOid);
		subscriptions_known = true;
	}
	if (subscriptions_exist && read_table_find_subscription(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("read table \"%s\" is part of a subscription", get_rel_name(relid)),
				 errdetail("What is replicated into it does not come from events."),
				 errhint("Take it out of the publication and ALTER SUBSCRIPTION ... REFRESH PUBLICATION; then rebuild the projection.")));
}

/* Is the table, or with InvalidOid any, part of a subscription? */
static bool
read_table_find_subscription(Oid relid)
{
	Relation	rel = table_open(SubscriptionRelRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&key, Anum_pg_subscription_rel_srrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, SubscriptionRelSrrelidSrsubidIndexId, true, NULL,
							  OidIsValid(relid) ? 1 : 0, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

static void
read_table_add_trigger(Oid relid, const char *name, bool row, int16 events, char fires_when)
{
	CreateTrigStmt *stmt = makeNode(CreateTrigStmt);

	stmt->trigname = pstrdup(name);
	stmt->funcname = list_make2(makeString("cqrs"), makeString("guard_read_table"));
	stmt->row = row;
	stmt->timing = row ? TRIGGER_TYPE_AFTER : TRIGGER_TYPE_BEFORE;
	stmt->events = events;
	cqrs_trigger_create(stmt, relid, fires_when);
}
