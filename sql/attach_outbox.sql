-- Rows of other services' outbox tables become events: the layouts of Debezium, Eventuate Tram and cqrs_views, and free ones.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA attach;
SET search_path = attach;
SET TimeZone = 'UTC';
CREATE VIEW latest AS SELECT event_id, source, aggregate_type AS type, aggregate_id AS id, aggregate_version AS v, event_type, payload, metadata
	FROM cqrs.outbox ORDER BY position;

-- Debezium's outbox event router: the columns that it asks for. An application deletes the row at once.
CREATE TABLE debezium (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
	type varchar(255) NOT NULL, payload jsonb);
SELECT cqrs.attach_outbox('debezium', 'payments', 'debezium');
BEGIN;
INSERT INTO debezium VALUES
	('406c07f3-26f0-4eea-a50c-109940064b8f', 'Order', '1', 'OrderCreated', '{"id": 1, "lineItems": [{"id": 1, "item": "Debezium in Action"}]}'),
	('516c07f3-26f0-4eea-a50c-109940064b8f', 'Order', '1', 'OrderCancelled', NULL);
DELETE FROM debezium;
COMMIT;
SELECT * FROM latest;
-- the one of its extension for Quarkus, with a trace and text for a payload; what else there is, is metadata
CREATE TABLE quarkus (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL, type varchar(255) NOT NULL,
	"timestamp" timestamp NOT NULL, payload varchar(8000), tracingspancontext varchar(256), "Tenant" int);
SELECT cqrs.attach_outbox('quarkus', 'orders', 'debezium');
INSERT INTO quarkus VALUES
	('00000000-0000-4000-8000-000000000002', 'Order', '7', 'Second', '2020-01-01 00:00:02', '[2]', E'#Wed\nuber-trace-id=1', 5),
	('00000000-0000-4000-8000-000000000001', 'Order', '7', 'First', '2020-01-01 00:00:01', '{"a": "ä"}', NULL, NULL);
SELECT l.*, occurred_at FROM latest l JOIN cqrs.outbox USING (event_id) WHERE l.source = 'orders' ORDER BY position;
-- a column is left out where it is NULL, and not what a service has put into it
CREATE TABLE headed (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb, headers json, tags jsonb);
SELECT cqrs.attach_outbox('headed', 'headed', 'debezium');
INSERT INTO headed VALUES ('00000000-0000-4000-8000-000000000003', 'Order', '7', 'Headed', '{"a": null}', '{"b": null, "c": [{"d": null}]}', NULL),
	('00000000-0000-4000-8000-000000000004', 'Order', '7', 'Headed', NULL, NULL, 'null');
SELECT payload, metadata FROM latest WHERE source = 'headed';

-- Eventuate Tram's table, with an event, a command and a reply as it writes them; publishing them sets a column
CREATE TABLE message (id varchar(1000) PRIMARY KEY, destination text NOT NULL, headers text NOT NULL, payload text NOT NULL,
	published smallint DEFAULT 0, message_partition smallint, creation_time bigint);
SELECT cqrs.attach_outbox('message', 'customers', 'eventuate');
INSERT INTO message (id, destination, headers, payload, creation_time) VALUES
	('00000183c7c93c06-f2d3907995f30000', 'example.Customer', '{"PARTITION_ID":"1","event-aggregate-type":"example.Customer","DATE":"Tue, 11 Oct 2022 16:03:18 GMT","event-aggregate-id":"1","event-type":"example.CreditReserved","DESTINATION":"example.Customer","ID":"00000183c7c93c06-f2d3907995f30000"}', '{"orderId":1}', 1665504198006),
	('00000183c7c93c05-f2d3907995f30000', 'example.Customer', '{"PARTITION_ID":"1","event-aggregate-type":"example.Customer","DATE":"Tue, 11 Oct 2022 16:03:17 GMT","event-aggregate-id":"1","event-type":"example.CustomerCreated","DESTINATION":"example.Customer","ID":"00000183c7c93c05-f2d3907995f30000"}', '{"name":"Jane","creditLimit":{"amount":100}}', 1665504197005),
	('00000183c7c93c07-f2d3907995f30000', 'customerService', '{"command_saga_id":"1","DATE":"Tue, 11 Oct 2022 16:03:19 GMT","command_type":"example.ReserveCredit","command_reply_to":"saga-reply","DESTINATION":"customerService","ID":"00000183c7c93c07-f2d3907995f30000"}', '{"customerId":1}', 1665504199000),
	('00000183c7c93c08-f2d3907995f30000', 'saga-reply', '{"reply_type":"io.eventuate.tram.commands.common.Success","reply_outcome-type":"SUCCESS","DESTINATION":"saga-reply","ID":"00000183c7c93c08-f2d3907995f30000"}', '{}', 1665504199001);
