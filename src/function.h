/*
 * function.h
 *		What must hold of a user's function before we call it.
 */
#ifndef CQRS_FUNCTION_H
#define CQRS_FUNCTION_H

extern bool cqrs_function_is_plain(Oid function);
extern void cqrs_function_touch(Oid function);
extern void cqrs_function_check_owner(Oid function, Oid role, const char *message);

#endif							/* CQRS_FUNCTION_H */
