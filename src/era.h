/*
 * era.h
 *		The tables cqrs.era and cqrs.incarnation: whose transaction ids the
 *		events have.
 */
#ifndef CQRS_ERA_H
#define CQRS_ERA_H

#include "utils/uuid.h"

/* in SQL: the id of this database's incarnation */
#define CQRS_ERA_INCARNATION "(SELECT i.id FROM cqrs.incarnation AS i)"

/* the positions from one on, up to the next era's first, or without end */
typedef struct CqrsEra
{
	pg_uuid_t	incarnation;
	int64		first_position;
} CqrsEra;

extern void cqrs_era_init(void);
extern bool cqrs_era_is_known(void);
extern bool cqrs_era_look(void);
extern void cqrs_era_begin(int64 last_position);
extern int64 cqrs_era_first_position(void);
extern CqrsEra cqrs_era_current(void);
extern CqrsEra cqrs_era_oldest(void);
extern bool cqrs_era_after(const pg_uuid_t *incarnation, bool missing_ok, CqrsEra *next);

#endif							/* CQRS_ERA_H */
