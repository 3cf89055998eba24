/*
 * reassign.h
 *		Have projections follow REASSIGN OWNED.
 */
#ifndef CQRS_REASSIGN_H
#define CQRS_REASSIGN_H

extern void cqrs_reassign_init(void);

#endif							/* CQRS_REASSIGN_H */
