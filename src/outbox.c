/*
 * outbox.c
 *		The table cqrs.outbox: stamp and flag a publishing transaction; read
 *		the next bounded batch.
 *
 * Which events come next
 * ----------------------
 * Positions are drawn before they commit, so "position > last" skips events;
 * transaction ids are taken before they publish, so their order is not causal
 * either. What is right is the difference of two snapshots (the idea of PgQ's
 * ticks): the next interval is what is visible in a new snapshot and was not
 * in the one that the checkpoint remembers, in position order. Snapshots of one
 * cluster partition its transactions, and if T2 saw T1's commit then every
 * snapshot that sees T2 sees T1, and T2 drew its positions after T1. The last
 * step needs a sequence without a cache; cqrs_outbox_stamp sees to that.
 *
 * The rows of an interval come in two branches over the index (xid, position):
 *
 *	A	xid >= xmax(done) and xid < xmax(current)
 *	B	xid was in flight in done
 *
 * each filtered by visibility, so an old transaction costs one index probe and
 * not a scan from its id on. An interval that fits into a batch is read whole
 * and sorted. Where it does not, the current snapshot is frozen as target and
 * the interval is walked in position order: A through the primary key between
 * low and high, B per transaction through the index, merged. An interval is
 * never split by transaction id; that would break the order.
 *
 * Reads are ordinary queries under the active snapshot, so that a partitioned
 * outbox needs no change here.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/xid8.h"

#include "compat.h"
#include "outbox.h"
#include "query.h"

#define INLINE_TRIGGER "cqrs_inline"

/* how long publishers may have to queue behind us for the lock; ms, as text */
#define PUBLISHER_LOCK_TIMEOUT "100"
#define PUBLISHER_DEADLOCK_TIMEOUT "20"

/* where the rows of a read go */
typedef struct ReadState
{
	CqrsBatch  *batch;
	int			first;			/* events that were in the batch before */
	CqrsReadLimit limit;
	bool		cut;			/* there is more than the limit allows */
} ReadState;

/* has the current transaction published, or changed what workers do? */
static bool wake_at_commit = false;
static void (*waker) (void) = NULL;

static void outbox_xact_callback(XactEvent event, void *arg);
static void outbox_check_sequence(void);
static bool outbox_add_row(TupleTableSlot *slot, void *arg);
static bool outbox_read_first(TupleTableSlot *slot, void *arg);
static bool outbox_read_pending(TupleTableSlot *slot, void *arg);
static Datum snapshot_xmax(Datum snapshot);
static Datum snapshot_xmin(Datum snapshot);
static bool snapshot_has_xip(Datum snapshot);
static bool snapshot_is_empty(Datum snapshot);

/* ------------------------------------------------------------ publishing */

/* Called once per process, from _PG_init. */
void
cqrs_outbox_init(void)
{
	RegisterXactCallback(outbox_xact_callback, NULL);
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
	return GetTopFullTransactionId();
}

/*
 * Has the current transaction published events that are still there? Those of
 * rolled-back subtransactions don't count.
 */
bool
cqrs_outbox_published_here(void)
{
	static CqrsQuery query = {
		.sql = "SELECT 1 FROM cqrs.outbox WHERE xid = $1 LIMIT 1",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 1,
		.argtypes = {XID8OID}
	};
	Datum		arg;

	if (!TransactionIdIsValid(GetTopTransactionIdIfAny()))
		return false;
	CommandCounterIncrement();
	arg = FullTransactionIdGetDatum(GetTopFullTransactionId());
	return cqrs_query_run(&query, &arg, NULL, NULL, NULL) > 0;
}

/*
 * Insert one event as the current user, with the current user's rights. values
 * are those of aggregate_type, aggregate_id, event_type, payload, metadata,
 * event_id, aggregate_version and occurred_at; the last three may be null.
 * Returns the position.
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
	Datum		position = Int64GetDatum(0);
	Oid			relid = cqrs_query_relation("outbox", false);

	/* for a hint; the statement checks it column by column */
	if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) != ACLCHECK_OK &&
		pg_attribute_aclcheck(relid, get_attnum(relid, "aggregate_type"), GetUserId(),
							  ACL_INSERT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table cqrs.outbox"),
				 errhint("SELECT cqrs.grant_publish(%s);",
						 quote_literal_cstr(quote_identifier(GetUserNameFromId(GetUserId(), false))))));
	cqrs_query_run(&query, values, nulls, outbox_read_first, &position);
	return DatumGetInt64(position);
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
	GrantStmt  *stmt = makeNode(GrantStmt);
	AccessPriv *insert = makeNode(AccessPriv);
	AccessPriv *select = makeNode(AccessPriv);
	RoleSpec   *role = makeNode(RoleSpec);

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

