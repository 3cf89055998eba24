-- The customers service: it knows who may buy on credit, and for how much.
\ir ../outboxes/customers.sql
\ir ../outboxes/orders.sql
SET search_path = customers, public;

CREATE TABLE customer (
    customer_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL CHECK (name <> ''),
    credit_limit numeric(12,2) NOT NULL CHECK (credit_limit >= 0)
);

-- Writes an event as Eventuate Tram's DomainEventPublisher does.
CREATE FUNCTION publish(event_type text, customer_id text, payload jsonb) RETURNS void LANGUAGE sql AS $$
    INSERT INTO customers.message (id, destination, headers, payload, creation_time)
    SELECT m.id, 'Customer',
           jsonb_build_object('ID', m.id, 'DESTINATION', 'Customer', 'PARTITION_ID', customer_id,
                              'DATE', to_char(m.at AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS "GMT"'),
                              'event-type', event_type, 'event-aggregate-type', 'Customer',
                              'event-aggregate-id', customer_id)::text,
           payload::text, (extract(epoch FROM m.at) * 1000)::bigint
    FROM (SELECT gen_random_uuid()::text AS id, clock_timestamp() AS at) AS m
$$;

-- What the user calls: the business change and its event, in one transaction.
CREATE FUNCTION create_customer(name text, credit_limit numeric) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    created customers.customer;
BEGIN
    INSERT INTO customers.customer (name, credit_limit) VALUES (create_customer.name, create_customer.credit_limit)
    RETURNING * INTO created;
    PERFORM customers.publish('CustomerCreated', created.customer_id::text,
                              jsonb_build_object('name', created.name, 'creditLimit', created.credit_limit));
    RETURN created.customer_id;
END $$;

-- The saga's step here: each order that was created asks for credit, once. The answer is another event. One that is
-- cancelled gives it back.
CREATE TABLE reservation (
    order_id    text PRIMARY KEY,
    customer_id text NOT NULL,
    amount      numeric(12,2) NOT NULL,
    answer      text NOT NULL
);
CREATE INDEX ON reservation (customer_id) INCLUDE (amount) WHERE answer = 'CustomerCreditReserved';

CREATE FUNCTION reserve_credit(event cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    customer text := event.payload->>'customerId';
    asked numeric := (event.payload->>'orderTotal')::numeric;
    credit numeric;
    answer text := 'CustomerCreditReserved';
BEGIN
    IF event.event_type = 'OrderCancelled' THEN
        UPDATE customers.reservation SET answer = 'CustomerCreditReleased' WHERE order_id = event.aggregate_id;
        RETURN;
    END IF;
    SELECT c.credit_limit - (SELECT coalesce(sum(r.amount), 0) FROM customers.reservation AS r
                             WHERE r.customer_id = customer AND r.answer = 'CustomerCreditReserved')
    INTO credit
    FROM customers.customer AS c WHERE c.customer_id::text = customer;
    IF NOT FOUND THEN
        answer := 'CustomerValidationFailed';
    ELSIF credit < asked THEN
        answer := 'CustomerCreditReservationFailed';
    END IF;
    INSERT INTO customers.reservation VALUES (event.aggregate_id, customer, asked, answer);
    PERFORM customers.publish(answer, customer, jsonb_build_object('orderId', event.aggregate_id));
END $$;

-- The key keeps the orders of one customer in their order, also when one of them fails here.
SELECT cqrs.create_projection('reserve_credit', 'reserve_credit(cqrs.event)', '{reservation}',
                              aggregate_types => '{Order}', event_types => '{OrderCreated,OrderCancelled}',
                              key => $$payload->>'customerId'$$);

CREATE PUBLICATION customers FOR TABLE message WITH (publish = 'insert');
