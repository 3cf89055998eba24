/*
 * sql_progress.c
 *		SQL procedures that process events, and the function that waits.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "replication/walreceiver.h"
#include "tcop/pquery.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "catchup.h"
#include "checkpoint.h"
#include "guc.h"
#include "mode.h"
#include "outbox.h"
#include "outbox_read.h"
#include "projection.h"
#include "rebuild.h"
#include "shmem.h"
#include "sql_args.h"
#include "sql_progress.h"

/* attempts to switch a projection that has caught up to inline */
#define SWITCH_ATTEMPTS 20

/* looks at least this often, also where nobody announces anything; ms */
#define WAIT_POLL 1000
#define WAIT_POLL_WITHOUT_WORKERS 50
#define WAIT_POLL_ON_STANDBY 5

PG_FUNCTION_INFO_V1(cqrs_sql_catch_up);
PG_FUNCTION_INFO_V1(cqrs_sql_rebuild_projection);
PG_FUNCTION_INFO_V1(cqrs_sql_wait_for);

/* The context outlives the transactions of a CALL. */
typedef struct Drive
{
	MemoryContext context;
	List	   *ids;			/* projections still to be processed */
	ErrorData  *error;			/* the first that stopped one of them, or else that was */
	char	   *stopped;		/* nobody's fault; the name of the one; NULL = none */
} Drive;

static void drive_begin(Drive *drive);
static void drive_commit(void);
static void drive_run(Drive *drive);
static List *drive_pass(Drive *drive);
static void drive_switch(Drive *drive, int32 id);
static void drive_note_error(Drive *drive, const CqrsProjection *projection,
							 ErrorData *error);
static void drive_end(Drive *drive);
static List *manageable_projections(void);
static CqrsProjection *refuse_inactive(CqrsProjection *projection, const char *what);
static void refuse_waiting(void);
static Datum wait_snapshot(void);
static bool wait_is_over(CqrsProjection *projection, Datum snapshot, int64 up_to_position);
static void wait_warn_without_workers(const char *name);
static int64 interval_to_ms(const Interval *interval);

/*
 * CALL cqrs.catch_up(name)
 *
 * Processes in this session, a transaction per batch, all that was committed
 * before the call: of one projection, which must be running, or of all active
 * ones that the caller may manage. Waits for batches in progress elsewhere. If a
 * handler fails, its projection stops, the others go on, and then the error is
 * thrown; so it is if it fails by nobody's fault, but then nothing stops.
 */
Datum
cqrs_sql_catch_up(PG_FUNCTION_ARGS)
{
	Drive		drive;

	cqrs_sql_arg_refuse_atomic(fcinfo, "cqrs.catch_up");
	drive_begin(&drive);
	if (PG_ARGISNULL(0))
	{
		MemoryContext old = MemoryContextSwitchTo(drive.context);

		drive.ids = list_copy(manageable_projections());
		MemoryContextSwitchTo(old);
	}
	else
	{
		const char *name = cqrs_sql_arg_name(fcinfo, 0, "projection name");
		CqrsProjection *projection = cqrs_projection_find(name, false);
		MemoryContext old;

		cqrs_projection_check_owner(projection);
		refuse_inactive(projection, "catch up");
		old = MemoryContextSwitchTo(drive.context);
		drive.ids = list_make1_int(projection->id);
		MemoryContextSwitchTo(old);
	}
	drive_run(&drive);
	drive_end(&drive);
	PG_RETURN_VOID();
}

/*
 * CALL cqrs.rebuild_projection(name, online boolean)
 *
 * Empties the read tables in a transaction that also moves the checkpoint back,
 * and replays, a transaction per batch. If the call ends early, the workers go
 * on.
 */
Datum
cqrs_sql_rebuild_projection(PG_FUNCTION_ARGS)
{
	const char *name = cqrs_sql_arg_name(fcinfo, 0, "projection name");
	CqrsProjection *projection;
	Drive		drive;
	MemoryContext old;

	if (PG_ARGISNULL(1) || PG_GETARG_BOOL(1))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rebuilding online is not supported yet"),
				 errhint("CALL cqrs.rebuild_projection(%s, online => false); empties and refills the read tables in place.",
						 quote_literal_cstr(name))));
	cqrs_sql_arg_refuse_atomic(fcinfo, "cqrs.rebuild_projection");

	drive_begin(&drive);
	projection = cqrs_sql_arg_projection(fcinfo);
	if (projection->state == CQRS_STATE_PAUSED)
		refuse_inactive(projection, "rebuild");
	old = MemoryContextSwitchTo(drive.context);
	drive.ids = list_make1_int(projection->id);
	MemoryContextSwitchTo(old);
	cqrs_rebuild_start(projection);
	drive_commit();

	drive_run(&drive);
	drive_end(&drive);
	PG_RETURN_VOID();
}

