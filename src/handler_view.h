/*
 * handler_view.h
 *		The kind without a function: a query over the events, merged batch by
 *		batch.
 */
#ifndef CQRS_HANDLER_VIEW_H
#define CQRS_HANDLER_VIEW_H

#include "handler.h"

extern const CqrsHandlerKind cqrs_handler_view_kind;

#endif							/* CQRS_HANDLER_VIEW_H */
