/*
 * mapping.c
 *		Make events of the rows of an attached table.
 *
 * The expressions are the owner's, and run as the owner, like a handler: in a
 * security-restricted operation, with the settings of when the table was attached,
 * and in a subtransaction, so that a row that can't be mapped fails alone. Rows are
 * mapped together; only where one of them fails, each by itself. Errors that are
 * nobody's fault are thrown, and so are those of preparing: no row is to blame.
 *
 * Most mappings are of columns, and of functions that are PostgreSQL's own and
 * immutable. They would give anybody the same, so they are evaluated where we are: to
 * become the owner costs more than they do. Only a few settings can matter to them, by
 * which values are written as text; a row must be the same event under all of them.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/typcache.h"

#include "apply.h"
#include "compat.h"
#include "expression.h"
#include "format.h"
#include "function.h"
#include "mapping.h"
#include "query.h"
#include "settings.h"
#include "steady.h"

#define ID_TEXT_LENGTH 36

/* the parsed expressions of an attachment, in its memory context */
typedef struct CqrsMapping
{
	Expr	   *exprs[CQRS_FORMAT_NENTRIES];	/* planned; NULL = the default */
	Bitmapset  *used;			/* columns in them, as pull_varattnos says it */
	List	   *columns;		/* those that must stay, as String nodes */
	bool		id_is_uuid;
	bool		plain;			/* anybody may evaluate it */
} CqrsMapping;

/* one evaluation of them for some rows */
typedef struct Evaluation
{
	CqrsAttachment *attachment;
	const CqrsMapping *mapping;
	Relation	rel;
	HeapTuple  *rows;
	EState	   *estate;
	TupleTableSlot *slot;
	ExprState  *states[CQRS_FORMAT_NENTRIES];
	MemoryContext result_context;

	/* what a row's turn is to do; row_fn may throw */
	void		(*row_fn) (struct Evaluation *evaluation, int row);
	void		(*failed_fn) (struct Evaluation *evaluation, int row, ErrorData *error);
	CqrsMapped *mapped;			/* of evaluate_event, */
	Datum	   *values;			/* and of evaluate_order */
	bool	   *nulls;
} Evaluation;

static const CqrsMapping *mapping_of(CqrsAttachment *attachment);
static List *column_names(Oid relid, const Bitmapset *columns);
static void mapping_check_columns(const CqrsAttachment *attachment);
static Expr *mapping_parse_entry(Relation rel, int entry, const char *text, CqrsMapping *mapping);
static void evaluation_run(Evaluation *evaluation, int nrows);
static void evaluation_prepare(Evaluation *evaluation);
static ErrorData *evaluation_try(Evaluation *evaluation, int first, int nrows);
static void evaluate_event(Evaluation *evaluation, int row);
static void event_failed(Evaluation *evaluation, int row, ErrorData *error);
static void evaluate_order(Evaluation *evaluation, int row);
static void order_failed(Evaluation *evaluation, int row, ErrorData *error);
static Datum evaluate(Evaluation *evaluation, int entry, bool *isnull);
static Datum evaluate_copy(Evaluation *evaluation, int entry, bool *isnull);
static void enter_owner(CqrsAttachment *attachment, CqrsUserContext *user);
static void error_callback(void *arg);

/*
 * Throw unless the expressions can be parsed and fit, by way of the parser, with
 * the cursor in the expression; keep in mind which columns are counted on from now on.
 */
void
cqrs_mapping_check(CqrsAttachment *attachment)
{
	cqrs_attachment_verify(attachment);
	cqrs_attachment_keep_columns(attachment, mapping_of(attachment)->columns);
}

/*
 * The columns that its expressions use, as pull_varattnos says it; those of generated
 * ones, too.
 */
const Bitmapset *
cqrs_mapping_columns(CqrsAttachment *attachment)
{
	return mapping_of(attachment)->used;
}

/*
 * Map rows of the attached table, which is open as rel. The result is an element
 * for each row, in the current memory context. Throws transient errors, and those
 * of the mapping as a whole.
 */
