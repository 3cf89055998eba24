/*
 * outbox.c
 *		The table cqrs.outbox, written: stamp and flag a publishing transaction,
 *		publish, grant, receive, and the trigger of inline projections.
 *
 * What reads the table is in outbox_read.c, outbox_range.c and outbox_pending.c.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/sequence.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_func.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/xid8.h"

#include "catalog.h"
#include "compat.h"
#include "era.h"
#include "event.h"
#include "lock.h"
#include "outbox.h"
#include "query.h"
#include "trigger.h"

#define INLINE_TRIGGER "cqrs_inline"

/* the others, and when they fire */
static const struct
{
	const char *name;
	char		fires_when;
}			guards[] = {
	{"cqrs_immutable", TRIGGER_FIRES_ALWAYS},
	{"cqrs_no_replication", TRIGGER_FIRES_ON_REPLICA}
};

/* what cqrs_outbox_lock_publishers locks */
typedef struct PublisherLocks
{
	Oid			outbox;
	const Oid  *relids;
	int			nrelids;
} PublisherLocks;

/* has the current transaction published, or changed what workers do? */
static bool wake_at_commit = false;

/* has it committed, and holds its locks still? */
static bool wake_now = false;
static void (*waker) (void) = NULL;

static void outbox_xact_callback(XactEvent event, void *arg);
static void outbox_release_callback(ResourceReleasePhase phase, bool isCommit,
									bool isTopLevel, void *arg);
static void outbox_lock(void *arg);
static Oid	outbox_inline_trigger(Oid relid);
static void outbox_check_sequence(void);
static void outbox_begin_publishing(void);

/* ------------------------------------------------------------ publishing */

/* Called once per process, from _PG_init. */
void
cqrs_outbox_init(void)
{
	RegisterXactCallback(outbox_xact_callback, NULL);
	RegisterResourceReleaseCallback(outbox_release_callback, NULL);
}

/*
 * Name the function that wakes a worker of this database. It is called after
 * a transaction that published has become visible; it must not fail.
 */
void
cqrs_outbox_set_waker(void (*wake) (void))
{
	waker = wake;
}

/* Are there workers to be woken at all? */
bool
cqrs_outbox_has_waker(void)
{
	return waker != NULL;
}

/* Let the current transaction, if it commits, wake the workers. */
void
cqrs_outbox_wake_at_commit(void)
{
	wake_at_commit = true;
}

/*
 * Stamp and flag the publishing transaction: the default of the column xid.
 * Returns the top-level transaction's id, assigning it. Takes no lock.
 */
FullTransactionId
cqrs_outbox_stamp(void)
{
	if (!wake_at_commit)
	{
		outbox_check_sequence();
		wake_at_commit = true;
	}
	if (!cqrs_era_is_known())
		outbox_begin_publishing();
	return GetTopFullTransactionId();
}

/*
 * See to it that it is recorded where the era begins that the database is in: see
 * era.c.
 */
void
cqrs_outbox_begin_era(void)
{
	if (!cqrs_era_look())
		cqrs_era_begin(cqrs_outbox_last_position());
}

/*
 * Lock the outbox as a reader does, to the end of the transaction: before the snapshot
 * is taken that it is read under. To an older one, a table that an ALTER TABLE has
 * rewritten meanwhile looks empty.
 */
void
cqrs_outbox_lock_to_read(void)
{
	LockRelationOid(cqrs_catalog_relation("outbox", false), AccessShareLock);
}

/* The highest committed position; 0 where there is none. */
int64
cqrs_outbox_last_position(void)
{
	static CqrsQuery query = {
		.sql = "SELECT coalesce(max(position), 0) FROM cqrs.outbox",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED
	};
	int64		position = 0;

	cqrs_outbox_lock_to_read();
	cqrs_query_run(&query, NULL, NULL, cqrs_query_keep_bigint, &position);
	return position;
}

