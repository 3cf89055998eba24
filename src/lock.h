/*
 * lock.h
 *		The locks of an inline projection; locks that are waited for briefly.
 */
#ifndef CQRS_LOCK_H
#define CQRS_LOCK_H

/* takes locks; throws ERRCODE_LOCK_NOT_AVAILABLE where they are not to be had */
typedef void (*CqrsLockFn) (void *arg);

extern bool cqrs_lock_briefly(CqrsLockFn lock_fn, void *arg);
extern void cqrs_lock_keys(int32 projection, const uint32 *hashes, int nhashes, bool many);
extern bool cqrs_lock_gate_held(int32 projection);
extern void cqrs_lock_gate(int32 projection);
extern bool cqrs_lock_gate_briefly(int32 projection);

#endif							/* CQRS_LOCK_H */
