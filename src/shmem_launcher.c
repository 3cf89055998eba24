/*
 * shmem_launcher.c
 *		The launcher's side of the shared state: which databases want a worker, and
 *		who gets or gives up a slot.
 *
 * The struct and its lock rules are in shared.c.
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "shared.h"
#include "shmem_launcher.h"

/* where databases share workers, a busy one keeps its worker for so long; ms */
#define MIN_TURN 2000

static void launcher_detach(int code, Datum arg);

void
cqrs_shmem_launcher_attach(void)
{
	pg_atomic_write_u32(&cqrs_shared_state->launcher, (uint32) cqrs_compat_my_proc_number() + 1);
	before_shmem_exit(launcher_detach, (Datum) 0);
}

/* See that a worker looks into the database. Returns false if there is no room. */
bool
cqrs_shmem_launcher_add_database(Oid dboid)
{
	CqrsDatabaseSlot *database;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	database = cqrs_shared_claim_database(dboid);
	LWLockRelease(cqrs_shared_state->lock);
	return database != NULL;
}

/* The database was dropped. */
void
cqrs_shmem_launcher_forget_database(Oid dboid)
{
	CqrsDatabaseSlot *database;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	database = cqrs_shared_find_database(dboid);
	if (database != NULL && pg_atomic_read_u32(&database->nworkers) == 0)
		pg_atomic_write_u32(&database->dboid, InvalidOid);
	LWLockRelease(cqrs_shared_state->lock);
}

/* Have a look at the databases that rest: COMMIT PREPARED tells nobody. */
void
cqrs_shmem_launcher_remind(void)
{
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_DATABASES; i++)
		cqrs_shared_state->databases[i].resting = false;
	LWLockRelease(cqrs_shared_state->lock);
}

/* Is there a database that was told to rest? */
bool
cqrs_shmem_launcher_has_resting(void)
{
	bool		resting = false;

	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	for (int i = 0; i < CQRS_MAX_DATABASES; i++)
		resting |= cqrs_shared_state->databases[i].resting &&
			pg_atomic_read_u32(&cqrs_shared_state->databases[i].dboid) != InvalidOid;
	LWLockRelease(cqrs_shared_state->lock);
	return resting;
}

/* The databases that want a worker now. Returns their number. */
int
cqrs_shmem_launcher_demands(CqrsDemand *demands, int max)
{
	int			n = 0;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < CQRS_MAX_DATABASES && n < max; i++)
	{
		CqrsDatabaseSlot *database = &cqrs_shared_state->databases[i];
		uint32		nworkers = pg_atomic_read_u32(&database->nworkers);
		bool		mate;

		if (pg_atomic_read_u32(&database->dboid) == InvalidOid)
			continue;
		mate = pg_atomic_exchange_u32(&database->mate_wanted, 0) != 0 && nworkers > 0;
		for (int j = 0; j < CQRS_MAX_SLEEPERS && mate; j++)
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
	LWLockRelease(cqrs_shared_state->lock);
	return n;
}

/* Reserve a worker slot for a database. Returns -1 if there is none. */
int
cqrs_shmem_launcher_reserve(Oid dboid)
{
	int			result = -1;
	CqrsDatabaseSlot *database;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	database = cqrs_shared_find_database(dboid);
	for (int i = 0; i < cqrs_shared_state->nworkers && database != NULL && result < 0; i++)
	{
		CqrsWorkerSlot *worker = &cqrs_shared_state->workers[i];

		if (worker->state != CQRS_WORKER_FREE)
			continue;
		worker->state = CQRS_WORKER_STARTING;
		worker->dboid = dboid;
		worker->database = database - cqrs_shared_state->databases;
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
	LWLockRelease(cqrs_shared_state->lock);
	return result;
}

/* The worker could not be started: undo the reservation. */
void
cqrs_shmem_launcher_release(int worker)
{
	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	if (cqrs_shared_state->workers[worker].state == CQRS_WORKER_STARTING)
		cqrs_shared_free_worker(&cqrs_shared_state->workers[worker]);
	LWLockRelease(cqrs_shared_state->lock);
}

bool
cqrs_shmem_launcher_is_starting(int worker)
{
	bool		starting;

	LWLockAcquire(cqrs_shared_state->lock, LW_SHARED);
	starting = cqrs_shared_state->workers[worker].state == CQRS_WORKER_STARTING;
	LWLockRelease(cqrs_shared_state->lock);
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
	CqrsWorkerSlot *victim = NULL;
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cqrs_shared_state->nworkers; i++)
	{
		CqrsWorkerSlot *worker = &cqrs_shared_state->workers[i];

		if (worker->state != CQRS_WORKER_RUNNING || worker->dboid == for_dboid)
			continue;
		if (worker->stop)
		{
			/* somebody is leaving already */
			LWLockRelease(cqrs_shared_state->lock);
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
		cqrs_shared_wake_process(victim->procno + 1);
	}
	LWLockRelease(cqrs_shared_state->lock);
	return victim != NULL;
}

/* Ask workers beyond the number that is now allowed to stop. */
void
cqrs_shmem_launcher_shrink(int max_workers)
{
	int			n = 0;

	LWLockAcquire(cqrs_shared_state->lock, LW_EXCLUSIVE);
	for (int i = 0; i < cqrs_shared_state->nworkers; i++)
	{
		CqrsWorkerSlot *worker = &cqrs_shared_state->workers[i];

		if (worker->state != CQRS_WORKER_FREE && ++n > max_workers && !worker->stop)
		{
			worker->stop = true;
			if (worker->procno >= 0)
				cqrs_shared_wake_process(worker->procno + 1);
		}
	}
	LWLockRelease(cqrs_shared_state->lock);
}

static void
launcher_detach(int code, Datum arg)
{
	pg_atomic_write_u32(&cqrs_shared_state->launcher, 0);
}
