-- Read tables are read-only, for everybody but their projection, in every way to write.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (id text PRIMARY KEY, n int);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = orders.n + 1;
END $$;
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}');
SELECT count(cqrs.publish('Order', 'o' || i % 2, 'Placed')) FROM generate_series(1, 4) AS i;
CALL cqrs.catch_up();

INSERT INTO orders VALUES ('o9', 9); \echo :SQLSTATE
\set VERBOSITY terse
UPDATE orders SET n = 9; \echo :SQLSTATE
UPDATE orders SET n = 9 WHERE false; \echo :SQLSTATE
DELETE FROM orders; \echo :SQLSTATE
TRUNCATE orders; \echo :SQLSTATE
COPY orders FROM stdin;
o9	9
\.
\echo :SQLSTATE
INSERT INTO orders VALUES ('o1', 9) ON CONFLICT DO NOTHING; \echo :SQLSTATE
INSERT INTO orders VALUES ('o1', 9) ON CONFLICT (id) DO UPDATE SET n = 9; \echo :SQLSTATE
MERGE INTO orders USING (VALUES ('o1')) AS v (id) ON orders.id = v.id WHEN MATCHED THEN DELETE; \echo :SQLSTATE
WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone; \echo :SQLSTATE
CREATE VIEW updatable AS SELECT * FROM orders;
UPDATE updatable SET n = 9; \echo :SQLSTATE
DROP VIEW updatable;
CREATE TEMP TABLE redirect (id text);
CREATE RULE redirected AS ON INSERT TO redirect DO INSTEAD INSERT INTO orders VALUES (NEW.id, 9);
INSERT INTO redirect VALUES ('o9'); \echo :SQLSTATE
DROP TABLE redirect;
DO $$ BEGIN UPDATE orders SET n = 9; END $$; \echo :SQLSTATE
-- as a replica
SET session_replication_role = replica;
INSERT INTO orders VALUES ('o9', 9); \echo :SQLSTATE
UPDATE orders SET n = 9; \echo :SQLSTATE
DELETE FROM orders; \echo :SQLSTATE
TRUNCATE orders; \echo :SQLSTATE
SET session_replication_role = local;
DELETE FROM orders; \echo :SQLSTATE
RESET session_replication_role;

-- referential actions into a read table
CREATE TABLE customer (id int PRIMARY KEY);
INSERT INTO customer VALUES (1), (2), (3);
CREATE TABLE per_customer (customer int REFERENCES customer ON DELETE CASCADE ON UPDATE CASCADE, other int DEFAULT 3 REFERENCES customer ON DELETE SET NULL);
CREATE FUNCTION on_customer(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO per_customer VALUES (e.aggregate_id::int, 2);
END $$;
SELECT cqrs.create_projection('per_customer', 'on_customer(cqrs.event)', '{per_customer}', aggregate_types => '{Customer}');
SELECT cqrs.publish('Customer', '1', 'Named') > 0 AS published;
CALL cqrs.catch_up();
DELETE FROM customer WHERE id = 1; \echo :SQLSTATE
DELETE FROM customer WHERE id = 2; \echo :SQLSTATE
UPDATE customer SET id = 4 WHERE id = 1; \echo :SQLSTATE
TRUNCATE customer CASCADE; \echo :SQLSTATE
TABLE per_customer;
-- where there is no action, the reference is but checked
CREATE TABLE product (id text PRIMARY KEY);
INSERT INTO product VALUES ('o0'), ('o1'), ('1'), ('unused');
ALTER TABLE orders ADD FOREIGN KEY (id) REFERENCES product;
DELETE FROM product WHERE id = 'unused';
DELETE FROM product; \echo :SQLSTATE
ALTER TABLE orders DROP CONSTRAINT orders_id_fkey;
DROP TABLE product;

-- the setting is for superusers, and lasts as long as it is set
CREATE ROLE regress_owner;
ALTER TABLE orders OWNER TO regress_owner;
SET ROLE regress_owner;
DELETE FROM orders; \echo :SQLSTATE
SET cqrs_views.allow_writes = on; \echo :SQLSTATE
SELECT set_config('cqrs_views.allow_writes', 'on', false); \echo :SQLSTATE
CREATE FUNCTION pg_temp.sneak() RETURNS void LANGUAGE sql SET cqrs_views.allow_writes = on AS ''; \echo :SQLSTATE
ALTER ROLE regress_owner SET cqrs_views.allow_writes = on; \echo :SQLSTATE
ALTER TABLE orders DISABLE TRIGGER cqrs_write_guard; \echo :SQLSTATE
DELETE FROM orders WHERE id = 'o9'; \echo :SQLSTATE
RESET ROLE;
ALTER TABLE orders ENABLE ALWAYS TRIGGER cqrs_write_guard;
ALTER TABLE orders OWNER TO CURRENT_USER;
BEGIN;
SET LOCAL cqrs_views.allow_writes = on;
INSERT INTO orders VALUES ('repaired', 1);
UPDATE orders SET n = 0 WHERE id = 'repaired';
COMMIT;
DELETE FROM orders; \echo :SQLSTATE
SET cqrs_views.allow_writes = on;
DELETE FROM orders WHERE id = 'repaired';
RESET cqrs_views.allow_writes;
TABLE orders ORDER BY id;

-- a handler writes to its own read tables only, not to those of another, nor by way of the setting
CREATE TABLE mine (id text);
CREATE FUNCTION meddle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO mine VALUES (e.aggregate_id);
	UPDATE orders SET n = 999;
END $$;
SELECT cqrs.create_projection('meddler', 'meddle(cqrs.event)', '{mine}', mode => 'inline', start_at => 'now');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Meddled'); \echo :SQLSTATE
-- not after the handler either, nor while another statement of the same session runs
CREATE OR REPLACE FUNCTION meddle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO mine VALUES (e.aggregate_id); END';
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Minded');
INSERT INTO mine VALUES ('by hand'); \echo :SQLSTATE
WITH e AS (INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'o1', 'Minded') RETURNING 1)
INSERT INTO mine SELECT 'same statement' FROM e; \echo :SQLSTATE
TABLE mine;
CALL cqrs.catch_up();
TABLE orders ORDER BY id;

-- reading, locking, indexing, analyzing and DDL are not writing
SELECT count(*) FROM (SELECT * FROM orders FOR UPDATE) l;
CREATE INDEX ON orders (n);
ALTER TABLE orders ADD COLUMN remark text;
ANALYZE orders;
VACUUM orders;
DROP FUNCTION on_event, on_customer, meddle;
SELECT count(cqrs.drop_projection(name, true)) FROM cqrs.projection;
DROP TABLE customer;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner;
