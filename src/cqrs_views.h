/*
 * cqrs_views.h
 *		The library's entry point.
 */
#ifndef CQRS_VIEWS_H
#define CQRS_VIEWS_H

extern PGDLLEXPORT void _PG_init(void);

#endif							/* CQRS_VIEWS_H */
