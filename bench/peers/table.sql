-- Peers whose events are rows of a table; :events names it.

-- Publishes the events of some numbers, in the caller's transaction.
CREATE FUNCTION bench.publish_slice(begin_at bigint, end_at bigint, orders integer) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO :events (aggregate_type, aggregate_id, event_type, payload)
    SELECT * FROM bench.events(begin_at, end_at, orders);
END;

CREATE VIEW bench.sent AS
SELECT aggregate_id AS order_id, (payload->>'price')::numeric AS price FROM :events;
