/*
 * reducer.c
 *		A function f(T, cqrs.event) RETURNS T: what it must be like, and calling
 *		it.
 *
 * A state is a composite value of type T, or 0 for the NULL that stands for no
 * row. It is flat, without toast pointers; or it is an expanded record, which is
 * what PL/pgSQL returns. That one is given to the next call for good: PL/pgSQL
 * goes on in it, and neither a large document nor a column that the event leaves
 * alone is copied on the way.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/bitmapset.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/expandedrecord.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "event.h"
#include "function.h"
#include "reducer.h"

static Datum reducer_accept(CqrsReducer *reducer, Datum result);
static const char *key_column_problem(Oid relid, AttrNumber *attnum);
static const char *key_attribute_problem(Form_pg_attribute attribute);

/*
 * Is that the function's signature? T may also be a domain here, so that
 * cqrs_reducer_check can say what is wrong with it.
 */
bool
cqrs_reducer_matches(Oid function)
{
	Oid		   *argtypes;
	int			nargs;
	Oid			rettype = get_func_signature(function, &argtypes, &nargs);

	return nargs == 2 && argtypes[1] == cqrs_event_type() && rettype == argtypes[0] &&
		rettype != RECORDOID && type_is_rowtype(rettype);
}

/* Throw unless a function that matches can be called as a reducer. */
void
cqrs_reducer_check(Oid function)
{
	Oid			rowtype = cqrs_reducer_rowtype(function);

	if (get_typtype(rowtype) == TYPTYPE_DOMAIN)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("reducer %s can't be of domain %s", format_procedure(function),
						format_type_be(rowtype)),
				 errdetail("The rows of a table are of its row type, not of a domain over that."),
				 errhint("Let it take and return %s, and give the table the domain's constraints.",
						 format_type_be(getBaseType(rowtype)))));
	if (func_strict(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("reducer %s must not be STRICT", format_procedure(function)),
				 errdetail("The first event of a key comes with NULL, which means that there is no row yet."),
				 errhint("ALTER FUNCTION %s CALLED ON NULL INPUT;", format_procedure(function))));
}

/* Throw unless a function is a reducer, for whatever type, and can be called. */
void
cqrs_reducer_require(Oid function)
{
	if (!cqrs_function_is_plain(function) || !cqrs_reducer_matches(function))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("function %s is not a reducer", format_procedure(function)),
				 errhint("A reducer is f(T, cqrs.event) RETURNS T, T a composite type.")));
	cqrs_reducer_check(function);
}

/* The T of a function that matches. */
Oid
cqrs_reducer_rowtype(Oid function)
{
	return get_func_rettype(function);
}

/*
 * The column of a table that a key is filled into: its primary key. Throws where
 * a key can't be that; with missing_ok, returns InvalidAttrNumber.
 */
AttrNumber
cqrs_reducer_key_column(Oid relid, bool missing_ok)
{
	AttrNumber	attnum = InvalidAttrNumber;
	const char *problem = key_column_problem(relid, &attnum);

	if (problem == NULL)
		return attnum;
	if (missing_ok)
		return InvalidAttrNumber;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_TABLE_DEFINITION),
			 errmsg("table \"%s\" can't be the read table of a reducer", get_rel_name(relid)),
			 errdetail_internal("%s", problem),
			 errhint("A reducer's read table has a primary key of one column, of type text or varchar without a length.")));
}

/* Get ready to call a function that is checked. The current memory context keeps it. */
void
cqrs_reducer_begin(CqrsReducer *reducer, Oid function)
{
	reducer->function = function;
	reducer->rowtype = cqrs_reducer_rowtype(function);
	fmgr_info(function, &reducer->flinfo);
	reducer->context = AllocSetContextCreate(CurrentMemoryContext, "cqrs_views reducer",
											 ALLOCSET_DEFAULT_SIZES);
}

/*
 * The state that follows an event, in the current memory context; 0 where the
 * function returns NULL. A flat state stays the caller's, an expanded one is
 * used up. The event is best made in reducer->context, which is empty when this
 * returns.
 */
Datum
cqrs_reducer_call(CqrsReducer *reducer, Datum state, Datum event)
{
	LOCAL_FCINFO(fcinfo, 2);
	PgStat_FunctionCallUsage usage;
	MemoryContext old = MemoryContextSwitchTo(reducer->context);
	Datum		result;

	CHECK_FOR_INTERRUPTS();

	/* it goes with the context, unless it comes back */
	if (cqrs_reducer_is_expanded(state))
		state = TransferExpandedObject(state, reducer->context);
	InitFunctionCallInfoData(*fcinfo, &reducer->flinfo, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = state;
	fcinfo->args[0].isnull = state == (Datum) 0;
	fcinfo->args[1].value = event;
	fcinfo->args[1].isnull = false;
	pgstat_init_function_usage(fcinfo, &usage);
	result = FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);

	/* the next call sees what this one did, whatever the language */
	CommandCounterIncrement();
	MemoryContextSwitchTo(old);

	if (fcinfo->isnull)
		result = (Datum) 0;
	else
		result = reducer_accept(reducer, result);
	MemoryContextReset(reducer->context);
	return result;
}

