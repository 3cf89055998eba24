/*
 * shmem.h
 *		The state that processes share: the publishers', waiters' and workers' side.
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

/* to look at */
typedef struct CqrsWorkerInfo
{
	int			pid;
	Oid			dboid;
	TimestampTz since;
	char		activity[CQRS_ACTIVITY_LEN];
} CqrsWorkerInfo;

extern int	cqrs_shmem_max_workers(void);
extern int	cqrs_shmem_max_databases(void);
extern bool cqrs_shmem_worker_info(int worker, CqrsWorkerInfo *info);

#endif							/* CQRS_SHMEM_H */
