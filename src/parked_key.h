/*
 * parked_key.h
 *		The keys of rows that were put aside, by another mapping.
 */
#ifndef CQRS_PARKED_KEY_H
#define CQRS_PARKED_KEY_H

#include "attachment.h"

extern void cqrs_parked_key_renew(CqrsAttachment *attachment);

#endif							/* CQRS_PARKED_KEY_H */
