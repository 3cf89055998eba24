-- Handlers that publish: what they publish is an event like any other, for themselves too.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE orders (id text PRIMARY KEY, status text);
CREATE FUNCTION on_order(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO orders VALUES (e.aggregate_id, e.event_type) ON CONFLICT (id) DO UPDATE SET status = excluded.status;
	IF e.event_type = 'Placed' THEN
		PERFORM cqrs.publish('Order', e.aggregate_id, 'Accepted');
	ELSIF e.event_type = 'Accepted' THEN
		PERFORM cqrs.publish('Invoice', 'i' || e.aggregate_id, 'Written', jsonb_build_object('order', e.aggregate_id));
	END IF;
END $$;
CREATE TABLE invoices (id text PRIMARY KEY, status_of_order text);
CREATE FUNCTION on_invoice() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO invoices SELECT e.aggregate_id, (SELECT status FROM orders o WHERE o.id = e.payload->>'order') FROM events e;
	RETURN NULL;
END $$;

-- async: in the batch's transaction, so processed after it
SELECT cqrs.create_projection('orders', 'on_order(cqrs.event)', '{orders}', aggregate_types => '{Order}');
SELECT cqrs.create_projection('invoices', 'on_invoice()', '{invoices}', aggregate_types => '{Invoice}');
SELECT cqrs.publish('Order', 'async', 'Placed') > 0 AS published;
-- what the handler publishes is committed after the call, so it takes three calls to see all; workers may be quicker
CALL cqrs.catch_up();
CALL cqrs.catch_up();
CALL cqrs.catch_up();
TABLE orders;
TABLE invoices;
SELECT aggregate_type, aggregate_id, event_type FROM cqrs.outbox ORDER BY position;

-- inline: at once, one inside the other
SELECT cqrs.alter_projection('orders', mode => 'inline');
SELECT cqrs.alter_projection('invoices', mode => 'inline');
SELECT cqrs.publish('Order', 'inline', 'Placed') > 0 AS published;
TABLE orders ORDER BY id;
TABLE invoices ORDER BY id;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
SELECT 'Order', 'many ' || i, 'Placed' FROM generate_series(1, 20) AS i;
SELECT status, count(*) FROM orders GROUP BY status;
SELECT status_of_order, count(*) FROM invoices GROUP BY status_of_order;
SELECT count(*) FROM cqrs.outbox;
-- it is the projection's owner who publishes, in the publisher's transaction
SELECT count(DISTINCT xid), count(DISTINCT source) FROM cqrs.outbox WHERE aggregate_id ~ 'inline';
-- nothing of it stays when the outer statement fails
\set VERBOSITY terse
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
SELECT 'Order', 'fails ' || i, CASE WHEN i = 3 THEN NULL ELSE 'Placed' END FROM generate_series(1, 3) AS i; \echo :SQLSTATE
\set VERBOSITY default
SELECT count(*) FROM orders WHERE id ~ 'fails';
BEGIN;
SELECT cqrs.publish('Order', 'undone', 'Placed') > 0 AS published;
ROLLBACK;
SELECT count(*) FROM orders WHERE id = 'undone';
SELECT count(*) FROM invoices WHERE id = 'iundone';

-- one of each: an async handler that publishes for an inline one
SELECT cqrs.alter_projection('orders', mode => 'async');
SELECT cqrs.publish('Order', 'mixed', 'Placed') > 0 AS published;
CALL cqrs.catch_up('orders');
CALL cqrs.catch_up('orders');
SELECT * FROM orders WHERE id = 'mixed';
SELECT * FROM invoices WHERE id = 'imixed';

-- what a handler publishes overtakes neither its cause nor the rest of the statement, in any projection
CREATE TABLE first (n int GENERATED ALWAYS AS IDENTITY, position bigint, event_type text);
CREATE TABLE second (LIKE first INCLUDING IDENTITY);
CREATE FUNCTION to_first(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO first (position, event_type) VALUES (e.position, e.event_type);
	IF e.event_type = 'Asked' THEN
		PERFORM cqrs.publish('Chain', '1', 'Answered');
		-- what a handler's subtransaction rolls back was not published
		BEGIN
			PERFORM cqrs.publish('Chain', '1', 'Regretted');
			RAISE 'regret';
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	ELSIF e.event_type = 'Answered' THEN
		PERFORM cqrs.publish('Chain', '1', 'Thanked');
	END IF;
END $$;
CREATE FUNCTION to_second() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO second (position, event_type) SELECT position, event_type FROM events ORDER BY position;
	RETURN NULL;
END $$;
SELECT cqrs.create_projection('first', 'to_first(cqrs.event)', '{first}', mode => 'inline', aggregate_types => '{Chain}');
SELECT cqrs.create_projection('second', 'to_second()', '{second}', mode => 'inline', aggregate_types => '{Chain}');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Chain', '1', 'Asked'), ('Chain', '1', 'Waited'), ('Chain', '1', 'Asked');
SELECT f.event_type AS first, s.event_type AS second, f.position = s.position AS same FROM first f FULL JOIN second s USING (n) ORDER BY n;

-- one that never ends is ended, and nothing of it stays
CREATE TABLE endless (n bigint);
CREATE FUNCTION endless(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO endless VALUES (e.position);
	PERFORM cqrs.publish('Endless', '1', 'Again');
END $$;
SELECT cqrs.create_projection('endless', 'endless(cqrs.event)', '{endless}', mode => 'inline', aggregate_types => '{Endless}');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Endless', '1', 'Once'); \echo :SQLSTATE
SELECT count(*) FROM endless;
SELECT count(*) FROM cqrs.outbox WHERE aggregate_type = 'Endless';

-- all in all
SELECT count(*) AS differences FROM orders FULL JOIN (
	SELECT DISTINCT ON (aggregate_id) aggregate_id AS id, event_type AS status FROM cqrs.outbox
	WHERE aggregate_type = 'Order' ORDER BY aggregate_id, position DESC) o USING (id, status)
WHERE orders IS NULL OR o IS NULL;
SELECT count(*) AS differences FROM invoices FULL JOIN (
	SELECT aggregate_id AS id FROM cqrs.outbox WHERE aggregate_type = 'Invoice') i USING (id)
WHERE invoices IS NULL OR i IS NULL;

DROP FUNCTION on_order, on_invoice, to_first, to_second, endless;
SELECT count(cqrs.drop_projection(name, true)) FROM cqrs.projection;
DROP EXTENSION cqrs_views;