UPDATE message SET published = 1;
SELECT l.event_id, l.type, l.id, l.event_type, l.payload, metadata->>'ID' AS message, occurred_at FROM latest l JOIN cqrs.outbox o USING (event_id, source, metadata)
WHERE source = 'customers' ORDER BY position;
-- the id made of a text, by SQL
SELECT event_id = encode(set_byte(set_byte(h, 6, get_byte(h, 6) & 15 | 128), 8, get_byte(h, 8) & 63 | 128), 'hex')::uuid AS same
FROM cqrs.outbox, LATERAL (SELECT substr(sha256(convert_to(metadata->>'ID', 'UTF8')), 1, 16) AS h) AS s WHERE source = 'customers';
-- the same table as it is where the database numbers the messages, with JSON columns
CREATE TABLE numbered (id varchar(1000), dbid bigserial PRIMARY KEY, destination text NOT NULL, headers json NOT NULL, payload json NOT NULL,
	published smallint DEFAULT 0, creation_time bigint);
SELECT cqrs.attach_outbox('numbered', 'numbered', 'eventuate');
INSERT INTO numbered (id, destination, headers, payload, creation_time)
SELECT id, 'D', '{"event-aggregate-type":"D","event-aggregate-id":"1","event-type":"E"}', payload::json, 1665504197005
FROM (VALUES (NULL, '{"n":1}'), ('', '{"n":2}'), ('x', '{"n":3}')) AS v (id, payload);
SELECT payload FROM latest WHERE source = 'numbered';

-- another cqrs_views outbox: its positions only say which came first. What is missing gets the outbox's defaults.
CREATE TABLE events (LIKE cqrs.outbox);
ALTER TABLE events DROP COLUMN xid, ALTER COLUMN source DROP DEFAULT;
CREATE TABLE few (event_id uuid, aggregate_type text, aggregate_id text, event_type text, "position" int);
SELECT cqrs.attach_outbox('events', 'elsewhere'), cqrs.attach_outbox('few', 'few', 'cqrs_views');
INSERT INTO events SELECT n, md5(n::text)::uuid, 'theirs', 'T', 'k', n, 'E', '{}', '{"n": 1}', '2020-01-01' FROM generate_series(20, 11, -1) AS n;
INSERT INTO few SELECT md5(n::text)::uuid, 'T', 'f', 'E', n FROM generate_series(3, 1, -1) AS n;
SELECT source, string_agg(right(event_id::text, 2), ' ' ORDER BY position) AS ids, string_agg(aggregate_version::text, ' ' ORDER BY position) AS versions,
	min(metadata::text) AS metadata, min(payload::text) AS payload, bool_and(occurred_at > now() - interval '1 hour') AS occurred_now
FROM cqrs.outbox WHERE source IN ('elsewhere', 'few', 'theirs') GROUP BY source;

-- any table, by columns and expressions; a mapping also replaces parts of a format
CREATE TABLE ticks ("No" bigint PRIMARY KEY, kind text, who int, "at" date, price numeric, old boolean DEFAULT false);
SELECT cqrs.attach_outbox('ticks', 'exchange', 'mapping', $${"event_id": "No", "aggregate_type": "'Share'", "aggregate_id": "who", "aggregate_version": "\"No\" * 10",
	"event_type": "initcap(kind)", "payload": "jsonb_build_object('price', price)", "occurred_at": "at", "where": "NOT old", "order_by": "\"No\""}$$);
INSERT INTO ticks VALUES (2, 'down', 4, '2020-01-02', 9.5, false), (1, 'up', 4, '2020-01-01', 10, false), (3, 'up', 4, '2020-01-03', 11, true), (4, 'up', 5, NULL, 12, false);
SELECT type, id, v, event_type, payload, CASE WHEN occurred_at < '2021-01-01' THEN occurred_at END AS occurred_at
FROM (SELECT l.*, occurred_at FROM latest l JOIN cqrs.outbox USING (event_id) WHERE l.source = 'exchange' ORDER BY position) AS t;
CREATE TABLE renamed (id uuid, aggregatetype text, aggregateid text, kind text, payload bytea, extra text);
SELECT cqrs.attach_outbox('renamed', 'renamed', 'debezium', '{"event_type": "kind", "payload": "convert_from(payload, ''UTF8'')", "metadata": null}');
INSERT INTO renamed VALUES (md5('a')::uuid, 'T', 'r', 'Kind', '{"a": 1}', 'x');
SELECT event_type, payload, metadata FROM latest WHERE source = 'renamed';

