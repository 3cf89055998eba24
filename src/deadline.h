/*
 * deadline.h
 *		Cancel what takes longer than cqrs_views.handler_timeout.
 */
#ifndef CQRS_DEADLINE_H
#define CQRS_DEADLINE_H

/* of class 54, program limit exceeded; no error of the server's own has it */
#define CQRS_ERRCODE_HANDLER_TIMEOUT MAKE_SQLSTATE('5', '4', 'T', '0', '1')

extern void cqrs_deadline_begin(int ms);
extern bool cqrs_deadline_is_set(void);
extern void cqrs_deadline_end(void);
extern void cqrs_deadline_explain(ErrorData *error, const char *projection);

#endif							/* CQRS_DEADLINE_H */
