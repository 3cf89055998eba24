/*
 * shmem.h
 *		Shared state: databases, worker slots, latches, counters.
 *
 * Without shared_preload_libraries there is none: cqrs_shmem_available says so,
 * and the publishers' and waiters' functions do nothing then.
 */
#ifndef CQRS_SHMEM_H
#define CQRS_SHMEM_H

#include "datatype/timestamp.h"

#define CQRS_ACTIVITY_LEN 160

extern void cqrs_shmem_init(void);
extern bool cqrs_shmem_available(void);

/* publishers: after commit */
extern void cqrs_shmem_wake(void);

/* those who wait for a projection of this database */
extern void cqrs_shmem_announce(void);
extern void cqrs_shmem_wait_begin(void);
extern void cqrs_shmem_wait(long timeout);
extern void cqrs_shmem_wait_end(void);

/* a worker's side */
typedef enum CqrsDatabaseFate
{
	CQRS_DATABASE_KEEP,			/* wants a worker again */
	CQRS_DATABASE_REST,			/* wants one when something is published */
	CQRS_DATABASE_FAILED,		/* wants one again, after a while */
	CQRS_DATABASE_FORGET		/* has no extension */
} CqrsDatabaseFate;

extern Oid	cqrs_shmem_worker_attach(int worker);
extern void cqrs_shmem_worker_leave(CqrsDatabaseFate fate);
extern void cqrs_shmem_worker_works(void);
extern void cqrs_shmem_worker_report(const char *activity, bool idle);
extern bool cqrs_shmem_worker_told_to_stop(void);
extern int	cqrs_shmem_worker_count(void);
extern bool cqrs_shmem_worker_is_awaited(void);
extern uint64 cqrs_shmem_worker_look(void);
extern bool cqrs_shmem_worker_sleep(uint64 seen);
extern void cqrs_shmem_worker_awake(void);
extern void cqrs_shmem_worker_want_mate(void);

/* the launcher's side */
typedef struct CqrsDemand
{
	Oid			dboid;
	int			nworkers;
	int			failures;		/* of its workers, without a pass that worked */
	bool		mate;			/* one more is wanted */
} CqrsDemand;

extern void cqrs_shmem_launcher_attach(void);
extern bool cqrs_shmem_launcher_add_database(Oid dboid);
extern void cqrs_shmem_launcher_forget_database(Oid dboid);
extern void cqrs_shmem_launcher_remind(void);
extern bool cqrs_shmem_launcher_has_resting(void);
extern int	cqrs_shmem_launcher_demands(CqrsDemand *demands, int max);
extern int	cqrs_shmem_launcher_reserve(Oid dboid);
extern void cqrs_shmem_launcher_release(int worker);
extern bool cqrs_shmem_launcher_is_starting(int worker);
extern bool cqrs_shmem_launcher_evict(Oid for_dboid);
extern void cqrs_shmem_launcher_shrink(int max_workers);
extern int	cqrs_shmem_max_workers(void);
extern int	cqrs_shmem_max_databases(void);

/* to look at */
typedef struct CqrsWorkerInfo
{
	int			pid;
	Oid			dboid;
	TimestampTz since;
	char		activity[CQRS_ACTIVITY_LEN];
} CqrsWorkerInfo;

extern bool cqrs_shmem_worker_info(int worker, CqrsWorkerInfo *info);

#endif							/* CQRS_SHMEM_H */
