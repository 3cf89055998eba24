/*
 * parked_row.h
 *		The table cqrs.parked_row: rows of attached tables that were put aside.
 */
#ifndef CQRS_PARKED_ROW_H
#define CQRS_PARKED_ROW_H

#include "utils/uuid.h"

/* a row to put aside */
typedef struct CqrsParkedRow
{
	int64		number;			/* rises in the order of arrival; 0 = not yet known */
	Oid			relid;
	char	   *source;
	pg_uuid_t	event_id;		/* what cqrs.received knows it by */
	text	   *key;			/* NULL = not known, and nothing waits for it */
	text	   *row;			/* as JSON, by its columns' names */
	ErrorData  *error;			/* NULL = it is behind another one */
	int			attempts;		/* that failed so far */
} CqrsParkedRow;

/* Called for each row, in a memory context that is reset afterwards; may remove it or change it. */
typedef void (*CqrsParkedRowFn) (CqrsParkedRow *row, void *arg);

extern bool cqrs_parked_row_exists(Oid relid);
extern bool cqrs_parked_row_has_key(Oid relid, const text *key);
extern void cqrs_parked_row_park(const CqrsParkedRow *row);
extern void cqrs_parked_row_each(Oid relid, const text *key, CqrsParkedRowFn fn, void *arg);
extern void cqrs_parked_row_update(const CqrsParkedRow *row);
extern void cqrs_parked_row_set_key(int64 number, const text *key);
extern bool cqrs_parked_row_remove(int64 number);
extern int64 cqrs_parked_row_discard(Oid relid, const text *key, int64 up_to);
extern void cqrs_parked_row_prune(void);

#endif							/* CQRS_PARKED_ROW_H */
