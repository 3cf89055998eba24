-- The service: its own table, and what it publishes.
CREATE TABLE purchase (
    order_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer text NOT NULL,
    total    numeric NOT NULL,
    paid     boolean NOT NULL DEFAULT false
);

-- What the user calls: the business change and its event, in one transaction.
CREATE FUNCTION place_order(customer text, total numeric) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    placed purchase;
BEGIN
    INSERT INTO purchase (customer, total) VALUES (place_order.customer, place_order.total) RETURNING * INTO placed;
    PERFORM cqrs.publish('Order', placed.order_id::text, 'OrderPlaced',
                         jsonb_build_object('customer', placed.customer, 'total', placed.total));
    RETURN placed.order_id;
END $$;

CREATE FUNCTION pay_order(order_id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE purchase AS p SET paid = true WHERE p.order_id = pay_order.order_id AND NOT paid;
    IF FOUND THEN
        PERFORM cqrs.publish('Order', order_id::text, 'OrderPaid');
    END IF;
END $$;

-- Business as usual: so many orders, of which some are paid.
CREATE PROCEDURE trade(orders integer) LANGUAGE plpgsql AS $$
DECLARE
    placed bigint;
BEGIN
    FOR i IN 1 .. orders LOOP
        placed := place_order('customer ' || i % 7, i % 50 + 0.99);
        COMMIT;
        IF i % 3 = 0 THEN
            PERFORM pay_order(placed);
        END IF;
    END LOOP;
END $$;

-- The outbox as others get it: in a table of another name, since a subscriber has a cqrs.outbox of its own.
SELECT cqrs.create_view('order_events', $$
    SELECT position, event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, metadata, occurred_at
    FROM events WHERE aggregate_type = 'Order'
$$);

-- Two shares of the keys. An order's events all go the same way, so its order is kept.
CREATE PUBLICATION share_0 FOR TABLE order_events WHERE (hashtext(aggregate_id) & 1 = 0) WITH (publish = 'insert');
CREATE PUBLICATION share_1 FOR TABLE order_events WHERE (hashtext(aggregate_id) & 1 = 1) WITH (publish = 'insert');

-- All keys, but only what the projections over there want.
CREATE PUBLICATION statistics FOR TABLE order_events WHERE (event_type = 'OrderPlaced') WITH (publish = 'insert');
