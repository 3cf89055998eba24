/*
 * session.c
 *		Keep the session that an owner's code runs in from that code.
 *
 * Handlers run in the sessions of others: of publishers, of superusers who catch
 * up by hand, of workers. PostgreSQL's security-restricted operation forbids what
 * would outlast it, as far as CREATE INDEX and REFRESH MATERIALIZED VIEW need; in
 * the midst of somebody else's transaction more is within reach:
 *
 *	- Cursors. PL/pgSQL closes and opens them by name, whosever they are: another
 *	  query in place of the publisher's would run with the rights of the publisher
 *	  who fetches next, and to fetch is to read with the rights of who opened it.
 *	  So portals that were there before can be neither run nor dropped, and those
 *	  that the owner's code leaves are dropped while the owner is still the user.
 *	- The temporary schema. Only relations are refused there; but its types stand
 *	  before pg_catalog's, so a domain named text, with a CHECK, would run in every
 *	  statement that names that type. Nothing is created there.
 *	- What belongs to the session, by functions that ask nobody: advisory locks that
 *	  are not a transaction's, descriptors of large objects, the seed of random().
 *	  These functions are refused.
 *
 * Protections nest, as inline projections do. On the good path a release follows
 * each; if there is an error instead, the abort of the (sub)transaction that it was
 * made in releases it.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/objectaddress.h"
#include "miscadmin.h"
#include "nodes/memnodes.h"
#include "tcop/pquery.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "session.h"

/* a portal that was there before, as it was */
typedef struct KnownPortal
{
	Portal		portal;
	PortalStatus status;
	bool		pinned;
	SubTransactionId active;
} KnownPortal;

/* in TopTransactionContext */
typedef struct Protection
{
	struct Protection *outer;
	int			xact_level;		/* the transaction's, or subtransaction's */
	int			nportals;
	KnownPortal portals[FLEXIBLE_ARRAY_MEMBER];
} Protection;

static Protection *innermost = NULL;
static object_access_hook_type previous_hook = NULL;

static MemoryContext portal_parent(void);
static Portal portal_of(MemoryContext context);
static bool portal_is_known(const Protection *protection, Portal portal);
static void portal_put_back(const KnownPortal *known);
static void session_drop_portals(void);
static void session_abort_sub(SubXactEvent event, SubTransactionId subid,
							  SubTransactionId parent, void *arg);
static void session_abort(XactEvent event, void *arg);
static void session_object_access(ObjectAccessType access, Oid class, Oid object, int subobject,
								  void *arg);
static void session_check_created(Oid class, Oid object);
static void session_check_call(Oid function);

/* Called once per process, from _PG_init. */
void
cqrs_session_init(void)
{
	RegisterSubXactCallback(session_abort_sub, NULL);
	RegisterXactCallback(session_abort, NULL);
	previous_hook = object_access_hook;
	object_access_hook = session_object_access;
}

/* The current transaction's code is somebody else's from now on. */
void
cqrs_session_protect(void)
{
	MemoryContext parent = portal_parent();
	MemoryContext context;
	Protection *protection;
	int			n = 0;

	for (context = parent->firstchild; context != NULL; context = context->nextchild)
		n++;
	protection = MemoryContextAlloc(TopTransactionContext,
									offsetof(Protection, portals) + n * sizeof(KnownPortal));
	protection->outer = innermost;
	protection->xact_level = GetCurrentTransactionNestLevel();
	protection->nportals = 0;
	for (context = parent->firstchild; context != NULL; context = context->nextchild)
	{
		Portal		portal = portal_of(context);
		KnownPortal *known = &protection->portals[protection->nportals];

		if (portal == NULL)
			continue;
		protection->nportals++;
		known->portal = portal;
		known->status = portal->status;
		known->pinned = portal->portalPinned;
		known->active = portal->activeSubid;

		/* what is running protects itself */
		if (portal->status == PORTAL_ACTIVE)
			continue;
		portal->status = PORTAL_FAILED;
		portal->portalPinned = true;
		portal->activeSubid = InvalidSubTransactionId;
	}
	innermost = protection;
}

/* It is not any more. To be called while its owner is still the user. */
void
cqrs_session_release(void)
{
	Protection *protection = innermost;

	session_drop_portals();
	for (int i = 0; i < protection->nportals; i++)
		portal_put_back(&protection->portals[i]);
	innermost = protection->outer;
	pfree(protection);
}

/* ------------------------------------------------------------- portals */

/* The context that those of all portals are in. */
static MemoryContext
portal_parent(void)
{
	static MemoryContext parent = NULL;

	if (parent == NULL)
	{
		MemoryContext context = TopMemoryContext->firstchild;

		while (context != NULL && strcmp(context->name, "TopPortalContext") != 0)
			context = context->nextchild;
		if (context == NULL)
			elog(ERROR, "there is no context of portals");
		parent = context;
	}
	return parent;
}

/* The portal that a context is of; its identifier is the name, where there is one. */
static Portal
portal_of(MemoryContext context)
{
	Portal		portal;

	if (ActivePortal != NULL && ActivePortal->portalContext == context)
		return ActivePortal;
	portal = context->ident == NULL ? NULL : GetPortalByName(context->ident);
	if (portal == NULL || portal->portalContext != context)
		portal = GetPortalByName("");
	return portal != NULL && portal->portalContext == context ? portal : NULL;
}

