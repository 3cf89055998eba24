/*
 * catchup.h
 *		One pass: who reads what, together or alone.
 */
#ifndef CQRS_CATCHUP_H
#define CQRS_CATCHUP_H

#include "catchup_member.h"

extern void cqrs_catchup_pass(CqrsMember *members, int nmembers, bool wait,
							  CqrsErrorPolicy policy);

#endif							/* CQRS_CATCHUP_H */
