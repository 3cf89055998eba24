-- What the suites share and needs no extension: events of orders, a table like the outbox, and the ways to keep a
-- read table by triggers.

CREATE SCHEMA bench;

-- What an event says, in about 200 bytes.
CREATE FUNCTION bench.payload(i bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE
RETURN jsonb_build_object('sku', 'sku-' || i % 1000, 'quantity', i % 5 + 1, 'price', i % 10000 / 100.0,
    'currency', 'EUR', 'warehouse', 'warehouse-' || i % 7, 'customer', 'customer-' || i * 31 % 100000,
    'channel', 'web', 'comment', 'please ring twice, number ' || i);

-- Events of some orders. Where it is asked for, every so-manieth is a change of an order's status.
CREATE FUNCTION bench.events(begin_at bigint, end_at bigint, orders integer, status_every integer DEFAULT NULL)
RETURNS TABLE (aggregate_type text, aggregate_id text, event_type text, payload jsonb)
LANGUAGE sql STABLE ROWS 10000
BEGIN ATOMIC
    SELECT 'order', 'order-' || i * 7919 % orders,
           CASE WHEN i % status_every = 0 THEN 'OrderStatusChanged' ELSE 'ItemAdded' END,
           CASE WHEN i % status_every = 0 THEN jsonb_build_object('status', 'status ' || i % 11)
           ELSE bench.payload(i) END
    FROM generate_series(begin_at, end_at) AS i;
END;

-- A table like the outbox, without the extension: the same columns and indexes, and defaults but for its
-- function.
CREATE TABLE bench.plain_outbox (
    position bigint GENERATED ALWAYS AS IDENTITY,
    event_id uuid NOT NULL DEFAULT gen_random_uuid(),
    source text NOT NULL DEFAULT CURRENT_USER,
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    aggregate_version bigint,
    event_type text NOT NULL,
    payload jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    occurred_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (position)
);
CREATE INDEX ON bench.plain_outbox (xid, position);

-- What triggers on it do, into a read table that sums up orders: per row, and per statement. The latter locks rows in
-- the order of their keys: publishers of the same orders would run into deadlocks otherwise.
CREATE TABLE bench.by_hand (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);

CREATE FUNCTION bench.keep_by_row_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.by_hand AS o VALUES (NEW.aggregate_id, 1, (NEW.payload->>'price')::numeric)
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
    RETURN NULL;
END $$;

CREATE FUNCTION bench.keep_by_statement_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.by_hand AS o
    SELECT aggregate_id, count(*), sum((payload->>'price')::numeric) FROM inserted GROUP BY aggregate_id
    ORDER BY aggregate_id
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
    RETURN NULL;
END $$;

-- What a query returns, in a word; and what a table has in it.
CREATE FUNCTION bench.checksum_of(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE format('SELECT count(*) || '' rows, '' || md5(string_agg(t::text, '','' ORDER BY t::text)) FROM (%s) t',
                   query) INTO result;
    RETURN result;
END $$;
CREATE FUNCTION bench.checksum(read_table regclass) RETURNS text LANGUAGE sql
RETURN bench.checksum_of(format('TABLE %s', read_table));