/* --------------------------------------------------------------- reading */

/*
 * Read what is visible in the active snapshot, whose value is current, and was
 * not in done. Returns true if that was everything, now in the batch in
 * position order; false, with an empty batch, if it exceeds the limit.
 */
bool
cqrs_outbox_read_interval(CqrsBatch *batch, Datum done, Datum current,
						  CqrsReadLimit limit)
{
	static CqrsQuery later = {
		.sql = "SELECT " CQRS_EVENT_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE xid >= $1 AND xid < $2",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 2,
		.argtypes = {XID8OID, XID8OID}
	};
	static CqrsQuery in_flight = {
		.sql = "SELECT " CQRS_EVENT_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE xid = ANY (ARRAY(SELECT pg_snapshot_xip($1)))",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 1,
		.argtypes = {PG_SNAPSHOTOID}
	};
	ReadState	state = {.batch = batch,.limit = limit};
	Datum		args[2] = {snapshot_xmax(done), snapshot_xmax(current)};

	cqrs_query_run(&later, args, NULL, outbox_add_row, &state);
	if (!state.cut && snapshot_has_xip(done))
		cqrs_query_run(&in_flight, &done, NULL, outbox_add_row, &state);
	if (state.cut)
	{
		cqrs_event_batch_truncate(batch, 0);
		return false;
	}
	cqrs_event_batch_sort(batch);
	return true;
}

/*
 * The lowest and highest position of branch A between done and the active
 * snapshot, whose value is current. Looks at each of its index entries once,
 * except from the empty snapshot on.
 */
void
cqrs_outbox_find_bounds(Datum done, Datum current, int64 *low, int64 *high)
{
	/* "+ 0", lest the planner looks for the minimum along the primary key */
	static CqrsQuery minimum = {
		.sql = "SELECT coalesce(min(position + 0), 1) FROM cqrs.outbox"
		" WHERE xid >= $1 AND xid < $2",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 2,
		.argtypes = {XID8OID, XID8OID}
	};
	static CqrsQuery maximum = {
		.sql = "SELECT coalesce(max(position), 0) FROM cqrs.outbox",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED
	};
	Datum		args[2] = {snapshot_xmax(done), snapshot_xmax(current)};
	Datum		result = Int64GetDatum(1);

	if (!snapshot_is_empty(done))
		cqrs_query_run(&minimum, args, NULL, outbox_read_first, &result);
	*low = DatumGetInt64(result);
	cqrs_query_run(&maximum, NULL, NULL, outbox_read_first, &result);
	*high = DatumGetInt64(result);
}

/*
 * Read on in a frozen interval: what is visible in walk->target, was not in
 * walk->done, and has a position beyond walk->last, in position order. Returns
 * true if nothing is left after this batch. At least one event is read if there
 * is one, whatever its size.
 */