CqrsMapped *
cqrs_mapping_map(CqrsAttachment *attachment, Relation rel, HeapTuple *rows, int nrows)
{
	Evaluation	evaluation = {
		.attachment = attachment,
		.rel = rel,
		.rows = rows,
		.row_fn = evaluate_event,
		.failed_fn = event_failed,
		.mapped = palloc0(nrows * sizeof(CqrsMapped))
	};

	evaluation_run(&evaluation, nrows);
	return evaluation.mapped;
}

/* What brings rows into the source's order. */
CqrsOrder
cqrs_mapping_order(CqrsAttachment *attachment)
{
	const Expr *expr = mapping_of(attachment)->exprs[CQRS_FORMAT_ORDER_BY];
	CqrsOrder	order = {InvalidOid};

	if (expr != NULL)
	{
		order.type = exprType((const Node *) expr);
		order.collation = exprCollation((const Node *) expr);
	}
	return order;
}

/*
 * The values of that for some rows, in the current memory context; NULL where it
 * can't be computed.
 */
void
cqrs_mapping_order_values(CqrsAttachment *attachment, Relation rel, HeapTuple *rows, int nrows,
						  Datum *values, bool *nulls)
{
	Evaluation	evaluation = {
		.attachment = attachment,
		.rel = rel,
		.rows = rows,
		.row_fn = evaluate_order,
		.failed_fn = order_failed,
		.values = values,
		.nulls = nulls
	};

	evaluation_run(&evaluation, nrows);
}

/*
 * The event id that a text stands for: itself, where it is a UUID as PostgreSQL
 * writes it, and otherwise a UUID of version 8 made of its SHA-256, so that the
 * same text is always the same event.
 */
void
cqrs_mapping_id_of_text(const text *value, pg_uuid_t *id)
{
	const char *data = VARDATA_ANY(value);
	int			length = VARSIZE_ANY_EXHDR(value);
	bool		is_uuid = length == ID_TEXT_LENGTH;
	bytea	   *hash;

	for (int i = 0; i < length && is_uuid; i++)
		is_uuid = i == 8 || i == 13 || i == 18 || i == 23 ? data[i] == '-' :
			isxdigit((unsigned char) data[i]);
	if (is_uuid)
	{
		*id = *DatumGetUUIDP(DirectFunctionCall1(uuid_in,
												 CStringGetDatum(pnstrdup(data, length))));
		return;
	}
	hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(value)));
	memcpy(id->data, VARDATA_ANY(hash), UUID_LEN);
	id->data[6] = (id->data[6] & 0x0f) | 0x80;
	id->data[8] = (id->data[8] & 0x3f) | 0x80;
}

/* ---------------------------------------------------------- expressions */

/* The parsed expressions; parses them, as the owner, where that was not done yet. */
static const CqrsMapping *
mapping_of(CqrsAttachment *attachment)
{
	const char *texts[CQRS_FORMAT_NENTRIES];
	bool		all_else;
	Bitmapset  *counted_on = NULL;
	CqrsMapping *mapping;
	Relation	rel;
	CqrsUserContext user;
	MemoryContext old;
	ErrorContextCallback callback = {
		.previous = error_context_stack,.callback = error_callback,.arg = attachment
	};

	if (attachment->parsed != NULL)
		return attachment->parsed;
	cqrs_attachment_verify(attachment);
	error_context_stack = &callback;
	rel = table_open(attachment->relid, AccessShareLock);
	mapping_check_columns(attachment);
	cqrs_format_expressions(attachment->relid, attachment->format, attachment->mapping, texts,
							&all_else);
	mapping = MemoryContextAllocZero(attachment->context, sizeof(CqrsMapping));
	mapping->plain = true;
	enter_owner(attachment, &user);
	for (int i = 1; i < CQRS_FORMAT_NENTRIES; i++)
	{
		Bitmapset  *used = NULL;
		Expr	   *expr;

		if (texts[i] == NULL)
			continue;
		expr = mapping_parse_entry(rel, i, texts[i], mapping);
		pull_varattnos((Node *) expr, 1, &used);
		expr = (Expr *) cqrs_compat_expand_generated((Node *) expr, rel, 1);
		pull_varattnos((Node *) expr, 1, &used);
		if (!(all_else && i == CQRS_EVENT_METADATA))
			counted_on = bms_add_members(counted_on, used);
		if (!cqrs_steady_is_expression((Node *) expr))
			mapping->plain = false;
		expr = expression_planner(expr);
		old = MemoryContextSwitchTo(attachment->context);
		mapping->exprs[i] = copyObject(expr);
		mapping->used = bms_add_members(mapping->used, used);
		MemoryContextSwitchTo(old);
	}
	cqrs_query_leave_user(&user);
	old = MemoryContextSwitchTo(attachment->context);
	mapping->columns = column_names(attachment->relid, counted_on);
	MemoryContextSwitchTo(old);
	table_close(rel, NoLock);
	error_context_stack = callback.previous;
	attachment->parsed = mapping;
	return mapping;
}

