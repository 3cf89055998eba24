/*
 * registry.h
 *		The table cqrs.registry, written: register, change and forget
 *		projections; record their errors.
 */
#ifndef CQRS_REGISTRY_H
#define CQRS_REGISTRY_H

#include "projection.h"

/* what create and alter write; an array Datum of 0 is NULL */
typedef struct CqrsProjectionColumns
{
	Datum		name;
	Oid			owner;
	const char *kind;
	const char *handler;		/* cqrs_handler_signature; NULL for a view */
	const char *query;			/* of a view */
	Datum		read_tables;	/* regclass[] */
	Oid			state_table;	/* InvalidOid = none */
	CqrsMode	mode;
	Datum		event_types;	/* text[] */
	Datum		aggregate_types;
	Datum		sources;
	const char *key;
	const char *start_at;
	const char *on_error;
	CqrsNotify	notify;
	int			batch_size;		/* 0 = NULL */
	CqrsState	state;
} CqrsProjectionColumns;

extern int32 cqrs_registry_insert(const CqrsProjectionColumns *columns);
extern void cqrs_registry_update(int32 id, const CqrsProjectionColumns *columns);
extern void cqrs_registry_delete(int32 id);
extern void cqrs_registry_set_owner(int32 id, Oid owner);
extern void cqrs_registry_set_handler(int32 id, const char *handler);
extern void cqrs_registry_set_setting(int32 id, const char *name, const char *value);
extern void cqrs_registry_set_state(int32 id, CqrsState state);
extern void cqrs_registry_set_rebuilding(int32 id);
extern void cqrs_registry_set_parked(int32 id, bool parked, TimestampTz retry_at,
								 const char *error);
extern void cqrs_registry_record_stop(int32 id, const char *error);
extern void cqrs_registry_record_retry(int32 id, const char *error, TimestampTz next_retry_at);
extern void cqrs_registry_record_recovery(int32 id);
extern bool cqrs_registry_was_inline(int32 id, int64 *files);
extern bool cqrs_registry_is_watched(void);
extern void cqrs_registry_watch(void);

#endif							/* CQRS_REGISTRY_H */
