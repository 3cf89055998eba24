/*
 * mode.h
 *		Becoming inline, and leaving it.
 */
#ifndef CQRS_MODE_H
#define CQRS_MODE_H

#include "catchup.h"
#include "projection.h"

extern bool cqrs_mode_enter_inline(int32 projection, CqrsErrorPolicy policy, ErrorData **error);
extern void cqrs_mode_leave_inline(CqrsProjection *projection, bool lock_read_tables);
extern void cqrs_mode_forget_inline(int32 projection);
extern void cqrs_mode_require_read_committed(const char *what);
extern void cqrs_mode_require_clean_transaction(const char *what);

#endif							/* CQRS_MODE_H */