/* The names of columns, as String nodes, in the current memory context. */
static List *
column_names(Oid relid, const Bitmapset *columns)
{
	List	   *names = NIL;
	int			member = -1;

	while ((member = bms_next_member(columns, member)) >= 0)
		names = lappend(names,
						makeString(get_attname(relid, member + FirstLowInvalidHeapAttributeNumber,
											   false)));
	return names;
}

/*
 * Throw where a column is gone that events were made of. A format can do without most of
 * its own, so nothing else would tell; and this asks for no right.
 */
static void
mapping_check_columns(const CqrsAttachment *attachment)
{
	ListCell   *lc;

	foreach(lc, attachment->columns)
		if (get_attnum(attachment->relid, strVal(lfirst(lc))) <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("attached table \"%s\" has no column \"%s\" any more",
							attachment->relname, strVal(lfirst(lc))),
					 errdetail("Its events are made of it."),
					 errhint("Detach the table, and attach it as it is now: SELECT cqrs.detach_outbox(%s);",
							 quote_literal_cstr(quote_qualified_identifier(get_namespace_name(get_rel_namespace(attachment->relid)),
																		   attachment->relname)))));
}

static Expr *
mapping_parse_entry(Relation rel, int entry, const char *text, CqrsMapping *mapping)
{
	static const Oid types[CQRS_FORMAT_NENTRIES] = {
		[CQRS_EVENT_EVENT_ID] = InvalidOid,
		[CQRS_EVENT_AGGREGATE_TYPE] = TEXTOID,
		[CQRS_EVENT_AGGREGATE_ID] = TEXTOID,
		[CQRS_EVENT_AGGREGATE_VERSION] = INT8OID,
		[CQRS_EVENT_EVENT_TYPE] = TEXTOID,
		[CQRS_EVENT_PAYLOAD] = JSONBOID,
		[CQRS_EVENT_METADATA] = JSONBOID,
		[CQRS_EVENT_OCCURRED_AT] = TIMESTAMPTZOID,
		[CQRS_FORMAT_WHERE] = BOOLOID,
		[CQRS_FORMAT_ORDER_BY] = InvalidOid
	};
	const char *name = cqrs_format_entry_name(entry);
	CqrsExpressionUse use = {
		.what = psprintf("the mapping of %s", name),
		.title = psprintf("mapping of %s", name),
		.one_hint = "Combine columns into one, for example with || or jsonb_build_object.",
		.columns_hint = "Name the table's columns one by one.",
		.stable_detail = "A row must be the same event whenever it comes.",
		.whose = "the table's owner",
		.type = types[entry]
	};
	Expr	   *expr = cqrs_expression_parse(text, rel, &use);

	if (entry == CQRS_EVENT_EVENT_ID)
	{
		mapping->id_is_uuid = exprType((Node *) expr) == UUIDOID;
		if (!mapping->id_is_uuid)
		{
			use.type = TEXTOID;
			expr = cqrs_expression_parse(text, rel, &use);
		}
	}
	if (entry == CQRS_FORMAT_ORDER_BY &&
		!OidIsValid(lookup_type_cache(exprType((Node *) expr), TYPECACHE_LT_OPR)->lt_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("%s of type %s has no order", use.what,
						format_type_be(exprType((Node *) expr)))));
	return expr;
}

