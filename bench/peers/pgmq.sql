-- pgmq's queue, with a consumer in PL/pgSQL. It gives no order among consumers; here is one. It reads and deletes in
-- one transaction, so nothing is processed twice.
CREATE EXTENSION pgmq;
SELECT pgmq.create('bench') \g /dev/null
CREATE TABLE bench.kept (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);

CREATE FUNCTION bench.publish_slice(begin_at bigint, end_at bigint, orders integer) RETURNS void LANGUAGE sql AS $$
    SELECT count(sent) FROM pgmq.send_batch('bench', ARRAY(
        SELECT jsonb_set(payload, '{order}', to_jsonb(aggregate_id))
        FROM bench.events(begin_at, end_at, orders))) AS sent;
$$;

-- What was consumed is gone. So only the number of messages can be told, by rows without an order.
CREATE VIEW bench.sent AS
SELECT NULL::text AS order_id, NULL::numeric AS price
FROM pgmq.metrics('bench'), generate_series(1, total_messages);

CREATE PROCEDURE bench.consume_batch(OUT more boolean) LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
BEGIN
    WITH batch AS MATERIALIZED (
        SELECT msg_id, message FROM pgmq.read('bench', 60, 10000)
    ), upserted AS (
        INSERT INTO bench.kept AS o
        SELECT message->>'order', count(*), sum((message->>'price')::numeric) FROM batch GROUP BY 1
        ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total
    )
    SELECT array_agg(msg_id) INTO ids FROM batch;
    more := ids IS NOT NULL;
    IF more THEN
        PERFORM pgmq.delete('bench', ids);
    END IF;
END $$;