/*
 * cqrs.wait_for(name, timeout interval, up_to_position bigint) RETURNS boolean
 *
 * Waits until the projection has processed all events committed before the call,
 * or the one at a position. Returns false at the timeout; a NULL one never
 * comes. Throws where it would wait in vain. Takes no lock.
 *
 * On a standby, what was committed before the call is what had been received of
 * it: that is replayed first. Then what the primary's workers have made of it has
 * to arrive, and nobody announces that here. If it is promoted meanwhile, all has
 * been replayed that ever will be, and its own workers do the rest.
 */
Datum
cqrs_sql_wait_for(PG_FUNCTION_ARGS)
{
	const char *name = cqrs_sql_arg_name(fcinfo, 0, "projection name");
	int64		timeout = PG_ARGISNULL(1) ? -1 : interval_to_ms(PG_GETARG_INTERVAL_P(1));
	int64		up_to_position = PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2);
	TimestampTz started = GetCurrentTimestamp();
	int32		id = cqrs_projection_find(name, false)->id;
	bool		standby = RecoveryInProgress();
	XLogRecPtr	received = standby ? GetWalRcvFlushRecPtr(NULL, NULL) : InvalidXLogRecPtr;
	long		poll = standby ? WAIT_POLL_ON_STANDBY :
		cqrs_shmem_available() ? WAIT_POLL : WAIT_POLL_WITHOUT_WORKERS;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext look;
	Datum		snapshot = (Datum) 0;
	bool		over;

	if (!PG_ARGISNULL(2) && up_to_position < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("up_to_position must be at least 1"),
				 errhint("Positions begin at 1. Without one, all that was committed before the call is waited for.")));
	refuse_waiting();

	look = AllocSetContextCreate(caller, "cqrs_views wait", ALLOCSET_SMALL_SIZES);
	cqrs_shmem_wait_begin();
	for (;;)
	{
		CqrsProjection *projection;
		int64		remaining;

		/* a promoted standby replays no more, be it half of a record that is left */
		if (snapshot == (Datum) 0 &&
			(GetXLogReplayRecPtr(NULL) >= received || !RecoveryInProgress()))
			snapshot = wait_snapshot();
		MemoryContextSwitchTo(look);
		AcceptInvalidationMessages();
		projection = cqrs_projection_get(id);
		if (projection == NULL)
			projection = cqrs_projection_find(name, false);
		refuse_inactive(projection, "wait for");
		over = snapshot != (Datum) 0 && wait_is_over(projection, snapshot, up_to_position);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(look);
		remaining = timeout < 0 ? poll :
			timeout - (GetCurrentTimestamp() - started) / 1000;
		if (over || remaining <= 0)
			break;
		cqrs_shmem_wait(Min(remaining, poll));
	}
	cqrs_shmem_wait_end();
	MemoryContextDelete(look);

	if (!over && !standby && (!cqrs_shmem_available() || !cqrs_guc_enabled))
		wait_warn_without_workers(name);
	PG_RETURN_BOOL(over);
}

/* ------------------------------------------------------------- the CALLs */

/*
 * Begin processing: in a transaction of our own, read committed whatever the
 * session's default, since each batch must see what was committed before it.
 */
static void
drive_begin(Drive *drive)
{
	memset(drive, 0, sizeof(*drive));
	drive->context = AllocSetContextCreate(PortalContext, "cqrs_views call",
										   ALLOCSET_DEFAULT_SIZES);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	drive_commit();
}

/* A commit takes the snapshot away under which catalogs are read and written. */
static void
drive_commit(void)
{
	SPI_commit();
	XactIsoLevel = XACT_READ_COMMITTED;
	EnsurePortalSnapshotExists();
	cqrs_shmem_announce();
}

/*
 * Process the projections, each until it has nothing left of what was committed
 * when it was last looked at.
 */
