/*
 * follow.h
 *		Keep to what a projection is defined by while that gets another name or
 *		owner.
 */
#ifndef CQRS_FOLLOW_H
#define CQRS_FOLLOW_H

extern void cqrs_follow_init(void);
extern void cqrs_follow_note(bool texts);
extern void cqrs_follow_noted(const char *command);

#endif							/* CQRS_FOLLOW_H */
