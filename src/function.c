/*
 * function.c
 *		What must hold of a user's function before we call it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "function.h"

/*
 * Is it neither an aggregate, a window function nor a procedure, and returns one
 * value? Throws where there is none.
 */
bool
cqrs_function_is_plain(Oid function)
{
	if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("handler with OID %u does not exist", function)));
	return get_func_prokind(function) == PROKIND_FUNCTION && !get_func_retset(function);
}

/*
 * Make a function look altered, so that languages that keep what they compiled of
 * it compile it anew, in all sessions: PL/pgSQL otherwise keeps to the types that
 * the columns of a row had.
 */
void
cqrs_function_touch(Oid function)
{
	Relation	rel = table_open(ProcedureRelationId, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCacheCopy1(PROCOID, ObjectIdGetDatum(function));

	if (HeapTupleIsValid(tuple))
		CatalogTupleUpdate(rel, &tuple->t_self, tuple);
	table_close(rel, RowExclusiveLock);
}

/*
 * Throw unless it is the role's own or a superuser's: whoever owns it can replace
 * it, and it runs as the role. message has a %s for its name.
 */
void
cqrs_function_check_owner(Oid function, Oid role, const char *message)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	if (owner == role || superuser_arg(owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg(message, format_procedure(function)),
			 errdetail("Its owner \"%s\" could replace it with code that runs as \"%s\".",
					   GetUserNameFromId(owner, false), GetUserNameFromId(role, false)),
			 errhint("ALTER FUNCTION %s OWNER TO %s;", format_procedure(function),
					 quote_identifier(GetUserNameFromId(role, false)))));
}
