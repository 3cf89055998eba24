-- Emmett's event store, whose tables and functions are there already; its consumer is emmett.mjs.
CREATE TABLE bench.kept (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);

-- An order's events are appended to its stream in one call.
CREATE FUNCTION bench.publish_slice(begin_at bigint, end_at bigint, orders integer) RETURNS void LANGUAGE sql AS $$
    SELECT count(appended.success) FROM (
        SELECT aggregate_id, count(*)::integer AS n, array_agg(payload) AS payloads
        FROM bench.events(begin_at, end_at, orders) GROUP BY aggregate_id
    ) AS stream, emt_append_to_stream(
        ARRAY(SELECT gen_random_uuid()::text FROM generate_series(1, n)), payloads,
        array_fill('{}'::jsonb, ARRAY[n]), array_fill('1'::text, ARRAY[n]), array_fill('ItemAdded'::text, ARRAY[n]),
        array_fill('E'::text, ARRAY[n]), aggregate_id, 'order', NULL, 'emt:default') AS appended;
$$;

CREATE VIEW bench.sent AS
SELECT stream_id AS order_id, (message_data->>'price')::numeric AS price FROM emt_messages;
