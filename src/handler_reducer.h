/*
 * handler_reducer.h
 *		The calling convention f(T, cqrs.event) RETURNS T.
 */
#ifndef CQRS_HANDLER_REDUCER_H
#define CQRS_HANDLER_REDUCER_H

#include "handler.h"

extern const CqrsHandlerKind cqrs_handler_reducer_kind;

#endif							/* CQRS_HANDLER_REDUCER_H */
