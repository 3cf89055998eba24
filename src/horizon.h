/*
 * horizon.h
 *		Up to which position everything is decided.
 */
#ifndef CQRS_HORIZON_H
#define CQRS_HORIZON_H

extern int64 cqrs_horizon_settled(void);

#endif							/* CQRS_HORIZON_H */
