/*
 * worker.c
 *		A background worker of one database: loop, wait, reload settings, one
 *		pass, report.
 *
 * Any worker of a database may take any projection whose lock is free, so there
 * may be several; there is one, as long as its passes are short. When a pass
 * takes long, a timer asks the launcher for a mate, which goes away when it has
 * had nothing to do for a while. The mate can take what this pass has not
 * locked, so a projection shares passes with others only while it is quick.
 *
 * A worker sleeps on its latch. A publisher's commit sets it (shmem.c); so does
 * a fallback poll, because COMMIT PREPARED can't. Where nothing has been written
 * since it last looked, in the whole cluster, and nothing was in progress then, the
 * poll has nothing to look at, and costs a glance into shared memory.
 *
 * It is a guest in its database: between passes it lets go when somebody waits
 * for the database to be free of sessions (DROP, RENAME, CREATE .. TEMPLATE),
 * when the extension is gone, or when another database needs the process. The
 * size of batches follows their duration, so that a pass rarely exceeds a
 * second.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "catalog.h"
#include "catchup.h"
#include "compat.h"
#include "guc.h"
#include "mode.h"
#include "projection.h"
#include "shmem.h"
#include "worker.h"

/* a pass that takes longer calls for a mate; ms */
#define MATE_AFTER 500

/* a mate with nothing to do leaves after this; ms */
#define MATE_PATIENCE 10000

/*
 * Under a heavy stream of events a worker that runs at each of the publishers'
 * group commits takes processor time from them, and gains nothing but small
 * batches. So it rests after each round, for each event that it found, up to a
 * limit. A stream of less than one event in that time (3,000 a second) finds it
 * awake: the rest between two events shrinks the next one. Where publishers have
 * applied all events, only notifications are left to do, and it rests as long as
 * ever. Nor is anything delayed while somebody waits for a projection. us
 */
#define REST_PER_EVENT 300
#define MAX_REST 10000

/*
 * So many polls in a row have to find that nothing happens, for the next ones to be
 * saved. Two, as what a prepared transaction has changed in the catalogs is told a
 * moment after it is seen to have committed.
 */
#define QUIET_POLLS 2

/* between two attempts to switch a projection to inline; ms */
#define SWITCH_PAUSE 1000

/* batches start at this size; they grow while they are quick, shrink when not */
#define FIRST_LIMIT 100
#define MAX_LIMIT 1000000
#define MAX_GROWTH 64			/* times, towards a batch that takes QUICK */
#define QUICK 250				/* ms */
#define SLOW 1000				/* ms */

/* a projection's next batch, as far as time is concerned */
typedef struct BatchLimit
{
	int32		projection;		/* hash key */
	int			events;
	bool		turn;			/* it was postponed: take it first */
	bool		alone;			/* slow, or not known to be quick: no company */
	TimestampTz switch_at;		/* not earlier: see worker_switch */
	TimestampTz no_retry_before;	/* of what was put aside */
} BatchLimit;

/* what a pass leaves to do */
typedef struct PassOutcome
{
	int			nevents;		/* that a projection took at most */
	bool		applied;		/* has a projection applied events, not its publishers? */
	bool		more;			/* go on at once */
	bool		leave;			/* the extension is gone */
	bool		quiet;			/* nothing is in progress, or left to do */
	FullTransactionId next_xid; /* of the cluster, before the pass */
	int			round;			/* passes it takes to look at all projections */
	TimestampTz next_retry_at;	/* 0 = none */
	int			nswitching;
	int32		switching[CQRS_CATCHUP_MAX_PROJECTIONS];
} PassOutcome;

static HTAB *limits = NULL;
static unsigned int pass_turn;
static unsigned int start_turn;
static TimeoutId mate_timeout;
static bool unfinished = true;	/* has the latest pass left something to do? */
static bool mate_useful = false;

static void worker_settings(void);
static void worker_loop(void);
static void worker_rest(TimestampTz since, int64 rest);
static PassOutcome worker_pass(void);
static int	worker_choose(CqrsMember *members, CqrsProjection **projections, int *round);
static bool worker_retries(const CqrsProjection *projection);
static int	worker_round(int nquick, int share, int nalone);
static int	worker_share(int n);
static CqrsMember worker_member(const CqrsProjection *projection);
static void worker_collect(PassOutcome *outcome, const CqrsMember *members, int nmembers,
						   long duration);
static void worker_switch(int32 projection);
static void worker_begins(const char *projection, int nevents, int64 position);
static void worker_activity(const char *activity, bool idle);
static BatchLimit *worker_limit(int32 projection);
static bool worker_must_leave(TimestampTz last_work);
static bool worker_sleep(uint64 seen, TimestampTz next_retry_at);
static bool is_nothing_in_progress(Snapshot snapshot, FullTransactionId next_xid);
static void mate_timeout_handler(void);

