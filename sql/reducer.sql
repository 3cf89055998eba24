-- Reducers: from the row of an event's key and the event, the row that follows.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (order_id text PRIMARY KEY, items int, total numeric, last bigint);
CREATE FUNCTION reduce_order(state orders, event cqrs.event) RETURNS orders LANGUAGE plpgsql AS $$
BEGIN
	IF event.event_type = 'Deleted' THEN RETURN NULL; END IF;
	state.items := coalesce(state.items, 0) + 1;
	state.total := coalesce(state.total, 0) + coalesce((event.payload->>'price')::numeric, 0);
	state.last := event.position;
	RETURN state;
END $$;
-- what a query makes of the same events
CREATE VIEW expected AS SELECT aggregate_id AS order_id, count(*)::int AS items, sum(coalesce((payload->>'price')::numeric, 0)) AS total,
	max(position) AS last
FROM cqrs.outbox o WHERE event_type = 'ItemAdded'
AND NOT EXISTS (SELECT FROM cqrs.outbox d WHERE d.aggregate_id = o.aggregate_id AND d.event_type = 'Deleted' AND d.position > o.position)
GROUP BY aggregate_id;
SELECT cqrs.create_projection('orders', 'reduce_order(orders,cqrs.event)', '{orders}');
SELECT kind, handler, read_tables FROM cqrs.projection;
SELECT count(cqrs.publish('Order', 'o' || i % 3, 'ItemAdded', jsonb_build_object('price', i))) FROM generate_series(1, 7) AS i;
CALL cqrs.catch_up('orders');
TABLE orders ORDER BY order_id;
-- rows that are there already, a new one, one that goes, and one that goes and comes again in one batch
SELECT count(cqrs.publish('Order', id, type, '{"price": 100}')) FROM (VALUES ('o0', 'ItemAdded'), ('o3', 'ItemAdded'), ('o1', 'Deleted'),
	('o2', 'Deleted'), ('o2', 'ItemAdded'), ('o4', 'ItemAdded'), ('o4', 'Deleted'), ('o5', 'Deleted'), ('o5', 'ItemAdded')) AS v (id, type);
CALL cqrs.catch_up('orders');
TABLE orders ORDER BY order_id;
TABLE orders EXCEPT TABLE expected;

-- SQL in both forms; what the function puts into the key column does not count
CREATE TABLE orders_sql (LIKE orders INCLUDING ALL);
CREATE FUNCTION reduce_sql(orders_sql, cqrs.event) RETURNS orders_sql LANGUAGE sql AS $$
	SELECT 'nonsense', coalesce($1.items, 0) + 1, coalesce($1.total, 0) + coalesce(($2.payload->>'price')::numeric, 0), $2.position
	WHERE $2.event_type <> 'Deleted'
$$;
CREATE TABLE orders_atomic (LIKE orders INCLUDING ALL);
CREATE FUNCTION reduce_atomic(state orders_atomic, e cqrs.event) RETURNS orders_atomic LANGUAGE sql IMMUTABLE BEGIN ATOMIC
	SELECT CASE e.event_type WHEN 'Deleted' THEN NULL ELSE ROW(NULL, coalesce(state.items, 0) + 1,
		coalesce(state.total, 0) + coalesce((e.payload->>'price')::numeric, 0), e.position)::orders_atomic END;
END;
-- an INOUT argument is as good, as are SECURITY DEFINER and settings; exceptions are caught
CREATE TABLE orders_inout (LIKE orders INCLUDING ALL);
CREATE FUNCTION reduce_inout(INOUT state orders_inout, event cqrs.event) LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
	BEGIN
		state.items := 1000;
		PERFORM 1 / (event.position % 2);
		RAISE 'odd';
	EXCEPTION WHEN OTHERS THEN
		state.items := state.items - 1000;
	END;
	state.last := event.position;
END $$;
SELECT cqrs.create_projection('sql', 'reduce_sql(orders_sql,cqrs.event)', '{orders_sql}');
SELECT cqrs.create_projection('atomic', 'reduce_atomic(orders_atomic,cqrs.event)', '{orders_atomic}');
SELECT cqrs.create_projection('inout', 'reduce_inout(orders_inout,cqrs.event)', '{orders_inout}');
CALL cqrs.catch_up();
SELECT count(*) AS differences FROM (TABLE orders EXCEPT TABLE orders_sql UNION ALL (TABLE orders_sql EXCEPT TABLE orders)) d;
SELECT count(*) AS differences FROM (TABLE orders EXCEPT TABLE orders_atomic UNION ALL (TABLE orders_atomic EXCEPT TABLE orders)) d;
SELECT count(*) AS differences FROM orders_inout WHERE items <> 0 OR last <> (SELECT max(position) FROM cqrs.outbox WHERE aggregate_id = order_id);

