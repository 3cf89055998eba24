-- Rows that arrive in another service's outbox table become events here, exactly once.
--
-- A subscription may bring a row again: when it is made anew and copies the table, or restarts from a slot that lags
-- behind. So what has been taken is remembered, by source and the event's own id, in the transaction that publishes it.
CREATE SCHEMA inbox;

CREATE TABLE inbox.taken (
    source   text NOT NULL,
    event_id text NOT NULL,
    PRIMARY KEY (source, event_id)
);

-- A trigger function. Its arguments: the source, and the layout of the table.
CREATE FUNCTION inbox.take() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
    source text := TG_ARGV[0];
    new_row jsonb := to_jsonb(NEW);
    headers jsonb;
BEGIN
    INSERT INTO inbox.taken VALUES (source, coalesce(new_row->>'event_id', new_row->>'id')) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    CASE TG_ARGV[1]
    WHEN 'cqrs_views' THEN
        INSERT INTO cqrs.outbox (event_id, source, aggregate_type, aggregate_id, aggregate_version, event_type,
                                 payload, metadata, occurred_at)
        VALUES (NEW.event_id, source, NEW.aggregate_type, NEW.aggregate_id, NEW.aggregate_version, NEW.event_type,
                NEW.payload, NEW.metadata, NEW.occurred_at);
    WHEN 'eventuate' THEN
        headers := NEW.headers::jsonb;
        INSERT INTO cqrs.outbox (source, aggregate_type, aggregate_id, event_type, payload, metadata, occurred_at)
        VALUES (source, headers->>'event-aggregate-type', headers->>'event-aggregate-id', headers->>'event-type',
                NEW.payload::jsonb, headers, to_timestamp(NEW.creation_time / 1000.0));
    WHEN 'debezium' THEN
        INSERT INTO cqrs.outbox (event_id, source, aggregate_type, aggregate_id, event_type, payload)
        VALUES (NEW.id, source, NEW.aggregatetype, NEW.aggregateid, NEW.type, NEW.payload);
    END CASE;
    RETURN NULL;
END $$;

-- The apply process of a subscription fires triggers that are enabled ALWAYS only.
CREATE FUNCTION inbox.attach(relation regclass, source text, format text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER take AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION inbox.take(%L, %L)',
                   relation, source, format);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER take', relation);
END $$;
