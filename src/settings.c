/*
 * settings.c
 *		The settings of a session that an owner's code and data may rightly depend
 *		on: kept when it is registered, and put in force when it runs.
 *
 * A text search configuration is an object that may go, or be kept from the owner,
 * while its name is still in the settings. An invalid value is an error, also for
 * those who search no texts; so another one stands in for it, the same for all.
 */
#include "postgres.h"

#include "access/gin.h"
#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_ts_config.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/value.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "pgtime.h"
#include "tsearch/ts_cache.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/varlena.h"
#include "utils/xml.h"

#include "compat.h"
#include "settings.h"

/* the configuration of text searches where there is none: without a dictionary */
#define STAND_IN_CONFIGURATION "pg_catalog.simple"

/* of utils/pg_locale.h, which wants ICU's headers beside PostgreSQL's */
extern PGDLLIMPORT char *locale_monetary;
extern PGDLLIMPORT char *locale_numeric;
extern PGDLLIMPORT char *locale_time;

static bool settings_are_fixed(void);
static const char *settings_current(const char *name);
static void configuration_put(const char *name);
static bool configuration_is_everybodys(const char *name);
static char *resolve_path(const char *path);
static char *temporary_last(const char *path);

/*
 * The current values of what a projection keeps from the session that creates
 * it, as text[] of name=value. It is what the owner's code and data may rightly
 * depend on; all else has fixed values: see cqrs_settings_put_fixed.
 */
