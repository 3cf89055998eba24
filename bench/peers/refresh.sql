-- A materialized view, refreshed over and over.
CREATE MATERIALIZED VIEW bench.kept AS
SELECT aggregate_id AS order_id, count(*) AS items, sum((payload->>'price')::numeric) AS total
FROM bench.plain_outbox GROUP BY aggregate_id;
CREATE UNIQUE INDEX ON bench.kept (order_id);

CREATE PROCEDURE bench.consume_batch(OUT more boolean) LANGUAGE plpgsql AS $$
BEGIN
    REFRESH MATERIALIZED VIEW CONCURRENTLY bench.kept;
    more := false;
END $$;
