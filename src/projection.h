/*
 * projection.h
 *		The table cqrs.registry: registered projections, their definition and
 *		state.
 */
#ifndef CQRS_PROJECTION_H
#define CQRS_PROJECTION_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/uuid.h"

#include "event.h"
#include "settings.h"

typedef enum CqrsMode
{
	CQRS_MODE_ASYNC,
	CQRS_MODE_INLINE
} CqrsMode;

/*
 *	running -> paused, stopped, rebuilding, switching
 *	paused, stopped -> running, switching (resume), rebuilding (stopped only)
 *	rebuilding -> running, switching (at its target), stopped, paused
 *	switching (catching up to become inline) -> running, paused, stopped
 */
typedef enum CqrsState
{
	CQRS_STATE_RUNNING,
	CQRS_STATE_PAUSED,
	CQRS_STATE_STOPPED,
	CQRS_STATE_REBUILDING,
	CQRS_STATE_SWITCHING
} CqrsState;

typedef enum CqrsNotify
{
	CQRS_NOTIFY_KEYS,
	CQRS_NOTIFY_BATCH,
	CQRS_NOTIFY_NONE
} CqrsNotify;

/* an array of text, or everything */
typedef struct CqrsFilter
{
	bool		all;
	int			nvalues;
	text	  **values;
	Datum		array;			/* the same as text[] */
} CqrsFilter;

/*
 * A row of cqrs.registry. Those that the functions below return are the cache's:
 * read-only, and valid until the end of the current top-level transaction, even
 * if the projection changes meanwhile. The key is parsed on first
 * use, and again when a function or type of it may have changed.
 */
typedef struct CqrsProjection
{
	int32		id;
	NameData	name;
	Oid			owner;
	char	   *kind;
	char	   *handler;		/* its signature, with schemas; NULL for a view */
	Oid			handler_oid;	/* resolved and checked by handler.c, */
	uint64		handler_checked;	/* at this count of functions' changes */
	uint64		rights_checked;	/* by apply.c, at cqrs_catalog_rights_changes */
	char	   *query;			/* of a view; NULL = it has a handler */
	Oid		   *tables;			/* that it writes to: its read tables, then */
	int			ntables;		/* the state table if it has one */
	int			nread_tables;
	Oid			state_table;	/* InvalidOid = none */
	CqrsMode	mode;
	CqrsFilter	event_types;
	CqrsFilter	aggregate_types;
	CqrsFilter	sources;
	char	   *key_expression;
	CqrsKey    *key;			/* NULL = not parsed yet */
	uint64		key_checked;	/* its functions, at this count of their changes, */
	uint64		key_types_checked;	/* and its types, at this one */
	char	   *on_error;
	CqrsNotify	notify;
	int			batch_size;		/* 0 = cqrs_views.batch_size */
	CqrsSettings settings;
	CqrsState	state;
	bool		was_inline;		/* publishers apply, or applied, the events */
	pg_uuid_t	inline_in;		/* of this incarnation's era */
	TimestampTz rebuild_started_at;	/* 0 where it is not rebuilding */
	bool		parked;			/* are there events that others have to wait for? */
	TimestampTz parked_retry_at;	/* when the first of them is tried again; 0 = never */
	int64		retries;
	TimestampTz next_retry_at;	/* 0 = at once */
	char	   *last_error;
	TimestampTz last_error_at;
	MemoryContext context;		/* the cache's, for what is added lazily */
} CqrsProjection;

extern void cqrs_projection_init(void);
extern void cqrs_projection_changed(void);
extern List *cqrs_projection_list(void);
extern CqrsProjection *cqrs_projection_find(const char *name, bool missing_ok);
extern CqrsProjection *cqrs_projection_get(int32 id);
extern CqrsProjection *cqrs_projection_of_table(Oid relid);
extern bool cqrs_projection_wants(const CqrsProjection *projection, const CqrsEvent *event,
								  TupleDesc desc);
extern const CqrsKey *cqrs_projection_key(CqrsProjection *projection);
extern bool cqrs_projection_is_inline(const CqrsProjection *projection);
extern bool cqrs_projection_was_inline(const CqrsProjection *projection,
									   const pg_uuid_t *incarnation);
extern bool cqrs_projection_is_active(const CqrsProjection *projection);
extern bool cqrs_projection_shows_error(const CqrsProjection *projection);
extern void cqrs_projection_check_owner(const CqrsProjection *projection);

extern const char *cqrs_projection_mode_name(CqrsMode mode);
extern const char *cqrs_projection_state_name(CqrsState state);
extern const char *cqrs_projection_notify_name(CqrsNotify notify);
extern CqrsMode cqrs_projection_mode_parse(const char *value);
extern CqrsNotify cqrs_projection_notify_parse(const char *value);

#endif							/* CQRS_PROJECTION_H */