Datum
cqrs_settings_save(void)
{
	static const char *const names[] = {
		"search_path", "TimeZone", "DateStyle", "IntervalStyle", "lc_monetary", "lc_numeric",
		"lc_time", CQRS_SETTINGS_CONFIGURATION
	};
	Datum		elements[lengthof(names)];
	int			nest_level = cqrs_settings_enter_fixed();	/* quotes names as little as may be */

	for (int i = 0; i < lengthof(names); i++)
	{
		const char *value = GetConfigOption(names[i], false, false);

		if (strcmp(names[i], "search_path") == 0)
			value = resolve_path(value);
		else if (strcmp(names[i], CQRS_SETTINGS_CONFIGURATION) == 0)
			value = cqrs_settings_configuration_name(cqrs_settings_configuration_find(value));
		if (value == NULL)
			value = STAND_IN_CONFIGURATION;
		elements[i] = CStringGetTextDatum(psprintf("%s=%s", names[i], value));
	}
	cqrs_settings_leave_fixed(nest_level);
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
 * Put settings in force, for who has become the owner without, until he leaves;
 * and of those with a fixed value the ones that take as long to look at. (Of languages,
 * there are none unless the language is loaded, or somebody has set them before.)
 */
void
cqrs_settings_put(const CqrsSettings *settings)
{
	static const char *const fixed[][2] = {
		{"timezone_abbreviations", "Default"},
		{"restrict_nonsystem_relation_kind", ""},
		{"plpgsql.check_asserts", "on"},
		{"plpgsql.extra_errors", "none"},
		{"plpgsql.extra_warnings", "none"},
		{"plperl.use_strict", "off"}
	};

	for (int i = 0; i < settings->nsettings; i++)
	{
		if (strcmp(settings->names[i], CQRS_SETTINGS_CONFIGURATION) == 0)
			configuration_put(settings->values[i]);
		else
			cqrs_settings_set(settings->names[i], settings->values[i]);
	}
	for (int i = 0; i < lengthof(fixed); i++)
		if (GetConfigOption(fixed[i][0], true, false) != NULL)
			cqrs_settings_set(fixed[i][0], fixed[i][1]);
}

/*
 * Give settings that anybody may change, and that change what SQL text or a value
 * means, their defaults: it must not depend on who publishes what his event does.
 */
void
cqrs_settings_put_fixed(void)
{
	static const char *const fixed[][2] = {
		{"standard_conforming_strings", "on"},
		{"transform_null_equals", "off"},
		{"quote_all_identifiers", "off"},
		{"array_nulls", "on"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"xmlbinary", "base64"},
		{"xmloption", "content"},
		{"backslash_quote", "safe_encoding"},
		{"gin_fuzzy_search_limit", "0"},
		{"row_security", "on"}
	};

	if (settings_are_fixed())
		return;
	for (int i = 0; i < lengthof(fixed); i++)
		cqrs_settings_set(fixed[i][0], fixed[i][1]);
}

/*
 * Have these in force for a while, whoever we are. Returns what cqrs_settings_leave_fixed
 * needs.
 */
int
cqrs_settings_enter_fixed(void)
{
	int			nest_level;

	/* most sessions have nothing to put back, which would cost more than to look */
	if (settings_are_fixed())
		return 0;
	nest_level = NewGUCNestLevel();
	cqrs_settings_put_fixed();
	return nest_level;
}

void
cqrs_settings_leave_fixed(int nest_level)
{
	if (nest_level > 0)
		AtEOXact_GUC(true, nest_level);
}

/*
 * Set one setting until the end of the current nest level. Most often it has
 * that value already, and asking is cheaper than setting.
 */
void
cqrs_settings_set(const char *name, const char *value)
{
	const char *current = settings_current(name);

	if (current == NULL || strcmp(current, value) != 0)
		(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * The text search configuration of that name; InvalidOid where there is none that the
 * current user may name.
 */
Oid
cqrs_settings_configuration_find(const char *name)
{
	List	   *names = NIL;
	List	   *parts;
	ListCell   *lc;

	if (!SplitIdentifierString(pstrdup(name), '.', &parts) || parts == NIL ||
		list_length(parts) > 2)
		return InvalidOid;

	/*
	 * To look into a schema that one may not use is an error; and a temporary one is
	 * somebody else's in another session.
	 */
	if (list_length(parts) == 2)
	{
		Oid			schema = get_namespace_oid(linitial(parts), true);

		if (!OidIsValid(schema) || isAnyTempNamespace(schema) ||
			cqrs_compat_namespace_aclcheck(schema, GetUserId(), ACL_USAGE) != ACLCHECK_OK)
			return InvalidOid;
	}
	foreach(lc, parts)
		names = lappend(names, makeString(lfirst(lc)));
	return get_ts_config_oid(names, true);
}

/* Its name, with the schema, as PostgreSQL's own setting has it; NULL where it is gone. */
char *
cqrs_settings_configuration_name(Oid configuration)
{
	HeapTuple	tuple = SearchSysCache1(TSCONFIGOID, ObjectIdGetDatum(configuration));
	Form_pg_ts_config form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		return NULL;
	form = (Form_pg_ts_config) GETSTRUCT(tuple);
	result = quote_qualified_identifier(get_namespace_name(form->cfgnamespace),
										NameStr(form->cfgname));
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Have dates, times and intervals written in a way that is read the same under all
 * styles; with names of time zones, which PostgreSQL's other styles write, it is
 * not even under the same ("IST" is read as Israel's, also in India).
 */
void
cqrs_settings_put_portable(void)
{
	cqrs_settings_set("DateStyle", "ISO");
	cqrs_settings_set("IntervalStyle", "postgres");
}

/* Have that for a while. Returns what cqrs_settings_leave_portable needs. */
int
cqrs_settings_enter_portable(void)
{
	int			nest_level = NewGUCNestLevel();

	cqrs_settings_put_portable();
	return nest_level;
}

void
cqrs_settings_leave_portable(int nest_level)
{
	AtEOXact_GUC(true, nest_level);
}

/* What cqrs_settings_put_fixed puts in force, asked where it lies. */
static bool
settings_are_fixed(void)
{
	return standard_conforming_strings && !Transform_null_equals && !quote_all_identifiers &&
		Array_nulls && extra_float_digits == 1 && bytea_output == BYTEA_OUTPUT_HEX &&
		xmlbinary == XMLBINARY_BASE64 && xmloption == XMLOPTION_CONTENT &&
		backslash_quote == BACKSLASH_QUOTE_SAFE_ENCODING && GinFuzzySearchLimit == 0 &&
		row_security;
}

/* The value of a setting; of those that are asked for often, where it lies. */
static const char *
settings_current(const char *name)
{
	static const struct
	{
		const char *name;
		char	  **value;
	}			variables[] = {
		{"search_path", &namespace_search_path},
		{"lc_monetary", &locale_monetary},
		{"lc_numeric", &locale_numeric},
		{"lc_time", &locale_time},
		{CQRS_SETTINGS_CONFIGURATION, &TSCurrentConfig}
	};

	for (int i = 0; i < lengthof(variables); i++)
		if (strcmp(variables[i].name, name) == 0)
			return *variables[i].value;
	if (strcmp(name, "TimeZone") == 0)
		return pg_get_timezone_name(session_timezone);
	return GetConfigOption(name, false, false);
}

/*
 * Put the configuration of that name in force, or the one that stands in for it where
 * the current user has none. PostgreSQL's own don't go; another may be gone, or somebody
 * else's only, also where the session names it already.
 */
static void
configuration_put(const char *name)
{
	if (configuration_is_everybodys(name) && strcmp(name, TSCurrentConfig) == 0)
		return;
	if (!OidIsValid(cqrs_settings_configuration_find(name)))
		name = STAND_IN_CONFIGURATION;
	cqrs_settings_set(CQRS_SETTINGS_CONFIGURATION, name);

	/* parallel workers take settings over as the session's user, who may not name it */
	if (!configuration_is_everybodys(name))
		cqrs_settings_set("max_parallel_workers_per_gather", "0");
}

/* Is it one of PostgreSQL's own? */
static bool
configuration_is_everybodys(const char *name)
{
	return strncmp(name, "pg_catalog.", strlen("pg_catalog.")) == 0;
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
