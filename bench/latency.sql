-- Event i of a round has its order to itself: its appearance in the read table tells that it was processed.
CREATE UNLOGGED TABLE bench.published (i integer, at timestamptz);
CREATE UNLOGGED TABLE bench.seen (i integer, at timestamptz);

-- Publishes so many events, 50 a second, whatever becomes of them, and notes when each was about to commit.
-- (The moment after the commit would flatter us: the worker may be through before the publisher has the
-- processor again.) It also notes when a plain insert has committed, and when cqrs.wait_for returns; what is
-- to be seen otherwise, a reader notes.
CREATE PROCEDURE bench.publish_steadily(events integer, way text) LANGUAGE plpgsql AS $$
DECLARE
    published timestamptz[];
    seen timestamptz[];
    next timestamptz := clock_timestamp();
BEGIN
    FOR i IN 1 .. events LOOP
        IF way = 'plain' THEN
            INSERT INTO bench.plain_outbox (aggregate_type, aggregate_id, event_type, payload)
            VALUES ('order', 'order-' || i, 'ItemAdded', '{"price": 1}');
        ELSE
            INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
            VALUES ('order', 'order-' || i, 'ItemAdded', '{"price": 1}');
        END IF;
        published[i] := clock_timestamp();
        COMMIT;
        IF way = 'wait_for' THEN
            PERFORM cqrs.wait_for('bench');
        END IF;
        seen[i] := clock_timestamp();

        next := next + interval '20 ms';
        PERFORM pg_sleep(greatest(extract(epoch FROM next - clock_timestamp()), 0));
    END LOOP;
    INSERT INTO bench.published SELECT i, published[i] FROM generate_series(1, events) AS i;
    IF way IN ('plain', 'wait_for') THEN
        INSERT INTO bench.seen SELECT i, seen[i] FROM generate_series(1, events) AS i;
    END IF;
END $$;

-- A reader in a hurry: reads the read table over and over, and notes when each event is there. (Each statement
-- of a procedure has a snapshot of its own.)
CREATE PROCEDURE bench.look(events integer) LANGUAGE plpgsql AS $$
DECLARE
    seen timestamptz[];
BEGIN
    FOR i IN 1 .. events LOOP
        WHILE NOT EXISTS (SELECT FROM bench.by_engine WHERE order_id = 'order-' || i) LOOP
            COMMIT;
        END LOOP;
        seen[i] := clock_timestamp();
    END LOOP;
    INSERT INTO bench.seen SELECT i, seen[i] FROM generate_series(1, events) AS i;
END $$;

-- What one does without workers: looks every 100 ms.
CREATE PROCEDURE bench.poll() LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        CALL cqrs.catch_up('bench');
        PERFORM pg_sleep(0.1);
    END LOOP;
END $$;
