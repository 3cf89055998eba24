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

/* a setting that is to be kept with another value */
typedef struct CqrsSettingChange
{
	const char *name;
	const char *value;
} CqrsSettingChange;

extern void cqrs_follow_settings_note(CqrsNotedSettings *noted, const CqrsSettings *settings);
extern bool cqrs_follow_settings_differ(const CqrsNotedSettings *noted);
extern List *cqrs_follow_settings_changes(const CqrsNotedSettings *noted,
										  const CqrsSettings *settings);

#endif							/* CQRS_FOLLOW_SETTINGS_H */
