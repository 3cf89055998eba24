/*
 * worker.h
 *		A background worker of one database.
 */
#ifndef CQRS_WORKER_H
#define CQRS_WORKER_H

#include "fmgr.h"

/* the sleep of a worker, or of a launcher, that waits for nothing; ms */
#define CQRS_WORKER_POLL 1000

extern bool cqrs_worker_database_is_wanted(Oid dboid);
extern PGDLLEXPORT void cqrs_worker_main(Datum arg);

#endif							/* CQRS_WORKER_H */
