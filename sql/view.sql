-- A read table kept by a query: what is made, how it is kept, and what can be done with it.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE FUNCTION publish(id text, type text, payload jsonb DEFAULT '{}') RETURNS void LANGUAGE sql AS
	'SELECT cqrs.publish(''Order'', id, type, payload)';
-- until a worker, or somebody's catch_up, has run into what stops it
CREATE PROCEDURE let_it_stop(projection name, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT last_error INTO error FROM cqrs.projection_status WHERE name = projection AND state = 'stopped';
		EXIT WHEN FOUND;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;

SELECT publish('o1', 'ItemAdded', '{"price": 10}'), publish('o1', 'OrderStatusChanged', '{"status": "new"}');

SELECT cqrs.create_view('order_summary', $$
  SELECT aggregate_id AS order_id,
         cqrs.last(payload->>'status') FILTER (WHERE event_type = 'OrderStatusChanged') AS status,
         count(*) FILTER (WHERE event_type = 'ItemAdded')                              AS items,
         sum((payload->>'price')::numeric) FILTER (WHERE event_type = 'ItemAdded')     AS total
  FROM events WHERE aggregate_type = 'Order' GROUP BY aggregate_id $$);
\d order_summary
SELECT attname, col_description(attrelid, attnum) FROM pg_attribute
WHERE attrelid = 'order_summary'::regclass AND attnum > 0 ORDER BY attnum;
SELECT obj_description('order_summary'::regclass), obj_description('order_summary_state'::regclass);
-- where rows are updated, pages are left half empty for it
SELECT cqrs.create_view('appended', 'SELECT position, event_type FROM events'), cqrs.create_view('distinct_types', 'SELECT event_type FROM events GROUP BY 1');
SELECT relname, reloptions FROM pg_class WHERE relname IN ('order_summary', 'order_summary_state', 'appended', 'distinct_types') ORDER BY 1;
SELECT cqrs.drop_projection('appended', true), cqrs.drop_projection('distinct_types', true);
-- what was there already
TABLE order_summary;

SELECT publish('o1', 'ItemAdded', '{"price": 2.50}'), publish('o2', 'Placed'), publish('o1', 'OrderStatusChanged', '{"status": "paid"}');
CALL cqrs.catch_up('order_summary');
TABLE order_summary ORDER BY order_id;
-- a value that is NULL takes the place of another; none does not
SELECT publish('o1', 'OrderStatusChanged'), publish('o2', 'OrderStatusChanged', '{"status": "new"}');
SELECT publish('o2', 'ItemAdded');
CALL cqrs.catch_up('order_summary');
TABLE order_summary ORDER BY order_id;

SELECT name, kind, handler, mode, aggregate_types, event_types, key, read_tables FROM cqrs.projection;
SELECT cqrs.view_definition('order_summary') ~ '^\s*SELECT aggregate_id AS order_id' AS as_it_was;
SELECT cqrs.view_definition('nobody');

-- it is a table like any other, but read-only
INSERT INTO order_summary VALUES ('o3');
DELETE FROM order_summary_state;
CREATE INDEX ON order_summary (status);
CREATE VIEW open_orders AS SELECT order_id, total / nullif(items, 0) AS average FROM order_summary WHERE status = 'new';
CREATE ROLE regress_reader;
GRANT SELECT ON order_summary TO regress_reader;
SET ROLE regress_reader;
SELECT count(*) FROM order_summary;
SELECT count(*) FROM order_summary_state;
RESET ROLE;
SELECT publish('o2', 'ItemAdded', '{"price": 4}');
CALL cqrs.catch_up();
TABLE open_orders;

-- its schema may be renamed
CREATE SCHEMA sales;
ALTER TABLE order_summary SET SCHEMA sales;
SELECT publish('o4', 'ItemAdded', '{"price": 1}');
CALL cqrs.catch_up();
ALTER SCHEMA sales RENAME TO selling;
SELECT publish('o4', 'ItemAdded', '{"price": 2}');
CALL cqrs.catch_up();
SELECT * FROM selling.order_summary WHERE order_id = 'o4';
ALTER TABLE selling.order_summary SET SCHEMA public;
DROP SCHEMA selling;

-- renamed columns are followed, further ones left alone, a dropped or changed one is not
ALTER TABLE order_summary RENAME total TO "Total $";
ALTER TABLE order_summary ADD note text DEFAULT 'none', ADD twice numeric GENERATED ALWAYS AS ("Total $" * 2) STORED;
SELECT publish('o2', 'ItemAdded', '{"price": 1}'), publish('o3', 'ItemAdded', '{"price": 1}');
CALL cqrs.catch_up();
TABLE order_summary ORDER BY order_id;
DROP VIEW open_orders;
ALTER TABLE order_summary ALTER items TYPE integer;
SELECT publish('o3', 'ItemAdded', '{"price": 1}');
CALL let_it_stop('order_summary', NULL);
ALTER TABLE order_summary ALTER items TYPE bigint;
SELECT cqrs.resume_projection('order_summary');
CALL cqrs.catch_up();
SELECT * FROM order_summary WHERE order_id = 'o3';
ALTER TABLE order_summary DROP status;
SELECT publish('o3', 'ItemAdded', '{"price": 1}');
CALL let_it_stop('order_summary', NULL);

-- dropped with its table, or without: the state goes in any case
SELECT cqrs.drop_projection('order_summary');
SELECT count(*) FROM order_summary;
SELECT to_regclass('order_summary_state');
DROP TABLE order_summary;
SELECT cqrs.create_view('order_summary', 'SELECT aggregate_id, cqrs.first(payload) FROM events GROUP BY 1');
SELECT cqrs.drop_projection('order_summary', drop_read_tables => true);
SELECT to_regclass('order_summary'), to_regclass('order_summary_state');

-- from now on
SELECT cqrs.create_view('later', 'SELECT count(*), sum((payload->>''price'')::numeric) FROM events', start_at => 'now');
TABLE later;
SELECT publish('o4', 'ItemAdded', '{"price": 3}');
CALL cqrs.catch_up();
TABLE later;
-- a rebuild begins at the first event, whatever start_at was
CALL cqrs.rebuild_projection('later', online => false);
TABLE later;

-- settings
SELECT cqrs.alter_projection('later', key => 'aggregate_id');
SELECT cqrs.alter_projection('later', handler => 'cqrs.current_xid()');
SELECT cqrs.alter_projection('later', new_name => 'latest', batch_size => 1);
SELECT publish('o4', 'ItemAdded', '{"price": 3}'), publish('o5', 'ItemAdded', '{"price": 3}');
CALL cqrs.catch_up('latest');
TABLE later;
SELECT cqrs.drop_projection('latest', true);

-- events of the transaction that creates a view are counted once, when it has committed
BEGIN;
SELECT publish('o6', 'Placed');
SELECT cqrs.create_view('mine', 'SELECT count(*) FROM events WHERE aggregate_id = ''o6''');
TABLE mine;
SELECT publish('o6', 'Placed');
COMMIT;
CALL cqrs.catch_up();
TABLE mine;
SELECT cqrs.drop_projection('mine', true);
DROP FUNCTION publish;
DROP PROCEDURE let_it_stop;
DROP EXTENSION cqrs_views;
DROP ROLE regress_reader;
