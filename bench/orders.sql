-- The extension, and a read table that it keeps by the same upsert that the triggers of plain.sql do by hand.

CREATE EXTENSION cqrs_views;

-- Publishes events, in transactions of some size.
CREATE PROCEDURE bench.publish(events bigint, transaction_size integer DEFAULT 10000,
    orders integer DEFAULT 1000, status_every integer DEFAULT NULL)
LANGUAGE plpgsql AS $$
BEGIN
    FOR begin_at IN 1 .. events BY transaction_size LOOP
        INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
        SELECT * FROM bench.events(begin_at, least(begin_at + transaction_size - 1, events), orders, status_every);
        COMMIT;
    END LOOP;
END $$;

-- A read table, and its handlers, per batch and per event.
CREATE TABLE bench.by_engine (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);

CREATE FUNCTION bench.keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.by_engine AS o
    SELECT aggregate_id, count(*), sum((payload->>'price')::numeric) FROM events GROUP BY aggregate_id
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
    RETURN NULL;
END $$;

CREATE FUNCTION bench.keep(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO bench.by_engine AS o VALUES (event.aggregate_id, 1, (event.payload->>'price')::numeric)
    ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
END $$;

-- Copies the outbox into the table that is like it, from a position on, in slices, a commit each.
CREATE PROCEDURE bench.copy_by_hand(slice bigint, after bigint DEFAULT 0) LANGUAGE plpgsql AS $$
DECLARE
    last_position constant bigint := max(position) FROM cqrs.outbox;
BEGIN
    FOR done IN after .. last_position - 1 BY slice LOOP
        INSERT INTO bench.plain_outbox (event_id, source, aggregate_type, aggregate_id, aggregate_version,
            event_type, payload, metadata, occurred_at)
        SELECT event_id, source, aggregate_type, aggregate_id, aggregate_version,
            event_type, payload, metadata, occurred_at
        FROM cqrs.outbox WHERE position > done AND position <= done + slice ORDER BY position;
        COMMIT;
    END LOOP;
END $$;
