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
#include "miscadmin.h"
#include "utils/memutils.h"

#include "event.h"
#include "mapping.h"
#include "parked_key.h"
#include "parked_row.h"
#include "row_json.h"

/* rows that are in memory together */
#define MAX_CHUNK_ROWS 1000

static void renew_key(CqrsAttachment *attachment, Relation rel, const CqrsParkedRow *row);

/*
 * Give an attached table's rows that were put aside the keys that they have by the
 * mapping of now. Where one can't be told, a row keeps what it had. The caller has
 * locked the table against writers. Throws transient errors, and those of the mapping
 * as a whole.
 */
void
cqrs_parked_key_renew(CqrsAttachment *attachment)
{
	Relation	rel = table_open(attachment->relid, NoLock);
	MemoryContext chunk = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views parked rows",
												ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(chunk);
	int64		last = 0;
	int			length;

	do
	{
		CqrsParkedRow *rows = palloc(MAX_CHUNK_ROWS * sizeof(CqrsParkedRow));

		length = cqrs_parked_row_queue(attachment->relid, NULL, last, MAX_CHUNK_ROWS, rows);
		for (int i = 0; i < length; i++)
		{
			CHECK_FOR_INTERRUPTS();
			renew_key(attachment, rel, &rows[i]);
			last = rows[i].number;
		}
		MemoryContextReset(chunk);
	} while (length == MAX_CHUNK_ROWS);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(chunk);
	table_close(rel, NoLock);
}

static void
renew_key(CqrsAttachment *attachment, Relation rel, const CqrsParkedRow *row)
{
	const CqrsMapped *mapped;
	HeapTuple	tuple;

	if (cqrs_row_json_to_row(attachment, rel, row->row, &tuple) != NULL)
		return;
	mapped = cqrs_mapping_map(attachment, rel, &tuple, 1);
	if (mapped->key != NULL && (row->key == NULL || !cqrs_event_same_text(row->key, mapped->key)))
		cqrs_parked_row_set_key(row->number, mapped->key);
}
