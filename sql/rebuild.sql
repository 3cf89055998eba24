-- rebuild_projection in place: empty, replay, and everything that stands in its way.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (id text PRIMARY KEY, n int);
CREATE TABLE lines (nr serial PRIMARY KEY, order_id text REFERENCES orders);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = orders.n + 1;
	INSERT INTO lines (order_id) VALUES (e.aggregate_id);
END $$;
CREATE VIEW differences AS SELECT count(*) AS differences, (SELECT count(*) FROM lines) AS lines, (SELECT count(*) FROM cqrs.outbox) AS events
FROM orders FULL JOIN (SELECT aggregate_id AS id, count(*) AS n FROM cqrs.outbox GROUP BY 1) o USING (id, n) WHERE orders IS NULL OR o IS NULL;
SELECT count(cqrs.publish('Order', 'o' || i % 7, 'Placed')) FROM generate_series(1, 100) AS i;
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders,lines}', batch_size => 10, on_error => 'stop');
CALL cqrs.catch_up('orders');
TABLE differences;

-- what somebody broke is whole again
SET cqrs_views.allow_writes = on;
DELETE FROM lines;
UPDATE orders SET n = 0;
RESET cqrs_views.allow_writes;
CALL cqrs.rebuild_projection('orders', online => false);
TABLE differences;
SELECT state, events_pending, last_error FROM cqrs.projection_status;
SELECT * FROM cqrs.rebuild_progress;
-- the default is what there is
CALL cqrs.rebuild_projection('orders');
TABLE differences;
-- a new rule for the whole of history
SELECT cqrs.alter_projection('orders', event_types => '{Paid}');
CALL cqrs.rebuild_projection('orders', online => false);
SELECT count(*) FROM orders;
SELECT cqrs.alter_projection('orders', event_types => '{}');
CALL cqrs.rebuild_projection('orders', online => false);
TABLE differences;
-- inline, before and after
SELECT cqrs.alter_projection('orders', mode => 'inline');
SELECT cqrs.publish('Order', 'inline', 'Placed') > 0 AS published;
CALL cqrs.rebuild_projection('orders', online => false);
SELECT mode, state, events_pending FROM cqrs.projection_status;
SELECT cqrs.publish('Order', 'inline', 'Placed') > 0 AS published;
TABLE differences;
SELECT cqrs.alter_projection('orders', mode => 'async');

-- refusals
CALL cqrs.rebuild_projection('orders', online => true); \echo :SQLSTATE
CALL cqrs.rebuild_projection('orders', NULL); \echo :SQLSTATE
CALL cqrs.rebuild_projection('unknown', online => false); \echo :SQLSTATE
CALL cqrs.rebuild_projection(NULL, online => false); \echo :SQLSTATE
CALL cqrs.rebuild_projection('', online => false); \echo :SQLSTATE
BEGIN;
CALL cqrs.rebuild_projection('orders', online => false); \echo :SQLSTATE
ROLLBACK;
SELECT cqrs.pause_projection('orders');
CALL cqrs.rebuild_projection('orders', online => false); \echo :SQLSTATE
SELECT cqrs.resume_projection('orders');
-- a foreign table that refers to a read table: TRUNCATE refuses, and nothing has happened
CREATE TABLE remark (order_id text REFERENCES orders);
CALL cqrs.rebuild_projection('orders', online => false); \echo :SQLSTATE
TABLE differences;
SELECT state FROM cqrs.projection_status;
DROP TABLE remark;

-- a handler that fails in the middle of the replay: it stops there; mended, it goes on from there
CREATE OR REPLACE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.position = 55 THEN RAISE 'no'; END IF;
	INSERT INTO orders VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = orders.n + 1;
	INSERT INTO lines (order_id) VALUES (e.aggregate_id);
END $$;
\set VERBOSITY terse
DO $$ BEGIN CALL cqrs.rebuild_projection('orders', online => false); END $$;
\set VERBOSITY default
SELECT state FROM cqrs.projection_status;
SELECT projection, phase, events_done BETWEEN 1 AND 54 AS stuck FROM cqrs.rebuild_progress;
SELECT count(*) BETWEEN 1 AND 54 AS stuck FROM lines;
CREATE OR REPLACE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = orders.n + 1;
	INSERT INTO lines (order_id) VALUES (e.aggregate_id);
END $$;
SELECT cqrs.resume_projection('orders');
CALL cqrs.catch_up('orders');
TABLE differences;
SELECT state, last_error FROM cqrs.projection_status;
-- or rebuild what is stopped
CREATE OR REPLACE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
SELECT cqrs.publish('Order', 'bad', 'Placed') > 0 AS published;
\set VERBOSITY sqlstate
DO $$ BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT state = 'stopped' FROM cqrs.projection_status);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
\set VERBOSITY default
SELECT state FROM cqrs.projection_status;
CREATE OR REPLACE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id, 2) ON CONFLICT (id) DO UPDATE SET n = orders.n + 2;
	INSERT INTO lines (order_id) VALUES (e.aggregate_id);
END $$;
CALL cqrs.rebuild_projection('orders', online => false);
SELECT state, last_error FROM cqrs.projection_status;
SELECT count(*) AS differences FROM orders WHERE n <> 2 * (SELECT count(*) FROM cqrs.outbox WHERE aggregate_id = id);

DROP VIEW differences;
DROP FUNCTION on_event;
SELECT cqrs.drop_projection('orders', drop_read_tables => true);
DROP EXTENSION cqrs_views;
