-- The columns that a format takes something from stay while the table is attached, also those that an event can do without.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA attach_columns;
SET search_path = attach_columns;
\set VERBOSITY default
-- what a command comes to, undone
CREATE FUNCTION try(command text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
	EXECUTE command;
	RAISE 'allowed';
EXCEPTION WHEN OTHERS THEN
	RETURN CASE WHEN SQLSTATE = 'P0001' THEN SQLERRM ELSE SQLSTATE || ' ' || SQLERRM END;
END $$;
CREATE TABLE ours (event_id uuid, aggregate_type text, aggregate_id text, aggregate_version bigint, event_type text, payload jsonb, metadata jsonb,
	occurred_at timestamptz, "position" bigint, further text);
CREATE TABLE debezium (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb, "timestamp" bigint, further text);
CREATE TABLE eventuate (id text, dbid bigint, headers text, payload text, creation_time bigint, further text);
CREATE TABLE message (id text, headers text, payload text, creation_time bigint);
CREATE TABLE replaced (id uuid, aggregatetype text, aggregateid text, type text, payload jsonb, body jsonb, "timestamp" bigint);
SELECT cqrs.attach_outbox('ours', 's', 'cqrs_views'), cqrs.attach_outbox('debezium', 's', 'debezium'), cqrs.attach_outbox('eventuate', 's', 'eventuate'),
	cqrs.attach_outbox('message', 's', 'eventuate'), cqrs.attach_outbox('replaced', 's', 'debezium', '{"payload": "body", "order_by": null, "occurred_at": null}');
SELECT relation, columns FROM cqrs.attachment ORDER BY relation;
SELECT relation, attname, try(format('ALTER TABLE %s DROP %I', relation, attname)) AS dropped,
	nullif(try(format('ALTER TABLE %s RENAME %I TO renamed', relation, attname)), try(format('ALTER TABLE %s DROP %I', relation, attname))) AS renamed
FROM cqrs.attachment JOIN pg_attribute ON attrelid = relation AND attnum > 0 ORDER BY relation, attnum;
ALTER TABLE ours RENAME payload TO data;
-- one takes the place of the other in one command
ALTER TABLE ours DROP aggregate_version, ADD aggregate_version int;
-- one that comes later is counted on from then on
CREATE DOMAIN body AS jsonb;
CREATE TABLE grown (id uuid, aggregatetype text, aggregateid text, type text);
SELECT cqrs.attach_outbox('grown', 'grown', 'debezium');
INSERT INTO grown VALUES ('00000000-0000-0000-0000-000000000001', 'T', '1', 'E');
ALTER TABLE grown ADD payload body;
INSERT INTO grown VALUES ('00000000-0000-0000-0000-000000000002', 'T', '1', 'E', '[2]');
SELECT payload FROM cqrs.outbox ORDER BY position;
SELECT try('ALTER TABLE grown DROP payload');
-- one that goes by another way is missed when the next row comes
DROP DOMAIN body CASCADE;
INSERT INTO grown VALUES ('00000000-0000-0000-0000-000000000003', 'T', '1', 'E');
SELECT cqrs.detach_outbox('grown');
SELECT cqrs.attach_outbox('grown', 'grown', 'debezium');
SELECT payload FROM cqrs.outbox ORDER BY position;
DROP EXTENSION cqrs_views;
DROP SCHEMA attach_columns CASCADE;
