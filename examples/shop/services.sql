-- Three services, each with a role and a table of its own. What they share is the outbox, and of
-- that they may only insert.
CREATE ROLE orders;
CREATE ROLE payments;
CREATE ROLE shipping;

CREATE SCHEMA AUTHORIZATION orders
    CREATE TABLE purchase (order_id text PRIMARY KEY, customer text, total numeric);
CREATE SCHEMA AUTHORIZATION payments
    CREATE TABLE payment (order_id text PRIMARY KEY, amount numeric);
CREATE SCHEMA AUTHORIZATION shipping
    CREATE TABLE parcel (order_id text PRIMARY KEY, carrier text);

SELECT cqrs.grant_publish('orders');
SELECT cqrs.grant_publish('payments');
SELECT cqrs.grant_publish('shipping');