-- batches of every size, over few keys and over many
SELECT cqrs.publish('Order', 'o1', 'ItemAdded', '{"price": 1}') > 0 AS published;
CALL cqrs.catch_up();
SELECT count(cqrs.publish('Order', 'o' || i % 5, CASE i % 97 WHEN 0 THEN 'Deleted' ELSE 'ItemAdded' END, jsonb_build_object('price', i)))
FROM generate_series(1, 5000) AS i;
CALL cqrs.catch_up();
SELECT count(cqrs.publish('Order', 'm' || i % 4000, CASE i % 97 WHEN 0 THEN 'Deleted' ELSE 'ItemAdded' END, jsonb_build_object('price', i)))
FROM generate_series(1, 5000) AS i;
CALL cqrs.catch_up();
SELECT count(*) > 3900 AS many FROM orders;
SELECT count(*) AS differences FROM (TABLE orders EXCEPT TABLE expected UNION ALL (TABLE expected EXCEPT TABLE orders)) d;
SELECT count(*) AS differences FROM (TABLE orders EXCEPT TABLE orders_sql UNION ALL (TABLE orders_sql EXCEPT TABLE orders)) d;
SELECT count(*) AS differences FROM (TABLE orders EXCEPT TABLE orders_atomic UNION ALL (TABLE orders_atomic EXCEPT TABLE orders)) d;

-- a row is written once a batch, and only where it has changed
CREATE TABLE written (op text, rows bigint);
CREATE FUNCTION count_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO written SELECT TG_OP, count(*) FROM changed;
	RETURN NULL;
END $$;
CREATE TRIGGER inserted AFTER INSERT ON orders REFERENCING NEW TABLE AS changed EXECUTE FUNCTION count_written();
CREATE TRIGGER updated AFTER UPDATE ON orders REFERENCING NEW TABLE AS changed EXECUTE FUNCTION count_written();
CREATE TRIGGER deleted AFTER DELETE ON orders REFERENCING OLD TABLE AS changed EXECUTE FUNCTION count_written();
CREATE FUNCTION reduce_some(state orders, event cqrs.event) RETURNS orders LANGUAGE plpgsql AS $$
BEGIN
	CASE event.event_type
	WHEN 'Ignored' THEN
	WHEN 'Deleted' THEN state := NULL;
	WHEN 'There and back' THEN state.items := -state.items;
	ELSE state.items := coalesce(state.items, 0) + 1;
	END CASE;
	RETURN state;
END $$;
SELECT cqrs.alter_projection('orders', handler => 'reduce_some(orders,cqrs.event)');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) SELECT 'Order', id, type FROM (VALUES ('o1', 'Ignored'), ('o2', 'Changed'), ('o2', 'Changed'),
	('o3', 'There and back'), ('o3', 'There and back'), ('new', 'Changed'), ('new', 'Changed'), ('o0', 'Changed'), ('o0', 'Deleted'), ('none', 'Ignored'),
	('o4', 'Changed')) AS v (id, type);
CALL cqrs.catch_up('orders');
SELECT op, sum(rows) AS rows FROM written GROUP BY op ORDER BY op;
SELECT order_id, items FROM orders WHERE order_id IN ('new', 'none', 'o0');

-- a rebuild gives the same; filters, and a key of another kind
SELECT cqrs.alter_projection('orders', handler => 'reduce_order(orders,cqrs.event)', event_types => '{ItemAdded}', key => $$'all ' || aggregate_type$$);
DROP TABLE written CASCADE;
DROP FUNCTION count_written CASCADE;
CALL cqrs.rebuild_projection('orders', online => false);
SELECT order_id, items = (SELECT count(*) FROM cqrs.outbox WHERE event_type = 'ItemAdded') AS all_items FROM orders;
SELECT cqrs.alter_projection('orders', event_types => '{ItemAdded,Deleted}', key => 'aggregate_id');
CALL cqrs.rebuild_projection('orders', online => false);
SELECT count(*) AS differences FROM (TABLE orders EXCEPT TABLE expected UNION ALL (TABLE expected EXCEPT TABLE orders)) d;

-- inline: the rows are right when the statement ends
SELECT cqrs.alter_projection('orders', mode => 'inline');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('Order', 'inline', 'ItemAdded', '{"price": 1}'),
	('Order', 'o1', 'Deleted', '{}'), ('Order', 'inline', 'ItemAdded', '{"price": 2}');
SELECT items, total FROM orders WHERE order_id = 'inline';
BEGIN;
SELECT cqrs.publish('Order', 'inline', 'ItemAdded', '{"price": 4}') > 0 AS published;
SELECT cqrs.publish('Order', 'inline', 'ItemAdded', '{"price": 8}') > 0 AS published;
SELECT items, total FROM orders WHERE order_id = 'inline';
SAVEPOINT s;
SELECT cqrs.publish('Order', 'inline', 'Deleted') > 0 AS published;
SELECT items, total FROM orders WHERE order_id = 'inline';
ROLLBACK TO s;
COMMIT;
SELECT items, total FROM orders WHERE order_id = 'inline';
SELECT count(*) AS differences FROM (TABLE orders EXCEPT TABLE expected UNION ALL (TABLE expected EXCEPT TABLE orders)) d;

DROP VIEW expected;
\set VERBOSITY terse
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP TABLE orders, orders_sql, orders_atomic, orders_inout CASCADE;
DROP EXTENSION cqrs_views;
