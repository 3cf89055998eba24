-- Where the shop's events arrive, in a table of the same name and columns, and become events of this database.
CREATE TABLE order_events (
    position          bigint NOT NULL,
    event_id          uuid PRIMARY KEY,
    aggregate_type    text NOT NULL,
    aggregate_id      text NOT NULL,
    aggregate_version bigint,
    event_type        text NOT NULL,
    payload           jsonb NOT NULL,
    metadata          jsonb NOT NULL,
    occurred_at       timestamptz NOT NULL
);
SELECT cqrs.attach_outbox('order_events', 'shop', 'cqrs_views');
