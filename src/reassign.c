/*
 * reassign.c
 *		Have projections follow REASSIGN OWNED.
 *
 * It fires no event trigger, so it is caught on its way to the server, which has to
 * have our library for that: preloaded, or called in the session before. It moves
 * tables and functions, and we move what they make up. ALTER TABLE .. OWNER is not
 * followed: that would let the one owner's key and settings run as the other, without
 * anybody's word for it.
 *
 * Locks: that of each projection that changes, to the end of the transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/user.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"

#include "catalog.h"
#include "checkpoint.h"
#include "outbox.h"
#include "reassign.h"
#include "registry.h"

static ProcessUtility_hook_type previous_hook = NULL;

static void reassign_utility(PlannedStmt *pstmt, const char *query, bool read_only,
							 ProcessUtilityContext context, ParamListInfo params,
							 QueryEnvironment *environment, DestReceiver *dest,
							 QueryCompletion *completion);
static List *reassign_begin(const List *roles);
static void reassign_end(const List *projections, Oid owner);

/* Called once per process, from _PG_init. */
void
cqrs_reassign_init(void)
{
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = reassign_utility;
}

/* A ProcessUtility_hook. */
static void
reassign_utility(PlannedStmt *pstmt, const char *query, bool read_only,
				 ProcessUtilityContext context, ParamListInfo params,
				 QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	ReassignOwnedStmt *reassign = IsA(pstmt->utilityStmt, ReassignOwnedStmt) ?
		(ReassignOwnedStmt *) pstmt->utilityStmt : NULL;
	List	   *projections = NIL;

	if (reassign != NULL && OidIsValid(cqrs_catalog_relation("registry", true)))
		projections = reassign_begin(reassign->roles);
	if (previous_hook != NULL)
		previous_hook(pstmt, query, read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only, context, params, environment, dest,
								completion);
	if (projections != NIL)
		reassign_end(projections, get_rolespec_oid(reassign->newrole, false));
}

/*
 * Lock the projections of these roles before their tables are: whoever processes a
 * batch locks them in that order. Returns their ids.
 */
static List *
reassign_begin(const List *roles)
{
	List	   *owners = NIL;
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, roles)
		owners = lappend_oid(owners, get_rolespec_oid(lfirst(lc), false));
	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		/* nobody's locks for who may not do it: the server is going to say so */
		if (list_member_oid(owners, projection->owner) &&
			has_privs_of_role(GetUserId(), projection->owner))
			result = lappend_int(result, projection->id);
	}
	foreach(lc, result)
		cqrs_checkpoint_lock(lfirst_int(lc), true);
	return result;
}

/* Throws where the new owner lacks a right that it would need. */
static void
reassign_end(const List *projections, Oid owner)
{
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, projections)
	{
		CqrsProjection *projection = cqrs_projection_get(lfirst_int(lc));

		if (projection == NULL || projection->owner == owner)
			continue;
		cqrs_outbox_check_rights(owner, projection->mode == CQRS_MODE_INLINE);
		cqrs_registry_set_owner(projection->id, owner);
	}
}
