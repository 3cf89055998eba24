-- pg_incremental's pipeline over the sequence of a table, run over and over instead of by pg_cron.
-- It needs no transaction ids. It says for each run what it processes.
CREATE EXTENSION pg_incremental;
ALTER DATABASE :"DBNAME" SET client_min_messages = warning;
SET client_min_messages = warning;
ALTER TABLE bench.plain_outbox DROP COLUMN xid;
CREATE TABLE bench.kept (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);
SELECT incremental.create_sequence_pipeline('kept', 'bench.plain_outbox', $$
    INSERT INTO bench.kept AS o
    SELECT aggregate_id, count(*), sum((payload->>'price')::numeric)
    FROM bench.plain_outbox WHERE position BETWEEN $1 AND $2 GROUP BY aggregate_id
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total
$$, schedule := NULL) \g /dev/null

CREATE PROCEDURE bench.consume_batch(OUT more boolean) LANGUAGE plpgsql AS $$
BEGIN
    CALL incremental.execute_pipeline('kept');
    more := false;
END $$;
