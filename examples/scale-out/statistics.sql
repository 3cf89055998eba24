-- Another group of projections: it needs all orders, and one kind of event.
SELECT cqrs.create_view('sales', $$
    SELECT payload->>'customer' AS customer, count(*) AS orders, sum((payload->>'total')::numeric) AS turnover
    FROM events WHERE event_type = 'OrderPlaced' GROUP BY payload->>'customer'
$$);
