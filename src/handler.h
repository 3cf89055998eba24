/*
 * handler.h
 *		The user's function behind a projection: classify it by its signature,
 *		and call it.
 */
#ifndef CQRS_HANDLER_H
#define CQRS_HANDLER_H

#include "access/tupdesc.h"

#include "event.h"
#include "outbox_range.h"
#include "projection.h"

#define CQRS_HANDLER_MAX_ARGS 2

/* One call: the events that the projection wants out of one batch. */
typedef struct CqrsHandlerCall
{
	CqrsProjection *projection;
	Oid			function;		/* InvalidOid for a view */
	bool		tell;			/* does somebody want to be told what changed? */
	const CqrsBatch *batch;		/* its context is for what is as large */
	CqrsEvent **events;			/* in position order */
	int			nevents;		/* at least 1, */
	CqrsRange  *range;			/* or 0, and it is these: for kinds that read them */
	int			current;		/* index of the event being handled; -1 = all */
	text	  **keys;			/* the events', for kinds that need them; filled by */
	int			nkeys;			/* those that tell: what changed, in batch->context */
} CqrsHandlerCall;

/*
 * A calling convention. apply runs as the projection's owner, with its read
 * tables open, in a short-lived memory context.
 */
typedef struct CqrsHandlerKind
{
	const char *name;			/* as in cqrs.projection.kind */
	bool		needs_keys;		/* does apply want the key of each event? */
	bool		tells_keys;		/* does apply fill the call's keys? */
	bool		handles_large_batches;	/* the larger, the better? */
	bool		reads_ranges;	/* can apply read events by itself? */
	bool		merges_rows;	/* is one event, unless there is a state table, one upsert? */
	bool		puts_settings;	/* does apply put the projection's settings in force by itself? */

	/* does the signature say so? NULL for the kind without a function */
	bool		(*matches) (Oid function);

	/* what a projection's function of the kind takes; returns how many there are */
	int			(*argtypes) (const CqrsProjection *projection,
							 Oid argtypes[CQRS_HANDLER_MAX_ARGS]);

	/* throw unless the read tables fit; NULL = any do */
	void		(*check) (Oid function, const Oid *read_tables, int nread_tables);

	void		(*apply) (CqrsHandlerCall *call);

	/* make empty read tables what they are before any event; NULL = empty */
	void		(*begin) (CqrsProjection *projection);

	/*
	 * Make good what a dump does not have, as the owner, now that it is restored;
	 * called more than once. NULL = nothing.
	 */
	void		(*restored) (CqrsProjection *projection);

	/*
	 * Hash the keys of events, as the owner, so that equal keys have equal hashes
	 * even if their texts differ. NULL = the texts tell.
	 */
	uint64	   *(*hash_keys) (CqrsProjection *projection, CqrsEvent **events, int nevents,
							  TupleDesc desc);

	/*
	 * Drop the events that can't change anything, beyond what filters say, as the
	 * owner; returns how many are left. NULL = keep all.
	 */
	int			(*narrow) (CqrsProjection *projection, CqrsEvent **events, int nevents,
						   TupleDesc desc);
} CqrsHandlerKind;

extern void cqrs_handler_register(const CqrsHandlerKind *kind);
extern const CqrsHandlerKind *cqrs_handler_classify(Oid function);
extern const char *cqrs_handler_signature(Oid function);
extern void cqrs_handler_check_execute(Oid function, Oid role);
extern void cqrs_handler_check_rights(Oid function, Oid owner);
extern void cqrs_handler_check_tables(Oid function, const Oid *read_tables, int nread_tables);
extern Oid	cqrs_handler_find(const CqrsProjection *projection);
extern const CqrsHandlerKind *cqrs_handler_kind(const CqrsProjection *projection);
extern void cqrs_handler_call(CqrsHandlerCall *call);

/* who is to blame for an error that was thrown: see handler.c */
extern void cqrs_handler_blame_nobody(void);
extern void cqrs_handler_blame_events(void);
extern bool cqrs_handler_was_running(void);
extern int	cqrs_handler_failed_at(void);

#endif							/* CQRS_HANDLER_H */
