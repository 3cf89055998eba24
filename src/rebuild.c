/*
 * rebuild.c
 *		Compute read tables again from the first event.
 *
 * In place: one transaction empties the read tables and moves the checkpoint
 * back before the first event; from then on the projection catches up like any
 * other, a transaction per batch, by whoever gets its lock: the session that
 * called for the rebuild, or a worker if that session goes away. Nothing is
 * lost by a crash at any point. Readers see the tables fill.
 */
#include "postgres.h"

#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "apply.h"
#include "checkpoint.h"
#include "dead_letter.h"
#include "mode.h"
#include "outbox.h"
#include "registry.h"
#include "query.h"
#include "read_table.h"
#include "rebuild.h"

/*
 * Begin a rebuild in the current transaction, under the projection's lock.
 * Takes ACCESS EXCLUSIVE on the read tables until the transaction ends.
 */
void
cqrs_rebuild_start(CqrsProjection *projection)
{
	bool		was_inline = cqrs_projection_is_inline(projection);
	CqrsUserContext user;
	CqrsWriters writers;

	cqrs_checkpoint_refuse_missing(cqrs_checkpoint_peek(projection->id));
	if (was_inline)
		cqrs_mode_leave_inline(projection, true);

	/* before they are looked at: they are named again to be emptied */
	for (int i = 0; i < projection->ntables; i++)
		LockRelationOid(projection->tables[i], AccessExclusiveLock);
	for (int i = 0; i < projection->ntables; i++)
		cqrs_read_table_check(projection->tables[i], projection->owner);

	cqrs_query_enter_user(&user, projection->owner, &projection->settings);
	writers = cqrs_read_table_open(projection->tables, projection->ntables);
	PG_TRY();
	{
		cqrs_read_table_truncate(projection->tables, projection->ntables);
	}
	PG_FINALLY();
	{
		cqrs_read_table_close(writers);
	}
	PG_END_TRY();
	cqrs_query_leave_user(&user);
	cqrs_apply_begin(projection);

	cqrs_checkpoint_reset(projection->id);
	cqrs_dead_letter_forget(projection->id);
	cqrs_registry_set_parked(projection->id, false, 0, NULL);
	cqrs_registry_set_rebuilding(projection->id);
	if (was_inline)
		cqrs_mode_forget_inline(projection->id);
	cqrs_outbox_wake_at_commit();
}

/* Returns false where the projection is not being rebuilt. */
bool
cqrs_rebuild_progress(const CqrsProjection *projection, CqrsRebuildProgress *progress)
{
	CqrsCheckpoint *checkpoint;
	double		elapsed;

	if (projection->rebuild_started_at == 0 ||
		(checkpoint = cqrs_checkpoint_peek(projection->id)) == NULL)
		return false;

	progress->phase = projection->state == CQRS_STATE_REBUILDING ? "replaying" :
		cqrs_projection_state_name(projection->state);
	if (checkpoint->frozen)
	{
		progress->events_total = Max(checkpoint->walk.high - checkpoint->walk.low + 1, 0);
		progress->events_done = Max(checkpoint->walk.last - checkpoint->walk.low + 1, 0);
	}
	else
	{
		progress->events_total = cqrs_outbox_last_position();
		progress->events_done = checkpoint->walk.last;
	}
	elapsed = (GetCurrentTimestamp() - projection->rebuild_started_at) / (double) USECS_PER_SEC;
	progress->rate = elapsed > 0 ? progress->events_done / elapsed : 0;
	progress->eta_us = progress->rate <= 0 ? -1 :
		(int64) ((progress->events_total - progress->events_done) / progress->rate * USECS_PER_SEC);
	return true;
}
