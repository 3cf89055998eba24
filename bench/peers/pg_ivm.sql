-- pg_ivm's materialized view, kept in the publishers' transactions. It needs no transaction ids.
SET client_min_messages = warning;
CREATE EXTENSION pg_ivm;
ALTER TABLE bench.plain_outbox DROP COLUMN xid;
ALTER DATABASE :"DBNAME" SET session_preload_libraries = 'pg_ivm';
SET search_path = public, pgivm, pg_catalog;
SELECT create_immv('bench.kept', $$
    SELECT aggregate_id AS order_id, count(*) AS items, sum((payload->>'price')::numeric) AS total
    FROM bench.plain_outbox GROUP BY aggregate_id
$$) \g /dev/null
RESET search_path;
