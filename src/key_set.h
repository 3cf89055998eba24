/*
 * key_set.h
 *		Keys, each once.
 */
#ifndef CQRS_KEY_SET_H
#define CQRS_KEY_SET_H

typedef struct CqrsKeySet CqrsKeySet;

extern CqrsKeySet *cqrs_key_set_create(void);
extern void cqrs_key_set_add(CqrsKeySet *set, const text *key);
extern bool cqrs_key_set_has(const CqrsKeySet *set, const text *key);
extern void cqrs_key_set_free(CqrsKeySet *set);

#endif							/* CQRS_KEY_SET_H */
