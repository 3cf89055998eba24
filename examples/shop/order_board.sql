-- What the shop wants to see: one row an order, whichever service knows what about it.
CREATE TABLE order_board (
    order_id text PRIMARY KEY,
    customer text,
    total    numeric,
    paid     numeric NOT NULL DEFAULT 0,
    carrier  text,
    status   text NOT NULL
);
GRANT SELECT ON order_board TO orders, payments, shipping;

-- The handler gets one event after the other, those of an order in their order.
CREATE FUNCTION keep_order_board(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE event.event_type
    WHEN 'OrderPlaced' THEN
        INSERT INTO order_board (order_id, customer, total, status)
        VALUES (event.aggregate_id, event.payload->>'customer', (event.payload->>'total')::numeric, 'placed');
    WHEN 'PaymentReceived' THEN
        UPDATE order_board SET paid = paid + (event.payload->>'amount')::numeric, status = 'paid'
        WHERE order_id = event.aggregate_id;
    WHEN 'OrderShipped' THEN
        UPDATE order_board SET carrier = event.payload->>'carrier', status = 'shipped'
        WHERE order_id = event.aggregate_id;
    END CASE;
END $$;

SELECT cqrs.create_projection('order_board', 'keep_order_board(cqrs.event)', '{order_board}');
