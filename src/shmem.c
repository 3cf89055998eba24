/*
 * shmem.c
 *		Shared state: databases, worker slots, latches, counters.
 *
 * One struct, made at server start, private to this file.
 *
 * Waking: a publisher's commit adds one to its database's counter and then looks
 * for a sleeping worker; a worker reads the counter before it takes a snapshot,
 * and, having processed what that showed, first lists itself as a sleeper and
 * then reads the counter again. Whichever comes first, one of the two notices.
 * Listing and unlisting are atomic exchanges, so a sleeper is woken once. While
 * the workers are awake, publishing costs one atomic addition.
 *
 * Locks: the LWLock guards the assignment of slots to databases and workers;
 * each worker slot's spinlock guards what it reports. Atomics need neither.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/proclist.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "outbox.h"
#include "shmem.h"

#define TRANCHE "cqrs_views"
#define MAX_DATABASES 512
#define MAX_SLEEPERS 8

/* where databases share workers, a busy one keeps its worker for so long; ms */
#define MIN_TURN 2000

/* A database with projections, or one not yet looked into. */
typedef struct DatabaseSlot
{
	pg_atomic_uint32 dboid;		/* 0 = free; set under the lock */
	pg_atomic_uint64 published; /* commits that published */
	pg_atomic_uint64 seen;		/* the counter, before the latest pass */
	pg_atomic_uint32 sleepers[MAX_SLEEPERS];	/* process numbers + 1; 0 = none */
	pg_atomic_uint32 nworkers;	/* running or starting; changed under the lock */
	pg_atomic_uint32 wanted;	/* the launcher was told that it has none */
	pg_atomic_uint32 mate_wanted;	/* its workers have been busy for long */
	pg_atomic_uint32 failures;	/* of its workers, since a pass has worked */
	bool		resting;		/* needs none until something is published (lock) */
	ConditionVariable processed;	/* broadcast after each commit of a batch */
} DatabaseSlot;

typedef enum WorkerState
{
	WORKER_FREE,
	WORKER_STARTING,
	WORKER_RUNNING
} WorkerState;

/* A background worker. */
typedef struct WorkerSlot
{
	WorkerState state;			/* lock */
	Oid			dboid;			/* lock */
	int			database;		/* index of its DatabaseSlot; lock */
	bool		stop;			/* told to make room; lock */
	bool		idle;			/* sleeping; spinlock */
	int			procno;			/* lock */
	int			pid;			/* lock */
	TimestampTz started;		/* lock */
	slock_t		mutex;
	TimestampTz since;			/* spinlock */
	char		activity[CQRS_ACTIVITY_LEN];	/* spinlock */
} WorkerSlot;

typedef struct SharedState
{
	LWLock	   *lock;
	pg_atomic_uint32 launcher;	/* process number + 1; 0 = none */
	int			nworkers;		/* length of workers; constant */
	DatabaseSlot databases[MAX_DATABASES];
	WorkerSlot	workers[FLEXIBLE_ARRAY_MEMBER];
} SharedState;

static SharedState *shared = NULL;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* this process */
static DatabaseSlot *my_database = NULL;
static WorkerSlot *my_worker = NULL;
static int	my_sleeper = -1;
static CqrsDatabaseFate my_fate = CQRS_DATABASE_FAILED;

static Size shmem_size(void);
static void shmem_request(void);
static void shmem_startup(void);
static DatabaseSlot *database_find(Oid dboid);
static DatabaseSlot *database_claim(Oid dboid);
static DatabaseSlot *database_mine(void);
static void wake_process(uint32 procno_plus_one);
static void wake_launcher(void);
static void worker_detach(int code, Datum arg);
static void launcher_detach(int code, Datum arg);
static void worker_free(WorkerSlot *worker);

/* Called from _PG_init while shared_preload_libraries are loaded. */
void
cqrs_shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
	cqrs_outbox_set_waker(cqrs_shmem_wake);
}

bool
cqrs_shmem_available(void)
{
	return shared != NULL;
}

/* ------------------------------------------------- publishers and waiters */

/*
 * Something was published in this database and is visible: see that a worker
 * looks. Called after commit; does not fail.
 */
