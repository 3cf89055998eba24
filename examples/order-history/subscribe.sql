-- Follows another service's events. psql's variables: publisher, also the name of its publication; name, of the
-- subscription; connection.
SET client_min_messages = warning;  -- each slot would get a notice

-- First what becomes of the rows, then the rows: those that are there already are copied.
SELECT :'publisher' = 'customers' AS customers, :'publisher' = 'orders' AS orders, :'publisher' = 'payments' AS payments \gset
\if :customers
SELECT cqrs.attach_outbox('customers.message', 'customers', 'eventuate');
\elif :orders
SELECT cqrs.attach_outbox('orders.order_events', 'orders', 'cqrs_views');
\elif :payments
SELECT cqrs.attach_outbox('payments.outbox', 'payments', 'debezium');
\endif

-- A crash must not forget that the copy has ended, as its replication slot has gone by then.
CREATE SUBSCRIPTION :name CONNECTION :'connection' PUBLICATION :publisher WITH (synchronous_commit = on);