/*
 * Is nobody waiting to have the database to themselves, to drop, rename or copy
 * it? They hold a lock that conflicts with the one that every session takes when
 * it connects.
 */
bool
cqrs_worker_database_is_wanted(Oid dboid)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, dboid, 0);
	if (LockAcquire(&tag, RowExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	LockRelease(&tag, RowExclusiveLock, true);
	return true;
}

/*
 * The entry point; arg is the number of the worker slot. An error outside of a
 * projection's own work ends the process, which reports it and gives the
 * transaction up; the launcher starts another one after a while.
 */
void
cqrs_worker_main(Datum arg)
{
	Oid			dboid;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();

	dboid = cqrs_shmem_worker_attach(DatumGetInt32(arg));
	if (!OidIsValid(dboid))
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(dboid, InvalidOid, 0);
	worker_settings();
	mate_timeout = RegisterTimeout(USER_TIMEOUT, mate_timeout_handler);

	/* turns go on where those of the last worker may have ended in an error */
	pass_turn = start_turn = (unsigned int) MyProcPid;
	worker_loop();
	proc_exit(0);
}

/*
 * What the database or the role may have set differently must not change what
 * we do: repeatable read, for one, would make a batch miss what was committed.
 */
static void
worker_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"session_replication_role", "origin"},
		CQRS_COMPAT_TIMEOUTS_OFF
		{"statement_timeout", "0"},
		{"idle_in_transaction_session_timeout", "0"},
		/* who locks a read table for long makes one projection wait, not all */
		{"lock_timeout", "1s"},
		/* in a deadlock with somebody's DDL, be the victim: a batch is retried */
		{"deadlock_timeout", "100ms"},
		/* read tables and checkpoint commit together: a crash repeats work, not effects */
		{"synchronous_commit", "off"}
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

static void
worker_loop(void)
{
	TimestampTz last_work = GetCurrentTimestamp();
	uint64		seen = 0;
	int			passes_left = 0;	/* of a round */
	int64		rest = 0;		/* after the round; us */
	int			quiet_polls = 0;	/* the latest ones that found nothing to happen */
	FullTransactionId next_xid = InvalidFullTransactionId;
	bool		woken = true;

	for (;;)
	{
		PassOutcome outcome;

		/* a cancellation is of a batch, and there is none */
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		if (worker_must_leave(last_work))
			return;

		/* what is published later wakes, or starts another round */
		if (passes_left == 0)
		{
			worker_rest(last_work, rest);
			rest = 0;
			seen = cqrs_shmem_worker_look();
		}
		outcome = worker_pass();
		cqrs_shmem_worker_works();
		if (outcome.leave)
		{
			cqrs_shmem_worker_leave(CQRS_DATABASE_FORGET);
			return;
		}
		for (int i = 0; i < outcome.nswitching; i++)
			worker_switch(outcome.switching[i]);
		if (outcome.nevents > 0)
			last_work = GetCurrentTimestamp();
		if (outcome.nevents > 0 && !outcome.applied)
			rest = MAX_REST;
		rest = Min(rest + outcome.nevents * REST_PER_EVENT, MAX_REST);
		passes_left = (passes_left == 0 ? outcome.round : passes_left) - 1;
		unfinished = outcome.more || outcome.nswitching > 0 || outcome.next_retry_at != 0;
		if (unfinished || !outcome.quiet || !FullTransactionIdEquals(outcome.next_xid, next_xid))
			quiet_polls = 0;
		else if (!woken && passes_left <= 0)
			quiet_polls++;
		next_xid = outcome.next_xid;
		if (outcome.more)
			passes_left = rest = 0;
		else if (passes_left <= 0)
		{
			passes_left = 0;
			while (!(woken = worker_sleep(seen, outcome.next_retry_at)) &&
				   quiet_polls >= QUIET_POLLS &&
				   FullTransactionIdEquals(ReadNextFullTransactionId(), next_xid))
				if (worker_must_leave(last_work))
					return;
		}
	}
}

/* Wait until so long after a moment has passed, unless somebody waits for us. */
static void
worker_rest(TimestampTz since, int64 rest)
{
	int64		remaining = since + rest - GetCurrentTimestamp();

	if (remaining > 0 && remaining <= MAX_REST && !cqrs_shmem_worker_is_awaited())
		pg_usleep(remaining);
}