void
cqrs_shmem_wake(void)
{
	DatabaseSlot *database;

	if (shared == NULL || (database = database_mine()) == NULL)
		return;

	/* a full barrier: the counter before the sleepers */
	pg_atomic_fetch_add_u64(&database->published, 1);
	for (int i = 0; i < MAX_SLEEPERS; i++)
	{
		uint32		sleeper = pg_atomic_read_u32(&database->sleepers[i]);

		if (sleeper != 0 &&
			(sleeper = pg_atomic_exchange_u32(&database->sleepers[i], 0)) != 0)
		{
			wake_process(sleeper);
			return;
		}
	}
	if (pg_atomic_read_u32(&database->nworkers) == 0 &&
		pg_atomic_read_u32(&database->wanted) == 0 &&
		pg_atomic_exchange_u32(&database->wanted, 1) == 0)
		wake_launcher();
}

/* A batch was committed in this database: wake those who wait for it. */
void
cqrs_shmem_announce(void)
{
	if (shared != NULL && database_mine() != NULL)
		ConditionVariableBroadcast(&my_database->processed);
}

/* From here on, announcements end the next wait. */
void
cqrs_shmem_wait_begin(void)
{
	if (shared != NULL && database_mine() != NULL)
		ConditionVariablePrepareToSleep(&my_database->processed);
}

/* Wait for an announcement, for timeout ms at most. */
void
cqrs_shmem_wait(long timeout)
{
	if (shared != NULL && database_mine() != NULL)
		(void) ConditionVariableTimedSleep(&my_database->processed, timeout,
										   PG_WAIT_EXTENSION);
	else
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

void
cqrs_shmem_wait_end(void)
{
	ConditionVariableCancelSleep();
}

/* ------------------------------------------------------------- a worker */

/*
 * Take the slot that the launcher has reserved, until the process exits. Returns
 * the database to connect to, InvalidOid if the reservation is gone.
 */
Oid
cqrs_shmem_worker_attach(int worker)
{
	WorkerSlot *slot = &shared->workers[worker];
	Oid			dboid = InvalidOid;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (slot->state == WORKER_STARTING)
	{
		slot->state = WORKER_RUNNING;
		slot->pid = MyProcPid;
		slot->started = GetCurrentTimestamp();
		slot->procno = cqrs_compat_my_proc_number();
		dboid = slot->dboid;
		my_worker = slot;
		my_database = &shared->databases[slot->database];
		before_shmem_exit(worker_detach, (Datum) 0);
	}
	LWLockRelease(shared->lock);
	if (OidIsValid(dboid))
		cqrs_shmem_worker_report("starting", false);
	return dboid;
}

/*
 * Say what is to become of the database when this worker exits. One that does
 * not say anything has failed.
 */
void
cqrs_shmem_worker_leave(CqrsDatabaseFate fate)
{
	my_fate = fate;
}

/* A pass has worked: there is nothing wrong with the database. */
void
cqrs_shmem_worker_works(void)
{
	if (pg_atomic_read_u32(&my_database->failures) != 0)
		pg_atomic_write_u32(&my_database->failures, 0);
}

void
cqrs_shmem_worker_report(const char *activity, bool idle)
{
	TimestampTz now = GetCurrentTimestamp();

	SpinLockAcquire(&my_worker->mutex);
	if (strcmp(my_worker->activity, activity) != 0)
	{
		strlcpy(my_worker->activity, activity, CQRS_ACTIVITY_LEN);
		my_worker->since = now;
	}
	my_worker->idle = idle;
	SpinLockRelease(&my_worker->mutex);
}

/* Has the launcher asked this worker to make room for another database? */
bool
cqrs_shmem_worker_told_to_stop(void)
{
	return my_worker->stop;
}

/* How many workers does this worker's database have? */
int
cqrs_shmem_worker_count(void)
{
	return pg_atomic_read_u32(&my_database->nworkers);
}

/* Is somebody waiting for a projection of this worker's database? */
bool
cqrs_shmem_worker_is_awaited(void)
{
	ConditionVariable *processed = &my_database->processed;
	bool		awaited;

	SpinLockAcquire(&processed->mutex);
	awaited = !proclist_is_empty(&processed->wakeup);
	SpinLockRelease(&processed->mutex);
	return awaited;
}

/* The state of publishing, to be read before the snapshot of a pass. */
uint64
cqrs_shmem_worker_look(void)
{
	uint64		published = pg_atomic_read_u64(&my_database->published);

	pg_atomic_write_u64(&my_database->seen, published);
	pg_memory_barrier();
	return published;
}

/*
 * List this worker as asleep. Returns false, not listed, if something was
 * published since it looked. A worker that finds no room sleeps unlisted.
 */
bool
cqrs_shmem_worker_sleep(uint64 seen)
{
	uint32		me = (uint32) cqrs_compat_my_proc_number() + 1;

	for (int i = 0; i < MAX_SLEEPERS && my_sleeper < 0; i++)
	{
		uint32		expected = 0;

		if (pg_atomic_compare_exchange_u32(&my_database->sleepers[i], &expected, me))
			my_sleeper = i;
	}
	pg_memory_barrier();
	if (pg_atomic_read_u64(&my_database->published) == seen)
		return true;
	cqrs_shmem_worker_awake();
	return false;
}

/* Unlist this worker, unless who woke it has done so. */
void
cqrs_shmem_worker_awake(void)
{
	uint32		me = (uint32) cqrs_compat_my_proc_number() + 1;

	if (my_sleeper >= 0)
		(void) pg_atomic_compare_exchange_u32(&my_database->sleepers[my_sleeper], &me, 0);
	my_sleeper = -1;
}

/* Ask for one more worker in this database. Safe in a signal handler. */
void
cqrs_shmem_worker_want_mate(void)
{
	pg_atomic_write_u32(&my_database->mate_wanted, 1);
	wake_launcher();
}

/* ---------------------------------------------------------- the launcher */

void
cqrs_shmem_launcher_attach(void)
{
	pg_atomic_write_u32(&shared->launcher, (uint32) cqrs_compat_my_proc_number() + 1);
	before_shmem_exit(launcher_detach, (Datum) 0);
}

/* See that a worker looks into the database. Returns false if there is no room. */
bool
cqrs_shmem_launcher_add_database(Oid dboid)
{
	DatabaseSlot *database;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	database = database_claim(dboid);
	LWLockRelease(shared->lock);
	return database != NULL;
}

/* The database was dropped. */
void
cqrs_shmem_launcher_forget_database(Oid dboid)
{
	DatabaseSlot *database;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	database = database_find(dboid);
	if (database != NULL && pg_atomic_read_u32(&database->nworkers) == 0)
		pg_atomic_write_u32(&database->dboid, InvalidOid);
	LWLockRelease(shared->lock);
}

/* Have a look at the databases that rest: COMMIT PREPARED tells nobody. */
void
cqrs_shmem_launcher_remind(void)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES; i++)
		shared->databases[i].resting = false;
	LWLockRelease(shared->lock);
}