/* ----------------------------------------------------------- evaluation */

static void
evaluation_run(Evaluation *evaluation, int nrows)
{
	CqrsAttachment *attachment = evaluation->attachment;
	CqrsUserContext user;
	int			nest_level = 0;
	ErrorContextCallback callback = {
		.previous = error_context_stack,.callback = error_callback,.arg = attachment
	};
	ErrorData  *error;

	error_context_stack = &callback;
	cqrs_attachment_verify(attachment);
	evaluation->mapping = mapping_of(attachment);
	evaluation->result_context = CurrentMemoryContext;
	if (evaluation->mapping->plain)
		nest_level = cqrs_settings_enter_fixed();
	else
		enter_owner(attachment, &user);

	evaluation_prepare(evaluation);
	error = evaluation_try(evaluation, 0, nrows);
	if (error != NULL && nrows == 1)
		evaluation->failed_fn(evaluation, 0, error);
	for (int i = 0; i < nrows && error != NULL && nrows > 1; i++)
	{
		ErrorData  *failure = evaluation_try(evaluation, i, 1);

		CHECK_FOR_INTERRUPTS();
		if (failure != NULL)
			evaluation->failed_fn(evaluation, i, failure);
	}

	ExecDropSingleTupleTableSlot(evaluation->slot);
	FreeExecutorState(evaluation->estate);
	if (evaluation->mapping->plain)
		cqrs_settings_leave_fixed(nest_level);
	else
		cqrs_query_leave_user(&user);
	error_context_stack = callback.previous;
}

/* Make ready all that the rows' turns need. */
static void
evaluation_prepare(Evaluation *evaluation)
{
	MemoryContext old;

	evaluation->estate = CreateExecutorState();
	old = MemoryContextSwitchTo(evaluation->estate->es_query_cxt);
	for (int i = 1; i < CQRS_FORMAT_NENTRIES; i++)
		if (evaluation->mapping->exprs[i] != NULL)
			evaluation->states[i] = ExecInitExpr(evaluation->mapping->exprs[i], NULL);
	MemoryContextSwitchTo(old);
	evaluation->slot = MakeSingleTupleTableSlot(RelationGetDescr(evaluation->rel),
												&TTSOpsHeapTuple);
	GetPerTupleExprContext(evaluation->estate)->ecxt_scantuple = evaluation->slot;
}

