/*
 * follow_settings.h
 *		Keep kept settings to what they name while that gets another name.
 */
#ifndef CQRS_FOLLOW_SETTINGS_H
#define CQRS_FOLLOW_SETTINGS_H

#include "nodes/pg_list.h"

#include "settings.h"

/* what kept settings named before a command */
typedef struct CqrsNotedSettings
{
	char	   *path;			/* the search_path, */
	List	   *schemas;		/* and the OIDs of its schemas, in order; InvalidOid where */
								/* there is none, or for "$user" */
	char	   *configuration;	/* the one for text searches, */
	Oid			configuration_id;	/* or InvalidOid */
} CqrsNotedSettings;

/* Writes a value into the kept settings that were noted. */
typedef void (*CqrsFollowSettingFn) (void *arg, const char *name, const char *value);

extern void cqrs_follow_settings_note(CqrsNotedSettings *noted, const CqrsSettings *settings);
extern bool cqrs_follow_settings_differ(const CqrsNotedSettings *noted);
extern void cqrs_follow_settings_write(const CqrsNotedSettings *noted,
									   const CqrsSettings *settings,
									   CqrsFollowSettingFn write, void *arg);

#endif							/* CQRS_FOLLOW_SETTINGS_H */
