-- Peers whose events are rows of a table; :events names it.

-- Publishes the events of some numbers, in the caller's transaction.
CREATE FUNCTION bench.publish_slice(begin_at bigint, end_at bigint, orders integer) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO :events (aggregate_type, aggregate_id, event_type, payload)
    SELECT * FROM bench.events(begin_at, end_at, orders);
END;

-- How many events there are.
CREATE FUNCTION bench.published() RETURNS bigint LANGUAGE sql
BEGIN ATOMIC
    SELECT count(*) FROM :events;
END;
