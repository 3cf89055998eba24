/*
 * notify.h
 *		Tell listeners of a projection: channel, payload, size limit.
 */
#ifndef CQRS_NOTIFY_H
#define CQRS_NOTIFY_H

#include "projection.h"

extern void cqrs_notify_send(const CqrsProjection *projection, int64 position,
							 int nevents,
							 text **keys, int nkeys);

#endif							/* CQRS_NOTIFY_H */