static bool
portal_is_known(const Protection *protection, Portal portal)
{
	for (int i = 0; i < protection->nportals; i++)
		if (protection->portals[i].portal == portal)
			return true;
	return false;
}

static void
portal_put_back(const KnownPortal *known)
{
	if (known->status == PORTAL_ACTIVE)
		return;
	known->portal->status = known->status;
	known->portal->portalPinned = known->pinned;
	known->portal->activeSubid = known->active;
}

/* Drop the portals that were not there before. */
static void
session_drop_portals(void)
{
	MemoryContext context = portal_parent()->firstchild;

	while (context != NULL)
	{
		Portal		portal = portal_of(context);

		/* the next one may go with it */
		context = context->nextchild;
		if (portal == NULL || portal_is_known(innermost, portal))
			continue;
		portal->portalPinned = false;
		PortalDrop(portal, false);
		context = portal_parent()->firstchild;
	}
}

/*
 * A subtransaction is aborted: release what was protected in it. Portals that
 * were made in it are about to go, and have to stay as they are.
 */
static void
session_abort_sub(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (innermost != NULL && innermost->xact_level >= GetCurrentTransactionNestLevel())
	{
		Protection *protection = innermost;

		for (int i = 0; i < protection->nportals; i++)
			if (protection->portals[i].portal->createSubid != subid)
				portal_put_back(&protection->portals[i]);
		innermost = protection->outer;
		pfree(protection);
	}
}

/* The same for a transaction: only portals that are held from an earlier one stay. */
static void
session_abort(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_ABORT && event != XACT_EVENT_PARALLEL_ABORT)
		return;
	for (; innermost != NULL; innermost = innermost->outer)
		for (int i = 0; i < innermost->nportals; i++)
			if (innermost->portals[i].portal->createSubid == InvalidSubTransactionId)
				portal_put_back(&innermost->portals[i]);
}

/* ------------------------------------------------- objects and functions */

static void
session_object_access(ObjectAccessType access, Oid class, Oid object, int subobject, void *arg)
{
	if (previous_hook != NULL)
		previous_hook(access, class, object, subobject, arg);
	if (innermost == NULL || !InSecurityRestrictedOperation())
		return;
	if (access == OAT_FUNCTION_EXECUTE)
		session_check_call(object);
	else if (access == OAT_POST_CREATE && subobject == 0)
		session_check_created(class, object);
}

/* Throw where an object that was just created is in the temporary schema. */
static void
session_check_created(Oid class, Oid object)
{
	AttrNumber	column;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	bool		is_temporary = false;

	if (!is_objectclass_supported(class) ||
		(column = get_object_attnum_namespace(class)) == InvalidAttrNumber)
		return;

	/* the command is not complete: no cache knows the object */
	rel = table_open(class, AccessShareLock);
	ScanKeyInit(&key, get_object_attnum_oid(class), BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(object));
	scan = systable_beginscan(rel, get_object_oid_index(class), true, SnapshotSelf, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		is_temporary = isTempOrTempToastNamespace(DatumGetObjectId(heap_getattr(tuple, column,
																				RelationGetDescr(rel),
																				&isnull)));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (is_temporary)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("cannot create temporary object within security-restricted operation")));
}

/* Throw for a function that reads or changes what belongs to the session. */
static void
session_check_call(Oid function)
{
	const char *hint = NULL;

	switch (function)
	{
		case F_PG_ADVISORY_LOCK_INT8:
		case F_PG_ADVISORY_LOCK_INT4_INT4:
		case F_PG_ADVISORY_LOCK_SHARED_INT8:
		case F_PG_ADVISORY_LOCK_SHARED_INT4_INT4:
		case F_PG_TRY_ADVISORY_LOCK_INT8:
		case F_PG_TRY_ADVISORY_LOCK_INT4_INT4:
		case F_PG_TRY_ADVISORY_LOCK_SHARED_INT8:
		case F_PG_TRY_ADVISORY_LOCK_SHARED_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_INT8:
		case F_PG_ADVISORY_UNLOCK_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_SHARED_INT8:
		case F_PG_ADVISORY_UNLOCK_SHARED_INT4_INT4:
		case F_PG_ADVISORY_UNLOCK_ALL:
			hint = "Locks here are for the transaction: see pg_advisory_xact_lock.";
			break;
		case F_LO_OPEN:
		case F_LO_CLOSE:
		case F_LOREAD:
		case F_LOWRITE:
		case F_LO_LSEEK:
		case F_LO_LSEEK64:
		case F_LO_TELL:
		case F_LO_TELL64:
		case F_LO_TRUNCATE:
		case F_LO_TRUNCATE64:
			hint = "Large objects here are read and written as a whole or in parts, not opened: see lo_get and lo_put.";
			break;
		case F_SETSEED:
			break;
		default:
			return;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("cannot call %s within security-restricted operation",
					format_procedure(function)),
			 hint == NULL ? 0 : errhint("%s", hint)));
}
