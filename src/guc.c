/*
 * guc.c
 *		Owns and defines all settings.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "guc.h"

bool		cqrs_guc_allow_writes = false;
int			cqrs_guc_batch_size = 10000;
bool		cqrs_guc_enabled = true;
int			cqrs_guc_handler_timeout = 300000;
int			cqrs_guc_log_min_batch_duration = -1;
int			cqrs_guc_max_retries = 10;
int			cqrs_guc_max_retry_delay = 300000;
int			cqrs_guc_max_workers = 4;
int			cqrs_guc_retry_delay = 1000;

/*
 * Define the settings, in alphabetical order, and reserve the prefix. Called
 * once per process, from _PG_init.
 */
void
cqrs_guc_define(void)
{
	/*
	 * Superusers only: it suspends the promise that a read table equals its
	 * events. Meant for repairs and for restoring data.
	 */
	DefineCustomBoolVariable("cqrs_views.allow_writes",
							 "Sets whether read tables can be written to, and dropped, by hand.",
							 NULL,
							 &cqrs_guc_allow_writes,
							 false, PGC_SUSET, 0, NULL, NULL, NULL);

	/*
	 * The default is large because batches only grow to it when there is a
	 * backlog, and set-based handlers gain up to there.
	 */
	DefineCustomIntVariable("cqrs_views.batch_size",
							"Sets the maximum number of events processed in one transaction.",
							"A projection's own batch_size takes precedence.",
							&cqrs_guc_batch_size,
							10000, 1, 1000000, PGC_USERSET, 0, NULL, NULL, NULL);

	/* In the configuration file only: a session can't stop other sessions' workers. */
	DefineCustomBoolVariable("cqrs_views.enabled",
							 "Sets whether background workers process projections.",
							 "Inline projections and catch_up work regardless.",
							 &cqrs_guc_enabled,
							 true, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/*
	 * Where workers are by themselves, batches take about a second: 300 times as
	 * much is no slow handler but one that does not return. Not too short, since
	 * an event that needs longer by itself is put aside.
	 */
	DefineCustomIntVariable("cqrs_views.handler_timeout",
							"Sets the maximum time that a handler may take for the events it is given.",
							"Zero turns it off. In mode inline, the publisher's statement_timeout applies instead.",
							&cqrs_guc_handler_timeout,
							300000, 0, INT_MAX, PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);

	/* As log_min_duration_statement, but a batch is no statement. */
	DefineCustomIntVariable("cqrs_views.log_min_batch_duration",
							"Sets the duration from which on batches are logged.",
							"Zero logs all batches, -1 none.",
							&cqrs_guc_log_min_batch_duration,
							-1, -1, INT_MAX, PGC_SUSET, GUC_UNIT_MS, NULL, NULL, NULL);

	/* Errors that are nobody's fault (a deadlock, say) are retried for ever. */
	DefineCustomIntVariable("cqrs_views.max_retries",
							"Sets how often a failing event is retried before it is given up.",
							"Has no effect while on_error is \"stop\".",
							&cqrs_guc_max_retries,
							10, 0, INT_MAX, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* The delay doubles from retry_delay up to this. */
	DefineCustomIntVariable("cqrs_views.max_retry_delay",
							"Sets the longest time between two retries of a batch.",
							NULL,
							&cqrs_guc_max_retry_delay,
							300000, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	/*
	 * Taken from max_worker_processes, which is 8 by default and shared with
	 * parallel query and logical replication.
	 */
	DefineCustomIntVariable("cqrs_views.max_workers",
							"Sets the maximum number of background workers, over all databases.",
							NULL,
							&cqrs_guc_max_workers,
							4, 1, 1024, PGC_SIGHUP, 0, NULL, NULL, NULL);

	/* The first delay; later ones double. */
	DefineCustomIntVariable("cqrs_views.retry_delay",
							"Sets the time before the first retry of a batch.",
							NULL,
							&cqrs_guc_retry_delay,
							1000, 1, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	MarkGUCPrefixReserved("cqrs_views");
}
