/*
 * shared.c
 *		The struct that processes share: databases, worker slots, latches, counters.
 *
 * Made at server start; it stays as it is until the server ends. Only shmem.c and
 * shmem_launcher.c know it, and all others go through their functions.
 *
 * Locks: the LWLock guards the assignment of slots to databases and workers;
 * each worker slot's spinlock guards what it reports. Atomics need neither.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "shared.h"

#define TRANCHE "cqrs_views"

CqrsSharedState *cqrs_shared_state = NULL;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static Size shared_size(void);
static void shared_request(void);
static void shared_startup(void);

/* Called while shared_preload_libraries are loaded. */
void
cqrs_shared_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shared_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shared_startup;
}

/* The slot of a database, or NULL. Needs the lock only to be sure of NULL. */
CqrsDatabaseSlot *
cqrs_shared_find_database(Oid dboid)
{
	for (int i = 0; i < CQRS_MAX_DATABASES; i++)
		if (pg_atomic_read_u32(&cqrs_shared_state->databases[i].dboid) == dboid)
			return &cqrs_shared_state->databases[i];
	return NULL;
}

/* The same, taking a slot where it has none. The caller holds the lock. */
CqrsDatabaseSlot *
cqrs_shared_claim_database(Oid dboid)
{
	CqrsDatabaseSlot *database = cqrs_shared_find_database(dboid);

	if (database == NULL && (database = cqrs_shared_find_database(InvalidOid)) != NULL)
	{
		database->resting = false;
		pg_atomic_write_u32(&database->wanted, 1);
		pg_atomic_write_u32(&database->mate_wanted, 0);
		pg_atomic_write_u32(&database->failures, 0);
		pg_atomic_write_u32(&database->dboid, dboid);
	}
	return database;
}

/* The caller holds the lock. */
void
cqrs_shared_free_worker(CqrsWorkerSlot *worker)
{
	pg_atomic_fetch_sub_u32(&cqrs_shared_state->databases[worker->database].nworkers, 1);
	worker->state = CQRS_WORKER_FREE;
	worker->dboid = InvalidOid;
	worker->pid = 0;
	worker->procno = -1;
}

void
cqrs_shared_wake_process(uint32 procno_plus_one)
{
	SetLatch(&ProcGlobal->allProcs[procno_plus_one - 1].procLatch);
}

void
cqrs_shared_wake_launcher(void)
{
	uint32		launcher = pg_atomic_read_u32(&cqrs_shared_state->launcher);

	if (launcher != 0)
		cqrs_shared_wake_process(launcher);
}

static Size
shared_size(void)
{
	return add_size(offsetof(CqrsSharedState, workers),
					mul_size(max_worker_processes, sizeof(CqrsWorkerSlot)));
}

static void
shared_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche(TRANCHE, 1);
}

static void
shared_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	cqrs_shared_state = ShmemInitStruct("cqrs_views", shared_size(), &found);
	if (!found)
	{
		memset(cqrs_shared_state, 0, shared_size());
		cqrs_shared_state->lock = &GetNamedLWLockTranche(TRANCHE)->lock;
		cqrs_shared_state->nworkers = max_worker_processes;
		pg_atomic_init_u32(&cqrs_shared_state->launcher, 0);
		for (int i = 0; i < CQRS_MAX_DATABASES; i++)
		{
			CqrsDatabaseSlot *database = &cqrs_shared_state->databases[i];

			pg_atomic_init_u32(&database->dboid, InvalidOid);
			pg_atomic_init_u64(&database->published, 0);
			pg_atomic_init_u64(&database->seen, 0);
			for (int j = 0; j < CQRS_MAX_SLEEPERS; j++)
				pg_atomic_init_u32(&database->sleepers[j], 0);
			pg_atomic_init_u32(&database->nworkers, 0);
			pg_atomic_init_u32(&database->wanted, 0);
			pg_atomic_init_u32(&database->mate_wanted, 0);
			pg_atomic_init_u32(&database->failures, 0);
			ConditionVariableInit(&database->processed);
		}
		for (int i = 0; i < cqrs_shared_state->nworkers; i++)
			SpinLockInit(&cqrs_shared_state->workers[i].mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}