/* One pass in a transaction of its own. */
static PassOutcome
worker_pass(void)
{
	PassOutcome outcome = {0};
	CqrsMember	members[CQRS_CATCHUP_MAX_PROJECTIONS];
	CqrsProjection *projections[CQRS_CATCHUP_MAX_PROJECTIONS];
	TimestampTz started = GetCurrentTimestamp();
	int			nmembers;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!OidIsValid(cqrs_catalog_relation("registry", true)))
	{
		CommitTransactionCommand();
		outcome.leave = true;
		return outcome;
	}

	/* before anything is looked at: what happens from now on is for the next poll */
	outcome.next_xid = ReadNextFullTransactionId();
	outcome.quiet = is_nothing_in_progress(GetTransactionSnapshot(), outcome.next_xid);

	/* somebody waits to drop the extension, or to alter it: let them */
	if (!cqrs_catalog_lock_extension())
	{
		CommitTransactionCommand();
		outcome.round = 1;
		outcome.quiet = false;
		return outcome;
	}
	nmembers = worker_choose(members, projections, &outcome.round);
	if (nmembers > 0)
	{
		worker_activity("looking for events", false);
		if (mate_useful)
			enable_timeout_after(mate_timeout, MATE_AFTER);
		cqrs_catchup_pass(members, nmembers, false, CQRS_ERROR_RETRY);
		disable_timeout(mate_timeout, false);
	}
	CommitTransactionCommand();

	worker_collect(&outcome, members, nmembers,
				   TimestampDifferenceMilliseconds(started, GetCurrentTimestamp()));
	if (outcome.nevents > 0)
	{
		cqrs_shmem_announce();
		pgstat_report_stat(false);
	}
	return outcome;
}

/*
 * Choose the projections of a pass: all active ones that are quick, or a share
 * of them where they are too many or this is not the only worker; or one that is
 * not quick, or may not be, since it retries. The two kinds alternate, and each time it is others' turn. Returns
 * their number, and in *round that of the passes until all had a turn.
 */
static int
worker_choose(CqrsMember *members, CqrsProjection **projections, int *round)
{
	List	   *quick = NIL;
	List	   *alone = NIL;
	ListCell   *lc;
	int			share;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		if (!cqrs_projection_is_active(projection))
			continue;
		if (worker_limit(projection->id)->alone || worker_retries(projection))
			alone = lappend(alone, projection);
		else
			quick = lappend(quick, projection);
	}
	mate_useful = list_length(quick) + list_length(alone) > 1;
	share = worker_share(list_length(quick));
	*round = worker_round(list_length(quick), share, list_length(alone));

	pass_turn++;
	if (alone != NIL && (quick == NIL || pass_turn % 2 == 0))
	{
		projections[0] = list_nth(alone, (quick == NIL ? pass_turn : pass_turn / 2) % list_length(alone));
		members[0] = worker_member(projections[0]);
		return 1;
	}

	for (int i = 0; i < share; i++)
	{
		projections[i] = list_nth(quick, (start_turn + i) % list_length(quick));
		members[i] = worker_member(projections[i]);
	}
	if (share < list_length(quick))
		start_turn += share;
	return share;
}

/* Are events due to be retried that were put aside? Who hangs at one will again. */
static bool
worker_retries(const CqrsProjection *projection)
{
	return projection->parked_retry_at != 0 &&
		Max(projection->parked_retry_at, worker_limit(projection->id)->no_retry_before) <=
		GetCurrentTimestamp();
}

/*
 * How many passes does it take until all have had a turn: nquick projections, a
 * share of them at once, and nalone? Where there are both kinds, they alternate.
 */
static int
worker_round(int nquick, int share, int nalone)
{
	int			shares = nquick == 0 ? 0 : (nquick + share - 1) / share;

	if (shares == 0 || nalone == 0)
		return Max(shares + nalone, 1);
	return 2 * Max(shares, nalone);
}

/* How many of n projections does one of the database's workers take at once? */
static int
worker_share(int n)
{
	int			nworkers = Max(cqrs_shmem_worker_count(), 1);

	return Min((n + nworkers - 1) / nworkers, CQRS_CATCHUP_MAX_PROJECTIONS);
}

static CqrsMember
worker_member(const CqrsProjection *projection)
{
	BatchLimit *limit = worker_limit(projection->id);

	return (CqrsMember)
	{
		.projection = projection->id,
		.limit = limit->events,
		.turn = limit->turn,
		.begins = worker_begins,
		.no_retry_before = limit->no_retry_before
	};
}

