/*
 * settings.h
 *		The settings of a session that an owner's code and data may rightly depend
 *		on.
 */
#ifndef CQRS_SETTINGS_H
#define CQRS_SETTINGS_H

/* which names a text search configuration */
#define CQRS_SETTINGS_CONFIGURATION "default_text_search_config"

/* in SQL: the column settings, with another value of the setting that a parameter names */
#define CQRS_SETTINGS_WITH(name, value) \
	"array(SELECT CASE WHEN starts_with(s, $" #name " || '=')" \
	" THEN $" #name " || '=' || $" #value " ELSE s END" \
	" FROM unnest(settings) WITH ORDINALITY AS u (s, n) ORDER BY n)"

/*
 * What a projection was created under, and runs under. The arrays, of nsettings
 * each, and the strings are in the memory context that was current in
 * cqrs_settings_load.
 */
typedef struct CqrsSettings
{
	int			nsettings;
	char	  **names;
	char	  **values;
} CqrsSettings;

extern Datum cqrs_settings_save(void);
extern void cqrs_settings_load(CqrsSettings *settings, Datum saved);

/* in force until the end of the caller's nest level */
extern void cqrs_settings_put(const CqrsSettings *settings);
extern void cqrs_settings_put_fixed(void);
extern void cqrs_settings_set(const char *name, const char *value);

extern Oid	cqrs_settings_configuration_find(const char *name);
extern char *cqrs_settings_configuration_name(Oid configuration);

extern int	cqrs_settings_enter_fixed(void);
extern void cqrs_settings_leave_fixed(int nest_level);
extern void cqrs_settings_put_portable(void);
extern int	cqrs_settings_enter_portable(void);
extern void cqrs_settings_leave_portable(int nest_level);

#endif							/* CQRS_SETTINGS_H */
