-- What the suites share: events of orders, a read table that sums them up, and the ways to keep it. Each way
-- ends in the same upsert, so they differ only in who feeds it.

CREATE EXTENSION cqrs_views;
CREATE SCHEMA bench;

-- Publishes items of some orders, in transactions of some size; and where it is asked for, as every so-manieth
-- event, a change of an order's status.
CREATE PROCEDURE bench.publish(events bigint, transaction_size integer DEFAULT 10000,
    orders integer DEFAULT 1000, status_every integer DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    FOR begin_at IN 1 .. events BY transaction_size LOOP
        INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
        SELECT 'order', 'order-' || i * 7919 % orders,
               CASE WHEN i % status_every = 0 THEN 'OrderStatusChanged' ELSE 'ItemAdded' END,
               CASE WHEN i % status_every = 0 THEN jsonb_build_object('status', 'status ' || i % 11)
               ELSE jsonb_build_object('sku', 'sku-' || i % 1000, 'quantity', i % 5 + 1, 'price', i % 10000 / 100.0)
               END
        FROM generate_series(begin_at, least(begin_at + transaction_size - 1, events)) AS i;
        COMMIT;
    END LOOP;
END $$;

-- The engine's read table, and the one of whom it is measured against.
CREATE TABLE bench.by_engine (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL);
CREATE TABLE bench.by_hand (LIKE bench.by_engine INCLUDING ALL);

-- Per batch.
CREATE FUNCTION bench.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.by_engine AS o
    SELECT aggregate_id, count(*), sum((payload->>'price')::numeric) FROM events GROUP BY aggregate_id
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
    RETURN NULL;
END $$;

-- The same by hand, over slices of the outbox, a commit each.
CREATE PROCEDURE bench.keep_by_hand(slice bigint) LANGUAGE plpgsql AS $$
DECLARE
    last_position constant bigint := max(position) FROM cqrs.outbox;
BEGIN
    FOR done IN 0 .. last_position - 1 BY slice LOOP
        INSERT INTO bench.by_hand AS o
        SELECT aggregate_id, count(*), sum((payload->>'price')::numeric) FROM cqrs.outbox
        WHERE position > done AND position <= done + slice GROUP BY aggregate_id
        ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
        COMMIT;
    END LOOP;
END $$;

-- Per event.
CREATE FUNCTION bench.keep(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.by_engine AS o VALUES (event.aggregate_id, 1, (event.payload->>'price')::numeric)
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
END $$;

-- The same as a row trigger on a table like the outbox: the same columns and indexes, and defaults without
-- the extension's function.
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

CREATE FUNCTION bench.keep_by_row_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.by_hand AS o VALUES (NEW.aggregate_id, 1, (NEW.payload->>'price')::numeric)
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
    RETURN NULL;
END $$;
CREATE TRIGGER keep AFTER INSERT ON bench.plain_outbox
    FOR EACH ROW EXECUTE FUNCTION bench.keep_by_row_trigger();

-- Copies the outbox into that table, in slices, a commit each.
CREATE PROCEDURE bench.copy_by_hand(slice bigint) LANGUAGE plpgsql AS $$
DECLARE
    last_position constant bigint := max(position) FROM cqrs.outbox;
BEGIN
    FOR done IN 0 .. last_position - 1 BY slice LOOP
        INSERT INTO bench.plain_outbox (event_id, source, aggregate_type, aggregate_id, aggregate_version,
            event_type, payload, metadata, occurred_at)
        SELECT event_id, source, aggregate_type, aggregate_id, aggregate_version,
            event_type, payload, metadata, occurred_at
        FROM cqrs.outbox WHERE position > done AND position <= done + slice ORDER BY position;
        COMMIT;
    END LOOP;
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
