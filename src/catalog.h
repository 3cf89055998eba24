/*
 * catalog.h
 *		What the system catalogs say of our own tables, and of whose a table is.
 */
#ifndef CQRS_CATALOG_H
#define CQRS_CATALOG_H

/* told of a relation that may have changed; InvalidOid = any may have. Must not fail. */
typedef void (*CqrsRelationFn) (Oid relid, void *arg);

extern void cqrs_catalog_init(void);
extern void cqrs_catalog_watch_relations(CqrsRelationFn fn, void *arg);
extern Oid	cqrs_catalog_relation(const char *relname, bool missing_ok);
extern Oid	cqrs_catalog_owner(void);
extern Oid	cqrs_catalog_table_owner(Oid relid);
extern uint64 cqrs_catalog_rights_changes(void);
extern bool cqrs_catalog_lock_extension(void);

#endif							/* CQRS_CATALOG_H */
