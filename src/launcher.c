/*
 * launcher.c
 *		Start workers for the databases that need them.
 *
 * The launcher is connected to no database. It finds databases by listing them,
 * at its start and now and then; one that it does not know gets a worker, which
 * leaves again if the extension is not there. CREATE EXTENSION, and publishing
 * in a database that was copied, tell it at once.
 *
 * It sleeps until something changes: a worker ended, a database without one has
 * published, a worker has been busy for long. When the pool is used up, the
 * worker that has been idle for longest makes room. A worker that fails, other
 * than by what a projection does, gives its place back, too: where the extension
 * is broken, databases that are well must not wait for it.
 *
 *	a database:	unknown --(listed, or told)--> wanted --(worker attached)--> served
 *	served --(worker ended, or failed)--> wanted; --(made room)--> resting;
 *	--(no extension, or dropped)--> unknown
 *	resting --(published, or after a while)--> wanted
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "guc.h"
#include "launcher.h"
#include "shmem.h"
#include "shmem_launcher.h"
#include "worker.h"

/* how often databases are listed; ms */
#define DISCOVER_EVERY 60000

/* how often resting databases are looked at; ms */
#define REMIND_EVERY 5000

/*
 * The shortest time between two starts of a worker for one database; ms. Where
 * workers fail, it doubles each time, so often at most: half a minute.
 */
#define RESTART_PAUSE 1000
#define MAX_DOUBLINGS 5

/* a database that was looked at, whether it has the extension or not */
typedef struct KnownDatabase
{
	Oid			dboid;			/* hash key */
	TimestampTz last_start;		/* of a worker for it; 0 = never */
	bool		listed;			/* in the latest listing */
} KnownDatabase;

static HTAB *known = NULL;
static BackgroundWorkerHandle **handles;	/* by worker slot; NULL = not ours */
static MemoryContext launcher_context;

static void launcher_discover(void);
static List *launcher_list_databases(void);
static long launcher_serve(void);
static long launcher_serve_one(const CqrsDemand *demand, int *nworkers);
static long launcher_pause(const CqrsDemand *demand, TimestampTz last_start);
static bool launcher_start(Oid dboid);
static int	launcher_count_workers(void);
static bool launcher_database_exists(Oid dboid);

/* Register the launcher; called from _PG_init during preload. */
void
cqrs_launcher_register(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "cqrs_views");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "cqrs_launcher_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "cqrs_views launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "cqrs_views launcher");
	RegisterBackgroundWorker(&worker);
}

/* The entry point. */
void
cqrs_launcher_main(Datum arg)
{
	TimestampTz last_discovery = 0;
	TimestampTz last_reminder = 0;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	cqrs_shmem_launcher_attach();

	launcher_context = AllocSetContextCreate(TopMemoryContext, "cqrs_views launcher",
											 ALLOCSET_DEFAULT_SIZES);
	handles = MemoryContextAllocZero(TopMemoryContext,
									 cqrs_shmem_max_workers() * sizeof(*handles));

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		long		timeout;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			cqrs_shmem_launcher_remind();
		}
		MemoryContextSwitchTo(launcher_context);
		if (last_discovery == 0 ||
			TimestampDifferenceExceeds(last_discovery, now, DISCOVER_EVERY))
		{
			launcher_discover();
			last_discovery = now;
		}
		if (TimestampDifferenceExceeds(last_reminder, now, REMIND_EVERY))
		{
			cqrs_shmem_launcher_remind();
			last_reminder = now;
		}
		timeout = launcher_serve();
		if (cqrs_shmem_launcher_has_resting())
			timeout = timeout < 0 ? REMIND_EVERY : Min(timeout, REMIND_EVERY);
		MemoryContextReset(launcher_context);

		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout >= 0 ? timeout : DISCOVER_EVERY, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
	}
}

/* List the databases, and see that somebody looks into the new ones. */
static void
launcher_discover(void)
{
	HASH_SEQ_STATUS status;
	KnownDatabase *database;
	ListCell   *lc;

	if (known == NULL)
	{
		HASHCTL		info = {.keysize = sizeof(Oid),.entrysize = sizeof(KnownDatabase)};

		known = hash_create("cqrs_views databases", 64, &info, HASH_ELEM | HASH_BLOBS);
	}
	hash_seq_init(&status, known);
	while ((database = hash_seq_search(&status)) != NULL)
		database->listed = false;

	foreach(lc, launcher_list_databases())
	{
		Oid			dboid = lfirst_oid(lc);
		bool		found;

		database = hash_search(known, &dboid, HASH_ENTER, &found);
		database->listed = true;
		if (found)
			continue;
		database->last_start = 0;
		if (!cqrs_shmem_launcher_add_database(dboid))
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("cqrs_views serves %d databases at most", cqrs_shmem_max_databases())));
	}

	hash_seq_init(&status, known);
	while ((database = hash_seq_search(&status)) != NULL)
		if (!database->listed)
		{
			cqrs_shmem_launcher_forget_database(database->dboid);
			hash_search(known, &database->dboid, HASH_REMOVE, NULL);
		}
}

/*
 * All databases that can be connected to, but templates: those are looked into
 * when something is published in them. In the current memory context.
 */