/* Is there a database that was told to rest? */
bool
cqrs_shmem_launcher_has_resting(void)
{
	bool		resting = false;

	LWLockAcquire(shared->lock, LW_SHARED);
	for (int i = 0; i < MAX_DATABASES; i++)
		resting |= shared->databases[i].resting &&
			pg_atomic_read_u32(&shared->databases[i].dboid) != InvalidOid;
	LWLockRelease(shared->lock);
	return resting;
}

/* The databases that want a worker now. Returns their number. */
int
cqrs_shmem_launcher_demands(CqrsDemand *demands, int max)
{
	int			n = 0;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_DATABASES && n < max; i++)
	{
		DatabaseSlot *database = &shared->databases[i];
		uint32		nworkers = pg_atomic_read_u32(&database->nworkers);
		bool		mate;

		if (pg_atomic_read_u32(&database->dboid) == InvalidOid)
			continue;
		mate = pg_atomic_exchange_u32(&database->mate_wanted, 0) != 0 && nworkers > 0;
		for (int j = 0; j < MAX_SLEEPERS && mate; j++)
			mate = pg_atomic_read_u32(&database->sleepers[j]) == 0;
		if (!mate &&
			(nworkers > 0 ||
			 (database->resting && pg_atomic_read_u32(&database->wanted) == 0 &&
			  pg_atomic_read_u64(&database->published) == pg_atomic_read_u64(&database->seen))))
			continue;
		demands[n].dboid = pg_atomic_read_u32(&database->dboid);
		demands[n].nworkers = nworkers;
		demands[n].failures = pg_atomic_read_u32(&database->failures);
		demands[n].mate = mate;
		n++;
	}
	LWLockRelease(shared->lock);
	return n;
}

