-- A share of the orders: the same view in each share's database. No aggregate depends on the order of events, since a
-- subscription's first copy brings rows in any.
SELECT cqrs.create_view('order_summary', $$
    SELECT aggregate_id                         AS order_id,
           max(payload->>'customer')            AS customer,
           max((payload->>'total')::numeric)    AS total,
           bool_or(event_type = 'OrderPaid')    AS paid
    FROM events WHERE aggregate_type = 'Order' GROUP BY aggregate_id
$$);
