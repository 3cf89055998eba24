/*
 * shmem.c
 *		What publishers, waiters and workers do with the shared state: waking.
 *
 * A publisher's commit adds one to its database's counter and then looks for a
 * sleeping worker; a worker reads the counter before it takes a snapshot, and,
 * having processed what that showed, first lists itself as a sleeper and then
 * reads the counter again. Whichever comes first, one of the two notices. Listing
 * and unlisting are atomic exchanges, so a sleeper is woken once. While the
 * workers are awake, publishing costs one atomic addition.
 *
 * The struct and its lock rules are in shared.c.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/proclist.h"
#include "utils/timestamp.h"
#include "utils/wait_event.h"

#include "compat.h"
#include "outbox.h"
#include "shared.h"
#include "shmem.h"

/* this process */
static CqrsDatabaseSlot *my_database = NULL;
static CqrsWorkerSlot *my_worker = NULL;
static int	my_sleeper = -1;
static CqrsDatabaseFate my_fate = CQRS_DATABASE_FAILED;

static CqrsDatabaseSlot *database_mine(void);
static void worker_detach(int code, Datum arg);

/* Called from _PG_init while shared_preload_libraries are loaded. */
void
cqrs_shmem_init(void)
{
	cqrs_shared_init();
	cqrs_outbox_set_waker(cqrs_shmem_wake);
}

bool
cqrs_shmem_available(void)
{
	return cqrs_shared_state != NULL;
}

/* ------------------------------------------------- publishers and waiters */

/*
 * Something was published in this database and is visible: see that a worker
 * looks. Called after commit; does not fail.
 */
void
cqrs_shmem_wake(void)
{
	CqrsDatabaseSlot *database;

	if (cqrs_shared_state == NULL || (database = database_mine()) == NULL)
		return;

	/* a full barrier: the counter before the sleepers */
	pg_atomic_fetch_add_u64(&database->published, 1);
	for (int i = 0; i < CQRS_MAX_SLEEPERS; i++)
	{
		uint32		sleeper = pg_atomic_read_u32(&database->sleepers[i]);

		if (sleeper != 0 &&
			(sleeper = pg_atomic_exchange_u32(&database->sleepers[i], 0)) != 0)
		{
			cqrs_shared_wake_process(sleeper);
			return;
		}
	}
	if (pg_atomic_read_u32(&database->nworkers) == 0 &&
		pg_atomic_read_u32(&database->wanted) == 0 &&
		pg_atomic_exchange_u32(&database->wanted, 1) == 0)
		cqrs_shared_wake_launcher();
}

/* A batch was committed in this database: wake those who wait for it. */
void
cqrs_shmem_announce(void)
{
	if (cqrs_shared_state != NULL && database_mine() != NULL)
		ConditionVariableBroadcast(&my_database->processed);
}

/* From here on, announcements end the next wait. */
void
cqrs_shmem_wait_begin(void)
{
	if (cqrs_shared_state != NULL && database_mine() != NULL)
		ConditionVariablePrepareToSleep(&my_database->processed);
}

/* Wait for an announcement, for timeout ms at most. */
void
cqrs_shmem_wait(long timeout)
{
	if (cqrs_shared_state != NULL && database_mine() != NULL)
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
	CqrsWorkerSlot *slot = &cqrs_shared_state->workers[worker];
	Oid			dboid = InvalidOid;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	if (slot->state == CQRS_WORKER_STARTING)
	{
		slot->state = CQRS_WORKER_RUNNING;
		slot->pid = MyProcPid;
		slot->started = GetCurrentTimestamp();
		slot->procno = cqrs_compat_my_proc_number();
		dboid = slot->dboid;
		my_worker = slot;
		my_database = &cqrs_shared_state->databases[slot->database];
		before_shmem_exit(worker_detach, (Datum) 0);
	}
	LWLockRelease(cqrs_shared_state->lock);
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
		strlcpy(my_worker->activity, activity, sizeof(my_worker->activity));
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

	for (int i = 0; i < CQRS_MAX_SLEEPERS && my_sleeper < 0; i++)
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
	cqrs_shared_wake_launcher();
}

/* ------------------------------------------------------------ to look at */

int
cqrs_shmem_max_workers(void)
{
	return cqrs_shared_state->nworkers;
}

int
cqrs_shmem_max_databases(void)
{
	return CQRS_MAX_DATABASES;
}

/* What a worker does now. Returns false for a slot without a worker. */
bool
cqrs_shmem_worker_info(int worker, CqrsWorkerInfo *info)
{
	CqrsWorkerSlot *slot = &cqrs_shared_state->workers[worker];
	bool		running;

	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	running = slot->state == CQRS_WORKER_RUNNING;
	if (running)
	{
		info->pid = slot->pid;
		info->dboid = slot->dboid;
		SpinLockAcquire(&slot->mutex);
		info->since = slot->since;
		StaticAssertStmt(sizeof(info->activity) == sizeof(slot->activity), "of the same length");
		memcpy(info->activity, slot->activity, sizeof(info->activity));
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(cqrs_shared_state->lock);
	return running;
}

/* --------------------------------------------------------------- helpers */

/*
 * The slot of this process's database. A database that has none yet is one that
 * the launcher has not heard of: it is told. NULL if there is no room.
 */
static CqrsDatabaseSlot *
database_mine(void)
{
	if (my_database != NULL && pg_atomic_read_u32(&my_database->dboid) == MyDatabaseId)
		return my_database;

	my_database = cqrs_shared_find_database(MyDatabaseId);
	if (my_database == NULL)
	{
		LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
		my_database = cqrs_shared_claim_database(MyDatabaseId);
		LWLockRelease(cqrs_shared_state->lock);
		cqrs_shared_wake_launcher();
	}
	return my_database;
}

static void
worker_detach(int code, Datum arg)
{
	cqrs_shmem_worker_awake();
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
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
	cqrs_shared_free_worker(my_worker);
	LWLockRelease(cqrs_shared_state->lock);
	cqrs_shared_wake_launcher();
}
