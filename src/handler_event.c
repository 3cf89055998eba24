/*
 * handler_event.c
 *		The calling convention f(cqrs.event) RETURNS void: once per event, in
 *		order.
 *
 * Called through fmgr and not through a query, which would cost as much again
 * as a small handler does. Each event has a memory context of its own, so a
 * large payload or a leak lasts for one event.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "handler_event.h"

static bool handler_event_matches(Oid function);
static int	handler_event_argtypes(const CqrsProjection *projection,
								   Oid argtypes[CQRS_HANDLER_MAX_ARGS]);
static void handler_event_apply(CqrsHandlerCall *call);

const CqrsHandlerKind cqrs_handler_event_kind = {
	.name = "event",
	.matches = handler_event_matches,
	.argtypes = handler_event_argtypes,
	.apply = handler_event_apply
};

static bool
handler_event_matches(Oid function)
{
	Oid		   *argtypes;
	int			nargs;
	Oid			rettype = get_func_signature(function, &argtypes, &nargs);

	return nargs == 1 && argtypes[0] == cqrs_event_type() && rettype == VOIDOID;
}

static int
handler_event_argtypes(const CqrsProjection *projection, Oid argtypes[CQRS_HANDLER_MAX_ARGS])
{
	argtypes[0] = cqrs_event_type();
	return 1;
}

static void
handler_event_apply(CqrsHandlerCall *call)
{
	LOCAL_FCINFO(fcinfo, 1);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views event",
												  ALLOCSET_DEFAULT_SIZES);
	FmgrInfo	flinfo;

	/* one per batch: the language's own caching hangs on it */
	fmgr_info(call->function, &flinfo);
	cqrs_handler_blame_events();

	for (int i = 0; i < call->nevents; i++)
	{
		PgStat_FunctionCallUsage usage;
		MemoryContext old = MemoryContextSwitchTo(context);

		CHECK_FOR_INTERRUPTS();
		call->current = i;
		InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);
		fcinfo->args[0].value = cqrs_event_datum(call->events[i], call->batch->desc);
		fcinfo->args[0].isnull = false;
		pgstat_init_function_usage(fcinfo, &usage);
		FunctionCallInvoke(fcinfo);
		pgstat_end_function_usage(&usage, true);

		/* the next event sees what this one did, whatever the language */
		CommandCounterIncrement();
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	call->current = -1;
}
