/*
 * outbox_walk.h
 *		How far a reader of the outbox is, between two snapshots.
 *
 * Snapshots are values of SQL's type pg_snapshot.
 */
#ifndef CQRS_OUTBOX_WALK_H
#define CQRS_OUTBOX_WALK_H

/*
 * What was not visible in "done" and is in "target", read in position order: see
 * outbox_read.c. The snapshots are in memory of whoever made the walk.
 */
typedef struct CqrsWalk
{
	int64		first;			/* the transaction ids are of events from here on */
	Datum		done;
	Datum		target;
	int64		low;
	int64		high;
	int64		last;
	int64		whole_after;	/* beyond this position, and up to that, there are */
	int64		whole_upto;		/* no other rows than the walk's; not stored */
} CqrsWalk;

extern int64 cqrs_outbox_walk_whole_end(const CqrsWalk *walk, int64 after);
extern int64 cqrs_outbox_walk_begin(const CqrsWalk *walk);
extern Datum cqrs_outbox_walk_xmax(Datum snapshot);
extern Datum cqrs_outbox_walk_xmin(Datum snapshot);
extern bool cqrs_outbox_walk_has_xip(Datum snapshot);
extern bool cqrs_outbox_walk_is_empty(Datum snapshot);

#endif							/* CQRS_OUTBOX_WALK_H */
