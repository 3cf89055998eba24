/*
 * follow.h
 *		Keep to what a projection is defined by while that gets another name.
 */
#ifndef CQRS_FOLLOW_H
#define CQRS_FOLLOW_H

#include "nodes/nodes.h"

extern void cqrs_follow_init(void);
extern void cqrs_follow_note(const Node *statement, const char *name, bool texts);
extern void cqrs_follow_noted(const Node *statement, const char *name);

#endif							/* CQRS_FOLLOW_H */
