/*
 * sql_status.c
 *		SQL functions behind the views to look at. They take no lock, and scan no
 *		more of the outbox than COUNT_LIMIT events for each projection.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "checkpoint.h"
#include "dead_letter.h"
#include "outbox.h"
#include "outbox_pending.h"
#include "projection.h"
#include "rebuild.h"
#include "shmem.h"
#include "sql_args.h"
#include "sql_status.h"

/* events_pending is exact up to here, and estimated from positions beyond */
#define COUNT_LIMIT 1000

PG_FUNCTION_INFO_V1(cqrs_sql_get_projection_status);
PG_FUNCTION_INFO_V1(cqrs_sql_get_worker_status);
PG_FUNCTION_INFO_V1(cqrs_sql_get_rebuild_progress);
PG_FUNCTION_INFO_V1(cqrs_sql_reset_stats);

static CqrsPending pending_events(const CqrsProjection *projection,
								  const CqrsCheckpoint *checkpoint);
static Datum oid_array(const Oid *oids, int n);
static Datum microseconds_to_interval(int64 us);

/*
 * cqrs.get_projection_status() RETURNS SETOF record
 *
 * Errors are shown to the projection's owner and to monitors only: they may
 * tell what is in an event.
 */
Datum
cqrs_sql_get_projection_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *lc;

	/* a transaction that asks again and again takes no new lock: it would hear of nothing */
	AcceptInvalidationMessages();
	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);
		CqrsCheckpoint *checkpoint = cqrs_checkpoint_peek(projection->id);
		CqrsPending pending;
		CqrsParked	parked;
		TimestampTz next_retry_at;
		Datum		values[15];
		bool		nulls[15] = {false};
		int			i = 0;

		/* dropped while we looked */
		if (checkpoint == NULL)
			continue;
		pending = pending_events(projection, checkpoint);

		values[i++] = NameGetDatum(&projection->name);
		values[i++] = CStringGetTextDatum(cqrs_projection_mode_name(projection->mode));
		values[i++] = CStringGetTextDatum(projection->kind);
		values[i++] = CStringGetTextDatum(cqrs_projection_state_name(projection->state));
		values[i++] = Int64GetDatum(pending.events);
		values[i++] = microseconds_to_interval(pending.oldest > now ? 0 :
											   now - pending.oldest);
		values[i++] = Int64GetDatum(cqrs_projection_is_inline(projection) ?
									cqrs_outbox_last_position() : checkpoint->walk.last);
		values[i++] = Int64GetDatum(checkpoint->events_processed);
		values[i++] = Int64GetDatum(checkpoint->batches);
		parked = cqrs_dead_letter_summary(projection->id);
		values[i++] = Int64GetDatum(parked.events);
		values[i++] = Int64GetDatum(Max(projection->retries, parked.attempts));
		next_retry_at = projection->next_retry_at == 0 ? parked.next_retry_at :
			projection->next_retry_at;
		nulls[i] = next_retry_at == 0;
		values[i++] = TimestampTzGetDatum(next_retry_at);
		nulls[i] = projection->last_error == NULL || !cqrs_projection_shows_error(projection);
		values[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(projection->last_error);
		i++;
		nulls[i] = projection->last_error_at == 0;
		values[i++] = TimestampTzGetDatum(projection->last_error_at);
		values[i++] = oid_array(projection->tables, projection->nread_tables);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/*
 * cqrs.reset_stats(name) RETURNS void
 *
 * Sets the projection's counters, events_processed and batches, to zero. Waits
 * for a batch in progress.
 */
Datum
cqrs_sql_reset_stats(PG_FUNCTION_ARGS)
{
	cqrs_checkpoint_reset_counters(cqrs_sql_arg_projection(fcinfo)->id);
	PG_RETURN_VOID();
}

/*
 * cqrs.get_worker_status() RETURNS SETOF record
 *
 * The workers of all databases, from shared memory.
 */
Datum
cqrs_sql_get_worker_status(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (!cqrs_shmem_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cqrs_views is not preloaded, so there are no background workers"),
				 errhint("Add cqrs_views to shared_preload_libraries and restart the server.")));

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < cqrs_shmem_max_workers(); i++)
	{
		CqrsWorkerInfo info;
		NameData	database;
		char	   *name;
		Datum		values[4];
		bool		nulls[4] = {false};

		if (!cqrs_shmem_worker_info(i, &info) || (name = get_database_name(info.dboid)) == NULL)
			continue;
		namestrcpy(&database, name);
		values[0] = Int32GetDatum(info.pid);
		values[1] = NameGetDatum(&database);
		values[2] = CStringGetTextDatum(info.activity);
		values[3] = TimestampTzGetDatum(info.since);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* cqrs.get_rebuild_progress() RETURNS SETOF record */
Datum
cqrs_sql_get_rebuild_progress(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *lc;

	InitMaterializedSRF(fcinfo, 0);
	foreach(lc, cqrs_projection_list())
	{
		CqrsProjection *projection = lfirst(lc);
		CqrsRebuildProgress progress;
		Datum		values[6];
		bool		nulls[6] = {false};

		if (!cqrs_rebuild_progress(projection, &progress))
			continue;
		values[0] = NameGetDatum(&projection->name);
		values[1] = CStringGetTextDatum(progress.phase);
		values[2] = Int64GetDatum(progress.events_done);
		values[3] = Int64GetDatum(progress.events_total);
		values[4] = Float8GetDatum(progress.rate);
		nulls[5] = progress.eta_us < 0;
		values[5] = microseconds_to_interval(progress.eta_us);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* What a projection has not processed yet, filtered out or not. */
static CqrsPending
pending_events(const CqrsProjection *projection, const CqrsCheckpoint *checkpoint)
{
	CqrsPending pending = {.oldest = PG_INT64_MAX};

	if (cqrs_projection_is_inline(projection))
		return pending;
	pending = cqrs_checkpoint_pending(checkpoint, COUNT_LIMIT);
	if (pending.events > COUNT_LIMIT)
	{
		int64		from = checkpoint->walk.last;

		if (checkpoint->frozen)
			from = Max(from, checkpoint->walk.low - 1);
		pending.events = Max(cqrs_outbox_last_position() - from, COUNT_LIMIT + 1);
	}
	return pending;
}

static Datum
oid_array(const Oid *oids, int n)
{
	Datum	   *elements = palloc(Max(n, 1) * sizeof(Datum));

	for (int i = 0; i < n; i++)
		elements[i] = ObjectIdGetDatum(oids[i]);
	return PointerGetDatum(construct_array(elements, n, REGCLASSOID, sizeof(Oid), true,
										   TYPALIGN_INT));
}

static Datum
microseconds_to_interval(int64 us)
{
	Interval   *interval = palloc0(sizeof(Interval));

	interval->day = us / USECS_PER_DAY;
	interval->time = us % USECS_PER_DAY;
	return IntervalPGetDatum(interval);
}
