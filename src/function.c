/*
 * function.c
 *		What must hold of users' functions and types before we call or make them.
 *
 * Both can run code as whoever uses them: whoever owns a function can replace it,
 * and whoever owns a type can give it a constraint or a cast.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/indexing.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "compat.h"
#include "function.h"

/* of an expression: whose functions and types it may have, and what to call him */
typedef struct OwnersCheck
{
	Oid			role;
	const char *whose;
} OwnersCheck;

/* count changes that this process heard of */
static uint64 function_changes = 1;
static uint64 type_changes = 1;

static void changes_callback(Datum count, int cacheid, uint32 hashvalue);
static bool owners_walker(Node *node, void *context);
static bool owners_function(Oid function, void *context);
static Oid	made_type(Node *node);
static Oid	underlying_type(Oid domain);
static List *note_type(List *types, Oid type);

/* Called once per process, from _PG_init. */
void
cqrs_function_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, changes_callback, PointerGetDatum(&function_changes));
	CacheRegisterSyscacheCallback(AUTHOID, changes_callback, PointerGetDatum(&function_changes));
	CacheRegisterSyscacheCallback(AUTHMEMMEMROLE, changes_callback,
								  PointerGetDatum(&function_changes));
	CacheRegisterSyscacheCallback(TYPEOID, changes_callback, PointerGetDatum(&type_changes));
}

/*
 * A count that rises whenever a function or a role may have changed: what was
 * checked at the same count need not be checked again.
 */
uint64
cqrs_function_changes(void)
{
	return function_changes;
}

/* The same for types, which tables have, too: temporary ones make it rise often. */
uint64
cqrs_function_type_changes(void)
{
	return type_changes;
}

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
				 errmsg("handler with OID %u does not exist", function),
				 errhint("Name a function that exists: 'my_handler(cqrs.event)'.")));
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
 * Throw unless it is the role's own or a superuser's: it runs as the role. message
 * has a %s for its name.
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

/* The same for a type. */
void
cqrs_function_check_type_owner(Oid type, Oid role, const char *message)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	owner = ((Form_pg_type) GETSTRUCT(tuple))->typowner;
	ReleaseSysCache(tuple);
	if (owner == role || superuser_arg(owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg(message, format_type_be(type)),
			 errdetail("Its owner \"%s\" could give it a constraint or a cast with code that runs as \"%s\".",
					   GetUserNameFromId(owner, false), GetUserNameFromId(role, false)),
			 errhint("ALTER TYPE %s OWNER TO %s;", format_type_be(type),
					 quote_identifier(GetUserNameFromId(role, false)))));
}

/*
 * The same for all that an expression calls and makes, PostgreSQL's own aside. whose
 * is what the role is called, such as "the table's owner".
 */
void
cqrs_function_check_owners(Node *expression, Oid role, const char *whose)
{
	OwnersCheck check = {.role = role,.whose = whose};

	(void) owners_walker(expression, &check);
}

/*
 * Add to a list of OIDs the type of what a node makes, and those that this consists
 * of: those that users made. Passing values on is not making them.
 */
List *
cqrs_function_note_types(List *types, Node *node)
{
	return note_type(types, made_type(node));
}

static void
changes_callback(Datum count, int cacheid, uint32 hashvalue)
{
	++*(uint64 *) DatumGetPointer(count);
}

static bool
owners_walker(Node *node, void *context)
{
	OwnersCheck *check = (OwnersCheck *) context;
	ListCell   *lc;

	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, owners_function, check);
	foreach(lc, cqrs_function_note_types(NIL, node))
		cqrs_function_check_type_owner(lfirst_oid(lc), check->role,
									   psprintf("type %%s belongs to neither %s nor a superuser",
												check->whose));
	return expression_tree_walker(node, owners_walker, context);
}

static bool
owners_function(Oid function, void *context)
{
	const OwnersCheck *check = (const OwnersCheck *) context;

	if (function >= FirstNormalObjectId)
		cqrs_function_check_owner(function, check->role,
								  psprintf("function %%s belongs to neither %s nor a superuser",
										   check->whose));
	return false;
}

/* The type of the values that a node makes; InvalidOid where it only passes them on. */
static Oid
made_type(Node *node)
{
	switch (nodeTag(node))
	{
		case T_Const:
		case T_FuncExpr:
		case T_OpExpr:
		case T_RowExpr:
		case T_CoerceViaIO:
		case T_CoerceToDomain:
		case T_ArrayCoerceExpr:
		case T_ConvertRowtypeExpr:
		case T_RelabelType:
			return exprType(node);
		default:
			return cqrs_compat_is_json_query(node) ? exprType(node) : InvalidOid;
	}
}

/* The type that a domain is declared over, which may be a domain itself. */
static Oid
underlying_type(Oid domain)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(domain));
	Oid			result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", domain);
	result = ((Form_pg_type) GETSTRUCT(tuple))->typbasetype;
	ReleaseSysCache(tuple);
	return result;
}

static List *
note_type(List *types, Oid type)
{
	Oid			element = get_element_type(type);
	TupleDesc	desc;

	if (OidIsValid(element))
		type = element;
	if (type < FirstNormalObjectId || list_member_oid(types, type))
		return types;
	types = lappend_oid(types, type);
	switch (get_typtype(type))
	{
		case TYPTYPE_DOMAIN:
			return note_type(types, underlying_type(type));
		case TYPTYPE_RANGE:
			return note_type(types, get_range_subtype(type));
		case TYPTYPE_MULTIRANGE:
			return note_type(types, get_multirange_range(type));
		case TYPTYPE_COMPOSITE:
			desc = lookup_rowtype_tupdesc_copy(type, -1);
			for (int i = 0; i < desc->natts; i++)
				if (!TupleDescAttr(desc, i)->attisdropped)
					types = note_type(types, TupleDescAttr(desc, i)->atttypid);
			return types;
		default:
			return types;
	}
}