static void
drive_run(Drive *drive)
{
	while (drive->ids != NIL)
	{
		List	   *switching;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		switching = drive_pass(drive);
		drive_commit();
		foreach(lc, switching)
			drive_switch(drive, lfirst_int(lc));
	}
}

/*
 * One pass; forgets the projections that are done. Returns those that have
 * caught up to become inline.
 */
static List *
drive_pass(Drive *drive)
{
	MemoryContext pass = AllocSetContextCreate(drive->context, "cqrs_views pass",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(pass);
	const ErrorData *noted = drive->error;
	CqrsMember	members[CQRS_CATCHUP_MAX_PROJECTIONS];
	int			n = 0;
	List	   *switching = NIL;
	ListCell   *lc;

	foreach(lc, drive->ids)
		if (n < CQRS_CATCHUP_MAX_PROJECTIONS)
			members[n++] = (CqrsMember) {.projection = lfirst_int(lc)};

	cqrs_catchup_pass(members, n, true, CQRS_ERROR_STOP);

	/* what is kept outlives the pass */
	MemoryContextSwitchTo(drive->context);
	for (int i = 0; i < n; i++)
	{
		CqrsProjection *projection = cqrs_projection_get(members[i].projection);

		if (members[i].error != NULL)
			drive_note_error(drive, projection, members[i].error);
		else if (!members[i].locked && projection != NULL &&
				 projection->state == CQRS_STATE_STOPPED)
			drive_note_error(drive, projection,
							 cqrs_apply_error_parse(projection->last_error));
		if (members[i].wants_switch)
			switching = lappend_int(switching, members[i].projection);
		if (!members[i].locked || !members[i].more)
			drive->ids = list_delete_int(drive->ids, members[i].projection);
	}
	MemoryContextSwitchTo(old);

	/* an error that was noted is in there */
	if (drive->error == noted)
		MemoryContextDelete(pass);
	return switching;
}

/* Let a projection become inline, in a transaction of its own. */
static void
drive_switch(Drive *drive, int32 id)
{
	for (int attempt = 0; attempt < SWITCH_ATTEMPTS; attempt++)
	{
		MemoryContext old = MemoryContextSwitchTo(drive->context);
		ErrorData  *error = NULL;
		bool		done = cqrs_mode_enter_inline(id, CQRS_ERROR_STOP, &error);
		CqrsProjection *projection;

		MemoryContextSwitchTo(old);
		drive_commit();
		projection = cqrs_projection_get(id);
		if (error != NULL)
			drive_note_error(drive, projection, error);
		if (done || error != NULL || projection == NULL ||
			projection->state != CQRS_STATE_SWITCHING)
			return;
	}
	ereport(WARNING,
			(errmsg("could not lock out the publishers to switch a projection to inline"),
			 errdetail("Transactions that have published are in progress or prepared, or cqrs.outbox is being vacuumed or altered."),
			 errhint("The workers try again; without them, call cqrs.catch_up again.")));
}

/*
 * Remember the first error, to throw it when all that can be done is done; but one that
 * stops a projection rather than one that does not, as that is met again. It may be one
 * that another process met while we waited for it.
 */
static void
drive_note_error(Drive *drive, const CqrsProjection *projection, ErrorData *error)
{
	bool		stops = projection != NULL && projection->state == CQRS_STATE_STOPPED;

	if (drive->error != NULL && (drive->stopped != NULL || !stops))
		return;
	drive->error = error;
	if (stops)
		drive->stopped = MemoryContextStrdup(drive->context, NameStr(projection->name));
}

static void
drive_end(Drive *drive)
{
	SPI_finish();
	if (drive->error != NULL && drive->stopped == NULL)
		ReThrowError(drive->error);
	if (drive->error != NULL)
		ereport(ERROR,
				(errcode(drive->error->sqlerrcode),
				 errmsg("projection \"%s\" stopped: %s", drive->stopped, drive->error->message),
				 drive->error->detail ? errdetail("%s", drive->error->detail) : 0,
				 errhint("%s%sMend the cause, then run: SELECT cqrs.resume_projection(%s);",
						 drive->error->hint ? drive->error->hint : "",
						 drive->error->hint ? " " : "",
						 quote_literal_cstr(drive->stopped)),
				 drive->error->context ? errcontext("%s", drive->error->context) : 0));
	MemoryContextDelete(drive->context);
}

/* The ids of all active projections that the current user may manage. */
static List *
manageable_projections(void)
{
	List	   *ids = NIL;
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		if (cqrs_projection_is_active(projection) &&
			has_privs_of_role(GetUserId(), projection->owner))
			ids = lappend_int(ids, projection->id);
	}
	return ids;
}

