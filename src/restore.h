/*
 * restore.h
 *		What is to be awaited, and put in order, after a dump was restored.
 */
#ifndef CQRS_RESTORE_H
#define CQRS_RESTORE_H

#include "projection.h"

extern bool cqrs_restore_is_complete(const CqrsProjection *projection, bool quietly);
extern void cqrs_restore_complete(const CqrsProjection *projection);
extern void cqrs_restore_none(void);

#endif							/* CQRS_RESTORE_H */
