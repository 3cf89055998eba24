/*
 * trigger.h
 *		The triggers that we put on users' tables, and when ours fire.
 */
#ifndef CQRS_TRIGGER_H
#define CQRS_TRIGGER_H

#include "nodes/parsenodes.h"

extern void cqrs_trigger_create(CreateTrigStmt *stmt, Oid relid, char fires_when);
extern void cqrs_trigger_drop(Oid relid, const char *name);
extern char cqrs_trigger_fires_when(Oid relid, const char *name);
extern void cqrs_trigger_set_fires_when(Oid relid, const char *name, char fires_when);

#endif							/* CQRS_TRIGGER_H */
