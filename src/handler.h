/*
 * handler.h
 *		The user's function behind a projection: classify it by its signature,
 *		and call it.
 */
#ifndef CQRS_HANDLER_H
#define CQRS_HANDLER_H

#include "access/tupdesc.h"

#include "event.h"
#include "projection.h"

/* One call: the events that the projection wants out of one batch. */
typedef struct CqrsHandlerCall
{
	const CqrsProjection *projection;
	Oid			function;
	CqrsEvent **events;			/* in position order */
	int			nevents;		/* at least 1 */
	TupleDesc	desc;			/* of cqrs.event */
	MemoryContext batch_context;	/* the batch's, for what is as large */
	int			current;		/* index of the event being handled; -1 = all */
} CqrsHandlerCall;

/*
 * A calling convention. apply runs as the projection's owner, with its read
 * tables open, in a short-lived memory context.
 */
typedef struct CqrsHandlerKind
{
	const char *name;			/* as in cqrs.projection.kind */
	bool		(*matches) (Oid function);
	void		(*apply) (CqrsHandlerCall *call);
} CqrsHandlerKind;

extern void cqrs_handler_init(void);
extern void cqrs_handler_register(const CqrsHandlerKind *kind);
extern const CqrsHandlerKind *cqrs_handler_classify(Oid function);
extern const char *cqrs_handler_signature(Oid function);
extern void cqrs_handler_check_rights(Oid function, Oid owner);
extern void cqrs_handler_call(CqrsProjection *projection, CqrsEvent **events, int nevents,
							  TupleDesc desc);

#endif							/* CQRS_HANDLER_H */
