-- The outbox: how events get in, what a publisher can't forge, and that they stay as they are.
CREATE EXTENSION IF NOT EXISTS cqrs_views;

-- defaults
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Placed')
RETURNING position, aggregate_version, payload, metadata, source = current_user AS own_source;
SELECT position, event_id IS NOT NULL AS has_id,
	occurred_at BETWEEN now() - interval '1 hour' AND now() + interval '1 hour' AS recent
FROM cqrs.outbox;
-- clock_timestamp(), not now(): events of one transaction have their order in time
BEGIN;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Paid');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Shipped');
SELECT count(DISTINCT occurred_at), bool_and(xid = pg_current_xact_id()) AS own_xid
FROM cqrs.outbox WHERE position > 1;
ROLLBACK;

-- what is required
\set VERBOSITY terse
INSERT INTO cqrs.outbox (aggregate_id, event_type) VALUES ('o1', 'Paid'); \echo :SQLSTATE
INSERT INTO cqrs.outbox (aggregate_type, event_type) VALUES ('Order', 'Paid'); \echo :SQLSTATE
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id) VALUES ('Order', 'o1'); \echo :SQLSTATE
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('Order', 'o1', 'Paid', NULL); \echo :SQLSTATE
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, xid)
VALUES ('Order', 'o1', 'Paid', NULL); \echo :SQLSTATE
INSERT INTO cqrs.outbox (position, aggregate_type, aggregate_id, event_type)
VALUES (7, 'Order', 'o1', 'Paid'); \echo :SQLSTATE
\set VERBOSITY default

-- many rows, INSERT .. SELECT, COPY
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
VALUES ('Order', 'many1', 'Placed'), ('Order', 'many2', 'Placed'), ('Order', 'many3', 'Placed');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Order', 'select' || i, 'Placed', jsonb_build_object('i', i) FROM generate_series(1, 3) AS i;
COPY cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) FROM stdin;
Order	copy1	Placed	{"i": 1}
Order	copy2	Placed	{"i": 2}
\.
SELECT array_agg(aggregate_id ORDER BY position) AS one_transaction, array_agg(payload ORDER BY position) AS payloads
FROM cqrs.outbox GROUP BY xid ORDER BY min(position);

-- events are immutable, for everybody
UPDATE cqrs.outbox SET payload = '{"free": true}'; \echo :SQLSTATE
UPDATE cqrs.outbox SET payload = '{}' WHERE false; \echo :SQLSTATE
DELETE FROM cqrs.outbox; \echo :SQLSTATE
TRUNCATE cqrs.outbox; \echo :SQLSTATE
TRUNCATE cqrs.outbox RESTART IDENTITY CASCADE; \echo :SQLSTATE
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Paid')
ON CONFLICT (position) DO UPDATE SET payload = '{}'; \echo :SQLSTATE
MERGE INTO cqrs.outbox o USING (VALUES ('o1')) AS v (id) ON o.aggregate_id = v.id
WHEN MATCHED THEN DELETE; \echo :SQLSTATE
SET session_replication_role = replica;
UPDATE cqrs.outbox SET payload = '{"free": true}'; \echo :SQLSTATE
DELETE FROM cqrs.outbox; \echo :SQLSTATE
TRUNCATE cqrs.outbox; \echo :SQLSTATE
-- publishing goes on as ever
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'replica', 'Placed')
RETURNING aggregate_id, xid = pg_current_xact_id() AS own_xid;
RESET session_replication_role;
SELECT count(*), count(*) FILTER (WHERE payload ? 'free') AS changed FROM cqrs.outbox;

-- a sequence that would draw positions out of causal order
ALTER SEQUENCE cqrs.outbox_position_seq CACHE 50;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Paid'); \echo :SQLSTATE
ALTER SEQUENCE cqrs.outbox_position_seq CACHE 1 INCREMENT -1;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Paid'); \echo :SQLSTATE
ALTER SEQUENCE cqrs.outbox_position_seq INCREMENT 1 CYCLE;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Paid'); \echo :SQLSTATE
ALTER SEQUENCE cqrs.outbox_position_seq NO CYCLE;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Paid')
RETURNING event_type;

-- any text will do
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
VALUES ('', '', ''), (E'a\tb', repeat('ü', 1000), E'new\nline'), ('Order', '''; DROP TABLE x; --', '"') RETURNING length(aggregate_id);

DROP EXTENSION cqrs_views;