static List *
launcher_list_databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext old;

		if (!form->datallowconn || form->datistemplate ||
			form->datconnlimit == CQRS_COMPAT_INVALID_DATABASE)
			continue;
		old = MemoryContextSwitchTo(context);
		result = lappend_oid(result, form->oid);
		MemoryContextSwitchTo(old);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

/*
 * Give workers to the databases that want one, as far as there are any. Returns
 * the ms after which it should be tried again; -1 = no need.
 */
static long
launcher_serve(void)
{
	CqrsDemand *demands = palloc(cqrs_shmem_max_databases() * sizeof(CqrsDemand));
	int			ndemands;
	int			nworkers;
	long		timeout = -1;

	/* reservations whose process never came to be */
	for (int i = 0; i < cqrs_shmem_max_workers(); i++)
	{
		pid_t		pid;

		if (handles[i] != NULL &&
			GetBackgroundWorkerPid(handles[i], &pid) == BGWH_STOPPED)
		{
			cqrs_shmem_launcher_release(i);
			pfree(handles[i]);
			handles[i] = NULL;
		}
	}
	if (!cqrs_guc_enabled)
		return -1;
	cqrs_shmem_launcher_shrink(cqrs_guc_max_workers);

	ndemands = cqrs_shmem_launcher_demands(demands, cqrs_shmem_max_databases());
	nworkers = launcher_count_workers();
	for (int i = 0; i < ndemands; i++)
	{
		long		again = launcher_serve_one(&demands[i], &nworkers);

		if (again >= 0)
			timeout = timeout < 0 ? again : Min(timeout, again);
	}
	return timeout;
}

/* The same for one database. */
static long
launcher_serve_one(const CqrsDemand *demand, int *nworkers)
{
	TimestampTz now = GetCurrentTimestamp();
	KnownDatabase *database;
	long		pause;
	bool		found;

	if (!launcher_database_exists(demand->dboid))
	{
		cqrs_shmem_launcher_forget_database(demand->dboid);
		return -1;
	}
	database = hash_search(known, &demand->dboid, HASH_ENTER, &found);
	if (!found)
	{
		database->last_start = 0;
		database->listed = true;
	}

	/* a mate is a favour: not at the cost of others */
	if (demand->mate)
	{
		if (*nworkers < cqrs_guc_max_workers && launcher_start(demand->dboid))
			(*nworkers)++;
		return -1;
	}

	pause = launcher_pause(demand, database->last_start);
	if (pause > 0)
		return pause;
	if (!cqrs_worker_database_is_wanted(demand->dboid))
		return CQRS_WORKER_POLL;
	if (*nworkers >= cqrs_guc_max_workers)
	{
		/* its end wakes us */
		(void) cqrs_shmem_launcher_evict(demand->dboid);
		return CQRS_WORKER_POLL;
	}
	if (!launcher_start(demand->dboid))
		return CQRS_WORKER_POLL;
	database->last_start = now;
	(*nworkers)++;
	return -1;
}

/* How many ms are left until a database may have another worker started? */
static long
launcher_pause(const CqrsDemand *demand, TimestampTz last_start)
{
	int			doublings = Min(Max(demand->failures - 1, 0), MAX_DOUBLINGS);

	if (last_start == 0)
		return 0;
	return TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   TimestampTzPlusMilliseconds(last_start,
																	   (int64) RESTART_PAUSE << doublings));
}

/* Start a worker. Returns false if the server has no room for it. */
static bool
launcher_start(Oid dboid)
{
	static bool warned = false;
	BackgroundWorker worker;
	MemoryContext old;
	bool		started;
	int			slot = cqrs_shmem_launcher_reserve(dboid);

	if (slot < 0)
		return false;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_library_name, sizeof(worker.bgw_library_name), "cqrs_views");
	snprintf(worker.bgw_function_name, sizeof(worker.bgw_function_name), "cqrs_worker_main");
	snprintf(worker.bgw_name, BGW_MAXLEN, "cqrs_views worker");
	snprintf(worker.bgw_type, BGW_MAXLEN, "cqrs_views worker");
	worker.bgw_main_arg = Int32GetDatum(slot);
	worker.bgw_notify_pid = MyProcPid;

	/* the slot may be free before the process that had it is known to be gone */
	if (handles[slot] != NULL)
		pfree(handles[slot]);
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = RegisterDynamicBackgroundWorker(&worker, &handles[slot]);
	MemoryContextSwitchTo(old);
	if (!started)
	{
		handles[slot] = NULL;
		cqrs_shmem_launcher_release(slot);
		if (!warned)
			ereport(WARNING,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("out of background worker slots for cqrs_views"),
					 errhint("You might need to increase max_worker_processes.")));
	}
	warned = !started;
	return started;
}

static int
launcher_count_workers(void)
{
	CqrsWorkerInfo info;
	int			n = 0;

	for (int i = 0; i < cqrs_shmem_max_workers(); i++)
		if (cqrs_shmem_worker_info(i, &info) || cqrs_shmem_launcher_is_starting(i))
			n++;
	return n;
}

static bool
launcher_database_exists(Oid dboid)
{
	MemoryContext context = CurrentMemoryContext;
	bool		exists;

	StartTransactionCommand();
	exists = SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(dboid));
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return exists;
}
