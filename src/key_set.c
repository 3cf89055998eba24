/*
 * key_set.c
 *		Keys, each once: byte by byte, like those of events.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"

#include "event.h"
#include "key_set.h"

typedef struct KeyEntry
{
	const text *key;
	uint32		hash;
	char		status;
} KeyEntry;

#define SH_PREFIX keys
#define SH_ELEMENT_TYPE KeyEntry
#define SH_KEY_TYPE const text *
#define SH_KEY key
#define SH_HASH_KEY(tb, key) ((uint32) cqrs_event_hash_text(key, 0))
#define SH_EQUAL(tb, a, b) cqrs_event_same_text(a, b)
#define SH_STORE_HASH
#define SH_GET_HASH(tb, entry) (entry)->hash
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

#define INITIAL_SIZE 16

struct CqrsKeySet
{
	MemoryContext context;
	keys_hash  *keys;
};

/* An empty set, in a memory context of its own below the current one. */
CqrsKeySet *
cqrs_key_set_create(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views keys",
												  ALLOCSET_SMALL_SIZES);
	CqrsKeySet *set = MemoryContextAlloc(context, sizeof(CqrsKeySet));

	set->context = context;
	set->keys = keys_create(context, INITIAL_SIZE, NULL);
	return set;
}

/* Add a copy of a key, unless the set has it. */
void
cqrs_key_set_add(CqrsKeySet *set, const text *key)
{
	bool		found;
	KeyEntry   *entry = keys_insert(set->keys, key, &found);
	MemoryContext old;

	if (found)
		return;
	old = MemoryContextSwitchTo(set->context);
	entry->key = DatumGetTextPCopy(PointerGetDatum(key));
	MemoryContextSwitchTo(old);
}

bool
cqrs_key_set_has(const CqrsKeySet *set, const text *key)
{
	return keys_lookup(set->keys, key) != NULL;
}

void
cqrs_key_set_free(CqrsKeySet *set)
{
	MemoryContextDelete(set->context);
}
