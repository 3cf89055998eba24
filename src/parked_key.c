/*
 * parked_key.c
 *		The keys of rows that were put aside, by another mapping.
 *
 * What comes later of a key stays behind its rows that were put aside. Those have the
 * keys that they had when they came; a table that is attached anew may give its rows
 * others. Then theirs are renewed, or later rows would overtake them.
 */
#include "postgres.h"

#include "access/table.h"

#include "event.h"
#include "mapping.h"
#include "parked_key.h"
#include "parked_row.h"
#include "row_json.h"

/* the table whose rows' keys are renewed */
typedef struct Renewal
{
	CqrsAttachment *attachment;
	Relation	rel;
} Renewal;

static void renew_key(CqrsParkedRow *row, void *arg);

/*
 * Give an attached table's rows that were put aside the keys that they have by the
 * mapping of now. Where one can't be told, a row keeps what it had. The caller has
 * locked the table against writers. Throws transient errors, and those of the mapping
 * as a whole.
 */
void
cqrs_parked_key_renew(CqrsAttachment *attachment)
{
	Renewal		renewal = {
		.attachment = attachment,.rel = table_open(attachment->relid, NoLock)
	};

	cqrs_parked_row_each(attachment->relid, NULL, renew_key, &renewal);
	table_close(renewal.rel, NoLock);
}

/* A CqrsParkedRowFn. */
static void
renew_key(CqrsParkedRow *row, void *arg)
{
	const Renewal *renewal = (const Renewal *) arg;
	const CqrsMapped *mapped;
	HeapTuple	tuple;

	if (cqrs_row_json_to_row(renewal->attachment, renewal->rel, row->row, &tuple) != NULL)
		return;
	mapped = cqrs_mapping_map(renewal->attachment, renewal->rel, &tuple, 1);
	if (mapped->key != NULL && (row->key == NULL || !cqrs_event_same_text(row->key, mapped->key)))
		cqrs_parked_row_set_key(row->number, mapped->key);
}
