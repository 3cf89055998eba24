-- create_projection: what can be given, and how it is shown.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA shop;
CREATE TABLE orders (id text PRIMARY KEY, events int NOT NULL);
CREATE TABLE shop.totals (event_type text PRIMARY KEY, events int NOT NULL);
CREATE TABLE shop.log (position bigint PRIMARY KEY);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.orders VALUES (e.aggregate_id, 1)
	ON CONFLICT (id) DO UPDATE SET events = orders.events + 1;
END $$;
CREATE FUNCTION shop.on_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO shop.totals SELECT event_type, count(*) FROM events GROUP BY event_type
	ON CONFLICT (event_type) DO UPDATE SET events = totals.events + excluded.events;
	INSERT INTO shop.log SELECT position FROM events;
	RETURN NULL;
END $$;

-- all defaults
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}');
-- all arguments, by position and by name
SELECT cqrs.create_projection('all', 'shop.on_batch()', '{shop.totals,shop.log}', 'async', '{Placed,Paid}', '{Order}', '{shop}',
	'aggregate_type || aggregate_id', 'now', 'stop', 'none', 7, 1);
SELECT cqrs.drop_projection('all');
SELECT cqrs.create_projection(name => 'all', handler => 'shop.on_batch()'::regprocedure,
	read_tables => ARRAY['shop.totals', 'shop.log']::regclass[], mode => 'inline', event_types => ARRAY['Placed', 'Paid'],
	aggregate_types => ARRAY['Order'], sources => ARRAY['shop', 'Märkte'], key => '  ( payload ->> ''id'' )  ', start_at => 'beginning',
	on_error => 'stop', notify => 'batch', batch_size => 1000000, segments => 1);
\x on
SELECT name, owner = current_user AS own, kind, handler, mode, event_types, aggregate_types, sources,
	key, start_at, on_error, notify, batch_size, segments, read_tables FROM cqrs.projection ORDER BY name;
\x off

-- an empty filter is none
SELECT cqrs.drop_projection('all');
SELECT cqrs.create_projection('all', 'shop.on_batch()', '{shop.totals,shop.log}', event_types => '{}', aggregate_types => '{}', sources => '{}');
SELECT event_types, aggregate_types, sources FROM cqrs.projection WHERE name = 'all';

-- a projection may have several read tables
CREATE TABLE orders_too (LIKE orders INCLUDING ALL);
CREATE FUNCTION on_event_too(e cqrs.event) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO orders_too VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET events = orders_too.events + 1;
END;
SELECT cqrs.create_projection('orders_too', 'on_event_too(cqrs.event)', '{orders_too}');
SELECT cqrs.publish('Order', 'o' || i % 2, CASE WHEN i < 3 THEN 'Placed' ELSE 'Paid' END) FROM generate_series(1, 4) AS i;
CALL cqrs.catch_up();
TABLE orders ORDER BY 1;
TABLE orders_too ORDER BY 1;
TABLE shop.totals ORDER BY 1;
TABLE shop.log ORDER BY 1;

-- it is part of the transaction
BEGIN;
CREATE TABLE late (id text);
CREATE FUNCTION on_late(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO late VALUES (e.aggregate_id)';
SELECT cqrs.create_projection('late', 'on_late(cqrs.event)', '{late}');
SELECT name FROM cqrs.projection WHERE name = 'late';
ROLLBACK;
SELECT name FROM cqrs.projection WHERE name = 'late';
BEGIN;
SAVEPOINT s;
CREATE TABLE late (id text);
CREATE FUNCTION on_late(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO late VALUES (e.aggregate_id)';
SELECT cqrs.create_projection('late', 'on_late(cqrs.event)', '{late}');
ROLLBACK TO s;
SELECT name FROM cqrs.projection WHERE name = 'late';
SELECT cqrs.wait_for('late'); \echo :SQLSTATE
COMMIT;
BEGIN;
CREATE TABLE late (id text);
CREATE FUNCTION on_late(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO late VALUES (e.aggregate_id)';
SELECT cqrs.create_projection('late', 'on_late(cqrs.event)', '{late}');
SELECT cqrs.publish('Order', 'same transaction', 'Placed') > 0 AS published;
COMMIT;
CALL cqrs.catch_up('late');
SELECT * FROM late ORDER BY ctid;

DROP FUNCTION on_event, on_event_too, on_late;
SELECT cqrs.drop_projection(name, drop_read_tables => true) FROM cqrs.projection;
SELECT to_regclass('orders'), to_regclass('orders_too'), to_regclass('late'), to_regclass('shop.totals');
DROP FUNCTION shop.on_batch;
DROP SCHEMA shop;
DROP EXTENSION cqrs_views;