/* The highest position that was drawn so far, by whomever; 0 = none. */
int64
cqrs_outbox_drawn(void)
{
	static CqrsQuery query = {
		.sql = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END"
		" FROM cqrs.outbox_position_seq",
		.flags = CQRS_QUERY_LATEST
	};
	int64		position = 0;

	cqrs_query_run(&query, NULL, NULL, cqrs_query_keep_bigint, &position);
	return position;
}

/*
 * Has the current transaction published events that are still there? Those of
 * rolled-back subtransactions don't count.
 */
bool
cqrs_outbox_published_here(void)
{
	static CqrsQuery query = {
		.sql = "SELECT 1 FROM cqrs.outbox WHERE " CQRS_OUTBOX_OF("$1")
		" AND position >= $2 LIMIT 1",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 2,
		.argtypes = {XID8OID, INT8OID}
	};
	Datum		args[2];

	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	CommandCounterIncrement();
	args[0] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	args[1] = Int64GetDatum(cqrs_era_first_position());
	return cqrs_query_run(&query, args, NULL, NULL, NULL) > 0;
}

/*
 * Insert one event as the current user, with the current user's rights. values
 * are those of aggregate_type, aggregate_id, event_type, payload, metadata,
 * event_id, aggregate_version and occurred_at; the last three may be null.
 * Returns the position; 0 where somebody's trigger keeps it from being inserted.
 */
int64
cqrs_outbox_publish(Datum *values, const char *nulls)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type,"
		" payload, metadata, event_id, aggregate_version, occurred_at)"
		" VALUES ($1, $2, $3, $4, $5, coalesce($6, gen_random_uuid()), $7,"
		" coalesce($8, clock_timestamp())) RETURNING position",
		.flags = CQRS_QUERY_WRITE | CQRS_QUERY_AS_CALLER,
		.nargs = 8,
		.argtypes = {TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, UUIDOID, INT8OID,
		TIMESTAMPTZOID}
	};
	int64		position = 0;
	Oid			relid = cqrs_catalog_relation("outbox", false);

	/* for a hint; the statement checks it column by column */
	if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, get_attnum(relid, "aggregate_type"), GetUserId(),
							  ACL_INSERT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table cqrs.outbox"),
				 errhint("SELECT cqrs.grant_publish(%s);",
						 quote_literal_cstr(quote_identifier(GetUserNameFromId(GetUserId(), false))))));
	cqrs_query_run(&query, values, nulls, cqrs_query_keep_bigint, &position);
	return position;
}

/*
 * Grant a role the columns that a publisher may fill, and to read the position
 * back; as the current user, who needs the right to grant them.
 */
void
cqrs_outbox_grant(Oid roleid)
{
	static const char *const columns[] = {
		"event_id", "aggregate_type", "aggregate_id", "aggregate_version",
		"event_type", "payload", "metadata", "occurred_at"
	};
	Oid			relid = cqrs_catalog_relation("outbox", false);
	GrantStmt  *stmt = makeNode(GrantStmt);
	AccessPriv *insert = makeNode(AccessPriv);
	AccessPriv *select = makeNode(AccessPriv);
	RoleSpec   *role = makeNode(RoleSpec);

	if (!cqrs_compat_class_ownercheck(relid, GetUserId()) &&
		pg_attribute_aclcheck(relid, get_attnum(relid, "aggregate_type"), GetUserId(),
							  ACL_GRANT_OPTION_FOR(ACL_INSERT)) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to grant publishing"),
				 errhint("The owner of cqrs.outbox, or a superuser, can run cqrs.grant_publish.")));

	insert->priv_name = "insert";
	for (int i = 0; i < lengthof(columns); i++)
		insert->cols = lappend(insert->cols, makeString(pstrdup(columns[i])));
	select->priv_name = "select";
	select->cols = list_make1(makeString(pstrdup("position")));
	role->roletype = ROLESPEC_CSTRING;
	role->rolename = GetUserNameFromId(roleid, false);
	role->location = -1;

	stmt->is_grant = true;
	stmt->targtype = ACL_TARGET_OBJECT;
	stmt->objtype = OBJECT_TABLE;
	stmt->objects = list_make1(makeRangeVar("cqrs", "outbox", -1));
	stmt->privileges = list_make2(insert, select);
	stmt->grantees = list_make1(role);
	stmt->behavior = DROP_RESTRICT;
	ExecuteGrantStmt(stmt);
}

