/*
 * attachment.h
 *		The table cqrs.attachment: tables whose rows become events.
 */
#ifndef CQRS_ATTACHMENT_H
#define CQRS_ATTACHMENT_H

#include "nodes/pg_list.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"

#include "settings.h"

/* the trigger that takes the rows of a statement; a table without it is not fed */
#define CQRS_ATTACHMENT_TRIGGER "cqrs_receive"

/* One attached table. Lives in the cache of attachment.c until the transaction ends. */
typedef struct CqrsAttachment
{
	MemoryContext context;		/* what it all lives in */
	Oid			relid;
	char	   *relname;		/* NULL = the table is gone */
	char	   *source;
	char	   *format;
	Jsonb	   *mapping;		/* as it was given; NULL = none */
	List	   *columns;		/* of the table, as String nodes, that the format counts on */
	Oid			owner;			/* of the table; expressions run as him */
	CqrsSettings settings;
	struct CqrsMapping *parsed; /* for mapping.c; NULL = not yet */
} CqrsAttachment;

extern void cqrs_attachment_init(void);
extern void cqrs_attachment_changed(void);
extern bool cqrs_attachment_is_watched(void);
extern void cqrs_attachment_watch(void);
extern List *cqrs_attachment_list(void);
extern CqrsAttachment *cqrs_attachment_find(Oid relid);
extern CqrsAttachment *cqrs_attachment_get(Oid relid);
extern void cqrs_attachment_check_table(Oid relid, Oid role);
extern void cqrs_attachment_verify(const CqrsAttachment *attachment);
extern void cqrs_attachment_insert(Oid relid, const char *source, const char *format,
								   Jsonb *mapping);
extern void cqrs_attachment_keep_columns(const CqrsAttachment *attachment, const List *columns);
extern void cqrs_attachment_set_setting(Oid relid, const char *name, const char *value);
extern void cqrs_attachment_set_owner(Oid relid, Oid owner);
extern void cqrs_attachment_delete(Oid relid);
extern void cqrs_attachment_check_trigger(Relation rel);
extern void cqrs_attachment_enable(Oid relid);
extern void cqrs_attachment_prune(void);

#endif							/* CQRS_ATTACHMENT_H */
