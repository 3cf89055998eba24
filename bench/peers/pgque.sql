-- PgQue, whose file is in the database already, with a consumer in PL/pgSQL. What is sent at once is sent by one call,
-- which has no place for an order but the payload.
SELECT pgque.create_queue('bench'), pgque.subscribe('bench', 'bench') \g /dev/null
CREATE TABLE bench.kept (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);

CREATE FUNCTION bench.publish_slice(begin_at bigint, end_at bigint, orders integer) RETURNS void LANGUAGE sql AS $$
    SELECT pgque.send_batch('bench', 'ItemAdded', ARRAY(
        SELECT jsonb_set(payload, '{order}', to_jsonb(aggregate_id)) FROM bench.events(begin_at, end_at, orders)));
$$;

-- A backlog in batches, as if the ticker had been looking.
CREATE OR REPLACE PROCEDURE bench.after_publishing() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgque.force_next_tick('bench');
    PERFORM pgque.ticker('bench');
    COMMIT;
END $$;

CREATE VIEW bench.sent AS
SELECT ev_data::jsonb->>'order' AS order_id, (ev_data::jsonb->>'price')::numeric AS price FROM pgque.event_1;

CREATE PROCEDURE bench.consume_batch(OUT more boolean) LANGUAGE plpgsql AS $$
DECLARE
    batch constant bigint := pgque.next_batch('bench', 'bench');
BEGIN
    more := batch IS NOT NULL;
    IF more THEN
        WITH event AS MATERIALIZED (
            SELECT ev_data::jsonb AS payload FROM pgque.get_batch_events(batch)
        )
        INSERT INTO bench.kept AS o
        SELECT payload->>'order', count(*), sum((payload->>'price')::numeric) FROM event GROUP BY 1
        ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
        PERFORM pgque.finish_batch(batch);
    END IF;
END $$;

-- What pg_cron would call each second. It ticks ten times in that second.
CREATE PROCEDURE bench.tick() LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        CALL pgque.ticker_loop();
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;
