/*
 * era.c
 *		The tables cqrs.era and cqrs.incarnation: whose transaction ids the
 *		events have.
 *
 * Transaction ids compare within one cluster only. CREATE EXTENSION gives the
 * database an incarnation, a random id that is never dumped; pg_upgrade, a copy of
 * the cluster's files and CREATE DATABASE .. TEMPLATE keep it, as they keep the
 * transaction ids. The events of one incarnation are an era: what is restored from
 * a dump is of older eras, which the dump tells, and what is published afterwards
 * of a new one. Eras are ranges of positions, so whoever compares transaction ids
 * looks at the positions of one era only. All of an older era is committed.
 *
 * Where an era begins
 * -------------------
 * Nobody hears that a dump has been restored. So the first to publish in a new
 * incarnation, or to make a checkpoint in it, records where it begins: behind the
 * highest position that is visible. There is no lock and no unique constraint, so
 * that nobody waits: those who come first at the same time each make a row, and
 * all the rows say the same. For any snapshot S,
 *
 *	(1)	where an event of the incarnation is visible in S, so is a row of the
 *		incarnation's: its publisher made the row in the same subtransaction or
 *		one that it is in, or has seen it committed before;
 *	(2)	so where no row is visible, all visible events are restored ones, and the
 *		row that is made says where those end;
 *	(3)	so an event's position is below that of the row exactly if it was
 *		restored: later ones are drawn from the sequence, which was restored, too.
 *
 * For (2), the highest position is looked up before it is looked for a row a last
 * time. For (1), what this process knows of a row that its transaction has made
 * or seen holds beyond a subtransaction only if none is rolled back, and beyond
 * the transaction only if that commits.
 *
 * Eras are numbered, because some have no events: two of them may begin at the
 * same position.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"

#include "catalog.h"
#include "era.h"
#include "query.h"

/* is a row of the incarnation's committed, or visible to this transaction? */
static bool known = false;
static bool known_here = false;

/* what it says, and the table; an extension made anew has a new one */
static int64 first_position;
static Oid	era_relid = InvalidOid;

/* a row on its way out of a query */
typedef struct EraRow
{
	int64		number;
	CqrsEra		era;
} EraRow;

static void era_xact_callback(XactEvent event, void *arg);
static void era_subxact_callback(SubXactEvent event, SubTransactionId mySubid,
								 SubTransactionId parentSubid, void *arg);
static void era_relation_changed(Oid relid, void *arg);
static void era_note(int64 position);
static bool era_read_current(EraRow *row);
static bool era_keep_row(TupleTableSlot *slot, void *arg);

/* Called once per process, from _PG_init. */
void
cqrs_era_init(void)
{
	RegisterXactCallback(era_xact_callback, NULL);
	RegisterSubXactCallback(era_subxact_callback, NULL);
	cqrs_catalog_watch_relations(era_relation_changed, NULL);
}

/*
 * Is it recorded where the current era begins, as far as this process knows?
 * Asked for each event that is published.
 */
bool
cqrs_era_is_known(void)
{
	return known || known_here;
}

/* Is it recorded? Looks it up. */
bool
cqrs_era_look(void)
{
	EraRow		row;

	if (cqrs_era_is_known())
		return true;
	if (!era_read_current(&row))
		return false;
	era_note(row.era.first_position);
	return true;
}

/*
 * Record that the current era begins behind a position, the highest that was
 * visible before this call, unless that is recorded already.
 */
void
cqrs_era_begin(int64 last_position)
{
	/* an era that lost its events, or had none, was not after this one */
	static CqrsQuery next = {
		.sql = "SELECT coalesce(max(e.number), 0) + 1, i.id,"
		" greatest(max(e.first_position), $1 + 1)"
		" FROM cqrs.incarnation AS i LEFT JOIN cqrs.era AS e ON e.incarnation <> i.id"
		" GROUP BY i.id",
		.flags = CQRS_QUERY_LATEST,
		.nargs = 1,
		.argtypes = {INT8OID}
	};
	static CqrsQuery insert = {
		.sql = "INSERT INTO cqrs.era (number, incarnation, first_position) VALUES ($1, $2, $3)",
		.nargs = 3,
		.argtypes = {INT8OID, UUIDOID, INT8OID}
	};
	Datum		args[3] = {Int64GetDatum(last_position)};
	EraRow		row;

	if (cqrs_era_look())
		return;
	if (cqrs_query_run(&next, args, NULL, era_keep_row, &row) != 1)
		elog(ERROR, "cqrs.incarnation does not have one row");
	args[0] = Int64GetDatum(row.number);
	args[1] = UUIDPGetDatum(&row.era.incarnation);
	args[2] = Int64GetDatum(row.era.first_position);
	cqrs_query_run(&insert, args, NULL, NULL, NULL);
	era_note(row.era.first_position);
}

