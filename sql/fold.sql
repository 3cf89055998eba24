-- cqrs.fold: the state that a reducer makes of events, without a read table.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (order_id text PRIMARY KEY, items int, total numeric);
CREATE FUNCTION reduce(s orders, e cqrs.event) RETURNS orders LANGUAGE plpgsql AS $$
BEGIN
	IF e.event_type = 'Deleted' THEN RETURN NULL; END IF;
	IF e.event_type = 'Failing' THEN RAISE 'cannot take %', e.aggregate_id; END IF;
	s.items := coalesce(s.items, 0) + 1;
	s.total := coalesce(s.total, 0) + coalesce((e.payload->>'price')::numeric, 0);
	RETURN s;
END $$;
SELECT count(cqrs.publish('Order', 'o' || i % 3, 'ItemAdded', jsonb_build_object('price', i))) FROM generate_series(1, 7) AS i;
SELECT count(cqrs.publish('Cart', 'o1', 'ItemAdded', '{"price": 100}')), count(cqrs.publish('Order', 'gone', 'ItemAdded')), count(cqrs.publish('Order', 'gone', 'Deleted'));

-- of an aggregate, of one type or any; literals need no casts
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o1');
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o1', 'Order');
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o1', aggregate_type => 'Cart');
SELECT cqrs.fold(handler => 'reduce(orders,cqrs.event)', aggregate_id => 'o2');
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'unknown') IS NULL AS unknown, cqrs.fold('reduce(orders,cqrs.event)', 'gone') IS NULL AS gone;
-- its type is known when it is run, or, beginning with a state, before
SELECT to_jsonb(cqrs.fold('reduce(orders,cqrs.event)', 'o1', 'Order'));
SELECT items + 1 AS more FROM cqrs.fold('reduce(orders,cqrs.event)', 'o1', 'Order') AS (order_id text, items int, total numeric);
SELECT (cqrs.fold('reduce(orders,cqrs.event)', NULL::orders, 'o1', 'Order')).total;
SELECT * FROM cqrs.fold('reduce(orders,cqrs.event)', NULL::orders, 'o1');
SELECT id, (s).total FROM unnest('{o0,o1,o2,o3}'::text[]) AS id, cqrs.fold('reduce(orders,cqrs.event)', NULL::orders, id, 'Order') AS s ORDER BY id;
-- from a snapshot on
SELECT cqrs.fold('reduce(orders,cqrs.event)', ROW('o1', 1, 1)::orders, 'o1', 'Order', 1);
SELECT cqrs.fold('reduce(orders,cqrs.event)', ROW('o1', 3, 12)::orders, 'o1', 'Order', after_position => 7);

-- of events that are given, published or not, in the order of the array
CREATE FUNCTION event(id text, type text, price numeric) RETURNS cqrs.event LANGUAGE sql AS
	$$ SELECT ROW(NULL, NULL, 'me', 'Order', id, NULL, type, jsonb_build_object('price', price), '{}', NULL)::cqrs.event $$;
SELECT cqrs.fold('reduce(orders,cqrs.event)', event('x', 'ItemAdded', 1));
SELECT cqrs.fold('reduce(orders,cqrs.event)', event('x', 'ItemAdded', 1), event('x', 'Deleted', 0), event('x', 'ItemAdded', 2));
SELECT cqrs.fold('reduce(orders,cqrs.event)', event('x', 'ItemAdded', 1), event('x', 'Deleted', 0)) IS NULL AS gone;
SELECT cqrs.fold('reduce(orders,cqrs.event)', VARIADIC ARRAY[event('x', 'ItemAdded', 1), event('x', 'ItemAdded', 2)]);
SELECT cqrs.fold('reduce(orders,cqrs.event)', VARIADIC '{}'::cqrs.event[]) IS NULL AS none, cqrs.fold('reduce(orders,cqrs.event)', VARIADIC NULL::cqrs.event[]) IS NULL AS null;
SELECT cqrs.fold('reduce(orders,cqrs.event)', ROW('x', 5, 50)::orders, event('x', 'ItemAdded', 1));
SELECT cqrs.fold('reduce(orders,cqrs.event)', NULL::orders, VARIADIC array_agg(event('x', 'ItemAdded', i))) FROM generate_series(1, 1000) AS i;
SELECT cqrs.fold('reduce(orders,cqrs.event)', ROW('x', 5, 50)::orders, VARIADIC '{}');

