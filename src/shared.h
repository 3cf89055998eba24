/*
 * shared.h
 *		The struct that processes share, private to shmem.c and shmem_launcher.c.
 */
#ifndef CQRS_SHARED_H
#define CQRS_SHARED_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#define CQRS_MAX_DATABASES 512
#define CQRS_MAX_SLEEPERS 8
#define CQRS_MAX_ACTIVITY 160

/* A database with projections, or one not yet looked into. */
typedef struct CqrsDatabaseSlot
{
	pg_atomic_uint32 dboid;		/* 0 = free; set under the lock */
	pg_atomic_uint64 published; /* commits that published */
	pg_atomic_uint64 seen;		/* the counter, before the latest pass */
	pg_atomic_uint32 sleepers[CQRS_MAX_SLEEPERS];	/* process numbers + 1; 0 = none */
	pg_atomic_uint32 nworkers;	/* running or starting; changed under the lock */
	pg_atomic_uint32 wanted;	/* the launcher was told that it has none */
	pg_atomic_uint32 mate_wanted;	/* its workers have been busy for long */
	pg_atomic_uint32 failures;	/* of its workers, since a pass has worked */
	bool		resting;		/* needs none until something is published (lock) */
	ConditionVariable processed;	/* broadcast after each commit of a batch */
} CqrsDatabaseSlot;

typedef enum CqrsWorkerState
{
	CQRS_WORKER_FREE,
	CQRS_WORKER_STARTING,
	CQRS_WORKER_RUNNING
} CqrsWorkerState;

/* A background worker. */
typedef struct CqrsWorkerSlot
{
	CqrsWorkerState state;		/* lock */
	Oid			dboid;			/* lock */
	int			database;		/* index of its CqrsDatabaseSlot; lock */
	bool		stop;			/* told to make room; lock */
	bool		idle;			/* sleeping; spinlock */
	int			procno;			/* lock */
	int			pid;			/* lock */
	TimestampTz started;		/* lock */
	slock_t		mutex;
	TimestampTz since;			/* spinlock */
	char		activity[CQRS_MAX_ACTIVITY];	/* spinlock */
} CqrsWorkerSlot;

typedef struct CqrsSharedState
{
	LWLock	   *lock;
	pg_atomic_uint32 launcher;	/* process number + 1; 0 = none */
	int			nworkers;		/* length of workers; constant */
	CqrsDatabaseSlot databases[CQRS_MAX_DATABASES];
	CqrsWorkerSlot workers[FLEXIBLE_ARRAY_MEMBER];
} CqrsSharedState;

/* NULL without shared_preload_libraries */
extern CqrsSharedState *cqrs_shared_state;

extern void cqrs_shared_init(void);
extern CqrsDatabaseSlot *cqrs_shared_find_database(Oid dboid);
extern CqrsDatabaseSlot *cqrs_shared_claim_database(Oid dboid);
extern void cqrs_shared_free_worker(CqrsWorkerSlot *worker);
extern void cqrs_shared_wake_process(uint32 procno_plus_one);
extern void cqrs_shared_wake_launcher(void);

#endif							/* CQRS_SHARED_H */
