/*
 * restore.c
 *		What is to be awaited, and put in order, after a dump was restored.
 *
 * A restore commits as it goes, and a worker comes by at any time. It finds a
 * projection as soon as the registry is loaded, which is before the read tables
 * are. To process it then would be to process events whose effects are still to be
 * loaded. So a projection whose checkpoint is of an older era (that is what a
 * restored one looks like) is left alone until
 *
 *	- no pg_restore is connected to the database: its parallel jobs may make
 *	  triggers and indexes while other tables are still loaded, and it grants rights
 *	  last of all;
 *	- the write guards stand, which are triggers, and so are made after all data;
 *	- the projection's owner may read the outbox: rights come last in a script, too.
 *
 * A restore of data only finds the guards standing. It needs --disable-triggers,
 * which leaves a trail: triggers that fired always are ordinary ones in each table
 * that is loaded. If the registry's is, so must be the write guards of all
 * projections; then they are all put in order again. (Whoever does without, by the
 * setting cqrs_views.allow_writes, restores in one transaction, or without workers.)
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "attachment.h"
#include "catalog.h"
#include "lock.h"
#include "outbox.h"
#include "query.h"
#include "read_table.h"
#include "registry.h"
#include "restore.h"

static char *restore_lacks(const CqrsProjection *projection);
static char *restore_lacks_table(const CqrsProjection *projection, bool data_only);
static bool restore_is_running(void);
static bool restore_needs_repair(void);
static void restore_repair(void *arg);

/*
 * Is all there that a restored projection needs? Puts the extension's triggers in
 * order then. If not, throws, or quietly returns false.
 */
bool
cqrs_restore_is_complete(const CqrsProjection *projection, bool quietly)
{
	char	   *lacks = restore_lacks(projection);

	if (lacks == NULL && restore_needs_repair() && !cqrs_lock_briefly(restore_repair, NULL))
		lacks = "The triggers of tables that are in use have to be enabled again.";
	if (lacks != NULL && !quietly)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is not completely restored",
						NameStr(projection->name)),
				 errdetail_internal("%s", lacks),
				 errhint("Wait until the restore has ended. If it has: SELECT cqrs.resume_projection(%s);",
						 quote_literal_cstr(NameStr(projection->name)))));
	return lacks == NULL;
}

/*
 * Take the caller's word for it that the restore has ended, and put in order what
 * can be: make write guards that are missing. Takes SHARE ROW EXCLUSIVE on the read
 * tables, and on the outbox and the registry where there is something to mend.
 */
void
cqrs_restore_complete(const CqrsProjection *projection)
{
	for (int i = 0; i < projection->ntables; i++)
	{
		cqrs_read_table_check(projection->tables[i], projection->owner);
		if (cqrs_read_table_guard_state(projection->tables[i]) == CQRS_GUARD_MISSING)
			cqrs_read_table_guard(projection->tables[i]);
		else
			cqrs_read_table_restore_guard(projection->tables[i]);
	}
	if (restore_needs_repair())
		restore_repair(NULL);
}

/*
 * There is no projection to be restored: put in order what a restore of events alone
 * has left, lest the first projection waits for its own rows. Takes the locks that
 * cqrs_restore_complete does.
 */
void
cqrs_restore_none(void)
{
	if (cqrs_projection_list() == NIL && restore_needs_repair())
		restore_repair(NULL);
}

/* What is not there yet, as a sentence; NULL = nothing. */
static char *
restore_lacks(const CqrsProjection *projection)
{
	bool		data_only = !cqrs_registry_is_watched();
	char	   *lacks = NULL;
	ListCell   *lc;

	if (restore_is_running())
		return "A session of pg_restore is connected to the database.";
	if (!data_only)
		lacks = restore_lacks_table(projection, false);
	else
		foreach(lc, cqrs_projection_list())
			if (lacks == NULL)
				lacks = restore_lacks_table(lfirst(lc), true);
	if (lacks == NULL &&
		pg_class_aclcheck(cqrs_catalog_relation("outbox", false), projection->owner,
						  ACL_SELECT) != ACLCHECK_OK)
		lacks = psprintf("Its owner, role \"%s\", lacks SELECT on cqrs.outbox.",
						 GetUserNameFromId(projection->owner, false));
	return lacks;
}

static char *
restore_lacks_table(const CqrsProjection *projection, bool data_only)
{
	for (int i = 0; i < projection->ntables; i++)
	{
		Oid			relid = projection->tables[i];
		CqrsGuardState state = cqrs_read_table_guard_state(relid);
		const char *name = get_rel_name(relid);

		if (name == NULL)
			return psprintf("Read table with OID %u does not exist.", relid);
		if (state == CQRS_GUARD_MISSING)
			return psprintf("Read table \"%s\" has no write guard.", name);
		if (state == CQRS_GUARD_DISABLED || (data_only && state == CQRS_GUARD_STANDS))
			return psprintf("The rows of read table \"%s\" are not loaded.", name);
	}
	return NULL;
}

/* Is there a session that calls itself pg_restore, of somebody who may restore the database? */
static bool
restore_is_running(void)
{
	static CqrsQuery query = {
		.sql = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
		" AND application_name = 'pg_restore' AND pg_has_role(usesysid,"
		"  (SELECT datdba FROM pg_database WHERE datname = current_database()), 'USAGE') LIMIT 1",
		.flags = CQRS_QUERY_LATEST
	};

	return cqrs_query_run(&query, NULL, NULL, NULL, NULL) > 0;
}

/* Are there triggers of the extension that don't fire as they should? */
static bool
restore_needs_repair(void)
{
	ListCell   *lc;

	if (!cqrs_registry_is_watched() || !cqrs_attachment_is_watched() ||
		!cqrs_outbox_is_guarded())
		return true;
	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		for (int i = 0; i < projection->ntables; i++)
			if (cqrs_read_table_guard_state(projection->tables[i]) == CQRS_GUARD_ORDINARY)
				return true;
	}
	return false;
}

/* The registry's last: it tells that there is something to repair. */
static void
restore_repair(void *arg)
{
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		for (int i = 0; i < projection->ntables; i++)
			cqrs_read_table_restore_guard(projection->tables[i]);
	}
	cqrs_outbox_restore_guard();
	cqrs_attachment_watch();
	cqrs_registry_watch();
	ereport(LOG,
			(errmsg("the triggers of cqrs_views are enabled again as before the restore"),
			 errhidestmt(true)));
}
