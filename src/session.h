/*
 * session.h
 *		Keep the session that an owner's code runs in from that code.
 */
#ifndef CQRS_SESSION_H
#define CQRS_SESSION_H

extern void cqrs_session_init(void);
extern void cqrs_session_protect(void);
extern void cqrs_session_release(void);

#endif							/* CQRS_SESSION_H */