/* Reserve a worker slot for a database. Returns -1 if there is none. */
int
cqrs_shmem_launcher_reserve(Oid dboid)
{
	int			result = -1;
	DatabaseSlot *database;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	database = database_find(dboid);
	for (int i = 0; i < shared->nworkers && database != NULL && result < 0; i++)
	{
		WorkerSlot *worker = &shared->workers[i];

		if (worker->state != WORKER_FREE)
			continue;
		worker->state = WORKER_STARTING;
		worker->dboid = dboid;
		worker->database = database - shared->databases;
		worker->stop = false;
		worker->idle = false;
		worker->pid = 0;
		worker->procno = -1;
		worker->activity[0] = '\0';
		pg_atomic_fetch_add_u32(&database->nworkers, 1);
		pg_atomic_write_u32(&database->wanted, 0);
		database->resting = false;
		result = i;
	}
	LWLockRelease(shared->lock);
	return result;
}

/* The worker could not be started: undo the reservation. */
void
cqrs_shmem_launcher_release(int worker)
{
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (shared->workers[worker].state == WORKER_STARTING)
		worker_free(&shared->workers[worker]);
	LWLockRelease(shared->lock);
}

bool
cqrs_shmem_launcher_is_starting(int worker)
{
	bool		starting;

	LWLockAcquire(shared->lock, LW_SHARED);
	starting = shared->workers[worker].state == WORKER_STARTING;
	LWLockRelease(shared->lock);
	return starting;
}

/*
 * Ask a worker to make room for another database: the one that has been idle for
 * longest, or, if none is, the one that has had its turn for longest, provided
 * that was long enough to be of use. Returns false if there is none.
 */
bool
cqrs_shmem_launcher_evict(Oid for_dboid)
{
	WorkerSlot *victim = NULL;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nworkers; i++)
	{
		WorkerSlot *worker = &shared->workers[i];

		if (worker->state != WORKER_RUNNING || worker->dboid == for_dboid)
			continue;
		if (worker->stop)
		{
			/* somebody is leaving already */
			LWLockRelease(shared->lock);
			return true;
		}
		if (!worker->idle &&
			!TimestampDifferenceExceeds(worker->started, now, MIN_TURN))
			continue;
		if (victim == NULL || worker->idle > victim->idle ||
			(worker->idle == victim->idle &&
			 (worker->idle ? worker->since < victim->since :
			  worker->started < victim->started)))
			victim = worker;
	}
	if (victim != NULL)
	{
		victim->stop = true;
		SetLatch(&ProcGlobal->allProcs[victim->procno].procLatch);
	}
	LWLockRelease(shared->lock);
	return victim != NULL;
}

/* Ask workers beyond the number that is now allowed to stop. */
void
cqrs_shmem_launcher_shrink(int max_workers)
{
	int			n = 0;

	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < shared->nworkers; i++)
	{
		WorkerSlot *worker = &shared->workers[i];

		if (worker->state != WORKER_FREE && ++n > max_workers && !worker->stop)
		{
			worker->stop = true;
			if (worker->procno >= 0)
				SetLatch(&ProcGlobal->allProcs[worker->procno].procLatch);
		}
	}
	LWLockRelease(shared->lock);
}

int
cqrs_shmem_max_workers(void)
{
	return shared->nworkers;
}

int
cqrs_shmem_max_databases(void)
{
	return MAX_DATABASES;
}

/* What a worker does now. Returns false for a slot without a worker. */
bool
cqrs_shmem_worker_info(int worker, CqrsWorkerInfo *info)
{
	WorkerSlot *slot = &shared->workers[worker];
	bool		running;

	LWLockAcquire(shared->lock, LW_SHARED);
	running = slot->state == WORKER_RUNNING;
	if (running)
	{
		info->pid = slot->pid;
		info->dboid = slot->dboid;
		SpinLockAcquire(&slot->mutex);
		info->since = slot->since;
		memcpy(info->activity, slot->activity, CQRS_ACTIVITY_LEN);
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(shared->lock);
	return running;
}

/* --------------------------------------------------------------- helpers */

static Size
shmem_size(void)
{
	return add_size(offsetof(SharedState, workers),
					mul_size(max_worker_processes, sizeof(WorkerSlot)));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shmem_size());
	RequestNamedLWLockTranche(TRANCHE, 1);
}

