/*
 * trigger.c
 *		The triggers that we put on users' tables, and when ours fire.
 *
 * Ours fire always, or in replicas only. pg_restore --disable-triggers leaves each
 * trigger of a table that it has loaded as an ordinary one.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "nodes/makefuncs.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "query.h"
#include "trigger.h"

/*
 * Put a trigger on a user's table, as the owner of the extension's tables: the
 * functions are ours alone, so that nobody else puts them on one. stmt says all but
 * the table, which is filled in; fires_when is as in pg_trigger.tgenabled. Takes
 * SHARE ROW EXCLUSIVE. The trigger goes with the extension, without CASCADE.
 */
void
cqrs_trigger_create(CreateTrigStmt *stmt, Oid relid, char fires_when)
{
	CqrsUserContext user;
	ObjectAddress trigger;
	ObjectAddress extension;

	stmt->relation = makeRangeVar(get_namespace_name(get_rel_namespace(relid)),
								  get_rel_name(relid), -1);
	cqrs_query_enter_owner(&user);
	trigger = CreateTriggerFiringOn(stmt, NULL, relid, InvalidOid, InvalidOid, InvalidOid,
									InvalidOid, InvalidOid, NULL, false, false, fires_when);
	cqrs_query_leave_user(&user);

	ObjectAddressSet(extension, ExtensionRelationId,
					 get_extension_oid("cqrs_views", false));
	recordDependencyOn(&trigger, &extension, DEPENDENCY_AUTO_EXTENSION);
	CommandCounterIncrement();
}

/*
 * Take a trigger off a table; takes ACCESS EXCLUSIVE then. Nothing happens where
 * there is no such trigger, or no such table. Checks no rights.
 */
void
cqrs_trigger_drop(Oid relid, const char *name)
{
	Oid			trigger = get_trigger_oid(relid, name, true);
	ObjectAddress address;

	if (!OidIsValid(trigger))
		return;
	ObjectAddressSet(address, TriggerRelationId, trigger);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
}

/*
 * When a table's trigger fires, as in pg_trigger.tgenabled; '\0' where there is no
 * such trigger, or no such table.
 */
char
cqrs_trigger_fires_when(Oid relid, const char *name)
{
	Relation	rel = try_relation_open(relid, AccessShareLock);
	TriggerDesc *triggers;
	char		result = '\0';

	if (rel == NULL)
		return result;
	triggers = rel->trigdesc;
	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (strcmp(triggers->triggers[i].tgname, name) == 0)
			result = triggers->triggers[i].tgenabled;
	relation_close(rel, NoLock);
	return result;
}

/*
 * Have a table's trigger, which exists, fire so, as ALTER TABLE does. Takes SHARE
 * ROW EXCLUSIVE. Checks no rights.
 */
void
cqrs_trigger_set_fires_when(Oid relid, const char *name, char fires_when)
{
	Relation	rel = relation_open(relid, ShareRowExclusiveLock);

	cqrs_compat_enable_trigger(rel, name, fires_when, ShareRowExclusiveLock);
	relation_close(rel, NoLock);
	CommandCounterIncrement();
}
