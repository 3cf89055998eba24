/*
 * lock.c
 *		The locks of an inline projection; locks that are waited for briefly.
 *
 * A projection's own lock (checkpoint.c) keeps those who process batches from
 * each other. Publishers, who apply events of an inline projection, don't take
 * it: they take a lock for each key and, with the keys, the projection's gate in
 * ROW EXCLUSIVE mode. Locks are finite, so a transaction that would take many
 * takes the gate in EXCLUSIVE mode instead, and so does whoever wants no
 * publisher to be at work. All are heavyweight locks on the object (cqrs.registry,
 * projection or hash), and are held to the end of the transaction. The order is:
 * projection, gate, keys.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "catalog.h"
#include "compat.h"
#include "lock.h"

/* the object sub-ids of our locks; 0 is the checkpoint's */
#define LOCK_KEY 1
#define LOCK_GATE 2

/* key locks of one transaction; beyond that it takes the gate */
#define MAX_KEY_LOCKS 128

/* how long others may have to queue behind us for a lock; ms, as text */
#define BRIEF_LOCK_TIMEOUT "100"
#define BRIEF_DEADLOCK_TIMEOUT "20"

static void lock_gate_tag(LOCKTAG *tag, int32 projection);
static void lock_gate_of(void *arg);

/*
 * Take locks that others, who are many, queue for: give all of them up after a
 * short time. Returns whether they were to be had.
 */
bool
cqrs_lock_briefly(CqrsLockFn lock_fn, void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool locked = false;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		int			nest_level = NewGUCNestLevel();

		/* an autovacuum gives way, but only to a deadlock check */
		(void) set_config_option("deadlock_timeout", BRIEF_DEADLOCK_TIMEOUT, PGC_SUSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		(void) set_config_option("lock_timeout", BRIEF_LOCK_TIMEOUT, PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		lock_fn(arg);
		AtEOXact_GUC(true, nest_level);
		ReleaseCurrentSubTransaction();
		locked = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return locked;
}

/*
 * Exclude other publishers of these keys, by their hashes, sorted and distinct;
 * or of any, where there are many. Without keys, keep out who excludes all.
 */
void
cqrs_lock_keys(int32 projection, const uint32 *hashes, int nhashes, bool many)
{
	static FullTransactionId counted_xid;
	static int	counted = 0;
	FullTransactionId xid = GetTopFullTransactionId();
	LOCKTAG		gate;

	if (!FullTransactionIdEquals(counted_xid, xid))
	{
		counted_xid = xid;
		counted = 0;
	}
	many |= counted + nhashes > MAX_KEY_LOCKS;
	lock_gate_tag(&gate, projection);
	(void) LockAcquire(&gate, many ? ExclusiveLock : RowExclusiveLock, false, false);
	for (int i = 0; i < nhashes && !many; i++)
	{
		LOCKTAG		tag;

		SET_LOCKTAG_OBJECT(tag, MyDatabaseId, cqrs_catalog_relation("registry", false),
						   hashes[i], LOCK_KEY);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
		counted++;
	}
}

/* Are all publishers for a projection excluded by this transaction? */
bool
cqrs_lock_gate_held(int32 projection)
{
	LOCKTAG		gate;

	lock_gate_tag(&gate, projection);
	return cqrs_compat_lock_held(&gate, ExclusiveLock);
}

/*
 * Exclude all publishers for a projection. Waits for those in progress. The
 * caller holds the projection's lock.
 */
void
cqrs_lock_gate(int32 projection)
{
	LOCKTAG		gate;

	lock_gate_tag(&gate, projection);
	(void) LockAcquire(&gate, ExclusiveLock, false, false);
}

/* The same, unless it takes long. Returns whether they are excluded. */
bool
cqrs_lock_gate_briefly(int32 projection)
{
	LOCKTAG		gate;

	lock_gate_tag(&gate, projection);
	return LockAcquire(&gate, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL ||
		cqrs_lock_briefly(lock_gate_of, &projection);
}

static void
lock_gate_tag(LOCKTAG *tag, int32 projection)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, cqrs_catalog_relation("registry", false),
					   projection, LOCK_GATE);
}

static void
lock_gate_of(void *arg)
{
	cqrs_lock_gate(*(int32 *) arg);
}
