/*
 * reducer_table.h
 *		A reducer's read table: its columns, and the statements that fetch its rows
 *		and write them back.
 */
#ifndef CQRS_REDUCER_TABLE_H
#define CQRS_REDUCER_TABLE_H

#include "utils/rel.h"

#include "query.h"

/* All of it is the cache's: valid until the table is asked for again. */
typedef struct CqrsReducerTable
{
	Oid			relid;			/* hash key */
	uint64		changes;		/* of the table that this process heard of, */
	uint64		changes_read;	/* and those that are in what follows, */
	bool		described;		/* if there is any */
	MemoryContext context;		/* of all that is below */
	AttrNumber	key_column;
	int			ncolumns;		/* what is read and written, in "fetch"'s order */
	int		   *columns;
	int			nhidden;		/* what is the server's: generated and identity */
	int		   *hidden;
	CqrsQuery	fetch_one;		/* the row of key $1 text */
	CqrsQuery	fetch;			/* those of keys $1 text[] */
	CqrsQuery	write;			/* insert or update those of $1, an array of rows */
	CqrsQuery	remove;			/* delete those of keys $1 text[] */
} CqrsReducerTable;

extern CqrsReducerTable *cqrs_reducer_table_get(Relation rel);

#endif							/* CQRS_REDUCER_TABLE_H */
