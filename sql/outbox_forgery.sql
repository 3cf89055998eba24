-- What a role that may only publish can't forge: source, position, transaction id.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_shop;
CREATE ROLE regress_bank;
SELECT cqrs.grant_publish('regress_shop');
SELECT privilege_type, string_agg(column_name, ', ' ORDER BY ordinal_position)
FROM information_schema.column_privileges JOIN information_schema.columns USING (table_schema, table_name, column_name)
WHERE grantee = 'regress_shop' GROUP BY privilege_type ORDER BY privilege_type;

SET ROLE regress_shop;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Placed')
RETURNING position;
INSERT INTO cqrs.outbox (event_id, aggregate_type, aggregate_id, aggregate_version, event_type, payload, metadata, occurred_at)
VALUES ('6f1b7f9c-0000-4000-8000-000000000001', 'Order', 'o1', 2, 'Paid', '{"a": 1}', '{"b": 2}', '2001-02-03 04:05+00')
RETURNING position;
COPY cqrs.outbox (aggregate_type, aggregate_id, event_type) FROM stdin;
Order	o1	Shipped
\.

-- source
INSERT INTO cqrs.outbox (source, aggregate_type, aggregate_id, event_type)
VALUES ('bank', 'Order', 'o1', 'Paid'); \echo :SQLSTATE
INSERT INTO cqrs.outbox (source, aggregate_type, aggregate_id, event_type)
VALUES (DEFAULT, 'Order', 'o1', 'Paid'); \echo :SQLSTATE
\copy cqrs.outbox (source, aggregate_type, aggregate_id, event_type) FROM '/dev/null'
-- position
INSERT INTO cqrs.outbox (position, aggregate_type, aggregate_id, event_type)
OVERRIDING SYSTEM VALUE VALUES (1000, 'Order', 'o1', 'Paid'); \echo :SQLSTATE
INSERT INTO cqrs.outbox (position, aggregate_type, aggregate_id, event_type)
OVERRIDING USER VALUE VALUES (1000, 'Order', 'o1', 'Paid'); \echo :SQLSTATE
\copy cqrs.outbox (position, aggregate_type, aggregate_id, event_type) FROM '/dev/null'
SELECT setval('cqrs.outbox_position_seq', 1000); \echo :SQLSTATE
SELECT nextval('cqrs.outbox_position_seq'); \echo :SQLSTATE
-- transaction id
INSERT INTO cqrs.outbox (xid, aggregate_type, aggregate_id, event_type)
VALUES ('3', 'Order', 'o1', 'Paid'); \echo :SQLSTATE
\copy cqrs.outbox (xid, aggregate_type, aggregate_id, event_type) FROM '/dev/null'
-- nothing to read, to change, to lock out others with
SELECT payload FROM cqrs.outbox; \echo :SQLSTATE
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Paid')
RETURNING payload; \echo :SQLSTATE
UPDATE cqrs.outbox SET payload = '{}'; \echo :SQLSTATE
DELETE FROM cqrs.outbox; \echo :SQLSTATE
TRUNCATE cqrs.outbox; \echo :SQLSTATE
ALTER TABLE cqrs.outbox DISABLE TRIGGER ALL; \echo :SQLSTATE
CREATE TRIGGER mine AFTER INSERT ON cqrs.outbox EXECUTE FUNCTION suppress_redundant_updates_trigger(); \echo :SQLSTATE
BEGIN;
LOCK TABLE cqrs.outbox IN SHARE MODE; \echo :SQLSTATE
ROLLBACK;
CREATE FUNCTION cqrs.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'; \echo :SQLSTATE
-- a right that one was given can't be handed on
SELECT cqrs.grant_publish('regress_bank');
RESET ROLE;
SELECT has_column_privilege('regress_bank', 'cqrs.outbox', 'event_type', 'INSERT');

-- the source is the role that inserts, not the one that logged in
GRANT regress_bank TO regress_shop;
SELECT cqrs.grant_publish('regress_bank');
SET SESSION AUTHORIZATION regress_shop;
SET ROLE regress_bank;
SELECT cqrs.publish('Account', 'a1', 'Opened') > 0 AS published;
RESET SESSION AUTHORIZATION;
SELECT source, aggregate_type, event_type, count(*) FROM cqrs.outbox GROUP BY 1, 2, 3 ORDER BY min(position);
SELECT event_id, aggregate_version, payload, metadata, occurred_at AT TIME ZONE 'UTC' AS occurred_at
FROM cqrs.outbox WHERE aggregate_version = 2;

DROP EXTENSION cqrs_views;
DROP ROLE regress_shop, regress_bank;
