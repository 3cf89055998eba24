/*
 * inline_trigger.h
 *		Apply inline projections inside the publisher's transaction.
 */
#ifndef CQRS_INLINE_TRIGGER_H
#define CQRS_INLINE_TRIGGER_H

#include "fmgr.h"

extern PGDLLEXPORT Datum cqrs_inline_trigger_apply(PG_FUNCTION_ARGS);

#endif							/* CQRS_INLINE_TRIGGER_H */
