/*
 * launcher.h
 *		Start workers for the databases that need them.
 */
#ifndef CQRS_LAUNCHER_H
#define CQRS_LAUNCHER_H

#include "fmgr.h"

extern void cqrs_launcher_register(void);
extern PGDLLEXPORT void cqrs_launcher_main(Datum arg);

#endif							/* CQRS_LAUNCHER_H */
