/*
 * define.h
 *		Register a new projection: claim and guard its tables, make its first
 *		checkpoint, let it become inline.
 */
#ifndef CQRS_DEFINE_H
#define CQRS_DEFINE_H

#include "registry.h"

extern void cqrs_define_refuse_existing(const char *name);
extern void cqrs_define_claim(const Oid *relids, int nrelids, Oid owner);
extern void cqrs_define_projection(CqrsProjectionColumns *columns, const Oid *tables,
								   int ntables, Datum done, int64 last);
extern void cqrs_define_become_inline(int32 id);

#endif							/* CQRS_DEFINE_H */
