/*
 * view_filter.h
 *		What a condition says about a column of the event: the values that it
 *		must have one of.
 */
#ifndef CQRS_VIEW_FILTER_H
#define CQRS_VIEW_FILTER_H

#include "access/attnum.h"
#include "nodes/pg_list.h"

extern bool cqrs_view_filter_of(Node *node, AttrNumber column, List **values);

#endif							/* CQRS_VIEW_FILTER_H */
