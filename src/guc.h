/*
 * guc.h
 *		The settings of cqrs_views.
 */
#ifndef CQRS_GUC_H
#define CQRS_GUC_H

/* the settings, read-only outside guc.c; each is described in guc.c */
extern bool cqrs_guc_allow_writes;
extern int	cqrs_guc_batch_size;
extern bool cqrs_guc_enabled;
extern int	cqrs_guc_handler_timeout;
extern int	cqrs_guc_log_min_batch_duration;	/* ms; -1 = off */
extern int	cqrs_guc_max_retries;
extern int	cqrs_guc_max_retry_delay;	/* ms */
extern int	cqrs_guc_max_workers;
extern int	cqrs_guc_retry_delay;	/* ms */

extern void cqrs_guc_define(void);

#endif							/* CQRS_GUC_H */
