-- alter_projection: what changes and what stays; modes both ways, with a backlog and without.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (id text PRIMARY KEY, n int);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = orders.n + 1;
END $$;
CREATE FUNCTION on_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders SELECT aggregate_id, count(*) FROM events GROUP BY 1
	ON CONFLICT (id) DO UPDATE SET n = orders.n + excluded.n;
	RETURN NULL;
END $$;
CREATE VIEW differences AS SELECT count(*) AS differences FROM orders FULL JOIN (
	SELECT aggregate_id AS id, count(*) AS n FROM cqrs.outbox GROUP BY 1) o USING (id, n) WHERE orders IS NULL OR o IS NULL;
SELECT cqrs.create_projection('orders', 'on_event(cqrs.event)', '{orders}', event_types => '{Placed}', batch_size => 5,
	key => 'payload->>''k''', notify => 'batch', sources => '{a}');
CREATE VIEW shown AS SELECT name, kind, handler, mode, event_types, aggregate_types, sources, key, start_at, on_error, notify,
	batch_size, segments FROM cqrs.projection;

-- nothing given, nothing changed
SELECT cqrs.alter_projection('orders');
TABLE shown;
SELECT cqrs.alter_projection('orders', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
TABLE shown;
-- one at a time, and all at once
SELECT cqrs.alter_projection('orders', event_types => '{}', sources => '{}');
SELECT cqrs.alter_projection('orders', batch_size => 0);
SELECT cqrs.alter_projection('orders', notify => 'none', key => 'aggregate_id');
SELECT cqrs.alter_projection('orders', handler => 'on_batch()');
TABLE shown;
SELECT cqrs.alter_projection('orders', mode => 'async', event_types => '{a,b}', aggregate_types => '{c}', sources => '{d}', key => 'source',
	on_error => 'stop', notify => 'keys', batch_size => 3, segments => 1, handler => 'on_event(cqrs.event)', new_name => 'new orders');
TABLE shown;
SELECT cqrs.alter_projection('new orders', event_types => '{}', aggregate_types => '{}', sources => '{}', key => 'aggregate_id',
	batch_size => 0, new_name => 'orders');
-- its own name, as new name
SELECT cqrs.alter_projection('orders', new_name => 'orders');

-- errors, and nothing is changed by them
CREATE TABLE other (id text);
SELECT cqrs.create_projection('other', 'on_batch()', '{other}', start_at => 'now');
SELECT cqrs.alter_projection('unknown', batch_size => 1); \echo :SQLSTATE
SELECT cqrs.alter_projection(NULL); \echo :SQLSTATE
SELECT cqrs.alter_projection(''); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', new_name => 'other'); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', new_name => ''); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', mode => 'sometimes'); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', key => 'customer'); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', key => ''); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', on_error => 'shrug'); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', notify => ''); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', batch_size => -5); \echo :SQLSTATE
SELECT cqrs.alter_projection('orders', segments => 2); \echo :SQLSTATE
\set VERBOSITY terse
SELECT cqrs.alter_projection('orders', batch_size => 77, handler => 'now()'); \echo :SQLSTATE
\set VERBOSITY default
SELECT * FROM shown WHERE name = 'orders';
SELECT cqrs.drop_projection('other', true);

-- async to inline and back, without a backlog
SELECT cqrs.alter_projection('orders', mode => 'inline');
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
TABLE orders;
SELECT cqrs.alter_projection('orders', mode => 'inline');
SELECT cqrs.alter_projection('orders', mode => 'async');
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
CALL cqrs.catch_up('orders');
TABLE orders;
-- with a backlog, gathered while it was paused: of one batch it is done at once, of more by whoever catches up
SELECT cqrs.pause_projection('orders');
SELECT count(cqrs.publish('Order', 'o' || i % 3, 'Placed')) FROM generate_series(1, 10) AS i;
SELECT cqrs.alter_projection('orders', mode => 'inline');
SELECT mode, state, events_pending FROM cqrs.projection_status;
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
SELECT mode, state, events_pending FROM cqrs.projection_status;
SELECT cqrs.resume_projection('orders');
SELECT mode, state, events_pending FROM cqrs.projection_status;
SELECT * FROM differences;
SELECT cqrs.pause_projection('orders');
SELECT count(cqrs.publish('Order', 'o' || i % 3, 'Placed')) FROM generate_series(1, 100) AS i;
SELECT cqrs.alter_projection('orders', batch_size => 10);
SELECT cqrs.resume_projection('orders');
CALL cqrs.catch_up('orders');
SELECT mode, state, events_pending FROM cqrs.projection_status;
SELECT * FROM differences;
-- a new handler, a new name and a new key while inline
SELECT cqrs.alter_projection('orders', handler => 'on_batch()', new_name => 'inline', key => 'aggregate_type');
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
SELECT * FROM differences;
-- rolled back
BEGIN;
SELECT cqrs.alter_projection('inline', mode => 'async', new_name => 'async');
ROLLBACK;
SELECT name, mode, state FROM cqrs.projection_status;
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
SELECT * FROM differences;
-- not in a transaction that published
BEGIN;
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
SELECT cqrs.alter_projection('inline', mode => 'async'); \echo :SQLSTATE
ROLLBACK;

DROP VIEW differences, shown;
DROP FUNCTION on_event, on_batch;
SELECT cqrs.drop_projection('inline', true);
DROP EXTENSION cqrs_views;