bool
cqrs_outbox_read_walk(CqrsBatch *batch, const CqrsWalk *walk, CqrsReadLimit limit)
{
	static CqrsQuery later = {
		.sql = "SELECT " CQRS_EVENT_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE position > $1 AND position <= $2 AND xid >= $3 AND xid < $4"
		" AND (xid < $7 OR pg_visible_in_snapshot(xid, $5)) ORDER BY position LIMIT $6",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 7,
		.argtypes = {INT8OID, INT8OID, XID8OID, XID8OID, PG_SNAPSHOTOID, INT8OID, XID8OID}
	};
	static CqrsQuery in_flight = {
		.sql = "SELECT " CQRS_EVENT_COLUMN_LIST
		" FROM unnest(ARRAY(SELECT pg_snapshot_xip($1))) AS x,"
		" LATERAL (SELECT " CQRS_EVENT_COLUMN_LIST " FROM cqrs.outbox"
		"  WHERE xid = x AND position > $2 ORDER BY position LIMIT $4) AS o"
		" WHERE pg_visible_in_snapshot(x, $3) ORDER BY position LIMIT $4",
		.flags = CQRS_QUERY_ACTIVE | CQRS_QUERY_INDEXED,
		.nargs = 4,
		.argtypes = {PG_SNAPSHOTOID, INT8OID, PG_SNAPSHOTOID, INT8OID}
	};
	ReadState	state = {.batch = batch,.limit = limit};
	int64		end = PG_INT64_MAX; /* read completely up to here */
	Datum		args[7];
	int			keep;

	args[0] = Int64GetDatum(Max(walk->last, walk->low - 1));
	args[1] = Int64GetDatum(walk->high);
	args[2] = snapshot_xmax(walk->done);
	args[3] = snapshot_xmax(walk->target);
	args[4] = walk->target;
	args[5] = Int64GetDatum((int64) limit.events + 1);
	args[6] = snapshot_xmin(walk->target);
	cqrs_query_run(&later, args, NULL, outbox_add_row, &state);
	if (state.cut)
		end = batch->events[batch->nevents - 1].position;

	if (snapshot_has_xip(walk->done))
	{
		state.first = batch->nevents;
		state.cut = false;
		args[0] = walk->done;
		args[1] = Int64GetDatum(walk->last);
		args[2] = walk->target;
		args[3] = Int64GetDatum((int64) limit.events + 1);
		cqrs_query_run(&in_flight, args, NULL, outbox_add_row, &state);
		if (state.cut)
			end = Min(end, batch->events[batch->nevents - 1].position);
	}

	cqrs_event_batch_sort(batch);
	for (keep = batch->nevents; keep > 0 && batch->events[keep - 1].position > end;)
		keep--;
	if (keep > limit.events)
	{
		keep = limit.events;
		end = batch->events[keep - 1].position;
	}
	cqrs_event_batch_truncate(batch, keep);
	return end == PG_INT64_MAX;
}

/* --------------------------------------------------------------- looking */

/*
 * Count up to limit events that are visible in the snapshot upto and not in
 * done, and tell when the oldest of those counted occurred.
 */
CqrsPending
cqrs_outbox_pending_interval(Datum done, Datum upto, int limit)
{
	static CqrsQuery query = {
		.sql = "SELECT count(*), min(occurred_at) FROM ("
		"(SELECT occurred_at FROM cqrs.outbox WHERE xid >= $1 AND xid < $2"
		"  AND pg_visible_in_snapshot(xid, $4) LIMIT $5) UNION ALL "
		"(SELECT o.occurred_at FROM unnest(ARRAY(SELECT pg_snapshot_xip($3))) AS x,"
		"  LATERAL (SELECT occurred_at FROM cqrs.outbox WHERE xid = x LIMIT $5) AS o"
		"  WHERE pg_visible_in_snapshot(x, $4) LIMIT $5)) AS pending",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 5,
		.argtypes = {XID8OID, XID8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID, INT8OID}
	};
	Datum		args[5] = {
		snapshot_xmax(done), snapshot_xmax(upto), done, upto, Int64GetDatum(limit)
	};
	CqrsPending pending = {0};

	cqrs_query_run(&query, args, NULL, outbox_read_pending, &pending);
	return pending;
}

/* The same for the rest of a frozen interval. */
CqrsPending
cqrs_outbox_pending_walk(const CqrsWalk *walk, int limit)
{
	static CqrsQuery query = {
		.sql = "SELECT count(*), min(occurred_at) FROM ("
		"(SELECT occurred_at FROM cqrs.outbox"
		"  WHERE position > $1 AND position <= $2 AND xid >= $3 AND xid < $4"
		"  AND pg_visible_in_snapshot(xid, $5) ORDER BY position LIMIT $8) UNION ALL "
		"(SELECT o.occurred_at FROM unnest(ARRAY(SELECT pg_snapshot_xip($6))) AS x,"
		"  LATERAL (SELECT occurred_at FROM cqrs.outbox"
		"   WHERE xid = x AND position > $7 ORDER BY position LIMIT $8) AS o"
		"  WHERE pg_visible_in_snapshot(x, $5) LIMIT $8)) AS pending",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 8,
		.argtypes = {INT8OID, INT8OID, XID8OID, XID8OID, PG_SNAPSHOTOID, PG_SNAPSHOTOID,
		INT8OID, INT8OID}
	};
	Datum		args[8] = {
		Int64GetDatum(Max(walk->last, walk->low - 1)), Int64GetDatum(walk->high),
		snapshot_xmax(walk->done), snapshot_xmax(walk->target), walk->target, walk->done,
		Int64GetDatum(walk->last), Int64GetDatum(limit)
	};
	CqrsPending pending = {0};

	cqrs_query_run(&query, args, NULL, outbox_read_pending, &pending);
	return pending;
}

