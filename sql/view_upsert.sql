-- A single event of an inline view is merged without the executor where that comes to the same; whatever the table and the
-- event, it must. A session where somebody looks on by hooks of the executor's has it do all.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
\set SHOW_CONTEXT never
CREATE ROLE regress_modeller;
CREATE SCHEMA app AUTHORIZATION regress_modeller;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_modeller;
SET ROLE regress_modeller;
SET search_path = app;
SELECT cqrs.create_view('by_key', $$
	SELECT aggregate_id AS id, count(*) AS n, sum((payload->>'x')::integer) AS total, max(payload->>'text') AS largest,
	       cqrs.last(payload->>'text') AS last, max(position) AS last_position
	FROM events WHERE event_type <> 'None' GROUP BY 1 $$, mode => 'inline');
SELECT cqrs.create_view('by_keys', $$
	SELECT payload->>'k' AS k, aggregate_version AS v, count(payload->>'x') AS n, bool_or(payload ? 'text') AS any_text
	FROM events GROUP BY 1, 2 $$, mode => 'inline');
SELECT cqrs.create_view('whole', $$ SELECT count(*) AS n, sum((payload->>'x')::numeric) AS total FROM events $$, mode => 'inline');
RESET search_path;
RESET ROLE;
CREATE FUNCTION publish(id text, payload jsonb DEFAULT '{}', type text DEFAULT 'E') RETURNS void LANGUAGE sql AS $$
	INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('T', id, type, payload) $$;
CREATE FUNCTION publish_or_tell(id text, payload jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM publish(id, payload);
	RETURN 'published';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
-- Are all views what their queries say of all events?
CREATE FUNCTION compare() RETURNS TABLE (view name, rows bigint, differ bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR view IN SELECT name FROM cqrs.projection ORDER BY 1 LOOP
		EXECUTE format('WITH events AS NOT MATERIALIZED (SELECT * FROM cqrs.outbox ORDER BY position), asked AS (%s) '
			'SELECT (SELECT count(*) FROM app.%I), (SELECT count(*) FROM ((SELECT %s FROM app.%2$I EXCEPT ALL TABLE asked) '
			'UNION ALL (TABLE asked EXCEPT ALL SELECT %3$s FROM app.%2$I)) AS d)', cqrs.view_definition(view), view,
			CASE view WHEN 'by_key' THEN 'id, n, total, largest, last, last_position' WHEN 'by_keys' THEN 'k, v, n, any_text' ELSE 'n, total' END)
			INTO rows, differ;
		RETURN NEXT;
	END LOOP;
END $$;

-- the same events, before and after the plans are known, with NULL in keys and values, and values out of line
CREATE PROCEDURE publish_all() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..60 LOOP
		PERFORM publish('a' || i % 3, jsonb_strip_nulls(jsonb_build_object('x', nullif(i % 5, 0), 'k', nullif(i % 4, 0),
			'text', CASE WHEN i % 7 > 0 THEN (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, i % 7 * 40) AS j) END)),
			CASE i % 11 WHEN 0 THEN 'None' ELSE 'E' END);
		IF i % 10 = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END $$;
CALL publish_all();
SELECT * FROM compare();
-- in savepoints that are rolled back, and after errors of the events', of the merged row's, and of constraints'
BEGIN;
SELECT publish('a1', '{"x": 1}');
SAVEPOINT s;
SELECT publish('a1', '{"x": 1}');
ROLLBACK TO s;
SELECT publish_or_tell('a1', '{"x": "one"}');
SELECT publish_or_tell('a1', '{"x": 1}');
COMMIT;
SELECT * FROM compare();
SET cqrs_views.allow_writes = on;
UPDATE app.by_key SET total = 9223372036854775807 WHERE id = 'a2';
SELECT publish_or_tell('a2', '{"x": 1}'), publish_or_tell('a1', '{"x": 1}');
UPDATE app.by_key SET total = (SELECT sum((payload->>'x')::integer) FROM cqrs.outbox WHERE aggregate_id = 'a2' AND event_type <> 'None') WHERE id = 'a2';
RESET cqrs_views.allow_writes;
ALTER TABLE app.by_key ALTER total SET NOT NULL;
SELECT publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a1', '{}'), publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a9', '{}');
ALTER TABLE app.by_key ALTER total DROP NOT NULL;
CREATE UNIQUE INDEX only_one ON app.by_key (n) WHERE n = 1000;
SET cqrs_views.allow_writes = on;
UPDATE app.by_key SET n = n + 1000 - (SELECT n FROM app.by_key WHERE id = 'a1') WHERE id = 'a1';
UPDATE app.by_key SET n = 999 WHERE id = 'a2';
SELECT publish_or_tell('a0'), publish_or_tell('a2');
SELECT publish_or_tell('a2'), publish_or_tell('a0');
DROP INDEX app.only_one;
UPDATE app.by_key SET n = (SELECT count(*) FROM cqrs.outbox WHERE aggregate_id = id AND event_type <> 'None');
RESET cqrs_views.allow_writes;
SELECT * FROM compare();
-- a row that is deleted, by this transaction or another, is inserted again
BEGIN;
SET LOCAL cqrs_views.allow_writes = on;
DELETE FROM app.by_key WHERE id = 'a1';
SELECT publish('a1', '{"x": 1}'), publish('a1', '{"x": 1}');
SELECT n, total FROM app.by_key WHERE id = 'a1';
ROLLBACK;
-- under repeatable read, and where nothing may be written
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT publish('a1', '{"x": 1}'), publish('a1', '{"x": 1}');
COMMIT;
-- indexes on what changes, columns that come and go
CREATE INDEX ON app.by_key (n, upper(left(largest, 9)));
ALTER TABLE app.by_key ADD COLUMN note text DEFAULT 'none', ADD COLUMN gone integer;
SELECT publish('a1', '{"x": 1}'), publish('a1', '{"x": 1, "text": "zzz"}');
SELECT publish('a2', '{"x": 1}'), publish('a0', '{"x": 1}');
ALTER TABLE app.by_key DROP COLUMN gone;
ALTER TABLE app.by_key RENAME COLUMN total TO summed;
SELECT publish('a1', '{"x": 1}'), publish('a1', '{"x": 1}'), publish('a10', '{"x": 1}'), publish('a10', '{"x": 1}');
ALTER TABLE app.by_key RENAME COLUMN summed TO total;
SELECT id, note FROM app.by_key ORDER BY id;
SET enable_seqscan = off;
SELECT id FROM app.by_key WHERE n = 2 AND upper(left(largest, 9)) IS NULL;
RESET enable_seqscan;
CALL publish_all();
SELECT * FROM compare();

