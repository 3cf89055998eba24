-- The payments service: it is told of money that came in. It neither knows nor asks what the other two know.
\ir ../outboxes/payments.sql
SET search_path = payments, public;

CREATE TABLE payment (
    payment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id   text NOT NULL,
    amount     numeric(12,2) NOT NULL CHECK (amount > 0)
);

-- What the user calls: the business change and its event, in one transaction.
CREATE FUNCTION receive_payment(order_id text, amount numeric) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    received payments.payment;
BEGIN
    INSERT INTO payments.payment (order_id, amount) VALUES (receive_payment.order_id, receive_payment.amount)
    RETURNING * INTO received;
    INSERT INTO payments.outbox (aggregatetype, aggregateid, type, payload)
    VALUES ('Payment', received.payment_id, 'PaymentReceived',
            jsonb_build_object('orderId', received.order_id, 'amount', received.amount));
    RETURN received.payment_id;
END $$;

CREATE PUBLICATION payments FOR TABLE outbox WITH (publish = 'insert');
