/*
 * receive.h
 *		Make events of rows that arrive in attached tables, each once.
 */
#ifndef CQRS_RECEIVE_H
#define CQRS_RECEIVE_H

#include "commands/trigger.h"

#include "attachment.h"

extern void cqrs_receive_inserted(TriggerData *trigdata);
extern int64 cqrs_receive_existing(CqrsAttachment *attachment);
extern int64 cqrs_receive_retry(CqrsAttachment *attachment, const text *key);

#endif							/* CQRS_RECEIVE_H */
