/*
 * sql_dead_letter.c
 *		SQL functions about events that were put aside.
 */
#include "postgres.h"

#include "access/xact.h"
#include "nodes/pg_list.h"
#include "utils/snapmgr.h"

#include "checkpoint.h"
#include "dead_letter.h"
#include "guc.h"
#include "lock.h"
#include "mode.h"
#include "outbox.h"
#include "park.h"
#include "retry.h"
#include "sql_args.h"
#include "sql_dead_letter.h"

PG_FUNCTION_INFO_V1(cqrs_sql_retry_dead_letters);
PG_FUNCTION_INFO_V1(cqrs_sql_discard_dead_letters);

static void note_and_wake(CqrsProjection *projection);

/*
 * cqrs.retry_dead_letters(name, key text DEFAULT NULL) RETURNS bigint
 *
 * Applies parked events in the order of positions, key by key, or those of one
 * key, in the current transaction, each key's up to the first that fails again.
 * Returns how many left the queue. Waits for a batch in progress; publishers of
 * an inline projection wait until the transaction ends. Throws what no event is
 * to blame for (a deadlock, a handler that is missing); nothing has changed then.
 */
Datum
cqrs_sql_retry_dead_letters(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_sql_arg_projection(fcinfo);
	CqrsRetryOutcome outcome = {0};
	CqrsCheckpoint *checkpoint;
	List	   *keys;
	ListCell   *lc;

	cqrs_mode_require_clean_transaction("retry dead letters");
	if (cqrs_projection_is_inline(projection))
		cqrs_lock_gate(projection->id);
	keys = PG_ARGISNULL(1) ? cqrs_dead_letter_keys(projection->id, 0) :
		list_make1(PG_GETARG_TEXT_PP(1));
	PushActiveSnapshot(GetLatestSnapshot());
	checkpoint = cqrs_checkpoint_read(projection->id);
	cqrs_checkpoint_refuse_missing(checkpoint);
	foreach(lc, keys)
	{
		cqrs_retry_key(projection, checkpoint, lfirst(lc), true, CQRS_PATIENCE_NONE, &outcome);
		if (outcome.error != NULL)
			ReThrowError(outcome.error);
	}
	if (outcome.applied > 0)
		cqrs_checkpoint_advance(checkpoint, outcome.applied);
	PopActiveSnapshot();
	note_and_wake(projection);
	PG_RETURN_INT64(outcome.left);
}

/*
 * cqrs.discard_dead_letters(name, key text, up_to_position bigint DEFAULT NULL)
 * RETURNS bigint
 *
 * Forgets a key's parked events up to a position, or all of them; NULL is a key.
 * Returns how many there were. What is left of the key is tried again, by workers
 * or catch_up. Waits for a batch in progress.
 */
Datum
cqrs_sql_discard_dead_letters(PG_FUNCTION_ARGS)
{
	CqrsProjection *projection = cqrs_sql_arg_projection(fcinfo);
	int64		discarded;

	cqrs_mode_require_read_committed("discard dead letters");
	if (cqrs_projection_is_inline(projection))
		cqrs_lock_gate(projection->id);
	discarded = cqrs_dead_letter_discard(projection->id,
										 PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1),
										 PG_ARGISNULL(2) ? PG_INT64_MAX : PG_GETARG_INT64(2),
										 cqrs_guc_max_retries);
	note_and_wake(projection);
	PG_RETURN_INT64(discarded);
}

static void
note_and_wake(CqrsProjection *projection)
{
	cqrs_park_note(projection, NULL);
	cqrs_outbox_wake_at_commit();
}