/* --------------------------------------------- events of other databases */

/*
 * Throw unless a role may publish in any source's name: a right that publishers
 * don't have.
 */
void
cqrs_outbox_check_forge(Oid roleid)
{
	Oid			relid = cqrs_catalog_relation("outbox", false);

	if (pg_class_aclcheck(relid, roleid, ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, get_attnum(relid, "source"), roleid,
							  ACL_INSERT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for column \"source\" of table cqrs.outbox"),
				 errdetail("Who attaches a table publishes in the source's name."),
				 errhint("GRANT INSERT (source) ON cqrs.outbox TO %s;",
						 quote_identifier(GetUserNameFromId(roleid, false)))));
}

/*
 * Draw the position of an event that cqrs_outbox_receive is going to insert. Holds
 * ROW EXCLUSIVE on the outbox from now on, as whoever draws one must: see
 * horizon.c.
 */
int64
cqrs_outbox_draw_position(void)
{
	LockRelationOid(cqrs_catalog_relation("outbox", false), RowExclusiveLock);
	return nextval_internal(cqrs_catalog_relation("outbox_position_seq", false), false);
}

/*
 * Insert an event of another database. values and nulls have the columns of
 * cqrs.event; position, event_id and source are given apart, and what else is null
 * and must not be gets its default. The right to insert is ours; triggers, which
 * anybody with that right may have put on the outbox, run as the current user, whom
 * the caller has become in a security-restricted operation.
 */
void
cqrs_outbox_receive(int64 position, const pg_uuid_t *event_id, const char *source,
					Datum *values, bool *nulls)
{
	static CqrsQuery query = {
		.sql = "INSERT INTO cqrs.outbox (position, event_id, source, aggregate_type,"
		" aggregate_id, aggregate_version, event_type, payload, metadata, occurred_at)"
		" OVERRIDING SYSTEM VALUE VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, '{}'),"
		" coalesce($9, '{}'), coalesce($10, clock_timestamp()))",
		.nargs = CQRS_EVENT_NCOLUMNS,
		.argtypes = {INT8OID, UUIDOID, TEXTOID, TEXTOID, TEXTOID, INT8OID, TEXTOID, JSONBOID,
		JSONBOID, TIMESTAMPTZOID}
	};
	Datum		args[CQRS_EVENT_NCOLUMNS];
	char		marks[CQRS_EVENT_NCOLUMNS];

	for (int i = 0; i < CQRS_EVENT_NCOLUMNS; i++)
	{
		args[i] = values[i];
		marks[i] = nulls[i] ? 'n' : ' ';
	}
	args[CQRS_EVENT_POSITION - 1] = Int64GetDatum(position);
	args[CQRS_EVENT_EVENT_ID - 1] = UUIDPGetDatum(event_id);
	args[CQRS_EVENT_SOURCE - 1] = CStringGetTextDatum(source);
	marks[CQRS_EVENT_POSITION - 1] = marks[CQRS_EVENT_EVENT_ID - 1] =
		marks[CQRS_EVENT_SOURCE - 1] = ' ';
	cqrs_query_run_with_rights(&query, args, marks);
}

/* -------------------------------------------------------------- triggers */

/* Do the triggers that protect the events fire as they should? */
bool
cqrs_outbox_is_guarded(void)
{
	Oid			relid = cqrs_catalog_relation("outbox", false);

	for (int i = 0; i < lengthof(guards); i++)
		if (cqrs_trigger_fires_when(relid, guards[i].name) != guards[i].fires_when)
			return false;
	return true;
}