void
cqrs_reducer_end(CqrsReducer *reducer)
{
	MemoryContextDelete(reducer->context);
}

bool
cqrs_reducer_is_expanded(Datum state)
{
	return state != (Datum) 0 && VARATT_IS_EXTERNAL_EXPANDED(DatumGetPointer(state));
}

/* What a state is as a flat one, in bytes. */
Size
cqrs_reducer_size(Datum state)
{
	if (state == (Datum) 0)
		return 0;
	if (cqrs_reducer_is_expanded(state))
		return EOH_get_flat_size(DatumGetEOHP(state));
	return HeapTupleHeaderGetDatumLength((HeapTupleHeader) DatumGetPointer(state));
}

/* The state as a flat one, in the current memory context; an expanded one is freed. */
Datum
cqrs_reducer_flatten(Datum state)
{
	Datum		result;

	if (!cqrs_reducer_is_expanded(state))
		return state;
	result = PointerGetDatum(PG_DETOAST_DATUM_COPY(state));
	DeleteExpandedObject(state);
	return result;
}

/* A column's value, which may point into the state. desc is T's. */
Datum
cqrs_reducer_get(Datum state, TupleDesc desc, int column, bool *isnull)
{
	HeapTupleHeader header = (HeapTupleHeader) DatumGetPointer(state);
	HeapTupleData tuple;

	if (cqrs_reducer_is_expanded(state))
		return expanded_record_get_field((ExpandedRecordHeader *) DatumGetEOHP(state), column,
										 isnull);
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	return heap_getattr(&tuple, column, desc, isnull);
}

/*
 * The state with a column replaced by a copy of the value, in the current memory
 * context. The one that was given is used up.
 */
Datum
cqrs_reducer_set(Datum state, TupleDesc desc, int column, Datum value, bool isnull)
{
	HeapTupleHeader header = (HeapTupleHeader) DatumGetPointer(state);
	HeapTupleData tuple;
	HeapTuple	replaced;
	Datum		result;

	if (cqrs_reducer_is_expanded(state))
	{
		expanded_record_set_field((ExpandedRecordHeader *) DatumGetEOHP(state), column, value,
								  isnull, true);
		return state;
	}
	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	tuple.t_data = header;
	replaced = heap_modify_tuple_by_cols(&tuple, desc, 1, &column, &value, &isnull);
	result = heap_copy_tuple_as_datum(replaced, desc);
	heap_freetuple(replaced);
	pfree(header);
	return result;
}

/*
 * What the function returned, as a state in the current memory context: an
 * expanded record that it gave away, or else a flat copy. It may be packed, if
 * it comes from a table's column.
 */
static Datum
reducer_accept(CqrsReducer *reducer, Datum result)
{
	Oid			rowtype;

	if (VARATT_IS_EXTERNAL_EXPANDED_RW(DatumGetPointer(result)))
	{
		ExpandedRecordHeader *record = (ExpandedRecordHeader *) DatumGetEOHP(result);

		rowtype = record->er_magic == ER_MAGIC ? record->er_typeid : InvalidOid;
		result = TransferExpandedObject(result, CurrentMemoryContext);
	}
	else
	{
		result = PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
		rowtype = HeapTupleHeaderGetTypeId((HeapTupleHeader) DatumGetPointer(result));
	}
	if (rowtype != reducer->rowtype)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("reducer %s returned a value of another type",
						format_procedure(reducer->function))));
	return result;
}

/* Why a key can't be in a table's primary key; or NULL, with its column in *attnum. */
static const char *
key_column_problem(Oid relid, AttrNumber *attnum)
{
	Oid			constraint;
	Bitmapset  *columns = get_primary_key_attnos(relid, true, &constraint);
	HeapTuple	tuple;
	const char *problem;

	if (columns == NULL)
		return "It has no primary key.";
	if (bms_num_members(columns) > 1)
		return "Its primary key has several columns.";
	if (get_primary_key_attnos(relid, false, &constraint) == NULL)
		return "Its primary key is deferrable, so rows can't be looked up by it as they are written.";

	*attnum = bms_singleton_member(columns) + FirstLowInvalidHeapAttributeNumber;
	tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(relid), Int16GetDatum(*attnum));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for attribute %d of relation %u", *attnum, relid);
	problem = key_attribute_problem((Form_pg_attribute) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);
	return problem;
}

/* The same for the only column of the primary key. */
static const char *
key_attribute_problem(Form_pg_attribute attribute)
{
	if ((attribute->atttypid != TEXTOID && attribute->atttypid != VARCHAROID) ||
		attribute->atttypmod >= 0)
		return psprintf("Its primary key is of type %s.",
						format_type_with_typemod(attribute->atttypid, attribute->atttypmod));
	if (attribute->attgenerated != '\0')
		return "Its primary key is a generated column.";
	if (!get_collation_isdeterministic(attribute->attcollation))
		return "Its primary key takes different keys for equal: its collation is nondeterministic.";
	return NULL;
}
