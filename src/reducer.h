/*
 * reducer.h
 *		A function f(T, cqrs.event) RETURNS T: what it must be like, and calling
 *		it.
 */
#ifndef CQRS_REDUCER_H
#define CQRS_REDUCER_H

#include "access/tupdesc.h"
#include "fmgr.h"

/* A reducer that is being called, for the events of one batch or of one fold. */
typedef struct CqrsReducer
{
	Oid			function;
	Oid			rowtype;		/* T */
	FmgrInfo	flinfo;			/* one, since the language's own caching hangs on it */
	MemoryContext context;		/* for one call's arguments; reset when it returns */
} CqrsReducer;

extern bool cqrs_reducer_matches(Oid function);
extern void cqrs_reducer_check(Oid function);
extern void cqrs_reducer_require(Oid function);
extern Oid	cqrs_reducer_rowtype(Oid function);
extern AttrNumber cqrs_reducer_key_column(Oid relid, bool missing_ok);
extern void cqrs_reducer_begin(CqrsReducer *reducer, Oid function);
extern Datum cqrs_reducer_call(CqrsReducer *reducer, Datum state, Datum event);
extern void cqrs_reducer_end(CqrsReducer *reducer);

extern bool cqrs_reducer_is_expanded(Datum state);
extern Size cqrs_reducer_size(Datum state);
extern Datum cqrs_reducer_flatten(Datum state);
extern Datum cqrs_reducer_get(Datum state, TupleDesc desc, int column, bool *isnull);
extern Datum cqrs_reducer_set(Datum state, TupleDesc desc, int column, Datum value, bool isnull);

#endif							/* CQRS_REDUCER_H */
