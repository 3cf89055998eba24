/*
 * settings.c
 *		The settings of a session that an owner's code and data may rightly depend
 *		on: kept when it is registered, and put in force when it runs.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/varlena.h"

#include "settings.h"

static char *resolve_path(const char *path);
static char *temporary_last(const char *path);

/*
 * The current values of what a projection keeps from the session that creates
 * it, as text[] of name=value. It is what the owner's code and data may rightly
 * depend on; all else has fixed values: see query.c.
 */
Datum
cqrs_settings_save(void)
{
	static const char *const names[] = {
		"search_path", "TimeZone", "DateStyle", "IntervalStyle", "lc_monetary", "lc_numeric",
		"lc_time"
	};
	Datum		elements[lengthof(names)];

	for (int i = 0; i < lengthof(names); i++)
	{
		const char *value = GetConfigOption(names[i], false, false);

		if (strcmp(names[i], "search_path") == 0)
			value = resolve_path(value);
		elements[i] = CStringGetTextDatum(psprintf("%s=%s", names[i], value));
	}
	return PointerGetDatum(construct_array(elements, lengthof(names), TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * Such an array as settings, in the current memory context: those to run the
 * owner's code under. Also names the temporary schema last: see there.
 */
void
cqrs_settings_load(CqrsSettings *settings, Datum saved)
{
	Datum	   *elements;

	deconstruct_array(DatumGetArrayTypeP(saved), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &settings->nsettings);
	settings->names = palloc(settings->nsettings * sizeof(char *));
	settings->values = palloc(settings->nsettings * sizeof(char *));
	for (int i = 0; i < settings->nsettings; i++)
	{
		settings->names[i] = TextDatumGetCString(elements[i]);
		settings->values[i] = strchr(settings->names[i], '=');
		if (settings->values[i] == NULL)
			elog(ERROR, "setting \"%s\" has no value", settings->names[i]);
		*settings->values[i]++ = '\0';
		if (strcmp(settings->names[i], "search_path") == 0)
			settings->values[i] = temporary_last(settings->values[i]);
	}
}

/*
 * A search_path with the schema that "$user" stands for now, for the current user,
 * in the current memory context: the role may be renamed, or give the projection
 * away.
 */
static char *
resolve_path(const char *path)
{
	StringInfoData result;
	List	   *names;
	ListCell   *lc;

	if (!SplitIdentifierString(pstrdup(path), ',', &names))
		elog(ERROR, "invalid search_path \"%s\"", path);
	initStringInfo(&result);
	foreach(lc, names)
	{
		const char *name = lfirst(lc);

		if (strcmp(name, "$user") == 0)
			name = GetUserNameFromId(GetUserId(), false);
		if (name == lfirst(lc) || OidIsValid(get_namespace_oid(name, true)))
			appendStringInfo(&result, "%s%s", result.len > 0 ? ", " : "", quote_identifier(name));
	}
	list_free(names);
	return result.data;
}

/*
 * A search_path with the temporary schema at its end, in the current memory
 * context. Where a path does not name that, it comes first of all for tables and
 * types, and it is the session's: a publisher's temporary table, with a trigger
 * on it, would stand for the owner's, and the trigger run as the owner.
 */
static char *
temporary_last(const char *path)
{
	StringInfoData result;
	List	   *names;
	ListCell   *lc;

	if (!SplitIdentifierString(pstrdup(path), ',', &names))
		elog(ERROR, "invalid search_path \"%s\"", path);
	initStringInfo(&result);
	foreach(lc, names)
		if (strcmp(lfirst(lc), "pg_temp") != 0)
			appendStringInfo(&result, "%s, ", quote_identifier(lfirst(lc)));
	appendStringInfoString(&result, "pg_temp");
	list_free(names);
	return result.data;
}
