-- What arrives from the orders service. There it is a view on its cqrs.outbox: see services/orders.sql.
CREATE SCHEMA IF NOT EXISTS orders;
CREATE TABLE orders.order_events (
    position          bigint PRIMARY KEY,
    event_id          uuid NOT NULL,
    aggregate_type    text NOT NULL,
    aggregate_id      text NOT NULL,
    aggregate_version bigint,
    event_type        text NOT NULL,
    payload           jsonb NOT NULL,
    metadata          jsonb NOT NULL,
    occurred_at       timestamptz NOT NULL
);
