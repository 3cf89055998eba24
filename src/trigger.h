/*
 * trigger.h
 *		When the extension's triggers fire.
 */
#ifndef CQRS_TRIGGER_H
#define CQRS_TRIGGER_H

extern char cqrs_trigger_fires_when(Oid relid, const char *name);
extern void cqrs_trigger_set_fires_when(Oid relid, const char *name, char fires_when);

#endif							/* CQRS_TRIGGER_H */
