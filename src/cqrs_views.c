/*
 * cqrs_views.c
 *		_PG_init only.
 *
 * Loaded with shared_preload_libraries, the library has shared memory and
 * background workers. Loaded by the first call of one of its functions, it has
 * neither, and processes events inline and in catch_up only.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "arrival.h"
#include "attachment.h"
#include "catalog.h"
#include "cqrs_views.h"
#include "era.h"
#include "follow.h"
#include "function.h"
#include "guc.h"
#include "handler.h"
#include "handler_batch.h"
#include "handler_event.h"
#include "handler_reducer.h"
#include "handler_view.h"
#include "launcher.h"
#include "outbox.h"
#include "projection.h"
#include "read_table.h"
#include "reassign.h"
#include "session.h"
#include "shmem.h"
#include "view_cache.h"

PG_MODULE_MAGIC;

void
_PG_init(void)
{
	cqrs_guc_define();
	cqrs_catalog_init();
	cqrs_session_init();
	cqrs_function_init();
	cqrs_era_init();
	cqrs_outbox_init();
	cqrs_read_table_init();
	cqrs_projection_init();
	cqrs_attachment_init();
	cqrs_arrival_init();

	/* in the order in which they are looked for: for each single event, where a view is inline */
	cqrs_handler_register(&cqrs_handler_view_kind);
	cqrs_handler_register(&cqrs_handler_event_kind);
	cqrs_handler_register(&cqrs_handler_batch_kind);
	cqrs_handler_register(&cqrs_handler_reducer_kind);
	cqrs_view_cache_init();
	cqrs_follow_init();
	cqrs_reassign_init();

	/* pg_upgrade runs servers in which nothing may happen by itself */
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
	{
		cqrs_shmem_init();
		cqrs_launcher_register();
	}
}
