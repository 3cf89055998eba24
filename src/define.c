/*
 * define.c
 *		Register a new projection: claim and guard its tables, make its first
 *		checkpoint, let it become inline.
 */
#include "postgres.h"

#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "apply.h"
#include "attachment.h"
#include "checkpoint.h"
#include "define.h"
#include "guc.h"
#include "mode.h"
#include "outbox.h"
#include "read_table.h"
#include "restore.h"
#include "shmem.h"

static void define_notice_without_workers(const char *name);

/* Throw where there is a projection of that name. */
void
cqrs_define_refuse_existing(const char *name)
{
	if (cqrs_projection_find(name, true) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists", name),
				 errhint("Drop it first, or change it with cqrs.alter_projection.")));
}

/*
 * Check that tables can become a new projection's. Takes SHARE ROW EXCLUSIVE,
 * which excludes others who
 * want the same until they can see that they are taken.
 */
void
cqrs_define_claim(const Oid *relids, int nrelids, Oid owner)
{
	for (int i = 0; i < nrelids; i++)
	{
		CqrsProjection *other;

		cqrs_read_table_check(relids[i], owner);
		LockRelationOid(relids[i], ShareRowExclusiveLock);
		cqrs_read_table_check(relids[i], owner);
		if (cqrs_attachment_find(relids[i]) != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("table \"%s\" is attached, and can't be a read table",
							get_rel_name(relids[i])),
					 errhint("Use another table, or detach it: see cqrs.detach_outbox.")));
		other = cqrs_projection_of_table(relids[i]);
		if (other != NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("read table \"%s\" already belongs to projection \"%s\"",
							get_rel_name(relids[i]), NameStr(other->name)),
					 errhint("A read table has one projection. Use another table, or SELECT cqrs.drop_projection(%s);",
							 quote_literal_cstr(NameStr(other->name)))));
	}
}

/*
 * Register a projection whose tables are claimed, and begin where its start_at
 * says, or behind what it has processed already: all that is visible in done (0
 * = nothing), and what was restored, up to position last. For mode inline, with a backlog of one batch
 * or less, takes SHARE ROW EXCLUSIVE on the outbox and applies the backlog.
 */
void
cqrs_define_projection(CqrsProjectionColumns *columns, const Oid *tables, int ntables,
					   Datum done, int64 last)
{
	int64		peak = last;
	int32		id;

	cqrs_restore_none();
	columns->state = columns->mode == CQRS_MODE_INLINE ? CQRS_STATE_SWITCHING :
		CQRS_STATE_RUNNING;
	id = cqrs_registry_insert(columns);
	cqrs_checkpoint_lock(id, true);
	for (int i = 0; i < ntables; i++)
		cqrs_read_table_guard(tables[i]);

	if (done == (Datum) 0)
		cqrs_apply_begin(cqrs_projection_get(id));
	PushActiveSnapshot(GetLatestSnapshot());
	if (done == (Datum) 0 && strcmp(columns->start_at, "now") == 0)
	{
		done = cqrs_checkpoint_current_snapshot();
		peak = cqrs_outbox_last_position();
	}
	cqrs_checkpoint_insert(id, done, last, peak);
	PopActiveSnapshot();

	if (columns->mode == CQRS_MODE_INLINE)
		cqrs_define_become_inline(id);
	else
		define_notice_without_workers(NameStr(*DatumGetName(columns->name)));
	cqrs_outbox_wake_at_commit();
}

/*
 * Let a projection in state switching become inline: at once where its backlog
 * is one batch or less, else when workers, or catch_up, have caught up.
 */
void
cqrs_define_become_inline(int32 id)
{
	CqrsProjection *projection = cqrs_projection_get(id);
	CqrsCheckpoint *checkpoint = cqrs_checkpoint_peek(id);
	int			batch_size = projection->batch_size ? projection->batch_size : cqrs_guc_batch_size;
	bool		small = checkpoint != NULL && !checkpoint->frozen &&
		cqrs_checkpoint_pending(checkpoint, batch_size).events <= batch_size;

	if (small && cqrs_mode_enter_inline(id, CQRS_ERROR_THROW, NULL))
		return;
	ereport(NOTICE,
			(errmsg("projection \"%s\" will be inline when it has caught up",
					NameStr(projection->name)),
			 errdetail("Its state is \"switching\" until then."),
			 cqrs_shmem_available() ? 0 :
			 errhint("CALL cqrs.catch_up(%s);",
					 quote_literal_cstr(NameStr(projection->name)))));
}

static void
define_notice_without_workers(const char *name)
{
	if (!cqrs_shmem_available())
		ereport(NOTICE,
				(errmsg("no background worker will process projection \"%s\"", name),
				 errdetail("The library cqrs_views is not preloaded."),
				 errhint("Add cqrs_views to shared_preload_libraries and restart the server, or CALL cqrs.catch_up(%s);",
						 quote_literal_cstr(name))));
}
