/*
 * row_json.h
 *		Keep a row of an attached table as JSON, and make the row of that again.
 */
#ifndef CQRS_ROW_JSON_H
#define CQRS_ROW_JSON_H

#include "access/htup.h"
#include "utils/relcache.h"

#include "attachment.h"

extern text *cqrs_row_json_of(CqrsAttachment *attachment, Relation rel, HeapTuple row);
extern ErrorData *cqrs_row_json_to_row(CqrsAttachment *attachment, Relation rel, text *json,
									   HeapTuple *row);

#endif							/* CQRS_ROW_JSON_H */
