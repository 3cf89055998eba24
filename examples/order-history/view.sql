-- The view database: what arrives from the three services becomes one history.
\ir outboxes/customers.sql
\ir outboxes/orders.sql
\ir outboxes/payments.sql

SELECT cqrs.create_view('customer_summary', $$
    SELECT aggregate_id AS customer_id,
           max(payload->>'name')                   AS name,
           max((payload->>'creditLimit')::numeric) AS credit_limit
    FROM events WHERE aggregate_type = 'Customer' AND event_type = 'CustomerCreated' GROUP BY aggregate_id
$$);

-- The events of an order come in their order, also when a subscription begins and copies what is there.
SELECT cqrs.create_view('order_summary', $$
    SELECT aggregate_id AS order_id,
           max(payload->>'customerId')            AS customer_id,
           max((payload->>'orderTotal')::numeric) AS total,
           cqrs.last(CASE event_type WHEN 'OrderCreated' THEN 'PENDING' WHEN 'OrderApproved' THEN 'APPROVED'
                                     WHEN 'OrderRejected' THEN 'REJECTED' ELSE 'CANCELLED' END) AS state,
           max(payload->>'rejectionReason')       AS rejection_reason
    FROM events WHERE aggregate_type = 'Order' GROUP BY aggregate_id
$$);
CREATE INDEX ON order_summary (customer_id);

SELECT cqrs.create_view('payment_summary', $$
    SELECT payload->>'orderId' AS order_id, sum((payload->>'amount')::numeric) AS paid
    FROM events WHERE aggregate_type = 'Payment' AND event_type = 'PaymentReceived' GROUP BY payload->>'orderId'
$$);

-- The join is a plain view. The services' events arrive in no order among each other: an order whose customer has not
-- arrived yet is not shown, and shown as soon as it has; likewise a payment.
CREATE VIEW order_history AS
SELECT c.customer_id, c.name, c.credit_limit, o.order_id, o.total, o.state, o.rejection_reason,
       coalesce(p.paid, 0) AS paid
FROM customer_summary AS c
LEFT JOIN order_summary AS o USING (customer_id)
LEFT JOIN payment_summary AS p USING (order_id);
