/*
 * handler_event.h
 *		The calling convention f(cqrs.event) RETURNS void.
 */
#ifndef CQRS_HANDLER_EVENT_H
#define CQRS_HANDLER_EVENT_H

#include "handler.h"

extern const CqrsHandlerKind cqrs_handler_event_kind;

#endif							/* CQRS_HANDLER_EVENT_H */