-- it is the same event whatever the settings are of who brings it, those of PostgreSQL's own functions too
CREATE TABLE written (id bytea, ratio float8, name text, since timestamptz, until timestamptz);
SELECT cqrs.attach_outbox('written', 'written', 'mapping', '{"event_id": "id", "aggregate_type": "ratio", "aggregate_id": "quote_ident(name)", "event_type": "id"}');
CREATE TABLE timed (LIKE written);
SELECT cqrs.attach_outbox('timed', 'timed', 'mapping', '{"event_id": "id", "aggregate_type": "ratio", "aggregate_id": "name", "event_type": "extract(day FROM age(until, since))"}');
INSERT INTO written VALUES ('\xff', 0.1::float8 + 0.2, 'n');
SET bytea_output = escape;
SET extra_float_digits = -3;
SET quote_all_identifiers = on;
SET TimeZone = 'Asia/Tokyo';
INSERT INTO written VALUES ('\xff', 0.1::float8 + 0.2, 'n'), ('\xfe', 0.1::float8 + 0.2, 'n');
INSERT INTO timed VALUES ('\xfe', 0.1::float8 + 0.2, 'n', '2020-01-31 20:00Z', '2020-02-29 20:00Z');
SELECT current_setting('bytea_output'), current_setting('extra_float_digits'), current_setting('quote_all_identifiers');
RESET bytea_output;
RESET extra_float_digits;
RESET quote_all_identifiers;
SET TimeZone = 'UTC';
SELECT source, type, id, event_type FROM latest WHERE source IN ('written', 'timed');
SELECT extract(day FROM age('2020-02-29 20:00Z', timestamptz '2020-01-31 20:00Z')) AS days;
SELECT duplicates FROM cqrs.source_status WHERE source = 'written';

-- a row that comes again, in whatever statement, is an event once; the same id of another source is another event
DELETE FROM message;
INSERT INTO message (id, destination, headers, payload) SELECT id, 'D', headers, '{}'
FROM (SELECT metadata->>'ID' AS id, metadata::text AS headers FROM cqrs.outbox WHERE source = 'customers') AS m;
COPY few FROM stdin;
c4ca4238-a0b9-2382-0dcc-509a6f75849b	T	f	E	1
c4ca4238-a0b9-2382-0dcc-509a6f75849b	T	f	E	1
00000000-0000-0000-0000-00000000000a	T	f	Again	9
00000000-0000-0000-0000-00000000000a	T	f	Again	8
\.
MERGE INTO few USING (SELECT 'f') AS t ON false WHEN NOT MATCHED THEN INSERT VALUES ('00000000-0000-0000-0000-00000000000a', 'T', 'f', 'E', 1);
INSERT INTO debezium VALUES ('00000000-0000-0000-0000-00000000000a', 'T', 'f', 'Another', NULL);
SELECT source, relation, format, events, duplicates, rows_parked, last_position = (SELECT max(position) FROM cqrs.outbox o WHERE o.source = s.source) AS last,
	last_event_id = (SELECT event_id FROM cqrs.outbox o WHERE o.position = last_position) AS same_id, lag = last_received_at - last_event_at AS lag
FROM cqrs.source_status s ORDER BY relation::text;
-- what is rolled back was never there, in subtransactions too
BEGIN;
INSERT INTO few VALUES (md5('s')::uuid, 'T', 'f', 'E', 1);
SAVEPOINT s;
INSERT INTO few VALUES (md5('t')::uuid, 'T', 'f', 'E', 1);
ROLLBACK TO s;
SAVEPOINT s;
INSERT INTO few VALUES (md5('s')::uuid, 'T', 'f', 'E', 1);
RELEASE s;
COMMIT;
SELECT events, duplicates FROM cqrs.source_status WHERE source = 'few';
INSERT INTO few VALUES (md5('t')::uuid, 'T', 'f', 'E', 1);
SELECT events, duplicates FROM cqrs.source_status WHERE source = 'few';
-- each row's counters are in the table once, under whatever isolation
BEGIN ISOLATION LEVEL SERIALIZABLE;
INSERT INTO few VALUES (md5('u')::uuid, 'T', 'f', 'E', 1);
COMMIT;
SELECT events, duplicates FROM cqrs.source_status WHERE source = 'few';
-- and don't become more with each transaction
SET default_transaction_isolation = 'repeatable read';
INSERT INTO few VALUES (md5('v')::uuid, 'T', 'f', 'E', 1);
INSERT INTO few VALUES (md5('w')::uuid, 'T', 'f', 'E', 1);
RESET default_transaction_isolation;
SELECT events, duplicates, (SELECT count(*) FROM cqrs.arrival a WHERE a.source = s.source) AS rows FROM cqrs.source_status s WHERE source = 'few';

DROP VIEW latest;
DROP EXTENSION cqrs_views;
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'cqrs';
DROP SCHEMA attach CASCADE;
