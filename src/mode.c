/*
 * mode.c
 *		Becoming inline, and leaving it.
 *
 * A publishing transaction decides at the end of each statement whether to apply
 * its events. Those in flight have decided under the old mode, so a switch locks
 * publishers out (SHARE ROW EXCLUSIVE on the outbox: every one of them holds ROW
 * EXCLUSIVE to its end, prepared ones too), takes its last snapshot under that
 * lock, drains what is visible in it, and switches. What was published before
 * is in the snapshot, what is published later is under the new mode, and nothing
 * is in between.
 *
 *	async, running --(mode => inline)--> inline, switching: caught up by batches
 *	inline, switching --(enter)--> inline, running: publishers apply
 *	inline, running --(leave)--> what the caller makes of it
 *
 * Publishers queue behind the lock request, so it has a short timeout. The
 * order of locks is: projection, outbox.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "catchup.h"
#include "checkpoint.h"
#include "mode.h"
#include "outbox.h"
#include "registry.h"

/* attempts of an interactive switch, and the pause between two of them */
#define LEAVE_ATTEMPTS 20
#define LEAVE_PAUSE_US (50 * 1000L)

static CqrsMember mode_drain(int32 projection, CqrsErrorPolicy policy);

/*
 * Switch a projection that has all but caught up to inline, in the current
 * transaction, which is read committed and has not published. Returns false
 * where the publishers, or by a worker the projection, could not be locked, where
 * the projection stopped, or where its handler has published while it caught up;
 * publishers wait until the transaction ends otherwise. Does nothing, and
 * returns true, where the projection is not (or no longer) to be switched. Sets *error,
 * unless that is NULL, to the error that it met then, or to NULL.
 */
bool
cqrs_mode_enter_inline(int32 id, CqrsErrorPolicy policy, ErrorData **error)
{
	CqrsProjection *projection;
	CqrsMember	member;

	/* a worker has others to look after, and tries again */
	if (!cqrs_checkpoint_lock(id, policy != CQRS_ERROR_RETRY))
		return false;
	projection = cqrs_projection_get(id);
	if (projection == NULL || projection->mode != CQRS_MODE_INLINE ||
		projection->state != CQRS_STATE_SWITCHING)
		return true;
	if (!cqrs_outbox_lock_publishers(NULL, 0))
		return false;
	member = mode_drain(id, policy);
	if (error != NULL)
		*error = member.error;
	if (member.error != NULL || !member.locked)
		return false;

	/* what the handler has published just now is yet to be processed: once more */
	if (cqrs_outbox_published_here())
		return false;
	cqrs_outbox_set_inline(true);
	cqrs_registry_set_state(id, CQRS_STATE_RUNNING);
	cqrs_outbox_wake_at_commit();
	return true;
}

/*
 * Take a running inline projection away from the publishers, in the current
 * transaction, under the projection's lock. Everything committed so far is
 * processed then, by its checkpoint too, and announced; the caller gives it a
 * new mode or state. With lock_read_tables, takes ACCESS EXCLUSIVE on those, too,
 * for a caller who needs it: waiting for that later would keep publishers waiting.
 * Throws where the locks are not to be had.
 */
void
cqrs_mode_leave_inline(CqrsProjection *projection, bool lock_read_tables)
{
	int			nrelids = lock_read_tables ? projection->ntables : 0;
	int			attempt = 0;

	cqrs_mode_require_clean_transaction("take a projection out of inline mode");

	/* what there is by now does not have to keep publishers waiting */
	mode_drain(projection->id, CQRS_ERROR_THROW);
	while (!cqrs_outbox_lock_publishers(projection->tables, nrelids))
	{
		if (++attempt >= LEAVE_ATTEMPTS)
			ereport(ERROR,
					(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
					 errmsg("could not lock out the publishers of inline projection \"%s\"",
							NameStr(projection->name)),
					 errdetail("Transactions that have published are in progress or prepared, or cqrs.outbox is being vacuumed or altered%s.",
							   nrelids > 0 ? ", or a read table is in use" : ""),
					 errhint("Try again; pg_stat_activity and pg_prepared_xacts show them.")));
		CHECK_FOR_INTERRUPTS();
		pg_usleep(LEAVE_PAUSE_US);
	}
	mode_drain(projection->id, CQRS_ERROR_THROW);
}

/*
 * After a projection has left inline mode, or is gone: if no other is inline,
 * publishing statements need no trigger any more. The publishers are locked out.
 */
void
cqrs_mode_forget_inline(int32 id)
{
	ListCell   *lc;

	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);

		if (projection->id != id && cqrs_projection_is_inline(projection))
			return;
	}
	cqrs_outbox_set_inline(false);
}

/*
 * Throw where the transaction's snapshot may be older than a lock that it is
 * about to take: what others did before they let go of it would not be seen.
 */
void
cqrs_mode_require_read_committed(const char *what)
{
	if (XactIsoLevel != XACT_READ_COMMITTED)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot %s in a transaction that is not read committed", what),
				 errhint("BEGIN ISOLATION LEVEL READ COMMITTED;")));
}

/*
 * Throw unless a switch can take place in the current transaction. Events that
 * it published itself would be neither before nor after the switch.
 */
void
cqrs_mode_require_clean_transaction(const char *what)
{
	cqrs_mode_require_read_committed(what);
	if (cqrs_outbox_published_here())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot %s in a transaction that has published events", what),
				 errhint("Commit first.")));
}

/*
 * Process all that is visible now, to which nothing is added where publishers are locked
 * out. They wait, or are about to: what was put aside is retried another time.
 */
static CqrsMember
mode_drain(int32 id, CqrsErrorPolicy policy)
{
	CqrsMember	member;

	do
	{
		member = (CqrsMember) {.projection = id,.no_retry_before = PG_INT64_MAX};
		cqrs_catchup_pass(&member, 1, true, policy);
	} while (member.more);
	return member;
}
