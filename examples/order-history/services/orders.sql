-- The orders service: it takes orders, and approves those that there is credit for.
\ir ../outboxes/customers.sql
CREATE SCHEMA orders;
SET search_path = orders, public;

CREATE TABLE purchase (
    order_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id      text NOT NULL,
    total            numeric(12,2) NOT NULL CHECK (total > 0),
    state            text NOT NULL DEFAULT 'PENDING',
    rejection_reason text
);

-- What the user calls: the business change and its event, in one transaction.
CREATE FUNCTION create_order(customer_id text, total numeric) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    created orders.purchase;
BEGIN
    INSERT INTO orders.purchase (customer_id, total) VALUES (create_order.customer_id, create_order.total)
    RETURNING * INTO created;
    PERFORM cqrs.publish('Order', created.order_id::text, 'OrderCreated',
                         jsonb_build_object('customerId', created.customer_id, 'orderTotal', created.total));
    RETURN created.order_id;
END $$;

-- The same for an order that is wanted no more, once it is approved.
CREATE FUNCTION cancel_order(order_id bigint) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    cancelled orders.purchase;
BEGIN
    UPDATE orders.purchase AS p SET state = 'CANCELLED'
    WHERE p.order_id = cancel_order.order_id AND p.state = 'APPROVED'
    RETURNING * INTO cancelled;
    IF NOT FOUND THEN
        RAISE restrict_violation USING MESSAGE = format('order %s is not one that can be cancelled', cancel_order.order_id);
    END IF;
    PERFORM cqrs.publish('Order', cancelled.order_id::text, 'OrderCancelled',
                         jsonb_build_object('customerId', cancelled.customer_id, 'orderTotal', cancelled.total));
    RETURN cancelled.order_id;
END $$;

-- The saga's last step: the customers service has answered.
CREATE TABLE decision (
    order_id text PRIMARY KEY,
    answer   text NOT NULL
);

CREATE FUNCTION decide(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    decided text := event.payload->>'orderId';
    reason text;
BEGIN
    INSERT INTO orders.decision VALUES (decided, event.event_type);
    IF event.event_type = 'CustomerCreditReserved' THEN
        UPDATE orders.purchase SET state = 'APPROVED' WHERE order_id = decided::bigint;
        PERFORM cqrs.publish('Order', decided, 'OrderApproved');
    ELSE
        reason := CASE event.event_type WHEN 'CustomerValidationFailed' THEN 'UNKNOWN_CUSTOMER'
                                        ELSE 'INSUFFICIENT_CREDIT' END;
        UPDATE orders.purchase SET state = 'REJECTED', rejection_reason = reason WHERE order_id = decided::bigint;
        PERFORM cqrs.publish('Order', decided, 'OrderRejected', jsonb_build_object('rejectionReason', reason));
    END IF;
END $$;

SELECT cqrs.create_projection('decide', 'decide(cqrs.event)', '{decision}', aggregate_types => '{Customer}',
    event_types => '{CustomerCreditReserved,CustomerCreditReservationFailed,CustomerValidationFailed}',
    key => $$payload->>'orderId'$$);

-- The outbox is cqrs.outbox. Others get it by way of a view, in a table of another name: a subscriber has a cqrs.outbox
-- of its own. The condition leaves out what arrived here from the customers service.
SELECT cqrs.create_view('order_events', $$
    SELECT position, event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, metadata, occurred_at
    FROM events WHERE aggregate_type = 'Order'
$$);
CREATE PUBLICATION orders FOR TABLE order_events WITH (publish = 'insert');
