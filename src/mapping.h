/*
 * mapping.h
 *		Make events of the rows of an attached table.
 */
#ifndef CQRS_MAPPING_H
#define CQRS_MAPPING_H

#include "access/htup.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

#include "attachment.h"
#include "event.h"

/* what became of a row; values are in the memory context that it was mapped in */
typedef struct CqrsMapped
{
	bool		wanted;			/* is it an event at all? */
	ErrorData  *error;			/* why it can't be made one; NULL = it can */
	bool		has_id;
	pg_uuid_t	event_id;
	text	   *key;			/* aggregate_id; NULL = not known */

	/* of the columns of cqrs.event; unset are position, event_id and source */
	Datum		values[CQRS_EVENT_NCOLUMNS];
	bool		nulls[CQRS_EVENT_NCOLUMNS];
} CqrsMapped;

/* values to sort rows by */
typedef struct CqrsOrder
{
	Oid			type;			/* InvalidOid = there is no order */
	Oid			collation;
} CqrsOrder;

extern void cqrs_mapping_check(CqrsAttachment *attachment);
extern const Bitmapset *cqrs_mapping_columns(CqrsAttachment *attachment);
extern CqrsMapped *cqrs_mapping_map(CqrsAttachment *attachment, Relation rel,
									HeapTuple *rows, int nrows);
extern CqrsOrder cqrs_mapping_order(CqrsAttachment *attachment);
extern void cqrs_mapping_order_values(CqrsAttachment *attachment, Relation rel,
									  HeapTuple *rows, int nrows, Datum *values, bool *nulls);
extern void cqrs_mapping_id_of_text(const text *value, pg_uuid_t *id);

#endif							/* CQRS_MAPPING_H */