-- rights of the owner's are asked for each time
REVOKE UPDATE ON app.by_key FROM regress_modeller;
SELECT publish_or_tell('a1', '{"x": 1}');
GRANT UPDATE ON app.by_key TO regress_modeller;
SELECT publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a1', '{"x": 1}');
BEGIN;
REVOKE EXECUTE ON FUNCTION pg_catalog.int8pl(bigint, bigint) FROM PUBLIC;
SELECT publish_or_tell('a1', '{"x": 1}');
ROLLBACK;
SELECT publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a1', '{"x": 1}');
-- a publication that wants a replica identity
SELECT publish_or_tell('a1', '{"x": 1}');
BEGIN;
SET LOCAL client_min_messages = error;
ALTER TABLE app.by_key REPLICA IDENTITY NOTHING;
CREATE PUBLICATION regress_updates FOR TABLE app.by_key;
SELECT publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a1', '{"x": 1}');
ROLLBACK;
SELECT * FROM compare();

-- memberships, too
SELECT publish_or_tell('a1', '{"x": 1}');
BEGIN;
CREATE ROLE regress_adders;
GRANT regress_adders TO regress_modeller;
REVOKE EXECUTE ON FUNCTION pg_catalog.int8pl(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION pg_catalog.int8pl(bigint, bigint) TO regress_adders;
SELECT publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a1', '{"x": 1}');
REVOKE regress_adders FROM regress_modeller;
SELECT publish_or_tell('a1', '{"x": 1}');
ROLLBACK;
-- a trigger that calls a function of ours
SELECT publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a1', '{"x": 1}');
CREATE TRIGGER own AFTER UPDATE ON app.by_key FOR EACH ROW EXECUTE FUNCTION cqrs.guard_read_table();
SELECT publish_or_tell('a1', '{"x": 1}'), publish_or_tell('a1', '{"x": 1}');
DROP TRIGGER own ON app.by_key;
-- a function of PostgreSQL's that is written in SQL, and has begun when an error ends it
SELECT cqrs.create_view('overlapping', $$
	SELECT aggregate_id AS id, count(*) AS n, count(*) FILTER (WHERE
		(make_timestamp((payload->>'y')::int, (payload->>'m')::int, (payload->>'m')::int, (payload->>'m')::int, (payload->>'m')::int, 0),
		 make_interval((payload->>'i')::int, (payload->>'z')::int, (payload->>'z')::int, (payload->>'z')::int, (payload->>'z')::int))
		OVERLAPS
		(make_timestamp((payload->>'y')::int, (payload->>'m')::int, (payload->>'m')::int, (payload->>'m')::int, (payload->>'m')::int, 0),
		 make_interval((payload->>'i')::int, (payload->>'z')::int, (payload->>'z')::int, (payload->>'z')::int, (payload->>'z')::int))) AS o
	FROM events WHERE event_type = 'Over' GROUP BY 1 $$, mode => 'inline');
CREATE FUNCTION publish_over(i int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM publish('o', jsonb_build_object('y', 2000, 'm', 1, 'z', 0, 'i', i), 'Over');
	RETURN 'published';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
SELECT publish('o', jsonb_build_object('y', 2000, 'm', 1, 'z', 0, 'i', 1), 'Over') FROM generate_series(1, 3);
BEGIN;
SELECT publish('o', jsonb_build_object('y', 2000, 'm', 1, 'z', 0, 'i', 1), 'Over');
SELECT publish_over(178000000);
SELECT publish_over(1);
COMMIT;
SELECT * FROM overlapping;
SELECT cqrs.drop_projection('overlapping', true);
DROP FUNCTION publish_over;

-- old versions of rows are removed while there is room, of whatever width the rows are: each event is a transaction of its own
CREATE PROCEDURE publish_apart(n int, rows int, width int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		PERFORM publish('w' || width || '-' || i % rows, jsonb_build_object('x', 1, 'k', width, 'text', repeat('t', width)));
		COMMIT;
	END LOOP;
END $$;
CALL publish_apart(4000, 40, 10);
CALL publish_apart(1000, 20, 500);
SELECT pg_relation_size('app.by_key') / 8192 < 60 AS pruned, pg_relation_size('app.by_key_pkey') / 8192 < 10 AS in_place FROM app.by_key LIMIT 1;
SELECT * FROM compare();
-- by another index, and without one
ALTER TABLE app.by_keys DROP CONSTRAINT by_keys_k_v_key;
SELECT publish_or_tell('a1', '{"x": 1, "k": 10}');
ALTER TABLE app.by_keys ADD CONSTRAINT again UNIQUE (v, k);
SELECT publish_or_tell('a1', '{"x": 1, "k": 10}');
ALTER TABLE app.by_keys DROP CONSTRAINT again, ADD CONSTRAINT again UNIQUE NULLS NOT DISTINCT (v, k);
SELECT publish_or_tell('a1', '{"x": 1, "k": 10}'), publish_or_tell('a1', '{"x": 1, "k": 10}'), publish_or_tell('a1', '{"x": 1}');
REINDEX TABLE app.by_keys;
SELECT publish_or_tell('a1', '{"x": 1, "k": 10}'), publish_or_tell('a1', '{"x": 1}');
SELECT * FROM compare();

-- with somebody who looks on
LOAD 'auto_explain';
CALL publish_all();
SELECT publish_or_tell('a1', '{"x": "one"}'), publish_or_tell('a1', '{"x": 1}');
SELECT * FROM compare();

SELECT cqrs.drop_projection(name, drop_read_tables => true) FROM cqrs.projection;
DROP FUNCTION publish, publish_or_tell, compare;
DROP PROCEDURE publish_all, publish_apart;
DROP SCHEMA app;
SET client_min_messages = warning;
DROP OWNED BY regress_modeller;
DROP ROLE regress_modeller;
DROP EXTENSION cqrs_views;
