/*
 * query.h
 *		Run one statement of ours, or code of a user's, as the right role.
 */
#ifndef CQRS_QUERY_H
#define CQRS_QUERY_H

#include "executor/spi.h"
#include "executor/tuptable.h"

#define CQRS_QUERY_MAX_ARGS 28

/* how a query sees the data, and how it is planned */
#define CQRS_QUERY_WRITE	0x00	/* a new command: sees and makes changes */
#define CQRS_QUERY_ACTIVE	0x01	/* read-only, under the active snapshot */
#define CQRS_QUERY_LATEST	0x02	/* read-only, under a snapshot of its own */
#define CQRS_QUERY_INDEXED	0x04	/* plan once, with index scans in index order */
#define CQRS_QUERY_AS_CALLER 0x08	/* as the current user, not as our owner */

/*
 * A statement of ours. Objects of this type are static variables of the file
 * that owns the table; "plan" is filled on first use and kept for the life of
 * the process.
 */
typedef struct CqrsQuery
{
	const char *sql;
	int			flags;
	int			nargs;
	Oid			argtypes[CQRS_QUERY_MAX_ARGS];
	SPIPlanPtr	plan;
} CqrsQuery;

/*
 * Called for each row; the slot and what it points to are valid during the
 * call only. Returns false to end the statement early. The current memory
 * context is a short-lived one of SPI's.
 */
typedef bool (*CqrsRowFn) (TupleTableSlot *slot, void *arg);

extern uint64 cqrs_query_run(CqrsQuery *query, Datum *args, const char *nulls,
							 CqrsRowFn row_fn, void *arg);

/* session settings that a projection was created under, and runs under */
typedef struct CqrsSettings
{
	char	   *search_path;
	char	   *time_zone;
	char	   *date_style;
	char	   *interval_style;
} CqrsSettings;

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

extern Oid	cqrs_query_relation(const char *relname, bool missing_ok);
extern bool cqrs_query_lock_extension(void);

#endif							/* CQRS_QUERY_H */
