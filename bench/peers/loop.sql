-- A polling loop that loses nothing: it reads what has a transaction id below the oldest one in progress, in the order
-- of transaction ids, and remembers how far it came. Any transaction that stays open stops it.
CREATE TABLE bench.kept (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);
CREATE TABLE bench.done (xid xid8 NOT NULL, position bigint NOT NULL);
INSERT INTO bench.done VALUES ('0', 0);

CREATE PROCEDURE bench.consume_batch(OUT more boolean) LANGUAGE plpgsql AS $$
DECLARE
    last bench.done;
BEGIN
    SELECT * INTO last FROM bench.done;
    WITH batch AS MATERIALIZED (
        SELECT xid, position, aggregate_id, payload FROM bench.plain_outbox
        WHERE (xid, position) > (last.xid, last.position) AND xid < pg_snapshot_xmin(pg_current_snapshot())
        ORDER BY xid, position LIMIT 10000
    ), upserted AS (
        INSERT INTO bench.kept AS o
        SELECT aggregate_id, count(*), sum((payload->>'price')::numeric) FROM batch GROUP BY aggregate_id
        ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total
    )
    SELECT xid, position INTO last FROM batch ORDER BY xid DESC, position DESC LIMIT 1;
    more := last.xid IS NOT NULL;
    IF more THEN
        UPDATE bench.done SET (xid, position) = (last.xid, last.position);
    END IF;
END $$;