-- a command handler: what its transaction has published counts, what was rolled back does not
CREATE FUNCTION add_item(id text, price numeric) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	state orders;
BEGIN
	state := cqrs.fold('reduce(orders,cqrs.event)', id);
	IF state.total + price > 100 THEN RETURN 'refused at ' || state.total; END IF;
	PERFORM cqrs.publish('Order', id, 'ItemAdded', jsonb_build_object('price', price));
	SELECT * INTO state FROM cqrs.fold('reduce(orders,cqrs.event)', state, id, after_position => (SELECT max(position) - 1 FROM cqrs.outbox));
	RETURN state;
END $$;
BEGIN;
SELECT add_item('o0', 50), add_item('o0', 40), add_item('o0', 2);
SAVEPOINT s;
SELECT cqrs.publish('Order', 'o0', 'Deleted') > 0 AS published;
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o0') IS NULL AS gone;
ROLLBACK TO s;
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o0');
ROLLBACK;
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o0');
-- a repeatable read transaction has its snapshot, and its own events
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT add_item('o0', 50), add_item('o0', 60);
ROLLBACK;

-- the same as the read table of a projection with the default key, whether or not the function sees to its key
CREATE FUNCTION reduce_sql(s orders, e cqrs.event) RETURNS orders LANGUAGE sql AS
	$$ SELECT e.aggregate_id, coalesce(s.items, 0) + 1, coalesce(s.total, 0) + coalesce((e.payload->>'price')::numeric, 0) WHERE e.event_type <> 'Deleted' $$;
SELECT cqrs.create_projection('orders', 'reduce(orders,cqrs.event)', '{orders}');
CALL cqrs.catch_up('orders');
SELECT count(*) AS orders, count(*) FILTER (WHERE to_jsonb(cqrs.fold('reduce(orders,cqrs.event)', order_id)) = to_jsonb(orders)) AS same,
	count(*) FILTER (WHERE cqrs.fold('reduce_sql(orders,cqrs.event)', NULL::orders, order_id) = orders) AS same_sql FROM orders;
-- any composite type will do; what the key is, is then the function's to say
CREATE TYPE pair AS (first text, last text);
CREATE FUNCTION reduce_pair(s pair, e cqrs.event) RETURNS pair LANGUAGE plpgsql AS $$
BEGIN
	RETURN ROW(coalesce(s.first, e.event_type), e.event_type)::pair;
END $$;
SELECT cqrs.fold('reduce_pair(pair,cqrs.event)', 'gone');
-- an index makes it fast; the caller's search_path does not matter, the function's does
CREATE INDEX ON cqrs.outbox (aggregate_id, position);
CREATE SCHEMA s;
CREATE FUNCTION s.no(text, text) RETURNS boolean LANGUAGE sql RETURN false;
CREATE OPERATOR s.= (LEFTARG = text, RIGHTARG = text, FUNCTION = s.no);
SET search_path = s, public, pg_catalog;
SELECT cqrs.fold('reduce(orders,cqrs.event)', 'o2', 'Order');
RESET search_path;
-- large ones: a document that grows with each of many events
CREATE TYPE document AS (n int, content text);
CREATE FUNCTION reduce_document(s document, e cqrs.event) RETURNS document LANGUAGE plpgsql AS $$
BEGIN
	s.n := coalesce(s.n, 0) + 1;
	s.content := concat(s.content, e.payload->>'text');
	RETURN s;
END $$;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Doc', 'd', 'Written', jsonb_build_object('text', repeat(md5(i::text), 100)) FROM generate_series(1, 300) AS i;
SELECT n, length(content) FROM cqrs.fold('reduce_document(document,cqrs.event)', NULL::document, 'd');
SELECT n, content = (SELECT string_agg(payload->>'text', '' ORDER BY position) FROM cqrs.outbox WHERE aggregate_id = 'd') AS same
FROM cqrs.fold('reduce_document(document,cqrs.event)', NULL::document, 'd');

DROP SCHEMA s CASCADE;
DROP FUNCTION reduce, reduce_sql, event;
DROP TYPE pair, document CASCADE;
DROP FUNCTION add_item;
SELECT cqrs.drop_projection('orders', true);
DROP EXTENSION cqrs_views;
