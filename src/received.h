/*
 * received.h
 *		The table cqrs.received: which events of other databases were taken.
 */
#ifndef CQRS_RECEIVED_H
#define CQRS_RECEIVED_H

#include "utils/uuid.h"

extern bool cqrs_received_claim(const char *source, const pg_uuid_t *event_id, int64 position);
extern void cqrs_received_settle(const char *source, const pg_uuid_t *event_id, int64 position);
extern void cqrs_received_forget(const char *source, const pg_uuid_t *event_id);

#endif							/* CQRS_RECEIVED_H */
