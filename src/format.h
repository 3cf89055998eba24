/*
 * format.h
 *		What the columns of an attached table mean: an expression for each column of
 *		an event.
 */
#ifndef CQRS_FORMAT_H
#define CQRS_FORMAT_H

#include "event.h"
#include "utils/jsonb.h"

/* what a mapping says: columns of cqrs.event, and two things more */
#define CQRS_FORMAT_WHERE		(CQRS_EVENT_NCOLUMNS + 1)	/* which rows are events */
#define CQRS_FORMAT_ORDER_BY	(CQRS_EVENT_NCOLUMNS + 2)	/* which came first */
#define CQRS_FORMAT_NENTRIES	(CQRS_EVENT_NCOLUMNS + 3)	/* 0 is unused */

extern const char *cqrs_format_entry_name(int entry);
extern void cqrs_format_expressions(Oid relid, const char *format, Jsonb *mapping,
									const char **expressions, bool *all_else);

#endif							/* CQRS_FORMAT_H */