/* Give some rows their turn. Returns NULL, or the error, which is a row's own. */
static ErrorData *
evaluation_try(Evaluation *evaluation, int first, int nrows)
{
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContextSwitchTo(GetPerTupleMemoryContext(evaluation->estate));
		for (int i = first; i < first + nrows; i++)
		{
			ResetPerTupleExprContext(evaluation->estate);
			ExecStoreHeapTuple(evaluation->rows[i], evaluation->slot, false);
			evaluation->row_fn(evaluation, i);
		}
		MemoryContextSwitchTo(evaluation->result_context);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(evaluation->result_context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(evaluation->result_context);
	CurrentResourceOwner = owner;
	if (error != NULL && cqrs_apply_error_is_transient(error))
		ReThrowError(error);
	return error;
}

/* What tells the event apart comes first: it is known then, even if the rest fails. */
static void
evaluate_event(Evaluation *evaluation, int row)
{
	static const int entries[] = {
		CQRS_EVENT_AGGREGATE_ID, CQRS_EVENT_AGGREGATE_TYPE, CQRS_EVENT_EVENT_TYPE,
		CQRS_EVENT_AGGREGATE_VERSION, CQRS_EVENT_PAYLOAD, CQRS_EVENT_METADATA,
		CQRS_EVENT_OCCURRED_AT
	};
	CqrsMapped *mapped = &evaluation->mapped[row];
	bool		isnull;
	Datum		value;

	memset(mapped, 0, sizeof(*mapped));
	memset(mapped->nulls, true, sizeof(mapped->nulls));
	mapped->wanted = true;
	if (evaluation->states[CQRS_FORMAT_WHERE] != NULL)
	{
		value = evaluate(evaluation, CQRS_FORMAT_WHERE, &isnull);
		mapped->wanted = !isnull && DatumGetBool(value);
	}
	if (!mapped->wanted)
		return;

	value = evaluate(evaluation, CQRS_EVENT_EVENT_ID, &isnull);
	if (!isnull && evaluation->mapping->id_is_uuid)
		mapped->event_id = *DatumGetUUIDP(value);
	else if (!isnull)
		cqrs_mapping_id_of_text(DatumGetTextPP(value), &mapped->event_id);
	mapped->has_id = !isnull;
	for (int i = 0; i < lengthof(entries); i++)
	{
		int			column = entries[i] - 1;

		if (evaluation->states[entries[i]] == NULL)
			continue;
		mapped->values[column] = evaluate_copy(evaluation, entries[i], &mapped->nulls[column]);
		if (entries[i] == CQRS_EVENT_AGGREGATE_ID && !mapped->nulls[column])
			mapped->key = DatumGetTextPP(mapped->values[column]);
		if (i < 3 && mapped->nulls[column])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("%s of an event must not be null",
							cqrs_format_entry_name(entries[i]))));
	}
	if (!mapped->has_id)
		ereport(ERROR,
				(errcode(ERRCODE_NOT_NULL_VIOLATION),
				 errmsg("event_id of an event must not be null")));
}

static void
event_failed(Evaluation *evaluation, int row, ErrorData *error)
{
	evaluation->mapped[row].wanted = true;
	evaluation->mapped[row].error = error;
}

static void
evaluate_order(Evaluation *evaluation, int row)
{
	evaluation->values[row] = evaluate_copy(evaluation, CQRS_FORMAT_ORDER_BY,
											&evaluation->nulls[row]);
}

static void
order_failed(Evaluation *evaluation, int row, ErrorData *error)
{
	evaluation->values[row] = (Datum) 0;
	evaluation->nulls[row] = true;
}

static Datum
evaluate(Evaluation *evaluation, int entry, bool *isnull)
{
	return ExecEvalExpr(evaluation->states[entry], GetPerTupleExprContext(evaluation->estate),
						isnull);
}

/* The same, with the value in the result's memory context, and not toasted. */
static Datum
evaluate_copy(Evaluation *evaluation, int entry, bool *isnull)
{
	Oid			type = exprType((Node *) evaluation->mapping->exprs[entry]);
	Datum		value = evaluate(evaluation, entry, isnull);
	int16		length;
	bool		by_value;
	MemoryContext old;

	if (*isnull)
		return (Datum) 0;
	get_typlenbyval(type, &length, &by_value);
	old = MemoryContextSwitchTo(evaluation->result_context);
	value = length == -1 ? PointerGetDatum(PG_DETOAST_DATUM_COPY(value)) :
		datumCopy(value, by_value, length);
	MemoryContextSwitchTo(old);
	return value;
}

/* --------------------------------------------------------------- helpers */

static void
enter_owner(CqrsAttachment *attachment, CqrsUserContext *user)
{
	cqrs_query_enter_user(user, attachment->owner, &attachment->settings);
}

static void
error_callback(void *arg)
{
	const CqrsAttachment *attachment = (const CqrsAttachment *) arg;

	if (attachment->relname != NULL)
		errcontext("attached table \"%s\" of source \"%s\"", attachment->relname,
				   attachment->source);
}
