/*
 * shmem_launcher.h
 *		The launcher's side of the shared state.
 */
#ifndef CQRS_SHMEM_LAUNCHER_H
#define CQRS_SHMEM_LAUNCHER_H

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

#endif							/* CQRS_SHMEM_LAUNCHER_H */
