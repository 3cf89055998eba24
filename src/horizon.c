/*
 * horizon.c
 *		Up to which position everything is decided.
 *
 * A position is drawn before its event becomes visible, or never does. Whoever
 * draws one holds ROW EXCLUSIVE on the outbox from before that to the end of the
 * transaction. So of the positions drawn up to some moment, those of whom
 * nobody is in flight any more that was then are settled: their events are
 * visible to any snapshot taken from now on, or were rolled back.
 *
 * There is hardly a moment without a publisher, so one such moment is remembered
 * as an epoch, and followed by another as soon as all of its publishers have
 * gone. It is for this process alone and costs no publisher anything. A prepared
 * transaction has shed the identity that it published under; while there is one,
 * nothing more gets settled.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/memutils.h"

#include "catalog.h"
#include "compat.h"
#include "horizon.h"
#include "outbox.h"

/* the epoch: positions up to "drawn", by these publishers or earlier ones */
static int64 drawn = 0;
static VirtualTransactionId *publishers = NULL;
static int	npublishers = 0;

static int64 settled = 0;

/* the outbox that all of this is about */
static Oid	outbox = InvalidOid;

static bool horizon_epoch_is_over(const VirtualTransactionId *current, int ncurrent);

/*
 * The position up to which, for snapshots that are taken later, no event is yet
 * to come; 0 where nothing is known, where the transaction took its snapshot long
 * ago, or has published itself. Take the snapshot after this.
 */
int64
cqrs_horizon_settled(void)
{
	Oid			relid = cqrs_catalog_relation("outbox", false);
	VirtualTransactionId *current;
	int			ncurrent;
	int64		drawn_now;
	LOCKTAG		tag;

	if (IsolationUsesXactSnapshot() || cqrs_outbox_published_here())
		return 0;
	if (relid != outbox)
	{
		settled = 0;
		drawn = 0;
		npublishers = 0;
		outbox = relid;
	}

	/* in this order: who drew one of these positions holds the lock, or has gone */
	drawn_now = cqrs_outbox_drawn();
	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relid);
	current = GetLockConflicts(&tag, ShareLock, &ncurrent);
	if (horizon_epoch_is_over(current, ncurrent))
	{
		settled = ncurrent == 0 ? drawn_now : drawn;
		drawn = drawn_now;
		if (publishers != NULL)
			pfree(publishers);
		publishers = MemoryContextAlloc(TopMemoryContext,
										Max(ncurrent, 1) * sizeof(VirtualTransactionId));
		memcpy(publishers, current, ncurrent * sizeof(VirtualTransactionId));
		npublishers = ncurrent;
	}
	pfree(current);
	return settled;
}

/* Has everybody gone that was in flight when the epoch began? */
static bool
horizon_epoch_is_over(const VirtualTransactionId *current, int ncurrent)
{
	for (int i = 0; i < ncurrent; i++)
	{
		if (!cqrs_compat_vxid_has_backend(current[i]))
			return false;
		for (int j = 0; j < npublishers; j++)
			if (VirtualTransactionIdEquals(current[i], publishers[j]))
				return false;
	}
	return true;
}
