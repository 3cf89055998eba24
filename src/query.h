/*
 * query.h
 *		Run one statement of ours, or code of a user's, as the right role.
 */
#ifndef CQRS_QUERY_H
#define CQRS_QUERY_H

#include "executor/spi.h"
#include "executor/tuptable.h"
#include "utils/plancache.h"
#include "utils/queryenvironment.h"
#include "utils/tuplestore.h"

#include "settings.h"

/* of cqrs_query_size_class: 0 to this - 1 */
#define CQRS_QUERY_SIZE_CLASSES 8

#define CQRS_QUERY_MAX_ARGS 28

/* how a query sees the data, and how it is planned */
#define CQRS_QUERY_WRITE	0x00	/* a new command: sees and makes changes */
#define CQRS_QUERY_ACTIVE	0x01	/* read-only, under the active snapshot */
#define CQRS_QUERY_LATEST	0x02	/* read-only, under a snapshot of its own */
#define CQRS_QUERY_INDEXED	0x04	/* plan once, with index scans in index order */
#define CQRS_QUERY_AS_CALLER 0x08	/* as the current user, not as our owner */
#define CQRS_QUERY_IN_PLACE 0x10	/* as the current user, under the settings of now */
#define CQRS_QUERY_BY_KEY	0x20	/* few rows of large tables: plan for index lookups */
#define CQRS_QUERY_CUSTOM	0x40	/* plan anew each time, for these arguments */
#define CQRS_QUERY_NO_JIT	0x80	/* compile nothing: what is run once is not worth it */
#define CQRS_QUERY_HASHED	0x100	/* group by hashing, however few rows are expected */

/*
 * A statement of ours. Objects of this type are static variables of the file
 * that owns the table, or live in a cache; "plan" is filled on first use and
 * kept for the life of the process, or until cqrs_query_forget.
 */
typedef struct CqrsQuery
{
	const char *sql;
	int			flags;
	int			nargs;
	Oid			argtypes[CQRS_QUERY_MAX_ARGS];
	SPIPlanPtr	plan;
	int			planned;		/* the plan's generation that flags have shaped */
	int			judged;			/* the generation that the rest is of: see steady.c */
	bool		steady;
	struct CqrsUpsert *upsert;	/* ready to run; NULL where it is something else */
	MemoryContext kept;			/* what that is in */
} CqrsQuery;

/*
 * Called for each row; the slot and what it points to are valid during the
 * call only. Returns false to end the statement early. The current memory
 * context is a short-lived one of SPI's.
 */
typedef bool (*CqrsRowFn) (TupleTableSlot *slot, void *arg);

/* rows in memory that a statement reads as if they were in a table */
typedef struct CqrsRows
{
	const char *name;			/* which the statement calls them by */
	Oid			relid;			/* a relation with the same columns */
	Tuplestorestate *store;
	int64		nrows;
} CqrsRows;

extern uint64 cqrs_query_run(CqrsQuery *query, Datum *args, const char *nulls,
							 CqrsRowFn row_fn, void *arg);
extern uint64 cqrs_query_run_on(CqrsQuery *query, const CqrsRows *rows, Datum *args,
								const char *nulls, CqrsRowFn row_fn, void *arg);
extern void cqrs_query_run_with_rights(CqrsQuery *query, Datum *args, const char *nulls);
extern CachedPlan *cqrs_query_plan(CqrsQuery *query, const CqrsRows *rows, ParamListInfo params,
								   QueryEnvironment **env);
extern void cqrs_query_execute(PlannedStmt *plan, const char *sql, ParamListInfo params,
							   QueryEnvironment *env, CqrsRowFn row_fn, void *arg);
extern void cqrs_query_error_callback(void *arg);
extern ParamListInfo cqrs_query_params(const CqrsQuery *query, const Datum *args,
									   const char *nulls);
extern bool cqrs_query_keep_bigint(TupleTableSlot *slot, void *arg);
extern void cqrs_query_forget(CqrsQuery *query);
extern int	cqrs_query_size_class(int64 nrows);

/* what cqrs_query_leave_user needs to put back */
typedef struct CqrsUserContext
{
	Oid			userid;
	int			sec_context;
	int			nest_level;
} CqrsUserContext;

extern void cqrs_query_enter_user(CqrsUserContext *context, Oid userid,
								  const CqrsSettings *settings);
extern void cqrs_query_enter_owner(CqrsUserContext *context);
extern void cqrs_query_leave_user(CqrsUserContext *context);

#endif							/* CQRS_QUERY_H */