/* Have them do so. Takes SHARE ROW EXCLUSIVE on the outbox if they don't. */
void
cqrs_outbox_restore_guard(void)
{
	Oid			relid = cqrs_catalog_relation("outbox", false);

	if (cqrs_outbox_is_guarded())
		return;
	for (int i = 0; i < lengthof(guards); i++)
		cqrs_trigger_set_fires_when(relid, guards[i].name, guards[i].fires_when);
}

/* Throw unless a role may read the outbox; the detail says why it has to. */
void
cqrs_outbox_check_select(Oid roleid, const char *detail)
{
	if (pg_class_aclcheck(cqrs_catalog_relation("outbox", false), roleid, ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table cqrs.outbox"),
				 errdetail_internal("%s", detail),
				 errhint("GRANT SELECT ON cqrs.outbox TO %s;",
						 quote_identifier(GetUserNameFromId(roleid, false)))));
}

/*
 * Throw unless a role may keep a projection: SELECT on the outbox, because a
 * handler gets to see every event, and TRIGGER for an inline one, because that
 * can fail the publishers.
 */
void
cqrs_outbox_check_rights(Oid roleid, bool inline_mode)
{
	Oid			relid = cqrs_catalog_relation("outbox", false);

	cqrs_outbox_check_select(roleid, "The owner of a projection needs SELECT on it.");
	if (inline_mode && pg_class_aclcheck(relid, roleid, ACL_TRIGGER) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table cqrs.outbox"),
				 errdetail("The owner of an inline projection needs TRIGGER on it: a handler that fails then fails the publishers."),
				 errhint("GRANT TRIGGER ON cqrs.outbox TO %s;",
						 quote_identifier(GetUserNameFromId(roleid, false)))));
}

/*
 * Wait until every transaction that published has ended, and let no other
 * publish before the current transaction ends. Publishers queue behind the
 * request, so it is given up after a short time: returns false then. They would
 * also queue behind a wait for tables that are locked after the outbox, so what
 * is wanted of those (ACCESS EXCLUSIVE, on relids) is locked here, without
 * waiting, or all is given up.
 */
bool
cqrs_outbox_lock_publishers(const Oid *relids, int nrelids)
{
	PublisherLocks locks = {
		.outbox = cqrs_catalog_relation("outbox", false),.relids = relids,.nrelids = nrelids
	};

	return cqrs_lock_briefly(outbox_lock, &locks);
}

static void
outbox_lock(void *arg)
{
	const PublisherLocks *locks = (const PublisherLocks *) arg;

	LockRelationOid(locks->outbox, ShareRowExclusiveLock);
	for (int i = 0; i < locks->nrelids; i++)
		if (!ConditionalLockRelationOid(locks->relids[i], AccessExclusiveLock))
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not lock a read table")));
}

/*
 * See to it that publishing statements call the inline trigger, or that they
 * don't. The publishers must be locked out. It is a trigger that comes and goes
 * because one with a transition table costs even where it is disabled; removing
 * it wants readers out of the way too, and where they are not, it stays and
 * finds nothing to do.
 */
