/*
 * outbox.h
 *		The table cqrs.outbox, written: stamp and flag a publishing transaction,
 *		publish, grant, and the trigger of inline projections.
 */
#ifndef CQRS_OUTBOX_H
#define CQRS_OUTBOX_H

#include "access/transam.h"
#include "utils/uuid.h"

/*
 * A condition in SQL: the event is of the transaction "xid". One that is in progress may
 * have published nothing, while statistics say that any has published many, and a scan by
 * positions would soon come across one of them. So it is put as a range of ids, which,
 * with an order by xid and position in a query of its own, leaves the index by both.
 */
#define CQRS_OUTBOX_OF(xid) "xid >= " xid " AND xid <= " xid

/* publishing */
extern void cqrs_outbox_init(void);
extern void cqrs_outbox_set_waker(void (*wake) (void));
extern bool cqrs_outbox_has_waker(void);
extern void cqrs_outbox_wake_at_commit(void);
extern FullTransactionId cqrs_outbox_stamp(void);
extern void cqrs_outbox_begin_era(void);
extern int64 cqrs_outbox_last_position(void);
extern int64 cqrs_outbox_drawn(void);
extern bool cqrs_outbox_published_here(void);
extern void cqrs_outbox_lock_to_read(void);
extern int64 cqrs_outbox_publish(Datum *values, const char *nulls);
extern void cqrs_outbox_grant(Oid roleid);

/* events of other databases */
extern void cqrs_outbox_check_forge(Oid roleid);
extern int64 cqrs_outbox_draw_position(void);
extern void cqrs_outbox_receive(int64 position, const pg_uuid_t *event_id, const char *source,
								Datum *values, bool *nulls);

/* the triggers */
extern bool cqrs_outbox_is_guarded(void);
extern void cqrs_outbox_restore_guard(void);
extern void cqrs_outbox_check_select(Oid roleid, const char *detail);
extern void cqrs_outbox_check_rights(Oid roleid, bool inline_mode);
extern bool cqrs_outbox_lock_publishers(const Oid *relids, int nrelids);
extern void cqrs_outbox_set_inline(bool wanted);

#endif							/* CQRS_OUTBOX_H */
