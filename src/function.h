/*
 * function.h
 *		What must hold of users' functions and types before we call or make them.
 */
#ifndef CQRS_FUNCTION_H
#define CQRS_FUNCTION_H

#include "nodes/pg_list.h"

extern void cqrs_function_init(void);
extern uint64 cqrs_function_changes(void);
extern uint64 cqrs_function_type_changes(void);
extern bool cqrs_function_is_plain(Oid function);
extern void cqrs_function_touch(Oid function);
extern void cqrs_function_check_owner(Oid function, Oid role, const char *message);
extern void cqrs_function_check_type_owner(Oid type, Oid role, const char *message);
extern void cqrs_function_check_owners(Node *expression, Oid role, const char *whose);
extern List *cqrs_function_note_types(List *types, Node *node);

#endif							/* CQRS_FUNCTION_H */
