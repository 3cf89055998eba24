/*
 * handler_batch.h
 *		The calling convention f() RETURNS trigger.
 */
#ifndef CQRS_HANDLER_BATCH_H
#define CQRS_HANDLER_BATCH_H

#include "handler.h"

extern const CqrsHandlerKind cqrs_handler_batch_kind;

#endif							/* CQRS_HANDLER_BATCH_H */
