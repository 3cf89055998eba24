-- PgQ, with a consumer in PL/pgSQL.
CREATE EXTENSION pgq;
SELECT pgq.create_queue('bench'), pgq.register_consumer('bench', 'bench') \g /dev/null
CREATE TABLE bench.kept (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);

CREATE FUNCTION bench.publish_slice(begin_at bigint, end_at bigint, orders integer) RETURNS void LANGUAGE sql AS $$
    SELECT count(pgq.insert_event('bench', event_type, payload::text, aggregate_id, aggregate_type, NULL, NULL))
    FROM bench.events(begin_at, end_at, orders);
$$;

-- A backlog in batches, as if the ticker had been looking.
CREATE OR REPLACE PROCEDURE bench.after_publishing() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgq.force_tick('bench'), pgq.ticker('bench');
    COMMIT;
END $$;

CREATE VIEW bench.sent AS
SELECT ev_extra1 AS order_id, (ev_data::jsonb->>'price')::numeric AS price FROM pgq.event_1;

CREATE PROCEDURE bench.consume_batch(OUT more boolean) LANGUAGE plpgsql AS $$
DECLARE
    batch constant bigint := pgq.next_batch('bench', 'bench');
BEGIN
    more := batch IS NOT NULL;
    IF more THEN
        INSERT INTO bench.kept AS o
        SELECT ev_extra1, count(*), sum((ev_data::jsonb->>'price')::numeric)
        FROM pgq.get_batch_events(batch) GROUP BY ev_extra1
        ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
        PERFORM pgq.finish_batch(batch);
    END IF;
END $$;