static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("cqrs_views", shmem_size(), &found);
	if (!found)
	{
		memset(shared, 0, shmem_size());
		shared->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
		shared->nworkers = max_worker_processes;
		pg_atomic_init_u32(&shared->launcher, 0);
		for (int i = 0; i < MAX_DATABASES; i++)
		{
			DatabaseSlot *database = &shared->databases[i];

			pg_atomic_init_u32(&database->dboid, InvalidOid);
			pg_atomic_init_u64(&database->published, 0);
			pg_atomic_init_u64(&database->seen, 0);
			for (int j = 0; j < MAX_SLEEPERS; j++)
				pg_atomic_init_u32(&database->sleepers[j], 0);
			pg_atomic_init_u32(&database->nworkers, 0);
			pg_atomic_init_u32(&database->wanted, 0);
			pg_atomic_init_u32(&database->mate_wanted, 0);
			pg_atomic_init_u32(&database->failures, 0);
			ConditionVariableInit(&database->processed);
		}
		for (int i = 0; i < shared->nworkers; i++)
			SpinLockInit(&shared->workers[i].mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* The slot of a database, or NULL. Needs the lock only to be sure of NULL. */
static DatabaseSlot *
database_find(Oid dboid)
{
	for (int i = 0; i < MAX_DATABASES; i++)
		if (pg_atomic_read_u32(&shared->databases[i].dboid) == dboid)
			return &shared->databases[i];
	return NULL;
}

/* The same, taking a slot where it has none. The caller holds the lock. */
static DatabaseSlot *
database_claim(Oid dboid)
{
	DatabaseSlot *database = database_find(dboid);

	if (database == NULL && (database = database_find(InvalidOid)) != NULL)
	{
		database->resting = false;
		pg_atomic_write_u32(&database->wanted, 1);
		pg_atomic_write_u32(&database->mate_wanted, 0);
		pg_atomic_write_u32(&database->failures, 0);
		pg_atomic_write_u32(&database->dboid, dboid);
	}
	return database;
}

/*
 * The slot of this process's database. A database that has none yet is one that
 * the launcher has not heard of: it is told. NULL if there is no room.
 */
static DatabaseSlot *
database_mine(void)
{
	if (my_database != NULL && pg_atomic_read_u32(&my_database->dboid) == MyDatabaseId)
		return my_database;

	my_database = database_find(MyDatabaseId);
	if (my_database == NULL)
	{
		LWLockAcquire(shared->lock, LW_EXCLUSIVE);
		my_database = database_claim(MyDatabaseId);
		LWLockRelease(shared->lock);
		wake_launcher();
	}
	return my_database;
}

static void
wake_process(uint32 procno_plus_one)
{
	SetLatch(&ProcGlobal->allProcs[procno_plus_one - 1].procLatch);
}

static void
wake_launcher(void)
{
	uint32		launcher = pg_atomic_read_u32(&shared->launcher);

	if (launcher != 0)
		wake_process(launcher);
}

static void
worker_detach(int code, Datum arg)
{
	cqrs_shmem_worker_awake();
	LWLockAcquire(shared->lock, LW_EXCLUSIVE);
	if (my_fate == CQRS_DATABASE_FAILED)
		pg_atomic_fetch_add_u32(&my_database->failures, 1);
	if (pg_atomic_read_u32(&my_database->nworkers) == 1)
	{
		my_database->resting = my_fate == CQRS_DATABASE_REST;

		/* CREATE EXTENSION may have committed since this worker looked */
		if (my_fate == CQRS_DATABASE_FORGET &&
			pg_atomic_read_u64(&my_database->published) ==
			pg_atomic_read_u64(&my_database->seen))
			pg_atomic_write_u32(&my_database->dboid, InvalidOid);
	}
	worker_free(my_worker);
	LWLockRelease(shared->lock);
	wake_launcher();
}

static void
launcher_detach(int code, Datum arg)
{
	pg_atomic_write_u32(&shared->launcher, 0);
}

/* The caller holds the lock. */
static void
worker_free(WorkerSlot *worker)
{
	pg_atomic_fetch_sub_u32(&shared->databases[worker->database].nworkers, 1);
	worker->state = WORKER_FREE;
	worker->dboid = InvalidOid;
	worker->pid = 0;
	worker->procno = -1;
}
