-- cqrs.publish and cqrs.grant_publish.
CREATE EXTENSION IF NOT EXISTS cqrs_views;

SELECT cqrs.publish('Order', 'o1', 'Placed');
SELECT cqrs.publish('Order', 'o1', 'Paid', '{"amount": 3}');
SELECT cqrs.publish('Order', 'o1', 'Shipped', '{"by": "ship"}', '{"trace": "t1"}',
	'6f1b7f9c-0000-4000-8000-000000000001', 3, '2001-02-03 04:05+00');
SELECT cqrs.publish(event_type => 'Closed', aggregate_id => 'o1', aggregate_type => 'Order', metadata => '{"trace": "t2"}');
-- the last three: NULL stands for the default
SELECT cqrs.publish('Order', 'o1', 'Returned', '{}', '{}', NULL, NULL, NULL);
-- position order is the order of a query's rows
SELECT cqrs.publish('Order', 'o' || i, 'Placed') FROM generate_series(2, 4) AS i;
SELECT position, aggregate_id, event_type, payload, metadata, aggregate_version, source = current_user AS own
FROM cqrs.outbox ORDER BY position;
SELECT event_id = '6f1b7f9c-0000-4000-8000-000000000001' AS given_id, occurred_at AT TIME ZONE 'UTC' AS occurred_at
FROM cqrs.outbox WHERE position = 3;
SELECT count(DISTINCT event_id), bool_and(occurred_at > now() - interval '1 hour') AS recent
FROM cqrs.outbox WHERE position <> 3;

-- event ids are not checked for repetition: that is the receiver's choice
SELECT cqrs.publish('Order', 'o1', 'Again', event_id => '6f1b7f9c-0000-4000-8000-000000000001');

-- what is required
\set VERBOSITY terse
SELECT cqrs.publish(NULL, 'o1', 'Placed'); \echo :SQLSTATE
SELECT cqrs.publish('Order', NULL, 'Placed'); \echo :SQLSTATE
SELECT cqrs.publish('Order', 'o1', NULL); \echo :SQLSTATE
SELECT cqrs.publish('Order', 'o1', 'Placed', NULL); \echo :SQLSTATE
SELECT cqrs.publish('Order', 'o1', 'Placed', '{}', NULL); \echo :SQLSTATE
SELECT cqrs.publish('Order', 'o1', 'Placed', 'no json'); \echo :SQLSTATE
SELECT cqrs.publish('Order', 'o1', 'Placed', event_id => 'no uuid'); \echo :SQLSTATE
SELECT cqrs.publish('Order', 'o1'); \echo :SQLSTATE
\set VERBOSITY default

-- it is part of the transaction
BEGIN;
SELECT cqrs.publish('Order', 'rolled back', 'Placed') > 0 AS published;
SAVEPOINT s;
SELECT cqrs.publish('Order', 'rolled back', 'Paid') > 0 AS published;
ROLLBACK TO s;
SELECT cqrs.publish('Order', 'rolled back', 'Shipped') > 0 AS published;
SELECT event_type FROM cqrs.outbox WHERE aggregate_id = 'rolled back' ORDER BY position;
ROLLBACK;
SELECT count(*) FROM cqrs.outbox WHERE aggregate_id = 'rolled back';
BEGIN READ ONLY;
\set VERBOSITY terse
SELECT cqrs.publish('Order', 'o1', 'Placed'); \echo :SQLSTATE
\set VERBOSITY default
ROLLBACK;
-- also from a function, a trigger
CREATE TABLE orders (id text, status text);
CREATE FUNCTION order_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM cqrs.publish('Order', NEW.id, 'Order' || TG_OP, to_jsonb(NEW));
	RETURN NEW;
END $$;
CREATE TRIGGER publish AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION order_changed();
INSERT INTO orders VALUES ('t1', 'new'), ('t2', 'new');
UPDATE orders SET status = 'paid' WHERE id = 't1';
SELECT aggregate_id, event_type, payload FROM cqrs.outbox WHERE event_type LIKE 'Order%' ORDER BY position;
DROP TABLE orders;
DROP FUNCTION order_changed;
-- names that users make are not found instead of ours
CREATE FUNCTION public.gen_random_uuid() RETURNS uuid LANGUAGE sql AS $$SELECT '00000000-0000-0000-0000-000000000000'::uuid$$;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT 'epoch'::timestamptz$$;
SET search_path = public, pg_catalog;
SELECT cqrs.publish('Order', 'search_path', 'Placed') > 0 AS published;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Order', 'search_path', 'Paid');
RESET search_path;
SELECT count(*) FROM cqrs.outbox WHERE aggregate_id = 'search_path' AND occurred_at > 'yesterday'
	AND event_id <> '00000000-0000-0000-0000-000000000000';
DROP FUNCTION public.gen_random_uuid, public.clock_timestamp;

-- grant_publish
CREATE ROLE "regress Shop's";
SET ROLE "regress Shop's";
SELECT cqrs.publish('Order', 'o1', 'Placed'); \echo :SQLSTATE
SELECT cqrs.grant_publish('"regress Shop''s"'); \echo :SQLSTATE
RESET ROLE;
SELECT cqrs.grant_publish('"regress Shop''s"');
SELECT cqrs.grant_publish('"regress Shop''s"');
SET ROLE "regress Shop's";
SELECT cqrs.publish('Order', 'granted', 'Placed') > 0 AS published;
RESET ROLE;
SELECT source FROM cqrs.outbox WHERE aggregate_id = 'granted';
-- an event that a trigger keeps from being inserted has no position
CREATE FUNCTION withhold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER withhold BEFORE INSERT ON cqrs.outbox FOR EACH ROW WHEN (NEW.event_type = 'Withheld') EXECUTE FUNCTION withhold();
SELECT cqrs.publish('Order', 'kept', 'Withheld') IS NULL AS withheld;
DROP TRIGGER withhold ON cqrs.outbox;
DROP FUNCTION withhold;
SELECT cqrs.grant_publish(NULL); \echo :SQLSTATE
SELECT cqrs.grant_publish('regress_unknown'); \echo :SQLSTATE
SELECT cqrs.grant_publish(0); \echo :SQLSTATE

DROP EXTENSION cqrs_views;
DROP ROLE "regress Shop's";
