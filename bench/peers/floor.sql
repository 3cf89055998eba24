-- The floor: the statement that one would run by hand over :slice events at a time, when nobody else publishes (it
-- goes by positions, and would skip what commits late).
CREATE TABLE bench.kept (order_id text PRIMARY KEY, items bigint NOT NULL, total numeric NOT NULL) WITH (fillfactor = 50);
CREATE TABLE bench.done (position bigint NOT NULL);
INSERT INTO bench.done VALUES (0);
ALTER DATABASE :"DBNAME" SET bench.slice = :slice;

CREATE PROCEDURE bench.consume_batch(OUT more boolean) LANGUAGE plpgsql AS $$
DECLARE
    last constant bigint := position FROM bench.done;
    upto constant bigint := least(last + current_setting('bench.slice')::bigint, max(position)) FROM bench.plain_outbox;
BEGIN
    more := upto > last;
    IF more THEN
        INSERT INTO bench.kept AS o
        SELECT aggregate_id, count(*), sum((payload->>'price')::numeric)
        FROM bench.plain_outbox WHERE position > last AND position <= upto GROUP BY aggregate_id
        ON CONFLICT (order_id) DO UPDATE SET items = o.items + excluded.items, total = o.total + excluded.total;
        UPDATE bench.done SET position = upto;
    END IF;
END $$;
