/*
 * reassign.c
 *		Have projections and attached tables follow REASSIGN OWNED.
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

#include "attachment.h"
#include "catalog.h"
#include "checkpoint.h"
#include "outbox.h"
#include "reassign.h"
#include "registry.h"

/* what belongs to the roles of a statement */
typedef struct Owned
{
	List	   *projections;	/* their ids */
	List	   *attached;		/* OIDs of tables */
} Owned;

static ProcessUtility_hook_type previous_hook = NULL;

static void reassign_utility(PlannedStmt *pstmt, const char *query, bool read_only,
							 ProcessUtilityContext context, ParamListInfo params,
							 QueryEnvironment *environment, DestReceiver *dest,
							 QueryCompletion *completion);
static void reassign_begin(Owned *owned, const List *roles);
static bool reassign_includes(const List *owners, Oid owner);
static void reassign_end(const Owned *owned, Oid owner);

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
	Owned		owned = {NIL};

	if (reassign != NULL && OidIsValid(cqrs_catalog_relation("registry", true)))
		reassign_begin(&owned, reassign->roles);
	if (previous_hook != NULL)
		previous_hook(pstmt, query, read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only, context, params, environment, dest,
								completion);
	if (owned.projections != NIL || owned.attached != NIL)
		reassign_end(&owned, get_rolespec_oid(reassign->newrole, false));
}

/*
 * Find what belongs to these roles, and lock the projections before their tables are:
 * whoever processes a batch locks them in that order.
 */
static void
reassign_begin(Owned *owned, const List *roles)
{
	List	   *owners = NIL;
	ListCell   *lc;

	foreach(lc, roles)
		owners = lappend_oid(owners, get_rolespec_oid(lfirst(lc), false));
	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		if (reassign_includes(owners, projection->owner))
			owned->projections = lappend_int(owned->projections, projection->id);
	}
	foreach(lc, cqrs_attachment_list())
	{
		CqrsAttachment *attachment = lfirst(lc);

		if (reassign_includes(owners, attachment->owner))
			owned->attached = lappend_oid(owned->attached, attachment->relid);
	}
	foreach(lc, owned->projections)
		cqrs_checkpoint_lock(lfirst_int(lc), true);
}

/* Nobody's for who may not do it: the server is going to say so. */
static bool
reassign_includes(const List *owners, Oid owner)
{
	return list_member_oid(owners, owner) && has_privs_of_role(GetUserId(), owner);
}

/* Throws where the new owner lacks a right that it would need. */
static void
reassign_end(const Owned *owned, Oid owner)
{
	ListCell   *lc;

	CommandCounterIncrement();
	foreach(lc, owned->projections)
	{
		CqrsProjection *projection = cqrs_projection_get(lfirst_int(lc));

		if (projection == NULL || projection->owner == owner)
			continue;
		cqrs_outbox_check_rights(owner, projection->mode == CQRS_MODE_INLINE);
		cqrs_registry_set_owner(projection->id, owner);
	}
	foreach(lc, owned->attached)
	{
		CqrsAttachment *attachment = cqrs_attachment_find(lfirst_oid(lc));

		if (attachment == NULL || attachment->owner == owner)
			continue;
		cqrs_outbox_check_forge(owner);
		cqrs_attachment_set_owner(attachment->relid, owner);
	}
}
