/*
 * follow_settings.c
 *		Keep kept settings to what they name while that gets another name.
 *
 * Names are in the search_path, which has schemas, and in the default text search
 * configuration. As OIDs they are noted before a command, and found again after it.
 * What is gone keeps its name.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "follow_settings.h"

static const char *setting_of(const CqrsSettings *settings, const char *name);
static List *path_names(const char *path);
static char *path_now(const CqrsNotedSettings *noted);
static const char *configuration_now(const CqrsNotedSettings *noted);

/* Note what kept settings name now, in the current memory context. */
void
cqrs_follow_settings_note(CqrsNotedSettings *noted, const CqrsSettings *settings)
{
	ListCell   *lc;

	noted->path = pstrdup(setting_of(settings, "search_path"));
	noted->schemas = NIL;
	foreach(lc, path_names(noted->path))
		noted->schemas = lappend_oid(noted->schemas, get_namespace_oid(lfirst(lc), true));
	noted->configuration_id =
		cqrs_settings_configuration_find(setting_of(settings, CQRS_SETTINGS_CONFIGURATION));
	noted->configuration = cqrs_settings_configuration_name(noted->configuration_id);
}

/* Has anything of that another name now? */
bool
cqrs_follow_settings_differ(const CqrsNotedSettings *noted)
{
	return path_now(noted) != NULL || configuration_now(noted) != NULL;
}

/* What that makes of the settings that are kept by now, a list of CqrsSettingChange. */
List *
cqrs_follow_settings_changes(const CqrsNotedSettings *noted, const CqrsSettings *settings)
{
	const CqrsSettingChange now[] = {
		{"search_path", path_now(noted)},
		{CQRS_SETTINGS_CONFIGURATION, configuration_now(noted)}
	};
	List	   *changes = NIL;

	for (int i = 0; i < lengthof(now); i++)
		if (now[i].value != NULL && strcmp(now[i].value, setting_of(settings, now[i].name)) != 0)
		{
			CqrsSettingChange *change = palloc(sizeof(CqrsSettingChange));

			*change = now[i];
			changes = lappend(changes, change);
		}
	return changes;
}

/* One of them; "" where it was not kept. */
static const char *
setting_of(const CqrsSettings *settings, const char *name)
{
	for (int i = 0; i < settings->nsettings; i++)
		if (strcmp(settings->names[i], name) == 0)
			return settings->values[i];
	return "";
}

/* The names in a search_path. */
static List *
path_names(const char *path)
{
	List	   *names;

	if (!SplitIdentifierString(pstrdup(path), ',', &names))
		elog(ERROR, "invalid search_path \"%s\"", path);
	return names;
}

/* The search_path that was noted, with the schemas' names of now; NULL where it is the same. */
static char *
path_now(const CqrsNotedSettings *noted)
{
	StringInfoData result;
	ListCell   *name;
	ListCell   *schema;
	bool		changed = false;

	initStringInfo(&result);
	forboth(name, path_names(noted->path), schema, noted->schemas)
	{
		char	   *now = OidIsValid(lfirst_oid(schema)) ?
			get_namespace_name(lfirst_oid(schema)) : NULL;

		changed |= now != NULL && strcmp(now, lfirst(name)) != 0;
		appendStringInfo(&result, "%s%s", result.len > 0 ? ", " : "",
						 quote_identifier(now != NULL ? now : lfirst(name)));
	}
	return changed ? result.data : NULL;
}

/* The name of the configuration now; NULL where it is the same, or none. */
static const char *
configuration_now(const CqrsNotedSettings *noted)
{
	const char *now = cqrs_settings_configuration_name(noted->configuration_id);

	return now == NULL || strcmp(now, noted->configuration) == 0 ? NULL : now;
}