/* The highest committed position; 0 where there is none. */
int64
cqrs_outbox_last_position(void)
{
	static CqrsQuery query = {
		.sql = "SELECT coalesce(max(position), 0) FROM cqrs.outbox",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED
	};
	Datum		position = Int64GetDatum(0);

	cqrs_query_run(&query, NULL, NULL, outbox_read_first, &position);
	return DatumGetInt64(position);
}

/* Is the event committed, and which transaction published it? */
bool
cqrs_outbox_find(int64 position, FullTransactionId *xid)
{
	static CqrsQuery query = {
		.sql = "SELECT xid FROM cqrs.outbox WHERE position = $1",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 1,
		.argtypes = {INT8OID}
	};
	Datum		arg = Int64GetDatum(position);
	Datum		result;

	if (cqrs_query_run(&query, &arg, NULL, outbox_read_first, &result) == 0)
		return false;
	*xid = DatumGetFullTransactionId(result);
	return true;
}

/* -------------------------------------------------------- inline trigger */

/*
 * Throw unless a role may keep a projection: SELECT on the outbox, because a
 * handler gets to see every event, and TRIGGER for an inline one, because that
 * can fail the publishers.
 */
void
cqrs_outbox_check_rights(Oid roleid, bool inline_mode)
{
	Oid			relid = cqrs_query_relation("outbox", false);

	if (pg_class_aclcheck(relid, roleid, ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for table cqrs.outbox"),
				 errdetail("The owner of a projection needs SELECT on it."),
				 errhint("GRANT SELECT ON cqrs.outbox TO %s;",
						 quote_identifier(GetUserNameFromId(roleid, false)))));
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
 * request, so it is given up after a short time: returns false then.
 */
bool
cqrs_outbox_lock_publishers(void)
{
	Oid			relid = cqrs_query_relation("outbox", false);
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool locked = false;

	if (ConditionalLockRelationOid(relid, ShareRowExclusiveLock))
		return true;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		int			nest_level = NewGUCNestLevel();

		/* an autovacuum gives way, but only to a deadlock check */
		(void) set_config_option("deadlock_timeout", PUBLISHER_DEADLOCK_TIMEOUT, PGC_SUSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		(void) set_config_option("lock_timeout", PUBLISHER_LOCK_TIMEOUT, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		LockRelationOid(relid, ShareRowExclusiveLock);
		AtEOXact_GUC(true, nest_level);
		ReleaseCurrentSubTransaction();
		locked = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return locked;
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
	Oid			relid = cqrs_query_relation("outbox", false);
	Oid			trigger = get_trigger_oid(relid, INLINE_TRIGGER, true);
	CqrsUserContext user;

	if (wanted && !OidIsValid(trigger))
	{
		CreateTrigStmt *stmt = makeNode(CreateTrigStmt);
		TriggerTransition *transition = makeNode(TriggerTransition);

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

/*
 * Read on in the rows that the statement behind a trigger call inserted, from
 * the transition table's active read pointer. Returns true if nothing is left.
 * Rows that are not the current transaction's events (restored ones) are passed
 * over.
 */
bool
cqrs_outbox_read_inserted(CqrsBatch *batch, TriggerData *trigdata, CqrsReadLimit limit)
{
	static const char *const columns[CQRS_EVENT_NCOLUMNS] = {
		"position", "event_id", "source", "aggregate_type", "aggregate_id",
		"aggregate_version", "event_type", "payload", "metadata", "occurred_at"
	};
	TupleDesc	desc = RelationGetDescr(trigdata->tg_relation);
	FullTransactionId xid = GetTopFullTransactionId();
	TupleTableSlot *slot = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views row",
												  ALLOCSET_DEFAULT_SIZES);
	int			attnum[CQRS_EVENT_NCOLUMNS];
	int			xid_attnum = SPI_fnumber(desc, "xid");
	bool		more = true;

	for (int i = 0; i < CQRS_EVENT_NCOLUMNS; i++)
		attnum[i] = SPI_fnumber(desc, columns[i]);

	while (batch->nevents < limit.events && batch->bytes < limit.bytes &&
		   (more = tuplestore_gettupleslot(trigdata->tg_newtable, true, false, slot)))
	{
		Datum		values[CQRS_EVENT_NCOLUMNS];
		bool		nulls[CQRS_EVENT_NCOLUMNS];
		bool		isnull;
		Datum		stamp = slot_getattr(slot, xid_attnum, &isnull);
		MemoryContext old;

		if (!FullTransactionIdEquals(DatumGetFullTransactionId(stamp), xid))
			continue;
		for (int i = 0; i < CQRS_EVENT_NCOLUMNS; i++)
			values[i] = slot_getattr(slot, attnum[i], &nulls[i]);
		old = MemoryContextSwitchTo(context);
		cqrs_event_batch_add(batch, values, nulls);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(context);
	cqrs_event_batch_sort(batch);
	return !more;
}

/*
 * Read events that the current transaction itself has published, beyond a
 * position, in position order: those that are there, not those of rolled-back
 * subtransactions.
 */
void
cqrs_outbox_read_own(CqrsBatch *batch, int64 last, CqrsReadLimit limit)
{
	static CqrsQuery query = {
		.sql = "SELECT " CQRS_EVENT_COLUMN_LIST " FROM cqrs.outbox"
		" WHERE xid = $1 AND position > $2 ORDER BY position LIMIT $3",
		.flags = CQRS_QUERY_LATEST | CQRS_QUERY_INDEXED,
		.nargs = 3,
		.argtypes = {XID8OID, INT8OID, INT8OID}
	};
	ReadState	state = {.batch = batch,.limit = limit};
	Datum		args[3] = {
		FullTransactionIdGetDatum(GetTopFullTransactionId()), Int64GetDatum(last),
		Int64GetDatum(limit.events)
	};

	CommandCounterIncrement();
	cqrs_query_run(&query, args, NULL, outbox_add_row, &state);
}

/* --------------------------------------------------------------- helpers */

static void
outbox_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_at_commit && waker)
				waker();
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
 * Sessions that draw positions from a cache of their own draw them out of
 * causal order. Checked once per publishing transaction: it costs two look-ups
 * in the system caches.
 */
static void
outbox_check_sequence(void)
{
	Oid			seqid = cqrs_query_relation("outbox_position_seq", false);
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

static bool
outbox_add_row(TupleTableSlot *slot, void *arg)
{
	ReadState  *state = (ReadState *) arg;
	CqrsBatch  *batch = state->batch;
	int			nread = batch->nevents - state->first;

	if (nread >= state->limit.events ||
		(nread > 0 && batch->bytes >= state->limit.bytes))
	{
		state->cut = true;
		return false;
	}
	slot_getallattrs(slot);
	cqrs_event_batch_add(batch, slot->tts_values, slot->tts_isnull);
	return true;
}

/* Keeps the first column, a pass-by-value one, of the only row. */
static bool
outbox_read_first(TupleTableSlot *slot, void *arg)
{
	bool		isnull;

	*(Datum *) arg = slot_getattr(slot, 1, &isnull);
	return true;
}

static bool
outbox_read_pending(TupleTableSlot *slot, void *arg)
{
	CqrsPending *pending = (CqrsPending *) arg;
	bool		isnull;
	Datum		oldest;

	pending->events = DatumGetInt64(slot_getattr(slot, 1, &isnull));
	oldest = slot_getattr(slot, 2, &isnull);
	pending->oldest = isnull ? 0 : DatumGetTimestampTz(oldest);
	return true;
}

/* the first transaction id as yet unassigned when the snapshot was taken */
static Datum
snapshot_xmax(Datum snapshot)
{
	return DirectFunctionCall1(pg_snapshot_xmax, snapshot);
}

/* the lowest transaction id that was in progress when it was taken */
static Datum
snapshot_xmin(Datum snapshot)
{
	return DirectFunctionCall1(pg_snapshot_xmin, snapshot);
}

/* Was any transaction in flight when it was taken? */
static bool
snapshot_has_xip(Datum snapshot)
{
	return FullTransactionIdPrecedes(DatumGetFullTransactionId(snapshot_xmin(snapshot)),
									 DatumGetFullTransactionId(snapshot_xmax(snapshot)));
}

/* Is nothing at all visible in it? Real ones begin at FirstNormalTransactionId. */
static bool
snapshot_is_empty(Datum snapshot)
{
	return U64FromFullTransactionId(DatumGetFullTransactionId(snapshot_xmax(snapshot))) <=
		FirstNormalTransactionId;
}
