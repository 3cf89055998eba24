/*
 * notify.c
 *		Tell listeners of a projection: channel, payload, size limit.
 *
 * The channel is the projection's name. The payload is
 *	{"projection": …, "position": …, "events": n, "keys": ["…", …]}
 * in the transaction that changed the read tables, so whoever hears it finds
 * the rows. "keys" is null where the projection does not tell its keys, or where
 * they are too many for a notification.
 */
#include "postgres.h"

#include "commands/async.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/json.h"
#include "utils/timestamp.h"

#include "notify.h"

/* what NOTIFY takes, in bytes, without the terminating zero */
#define MAX_PAYLOAD 7999

/* PostgreSQL's queue of notifications is looked at this often, ms, */
#define LOOK_EVERY 1000

/* and left alone when so much of it is in use: full, it would fail whoever notifies */
#define MAX_USAGE 0.9

static bool notify_has_room(void);
static bool notify_append_keys(StringInfo payload, text **keys, int nkeys);

/*
 * Queue a notification for the end of the transaction. position is that of the
 * last of the nevents events, keys what changed, with repetitions; NULL = unknown.
 * Whether keys are told is the projection's to say. Nothing is told while there is
 * no room for it: a session that listens and does not read must not stop read tables.
 */
void
cqrs_notify_send(const CqrsProjection *projection, int64 position, int nevents,
				 text **keys, int nkeys)
{
	StringInfoData payload;
	int			head;

	if (projection->notify == CQRS_NOTIFY_NONE || !notify_has_room())
		return;
	initStringInfo(&payload);
	appendStringInfoString(&payload, "{\"projection\": ");
	escape_json(&payload, NameStr(projection->name));
	appendStringInfo(&payload, ", \"position\": " INT64_FORMAT ", \"events\": %d, \"keys\": ",
					 position, nevents);
	head = payload.len;
	if (projection->notify != CQRS_NOTIFY_KEYS || keys == NULL ||
		!notify_append_keys(&payload, keys, nkeys))
	{
		payload.len = head;
		payload.data[head] = '\0';
		appendStringInfoString(&payload, "null");
	}
	appendStringInfoChar(&payload, '}');
	Async_Notify(NameStr(projection->name), payload.data);
	pfree(payload.data);
}

/* Says so in the log when there is none any more. */
static bool
notify_has_room(void)
{
	static TimestampTz looked_at = 0;
	static bool room = true;
	bool		had_room = room;
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds(looked_at, now, LOOK_EVERY))
		return room;
	looked_at = now;
	room = DatumGetFloat8(OidFunctionCall0(F_PG_NOTIFICATION_QUEUE_USAGE)) < MAX_USAGE;
	if (had_room && !room)
		ereport(LOG,
				(errmsg("projections do not notify: the server's queue of notifications is nearly full"),
				 errhint("End the transaction of the session that LISTENs and does not read; the server's log names it.")));
	return room;
}

/*
 * Append the distinct keys in order of first appearance. Returns false where
 * they don't fit.
 */
static bool
notify_append_keys(StringInfo payload, text **keys, int nkeys)
{
	HASHCTL		info = {.keysize = sizeof(uint64),.entrysize = sizeof(uint64)};
	HTAB	   *seen = hash_create("cqrs_views keys", 64, &info, HASH_ELEM | HASH_BLOBS);
	bool		fits = true;
	bool		first = true;

	appendStringInfoChar(payload, '[');
	for (int i = 0; i < nkeys && fits; i++)
	{
		/* 64 bits tell apart what fits into one notification */
		uint64		hash = cqrs_event_hash_text(keys[i], 1);
		bool		found;

		hash_search(seen, &hash, HASH_ENTER, &found);
		if (found)
			continue;
		if (!first)
			appendStringInfoString(payload, ", ");
		first = false;
		if (keys[i] == NULL)
			appendStringInfoString(payload, "null");
		else if (VARSIZE_ANY_EXHDR(keys[i]) > MAX_PAYLOAD)
			fits = false;
		else
			escape_json(payload, text_to_cstring(keys[i]));

		/* room for "]}" */
		fits = fits && payload->len + 2 <= MAX_PAYLOAD;
	}
	appendStringInfoChar(payload, ']');
	hash_destroy(seen);
	return fits;
}
