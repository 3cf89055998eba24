/*
 * deadline.c
 *		Cancel an owner's code that takes too long.
 *
 * The server's own timeout facility interrupts whatever runs, as it does for
 * statement_timeout, which workers have none of: a pass is no statement. What
 * runs then sees a cancellation. It gets a SQLSTATE of its own afterwards, since
 * it is the fault of what took so long, while a cancellation by an operator is
 * nobody's.
 *
 * Code may catch a cancellation and go on, so there is one after the other; a worker
 * that has got enough of them ends itself, or others could wait for it without end.
 *
 * Code in C that never checks for interrupts can't be cancelled, by anybody.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "deadline.h"

/* after the first cancellation there is another one each so many ms, */
#define REPEAT_AFTER 1000

/* and a worker sits through so many */
#define MAX_CANCELLATIONS 10

static TimeoutId timeout = MAX_TIMEOUTS;	/* until registered */
static bool armed = false;
static int	limit;				/* ms */
static volatile sig_atomic_t cancellations = 0;	/* since it has passed */
static volatile sig_atomic_t locked_out = false;	/* it was waiting for a lock */

static void deadline_handler(void);

/*
 * From now on, what runs is cancelled once so many milliseconds are up; 0 = never.
 * To be ended whatever happens; not to be nested.
 */
void
cqrs_deadline_begin(int ms)
{
	Assert(!armed);
	cancellations = 0;
	locked_out = false;
	if (ms == 0)
		return;
	if (timeout == MAX_TIMEOUTS)
		timeout = RegisterTimeout(USER_TIMEOUT, deadline_handler);
	limit = ms;
	armed = true;
	enable_timeout_every(timeout, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), limit),
						 Min(limit, REPEAT_AFTER));
}

/* Is there one already? */
bool
cqrs_deadline_is_set(void)
{
	return armed;
}

/* What has come too late to cancel anything cancels nothing else. */
void
cqrs_deadline_end(void)
{
	if (!armed)
		return;
	disable_timeout(timeout, false);
	armed = false;
	if (cancellations > 0)
		QueryCancelPending = false;
}

/*
 * If an error that was thrown between begin and end is the deadline's doing, say
 * so. Who has waited for a lock until then is not to blame: that is a lock
 * timeout.
 */
void
cqrs_deadline_explain(ErrorData *error, const char *projection)
{
	if (cancellations == 0 || error->sqlerrcode != ERRCODE_QUERY_CANCELED)
		return;
	if (locked_out)
	{
		error->sqlerrcode = ERRCODE_LOCK_NOT_AVAILABLE;
		error->message = psprintf("canceling projection \"%s\" due to handler timeout while it waits for a lock",
								  projection);
		return;
	}
	error->sqlerrcode = CQRS_ERRCODE_HANDLER_TIMEOUT;
	error->message = psprintf("canceling projection \"%s\" due to handler timeout", projection);
	error->detail = psprintf("Its handler has not returned within %d ms.", limit);
	error->hint = pstrdup("Mend the handler, or raise cqrs_views.handler_timeout.");
}

/* In a signal handler: as the server's own for statement_timeout. */
static void
deadline_handler(void)
{
	locked_out = MyProc->waitStatus == PROC_WAIT_STATUS_WAITING;
	InterruptPending = true;
	QueryCancelPending = true;
	if (++cancellations > MAX_CANCELLATIONS && MyBgworkerEntry != NULL)
		ProcDiePending = true;
	SetLatch(MyLatch);
}
