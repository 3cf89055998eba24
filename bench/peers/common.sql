-- What peers share. Each then says what these are: bench.publish_slice(begin_at, end_at, orders); the view
-- bench.sent(order_id, price) of all events that were published; the read table bench.kept(order_id, items, total); and
-- where a session of the server consumes events, bench.consume_batch(OUT more), which processes a batch, if there is one.

-- Publishes so many events, from a number on, in transactions of some size.
CREATE PROCEDURE bench.publish_backlog(events bigint, orders integer, begin_at bigint DEFAULT 1,
    transaction_size integer DEFAULT 10000)
LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN begin_at .. begin_at + events - 1 BY transaction_size LOOP
        PERFORM bench.publish_slice(i, least(i + transaction_size, begin_at + events) - 1, orders);
        COMMIT;
        IF (i - begin_at + transaction_size) % 10000 = 0 OR i + transaction_size >= begin_at + events THEN
            CALL bench.after_publishing();
        END IF;
    END LOOP;
END $$;

-- Publishes an event at a time, so many a second, whatever becomes of them, or with 0 as fast as it goes. Event i is
-- order i's, so its row in the read table tells that it was processed. Notes when each was about to commit, and when
-- it had.
CREATE UNLOGGED TABLE bench.timed (order_id text, published timestamptz, committed timestamptz);
CREATE PROCEDURE bench.publish_timed(events integer, begin_at bigint, a_second integer) LANGUAGE plpgsql AS $$
DECLARE
    published timestamptz[];
    committed timestamptz[];
    next timestamptz := clock_timestamp();
BEGIN
    FOR i IN 1 .. events LOOP
        PERFORM bench.publish_slice(begin_at + i, begin_at + i, 2147483647);
        published[i] := clock_timestamp();
        COMMIT;
        committed[i] := clock_timestamp();
        IF a_second > 0 THEN
            next := next + interval '1 second' / a_second;
            PERFORM pg_sleep(greatest(extract(epoch FROM next - clock_timestamp()), 0));
        END IF;
    END LOOP;
    INSERT INTO bench.timed
    SELECT 'order-' || (begin_at + i) * 7919 % 2147483647, published[i], committed[i]
    FROM generate_series(1, events) AS i;
END $$;

-- Consumes until there is nothing left, and with a nap goes on for ever, looking again after each nap.
CREATE PROCEDURE bench.consume(nap interval DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    more boolean;
BEGIN
    LOOP
        CALL bench.consume_batch(more);
        COMMIT;
        IF NOT more THEN
            EXIT WHEN nap IS NULL;
            PERFORM pg_sleep_for(nap);
        END IF;
    END LOOP;
END $$;

-- What a peer does after each 10,000 events of a backlog: nothing, unless it says otherwise.
CREATE PROCEDURE bench.after_publishing() LANGUAGE plpgsql AS $$ BEGIN END $$;