/* ------------------------------------------------------------- wait_for */

/* Throw where the projection does not go on by itself; else return it. */
static CqrsProjection *
refuse_inactive(CqrsProjection *projection, const char *what)
{
	const char *name = NameStr(projection->name);
	bool		stopped = projection->state == CQRS_STATE_STOPPED;
	char	   *error = NULL;

	if (cqrs_projection_is_active(projection))
		return projection;

	if (stopped && projection->last_error && cqrs_projection_shows_error(projection))
		error = pnstrdup(projection->last_error, strcspn(projection->last_error, "\n"));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s projection \"%s\": it is %s", what, name,
					cqrs_projection_state_name(projection->state)),
			 error ? errdetail("It stopped with %s", error) :
			 stopped ? errdetail("cqrs.projection_status.last_error says why, to its owner.") : 0,
			 errhint("%sSELECT cqrs.resume_projection(%s);",
					 stopped ? "Mend the cause, then run: " : "", quote_literal_cstr(name))));
}

/* Throw where the transaction could not see, or is itself, what it would wait for. */
static void
refuse_waiting(void)
{
	cqrs_apply_refuse_handler("wait for a projection");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for a projection in a transaction that is not read committed"),
				 errdetail("The transaction's snapshot would not show the result."),
				 errhint("BEGIN ISOLATION LEVEL READ COMMITTED;")));
	if (cqrs_outbox_published_here())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot wait for a projection in a transaction that has published events"),
				 errdetail("They are processed after it commits."),
				 errhint("Commit first.")));
}

/*
 * What is committed now, in the caller's memory context. On a standby, what is in
 * progress on the primary counts, too. That is waited for only if it commits
 * meanwhile, since only events that can be seen are.
 */
static Datum
wait_snapshot(void)
{
	Datum		snapshot;

	PushActiveSnapshot(GetLatestSnapshot());
	snapshot = cqrs_checkpoint_current_snapshot();
	PopActiveSnapshot();
	return snapshot;
}

/* Has the projection processed the event, or all that the snapshot sees? */
static bool
wait_is_over(CqrsProjection *projection, Datum snapshot, int64 up_to_position)
{
	bool		by_publishers = cqrs_projection_is_inline(projection);
	CqrsCheckpoint *checkpoint;
	FullTransactionId xid;

	if (up_to_position == 0 && by_publishers)
		return true;
	if (up_to_position > 0 && !cqrs_outbox_read_xid(up_to_position, &xid))
		return false;
	if (by_publishers)
		return true;

	checkpoint = cqrs_checkpoint_peek(projection->id);
	if (checkpoint == NULL)
		return false;
	if (up_to_position == 0)
		return cqrs_checkpoint_covers(checkpoint, snapshot);
	return cqrs_checkpoint_covers_event(checkpoint, up_to_position, xid);
}

/* Nobody will process what was waited for. */
static void
wait_warn_without_workers(const char *name)
{
	ereport(WARNING,
			(errmsg("no background worker processes projection \"%s\"", name),
			 cqrs_shmem_available() ?
			 errdetail("The setting cqrs_views.enabled is off.") :
			 errdetail("The library cqrs_views is not preloaded."),
			 cqrs_shmem_available() ?
			 errhint("Set cqrs_views.enabled = on and reload the configuration, or CALL cqrs.catch_up(%s);",
					 quote_literal_cstr(name)) :
			 errhint("Add cqrs_views to shared_preload_libraries and restart the server, or CALL cqrs.catch_up(%s);",
					 quote_literal_cstr(name))));
}

/* Months count as 30 days. Negative ones are 0; the result fits WaitLatch. */
static int64
interval_to_ms(const Interval *interval)
{
	double		ms = ((double) interval->month * DAYS_PER_MONTH + interval->day) *
		SECS_PER_DAY * 1000.0 + interval->time / 1000.0;

	return (int64) Min(Max(ms, 0), 1e15);
}