void
cqrs_outbox_set_inline(bool wanted)
{
	Oid			relid = cqrs_catalog_relation("outbox", false);
	Oid			trigger = outbox_inline_trigger(relid);
	CqrsUserContext user;

	if (wanted && !OidIsValid(trigger))
	{
		CreateTrigStmt *stmt = makeNode(CreateTrigStmt);
		TriggerTransition *transition = makeNode(TriggerTransition);
		Relation	rel = table_open(relid, NoLock);

		/* a statement under way in this session would not call it */
		CheckTableNotInUse(rel, "create the inline trigger of");
		table_close(rel, NoLock);

		transition->name = "events";
		transition->isNew = true;
		transition->isTable = true;
		stmt->trigname = INLINE_TRIGGER;
		stmt->relation = makeRangeVar("cqrs", "outbox", -1);
		stmt->funcname = list_make2(makeString("cqrs"), makeString("apply_inline"));
		stmt->timing = TRIGGER_TYPE_AFTER;
		stmt->events = TRIGGER_TYPE_INSERT;
		stmt->transitionRels = list_make1(transition);

		cqrs_query_enter_owner(&user);
		CreateTriggerFiringOn(stmt, NULL, relid, InvalidOid, InvalidOid, InvalidOid,
							  InvalidOid, InvalidOid, NULL, false, false,
							  TRIGGER_FIRES_ALWAYS);
		cqrs_query_leave_user(&user);
		CommandCounterIncrement();
	}
	else if (!wanted && OidIsValid(trigger) &&
			 ConditionalLockRelationOid(relid, AccessExclusiveLock))
	{
		ObjectAddress address;

		ObjectAddressSet(address, TriggerRelationId, trigger);
		performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	}
}

/* --------------------------------------------------------------- helpers */

static void
outbox_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			wake_now = wake_at_commit;
			wake_at_commit = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_at_commit = false;
			break;
		default:
			break;
	}
}

/*
 * Wake the workers when the transaction's locks are released and what it has
 * changed is known to all: a worker that came earlier would find the projection
 * locked, or as it was, and go to sleep again.
 */
static void
outbox_release_callback(ResourceReleasePhase phase, bool isCommit, bool isTopLevel,
						void *arg)
{
	if (!wake_now || phase != RESOURCE_RELEASE_AFTER_LOCKS || !isTopLevel)
		return;
	wake_now = false;
	if (waker)
		waker();
}

/*
 * The inline trigger, or InvalidOid. One of that name that calls something else
 * is none; CREATE TRIGGER refuses then.
 */
static Oid
outbox_inline_trigger(Oid relid)
{
	List	   *name = list_make2(makeString("cqrs"), makeString("apply_inline"));
	Oid			function = LookupFuncName(name, 0, NULL, false);
	Relation	rel = table_open(relid, AccessShareLock);
	TriggerDesc *triggers = rel->trigdesc;
	Oid			result = InvalidOid;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (strcmp(triggers->triggers[i].tgname, INLINE_TRIGGER) == 0 &&
			triggers->triggers[i].tgfoid == function)
			result = triggers->triggers[i].tgoid;
	table_close(rel, NoLock);
	return result;
}

/*
 * Sessions that draw positions from a cache of their own draw them out of
 * causal order. Checked once per publishing transaction: it costs two look-ups
 * in the system caches.
 */
static void
outbox_check_sequence(void)
{
	Oid			seqid = cqrs_catalog_relation("outbox_position_seq", false);
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(seqid));
	Form_pg_sequence form;
	bool		valid;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for sequence %u", seqid);
	form = (Form_pg_sequence) GETSTRUCT(tuple);
	valid = form->seqcache == 1 && form->seqincrement > 0 && !form->seqcycle;
	ReleaseSysCache(tuple);
	if (!valid)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence cqrs.outbox_position_seq must ascend, not cycle, and have no cache"),
				 errdetail("Positions drawn from a session's cache are not in causal order."),
				 errhint("ALTER SEQUENCE cqrs.outbox_position_seq INCREMENT 1 NO CYCLE CACHE 1;")));
}

/*
 * Publish for the first time, as far as this process knows. What has been restored
 * must be of lower positions, so the sequence must have been restored, too.
 */
static void
outbox_begin_publishing(void)
{
	int64		last;

	if (cqrs_era_look())
		return;
	last = cqrs_outbox_last_position();
	if (cqrs_outbox_drawn() < last)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence cqrs.outbox_position_seq is behind the events"),
				 errdetail("Events were restored and the sequence was not, or not yet."),
				 errhint("Wait until the restore has ended. If it has: SELECT setval('cqrs.outbox_position_seq', (SELECT max(position) FROM cqrs.outbox));")));
	cqrs_era_begin(last);
}

