-- The read tables, computed anew from all events: no row may differ.
SELECT count(*) AS orders, count(*) FILTER (WHERE board IS DISTINCT FROM fresh) AS rows_that_differ
FROM (SELECT order_id, customer, total, paid, carrier FROM order_board) AS board
FULL JOIN (
    SELECT aggregate_id AS order_id, max(payload->>'customer') AS customer,
           max((payload->>'total')::numeric) AS total,
           coalesce(sum((payload->>'amount')::numeric), 0) AS paid, max(payload->>'carrier') AS carrier
    FROM cqrs.outbox GROUP BY aggregate_id) AS fresh USING (order_id);

SELECT count(*) AS customers, count(*) FILTER (WHERE best IS DISTINCT FROM fresh) AS rows_that_differ
FROM best_customers AS best
FULL JOIN (
    SELECT payload->>'customer' AS customer, count(*) AS orders, sum((payload->>'total')::numeric) AS spent
    FROM cqrs.outbox WHERE event_type = 'OrderPlaced' GROUP BY 1) AS fresh USING (customer);
