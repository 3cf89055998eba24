-- Inline mode: the publisher's statement maintains the read table, whatever the statement is.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (id text PRIMARY KEY, n int, last bigint);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	before int := (SELECT n FROM orders WHERE id = e.aggregate_id);
BEGIN
	IF e.event_type = 'Refused' THEN
		RAISE 'no % for %', e.event_type, e.aggregate_id USING ERRCODE = 'check_violation', HINT = 'Order something else.';
	ELSIF before IS NULL THEN
		INSERT INTO orders VALUES (e.aggregate_id, 1, e.position);
	ELSE
		UPDATE orders SET n = before + 1, last = e.position WHERE id = e.aggregate_id;
	END IF;
END $$;
CREATE TABLE batches (n int GENERATED ALWAYS AS IDENTITY, ids text[]);
CREATE FUNCTION on_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO batches (ids) SELECT array_agg(aggregate_id ORDER BY position) FROM events;
	RETURN NULL;
END $$;
-- history is included, and then every statement at its end
SELECT cqrs.publish('Order', 'history', 'Placed') FROM generate_series(1, 3);
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}', mode => 'inline');
TABLE orders;
SELECT cqrs.create_projection('batches', 'on_batch()', '{batches}', mode => 'inline', start_at => 'now');
SELECT name, mode, state, events_pending FROM cqrs.projection_status ORDER BY name;

SELECT cqrs.publish('Order', 'function', 'Placed') > 0 AS published;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
VALUES ('Order', 'values', 'Placed'), ('Order', 'values', 'Paid'), ('Order', 'values too', 'Placed');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
SELECT 'Order', 'select ' || i % 2, 'Placed' FROM generate_series(1, 4) AS i;
COPY cqrs.outbox (aggregate_type, aggregate_id, event_type) FROM stdin;
Order	copy	Placed
Order	copy	Paid
\.
WITH published AS (
	INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'with', 'Placed') RETURNING aggregate_id)
SELECT * FROM published;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'on conflict', 'Placed') ON CONFLICT DO NOTHING;
MERGE INTO cqrs.outbox o USING (VALUES ('merge')) AS v (id) ON false
WHEN NOT MATCHED THEN INSERT (aggregate_type, aggregate_id, event_type) VALUES ('Order', v.id, 'Placed');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) SELECT 'Order', 'none', 'Placed' WHERE false;
SET session_replication_role = replica;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'replica', 'Placed');
RESET session_replication_role;
DO $$ BEGIN
	PERFORM cqrs.publish('Order', 'do', 'Placed');
	IF NOT EXISTS (SELECT FROM orders WHERE id = 'do') THEN RAISE 'not there'; END IF;
	PERFORM cqrs.publish('Order', 'do', 'Paid');
END $$;
PREPARE publish (text) AS INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', $1, 'Placed');
EXECUTE publish ('prepared');
EXECUTE publish ('prepared');
DEALLOCATE publish;
SELECT id, n FROM orders ORDER BY id COLLATE "C";
-- one batch a statement
SELECT ids FROM batches ORDER BY n;

-- what is rolled back is rolled back; the caller sees its own
BEGIN;
SELECT cqrs.publish('Order', 'undone', 'Placed') > 0 AS published;
SELECT n FROM orders WHERE id = 'undone';
ROLLBACK;
BEGIN;
SELECT cqrs.publish('Order', 'savepoint', 'Placed') > 0 AS published;
SAVEPOINT s;
SELECT cqrs.publish('Order', 'savepoint', 'Paid') > 0 AS published;
SELECT n FROM orders WHERE id = 'savepoint';
ROLLBACK TO s;
SELECT n FROM orders WHERE id = 'savepoint';
SELECT cqrs.publish('Order', 'savepoint', 'Shipped') > 0 AS published;
COMMIT;
SELECT id, n FROM orders WHERE id IN ('undone', 'savepoint');

-- what the handler throws, the publisher gets: SQLSTATE, message, hint, and whose it is
SELECT max(position) AS last FROM cqrs.outbox \gset
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'refused', 'Refused'); \echo :SQLSTATE
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'first', 'Placed'), ('Order', 'second', 'Refused'); \echo :SQLSTATE
BEGIN;
SELECT cqrs.publish('Order', 'kept', 'Placed') > 0 AS published;
SAVEPOINT s;
\set VERBOSITY terse
SELECT cqrs.publish('Order', 'kept', 'Refused'); \echo :SQLSTATE
\set VERBOSITY default
ROLLBACK TO s;
SELECT cqrs.publish('Order', 'kept', 'Paid') > 0 AS published;
COMMIT;
SELECT aggregate_id, event_type FROM cqrs.outbox WHERE position > :last ORDER BY position;
SELECT id, n FROM orders WHERE id IN ('refused', 'first', 'second', 'kept');
-- it goes on, for the next publisher; nothing is recorded
SELECT name, state, last_error FROM cqrs.projection_status ORDER BY name;

-- all in all
SELECT count(*) AS differences FROM (
	TABLE orders EXCEPT SELECT aggregate_id, count(*), max(position) FROM cqrs.outbox GROUP BY 1) d;
SELECT count(*) FROM orders WHERE last IS DISTINCT FROM (SELECT max(position) FROM cqrs.outbox WHERE aggregate_id = id);
SELECT cqrs.wait_for('orders'), cqrs.wait_for('orders', up_to_position => 1);
-- the counters follow when the checkpoint does
CALL cqrs.catch_up();
SELECT s.name, events_pending, events_processed = (SELECT count(*) FROM cqrs.outbox WHERE s.name = 'orders' OR position > 3) AS all,
	last_position = (SELECT max(position) FROM cqrs.outbox) AS last FROM cqrs.projection_status s ORDER BY 1;

DROP FUNCTION on_event, on_batch;
SELECT cqrs.drop_projection(name, true) FROM cqrs.projection;
DROP EXTENSION cqrs_views;