/* Sum up a pass of so many ms, and adapt the sizes of the next batches. */
static void
worker_collect(PassOutcome *outcome, const CqrsMember *members, int nmembers, long duration)
{
	for (int i = 0; i < nmembers; i++)
	{
		const CqrsMember *member = &members[i];
		BatchLimit *limit = worker_limit(member->projection);

		if (member->next_retry_at != 0 &&
			(outcome->next_retry_at == 0 || member->next_retry_at < outcome->next_retry_at))
			outcome->next_retry_at = member->next_retry_at;

		/* who has it may leave without doing what there is to do */
		if (!member->locked)
		{
			outcome->quiet = false;
			continue;
		}
		limit->turn = member->postponed;
		limit->no_retry_before = member->no_retry_before;
		outcome->nevents = Max(outcome->nevents, member->nevents);
		outcome->applied |= member->nevents > 0 && !member->by_publishers;
		outcome->more |= member->more;
		if (member->wants_switch)
			outcome->switching[outcome->nswitching++] = member->projection;

		if (member->nevents > 0 && member->duration > SLOW)
			limit->alone = true;
		else if (member->nevents > 0 && member->duration < QUICK)
			limit->alone = false;

		if (member->nevents > 0 && duration > SLOW)
			limit->events = Max(limit->events / 2, 1);
		else if (member->more && member->nevents > 0 && duration < QUICK)
			limit->events = Min(limit->events * Max(2, Min(QUICK / (duration + 1), MAX_GROWTH)),
								MAX_LIMIT);
	}
}

/*
 * A projection has caught up to become inline. An attempt may keep publishers
 * waiting for a moment, so what failed is not tried again at once.
 */
static void
worker_switch(int32 projection)
{
	BatchLimit *limit = worker_limit(projection);
	bool		done;

	if (limit->switch_at > GetCurrentTimestamp())
		return;
	worker_activity("switching a projection to inline", false);
	StartTransactionCommand();

	/* SPI wants one from whoever has no portal; each step takes its own */
	PushActiveSnapshot(GetTransactionSnapshot());
	done = cqrs_mode_enter_inline(projection, CQRS_ERROR_RETRY, NULL);
	PopActiveSnapshot();
	CommitTransactionCommand();
	cqrs_shmem_announce();
	limit->switch_at = done ? 0 :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), SWITCH_PAUSE);
}

/* So that whoever looks at a worker sees where it is; once a batch, not an event. */
static void
worker_begins(const char *projection, int nevents, int64 position)
{
	char		activity[CQRS_ACTIVITY_LEN];

	snprintf(activity, sizeof(activity), "processing %s: %d events from position " INT64_FORMAT,
			 projection, nevents, position);
	worker_activity(activity, false);
}

static void
worker_activity(const char *activity, bool idle)
{
	cqrs_shmem_worker_report(activity, idle);
	pgstat_report_activity(idle ? STATE_IDLE : STATE_RUNNING, activity);
}

static BatchLimit *
worker_limit(int32 projection)
{
	BatchLimit *limit;
	bool		found;

	if (limits == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(int32),.entrysize = sizeof(BatchLimit)};

		limits = hash_create("cqrs_views batch limits", 16, &info, HASH_ELEM | HASH_BLOBS);
	}
	limit = hash_search(limits, &projection, HASH_ENTER, &found);
	if (!found)
	{
		limit->events = FIRST_LIMIT;
		limit->turn = false;
		limit->alone = true;
		limit->switch_at = 0;
		limit->no_retry_before = 0;
	}
	return limit;
}

/* Must this worker go, and its database wait, rest or do without? */
static bool
worker_must_leave(TimestampTz last_work)
{
	if (!cqrs_guc_enabled || cqrs_shmem_worker_told_to_stop())
	{
		cqrs_shmem_worker_leave(unfinished ? CQRS_DATABASE_KEEP : CQRS_DATABASE_REST);
		return true;
	}
	if (cqrs_worker_database_is_wanted(MyDatabaseId) &&
		(cqrs_shmem_worker_count() <= 1 ||
		 !TimestampDifferenceExceeds(last_work, GetCurrentTimestamp(), MATE_PATIENCE)))
		return false;
	cqrs_shmem_worker_leave(CQRS_DATABASE_KEEP);
	return true;
}

/*
 * Sleep, for no longer than until it is time to poll. Returns whether there is more
 * reason to look at once. (The timer of a pass wakes us, too, disabled or not.)
 */
static bool
worker_sleep(uint64 seen, TimestampTz next_retry_at)
{
	long		timeout = CQRS_WORKER_POLL;

	if (next_retry_at != 0)
		timeout = Min(timeout,
					  TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_retry_at) + 1);
	if (!cqrs_shmem_worker_sleep(seen))
		return true;
	worker_activity("waiting for events", true);
	pgstat_report_stat(true);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	cqrs_shmem_worker_awake();
	return InterruptPending || ConfigReloadPending;
}

/*
 * Does a snapshot see all transactions below next_xid as ended? It lists those below
 * its xmax only, which is the first behind the latest that has ended.
 */
static bool
is_nothing_in_progress(Snapshot snapshot, FullTransactionId next_xid)
{
	return snapshot->xcnt == 0 &&
		TransactionIdFollowsOrEquals(snapshot->xmax, XidFromFullTransactionId(next_xid));
}

static void
mate_timeout_handler(void)
{
	cqrs_shmem_worker_want_mate();
}