/* Where the current era begins; PG_INT64_MAX where that is not recorded. */
int64
cqrs_era_first_position(void)
{
	return cqrs_era_look() ? first_position : PG_INT64_MAX;
}

/* The current era, which is recorded. */
CqrsEra
cqrs_era_current(void)
{
	EraRow		row;

	if (!era_read_current(&row))
		elog(ERROR, "the current era is not recorded");
	return row.era;
}

/* The oldest era there is. One is recorded. */
CqrsEra
cqrs_era_oldest(void)
{
	static CqrsQuery query = {
		.sql = "SELECT e.number, e.incarnation, e.first_position FROM cqrs.era AS e"
		" ORDER BY e.number LIMIT 1",
		.flags = CQRS_QUERY_LATEST
	};
	EraRow		row;

	if (cqrs_query_run(&query, NULL, NULL, era_keep_row, &row) == 0)
		elog(ERROR, "no era is recorded");
	return row.era;
}

/*
 * The era that follows that of an older incarnation, in *next. The current one is
 * recorded. Throws, or with missing_ok returns false, where the older one is not, or
 * not as older: not all was restored, or into a database that had begun to publish.
 */
bool
cqrs_era_after(const pg_uuid_t *incarnation, bool missing_ok, CqrsEra *next)
{
	static CqrsQuery query = {
		.sql = "SELECT e.number, e.incarnation, e.first_position FROM cqrs.era AS e"
		" WHERE e.number = 1 + (SELECT o.number FROM cqrs.era AS o WHERE o.incarnation = $1 LIMIT 1)"
		" AND e.number <= (SELECT c.number FROM cqrs.era AS c"
		"  WHERE c.incarnation = " CQRS_ERA_INCARNATION " LIMIT 1) LIMIT 1",
		.flags = CQRS_QUERY_LATEST,
		.nargs = 1,
		.argtypes = {UUIDOID}
	};
	Datum		arg = UUIDPGetDatum(incarnation);
	EraRow		row;

	if (cqrs_query_run(&query, &arg, NULL, era_keep_row, &row) > 0)
	{
		*next = row.era;
		return true;
	}
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cqrs.era does not tell which events the checkpoint is about"),
				 errdetail("Not all of a dump was restored, or into a database in which events were published before."),
				 errhint("Restore all of the dump into a new database.")));
	return false;
}

/* --------------------------------------------------------------- helpers */

static void
era_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			known = known || known_here;
			known_here = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			known_here = false;
			break;
		default:
			break;
	}
}

/* The row may have been the subtransaction's. */
static void
era_subxact_callback(SubXactEvent event, SubTransactionId mySubid,
					 SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		known_here = false;
}

static void
era_relation_changed(Oid relid, void *arg)
{
	if (!OidIsValid(relid) || relid == era_relid)
		known = known_here = false;
}

static void
era_note(int64 position)
{
	era_relid = cqrs_catalog_relation("era", false);
	first_position = position;
	known_here = true;
}

/* Returns false where the current era is not recorded. */
static bool
era_read_current(EraRow *row)
{
	static CqrsQuery query = {
		.sql = "SELECT e.number, e.incarnation, e.first_position FROM cqrs.era AS e"
		" WHERE e.incarnation = " CQRS_ERA_INCARNATION " LIMIT 1",
		.flags = CQRS_QUERY_LATEST
	};

	return cqrs_query_run(&query, NULL, NULL, era_keep_row, row) > 0;
}

static bool
era_keep_row(TupleTableSlot *slot, void *arg)
{
	EraRow	   *row = (EraRow *) arg;

	slot_getallattrs(slot);
	row->number = DatumGetInt64(slot->tts_values[0]);
	row->era.incarnation = *DatumGetUUIDP(slot->tts_values[1]);
	row->era.first_position = DatumGetInt64(slot->tts_values[2]);
	return true;
}
