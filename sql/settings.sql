-- The settings: types, units, ranges, and who may set them where.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
SELECT name, vartype, unit, context, boot_val, min_val, max_val FROM pg_settings WHERE name LIKE 'cqrs\_views.%' ORDER BY name COLLATE "C";
-- each says what it does, as PostgreSQL's own do
SELECT name FROM pg_settings WHERE name LIKE 'cqrs\_views.%' AND short_desc !~ '^Sets .*\.$';

SET cqrs_views.unknown = 1; \echo :SQLSTATE
SET cqrs_views.enabled = off; \echo :SQLSTATE
SET cqrs_views.max_workers = 1; \echo :SQLSTATE
SET cqrs_views.retry_delay = '1s'; \echo :SQLSTATE
SET cqrs_views.max_retry_delay = '1min'; \echo :SQLSTATE
SET cqrs_views.max_retries = 1; \echo :SQLSTATE
SET cqrs_views.batch_size = '1kB'; \echo :SQLSTATE
SET cqrs_views.batch_size = 100;
SHOW cqrs_views.batch_size;
SET cqrs_views.log_min_batch_duration = '90s';
SHOW cqrs_views.log_min_batch_duration;
SET cqrs_views.log_min_batch_duration = -1;
SHOW cqrs_views.log_min_batch_duration;
-- the words differ between versions
\set VERBOSITY sqlstate
SET cqrs_views.log_min_batch_duration = -2;
SET cqrs_views.batch_size = 0;
\set VERBOSITY default
SET cqrs_views.allow_writes = maybe; \echo :SQLSTATE
SET cqrs_views.allow_writes = true;
SHOW cqrs_views.allow_writes;
RESET ALL;
SHOW cqrs_views.allow_writes;

CREATE ROLE regress_plain;
SET ROLE regress_plain;
SET cqrs_views.batch_size = 200;
SET cqrs_views.allow_writes = on; \echo :SQLSTATE
SET cqrs_views.log_min_batch_duration = 0; \echo :SQLSTATE
RESET ROLE;
RESET cqrs_views.batch_size;
-- a right to set can be granted, as for any setting
GRANT SET ON PARAMETER cqrs_views.log_min_batch_duration TO regress_plain;
SET ROLE regress_plain;
SET cqrs_views.log_min_batch_duration = 0;
RESET cqrs_views.log_min_batch_duration;
RESET ROLE;
REVOKE SET ON PARAMETER cqrs_views.log_min_batch_duration FROM regress_plain;
DROP ROLE regress_plain;
-- it is the library that has them, not the extension
DROP EXTENSION cqrs_views;
SHOW cqrs_views.batch_size;
