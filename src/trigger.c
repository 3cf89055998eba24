/*
 * trigger.c
 *		When the extension's triggers fire.
 *
 * Ours fire always, or in replicas only. pg_restore --disable-triggers leaves each
 * trigger of a table that it has loaded as an ordinary one.
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "utils/rel.h"

#include "compat.h"
#include "trigger.h"

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
