-- pg_ivm's materialized view, kept in the publishers' transactions.
CREATE EXTENSION pg_ivm;
ALTER DATABASE :"DBNAME" SET session_preload_libraries = 'pg_ivm';
SET search_path = public, pgivm, pg_catalog;
SELECT create_immv('bench.kept', $$
    SELECT aggregate_id AS order_id, count(*) AS items, sum((payload->>'price')::numeric) AS total
    FROM bench.plain_outbox GROUP BY aggregate_id
$$) \g /dev/null
RESET search_path;
