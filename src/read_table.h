/*
 * read_table.h
 *		The tables that projections maintain: validate, guard, empty.
 */
#ifndef CQRS_READ_TABLE_H
#define CQRS_READ_TABLE_H

#include "nodes/pg_list.h"

/* the trigger that every read table has */
#define CQRS_READ_TABLE_GUARD "cqrs_write_guard"

/* both triggers of the write guard, as one */
typedef enum CqrsGuardState
{
	CQRS_GUARD_MISSING,
	CQRS_GUARD_DISABLED,
	CQRS_GUARD_ORDINARY,		/* fires in ordinary sessions only, or too often */
	CQRS_GUARD_STANDS
} CqrsGuardState;

extern void cqrs_read_table_init(void);
extern void cqrs_read_table_check(Oid relid, Oid owner);
extern void cqrs_read_table_check_drop(Oid relid, Oid role);
extern void cqrs_read_table_check_form(Oid relid);
extern bool cqrs_read_table_is_sound(Oid relid);
extern bool cqrs_read_table_verify(Oid relid, Oid owner);
extern void cqrs_read_table_guard(Oid relid);
extern void cqrs_read_table_unguard(Oid relid);
extern bool cqrs_read_table_is_guarded(Oid relid);
extern CqrsGuardState cqrs_read_table_guard_state(Oid relid);
extern void cqrs_read_table_restore_guard(Oid relid);
extern void cqrs_read_table_truncate(const Oid *relids, int nrelids);
extern void cqrs_read_table_drop(const Oid *relids, int nrelids);

/* the read tables that the code running now may write to */
typedef struct CqrsWriters
{
	const Oid  *relids;
	int			nrelids;
} CqrsWriters;

extern CqrsWriters cqrs_read_table_open(const Oid *relids, int nrelids);
extern void cqrs_read_table_close(CqrsWriters previous);
extern bool cqrs_read_table_is_open(Oid relid);

#endif							/* CQRS_READ_TABLE_H */
