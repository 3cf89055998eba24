/*
 * checkpoint.h
 *		The table cqrs.checkpoint: what a projection has processed.
 */
#ifndef CQRS_CHECKPOINT_H
#define CQRS_CHECKPOINT_H

#include "access/transam.h"
#include "datatype/timestamp.h"
#include "storage/itemptr.h"

#include "era.h"
#include "outbox_pending.h"
#include "outbox_walk.h"

/*
 * A row of cqrs.checkpoint, read under the projection's lock. Processed is what
 * is of older eras, or visible in walk.done, or, while frozen, visible in
 * walk.target with a position up to walk.last. Lives in the memory context that
 * was current when it was read.
 */
typedef struct CqrsCheckpoint
{
	int32		projection;
	ItemPointerData ctid;
	pg_uuid_t	incarnation;	/* whose transaction ids those are */
	bool		restored;		/* and it is not this database's: then, if asked for, */
	CqrsEra		next_era;		/* what follows the era that the checkpoint is of */
	bool		frozen;			/* is there a target? */
	CqrsWalk	walk;
	int64		peak;			/* no event above this position was processed */
	int64		settled;		/* of the target: see horizon.c; 0 = unknown */
	int64		events_processed;
	int64		batches;
} CqrsCheckpoint;

extern bool cqrs_checkpoint_lock(int32 projection, bool wait);
extern CqrsCheckpoint *cqrs_checkpoint_read(int32 projection);
extern CqrsCheckpoint *cqrs_checkpoint_peek(int32 projection);
extern void cqrs_checkpoint_refuse_missing(const CqrsCheckpoint *checkpoint);
extern void cqrs_checkpoint_refuse_unusable(const CqrsCheckpoint *checkpoint);
extern bool cqrs_checkpoint_equal(const CqrsCheckpoint *a, const CqrsCheckpoint *b);
extern void cqrs_checkpoint_advance(CqrsCheckpoint *checkpoint, int64 events);
extern bool cqrs_checkpoint_find_next_era(CqrsCheckpoint *checkpoint);
extern void cqrs_checkpoint_skip_era(CqrsCheckpoint *checkpoint);
extern void cqrs_checkpoint_finish_era(CqrsCheckpoint *checkpoint);
extern void cqrs_checkpoint_enter_era(CqrsCheckpoint *checkpoint);
extern void cqrs_checkpoint_insert(int32 projection, Datum done, int64 last, int64 peak);
extern void cqrs_checkpoint_reset(int32 projection);
extern void cqrs_checkpoint_reset_counters(int32 projection);
extern void cqrs_checkpoint_delete(int32 projection);

extern Datum cqrs_checkpoint_empty_snapshot(void);
extern Datum cqrs_checkpoint_current_snapshot(void);
extern Datum cqrs_checkpoint_snapshot_without_self(Datum snapshot);
extern bool cqrs_checkpoint_snapshot_sees(Datum snapshot, FullTransactionId xid);
extern bool cqrs_checkpoint_covers(const CqrsCheckpoint *checkpoint, Datum snapshot);
extern bool cqrs_checkpoint_covers_event(const CqrsCheckpoint *checkpoint, int64 position,
										 FullTransactionId xid);
extern CqrsPending cqrs_checkpoint_pending(const CqrsCheckpoint *checkpoint, int limit);

#endif							/* CQRS_CHECKPOINT_H */
