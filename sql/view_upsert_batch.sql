-- Many events of a view are merged without ModifyTable where that comes to the same; whatever the table and the events, it
-- must. Who locks a row before an update leaves a trace in the new version's xmax: that tells which way it was merged.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
\set SHOW_CONTEXT never
CREATE ROLE regress_modeller;
CREATE SCHEMA app AUTHORIZATION regress_modeller;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_modeller;
SET ROLE regress_modeller;
SET search_path = app;
SELECT cqrs.create_view('by_key', $$
	SELECT aggregate_id AS id, count(*) AS n, sum((payload->>'x')::integer) AS total, max(payload->>'text') AS largest
	FROM events WHERE event_type <> 'None' GROUP BY 1 $$, batch_size => 200);
SELECT cqrs.create_view('inline', cqrs.view_definition('by_key'), mode => 'inline');
SELECT cqrs.create_view('by_keys', $$
	SELECT payload->>'k' AS k, aggregate_version AS v, count(payload->>'x') AS n, bool_or(payload ? 'text') AS any_text
	FROM events GROUP BY 1, 2 $$, mode => 'inline');
SELECT cqrs.create_view('whole', $$ SELECT count(*) AS n, sum((payload->>'x')::numeric) AS total FROM events $$, batch_size => 200);
SELECT cqrs.create_view('zoned', $$
	SELECT (payload->>'at')::timestamptz AS at, count(*) AS n FROM events WHERE payload ? 'at' GROUP BY 1 $$, mode => 'inline');
RESET search_path;
RESET ROLE;
-- Events of keys with some numbers, in one statement.
CREATE FUNCTION publish(begin_at int, end_at int, rows int) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
	SELECT 'T', 'a' || i % rows, CASE i % 11 WHEN 0 THEN 'None' ELSE 'E' END, jsonb_strip_nulls(jsonb_build_object(
		'x', nullif(i % 5, 0), 'k', nullif(i % 4, 0), 'at', '2026-01-01 00:00Z'::timestamptz + interval '1 hour' * (i % 3),
		'text', CASE WHEN i % 97 = 1 THEN (SELECT string_agg(md5((i * j)::text), '') FROM generate_series(1, 100) AS j) ELSE i::text END))
	FROM generate_series(begin_at, end_at) AS i $$;
-- The same, and what becomes of it.
CREATE FUNCTION try(begin_at int, end_at int, rows int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM publish(begin_at, end_at, rows);
	RETURN 'published';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
-- Are all views what their queries say of all events, and have rows of inline ones been locked before they were updated? (Of others
-- it may be a worker that updates them.)
CREATE FUNCTION compare() RETURNS TABLE (view name, rows bigint, differ bigint, locked_first bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOR view IN SELECT name FROM cqrs.projection ORDER BY 1 LOOP
		EXECUTE format('WITH events AS NOT MATERIALIZED (SELECT * FROM cqrs.outbox ORDER BY position), asked AS (%s) '
			'SELECT (SELECT count(*) FROM app.%I), (SELECT count(*) FROM ((SELECT %s FROM app.%2$I EXCEPT ALL TABLE asked) '
			'UNION ALL (TABLE asked EXCEPT ALL SELECT %3$s FROM app.%2$I)) AS d), (SELECT count(*) FROM app.%2$I WHERE xmax <> 0)',
			cqrs.view_definition(view), view, CASE view WHEN 'by_keys' THEN 'k, v, n, any_text' WHEN 'whole' THEN 'n, total' WHEN 'zoned' THEN 'at, n'
			ELSE 'id, n, total, largest' END) INTO rows, differ, locked_first;
		IF view IN ('by_key', 'whole') THEN
			locked_first := NULL;
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;

-- new rows, then old ones and new ones, so that most are missing, and are not
SELECT publish(1, 500, 100);
CALL cqrs.catch_up();
SELECT * FROM compare();
SELECT publish(1, 900, 300);
CALL cqrs.catch_up();
SELECT publish(1, 1000, 310), publish(1, 3, 310), publish(5, 5, 310);
CALL cqrs.catch_up();
SELECT * FROM compare();
-- in transactions and savepoints, where a row is merged again and again
BEGIN;
SELECT publish(1, 50, 10), publish(1, 50, 10);
SAVEPOINT s;
SELECT publish(1, 50, 10);
ROLLBACK TO s;
SELECT publish(1, 30, 10);
COMMIT;
CALL cqrs.catch_up();
SELECT * FROM compare();

-- indexes on what changes: versions in other places, whose old entries are found dead by the batches that follow
CREATE INDEX ON app.by_key (n, upper(left(largest, 9)));
CREATE INDEX ON app.inline (total);
SELECT publish(1, 1000, 100);
CALL cqrs.catch_up();
SELECT publish(1, 1000, 100);
CALL cqrs.catch_up();
SELECT publish(1, 1000, 100);
CALL cqrs.catch_up();
SELECT * FROM compare();
SET enable_seqscan = off;
SELECT count(*) FROM app.inline WHERE total = (SELECT max(total) FROM app.inline);
RESET enable_seqscan;
-- columns that come and go
ALTER TABLE app.inline ADD COLUMN note text DEFAULT 'none', ADD COLUMN gone integer;
SELECT publish(1, 40, 400);
ALTER TABLE app.inline DROP COLUMN gone;
ALTER TABLE app.inline RENAME COLUMN total TO summed;
SELECT publish(1, 450, 450);
ALTER TABLE app.inline RENAME COLUMN summed TO total;
SELECT note, count(*) FROM app.inline GROUP BY 1;
CALL cqrs.catch_up();
SELECT * FROM compare();

-- errors, of which nothing stays: of an event, of what is merged, of constraints
SELECT publish(1, 20, 20);
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'T', 'a' || i, 'E', jsonb_build_object('x', CASE WHEN i = 9 THEN 'nine' ELSE '1' END) FROM generate_series(1, 20) AS i;
SET cqrs_views.allow_writes = on;
UPDATE app.inline SET total = 9223372036854775807 WHERE id = 'a2';
SELECT try(1, 20, 20);
UPDATE app.inline SET total = (SELECT sum((payload->>'x')::integer) FROM cqrs.outbox WHERE aggregate_id = 'a2' AND event_type <> 'None') WHERE id = 'a2';
RESET cqrs_views.allow_writes;
ALTER TABLE app.inline ALTER largest SET NOT NULL;
SELECT try(1, 20, 20);
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) SELECT 'T', 'n' || i, 'E', '{"x": 1}' FROM generate_series(1, 20) AS i;
ALTER TABLE app.inline ALTER largest DROP NOT NULL;
CREATE UNIQUE INDEX only_one ON app.inline (n) WHERE n = 1000;
SET cqrs_views.allow_writes = on;
UPDATE app.inline SET n = 999 WHERE id IN ('a1', 'a2');
SELECT try(1, 5, 20);
DROP INDEX app.only_one;
UPDATE app.inline SET n = (SELECT count(*) FROM cqrs.outbox WHERE aggregate_id = id AND event_type <> 'None') WHERE id IN ('a1', 'a2');
RESET cqrs_views.allow_writes;
SELECT * FROM compare() WHERE view <> 'by_key' AND view <> 'whole';
-- what else is asked when a row is written makes it the executor's
ALTER TABLE app.inline ADD CONSTRAINT few CHECK (n < 100000);
SELECT publish(1, 20, 20);
SELECT * FROM compare() WHERE view = 'inline';
ALTER TABLE app.inline DROP CONSTRAINT few;
CREATE TABLE seen (id text, n bigint);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN INSERT INTO public.seen VALUES (NEW.id, NEW.n - OLD.n); RETURN NULL; END $$;
CREATE TRIGGER own AFTER UPDATE ON app.inline FOR EACH ROW EXECUTE FUNCTION see();
SELECT publish(1, 20, 20);
SELECT count(*), sum(n) FROM seen;
DROP TRIGGER own ON app.inline;
SELECT publish(1, 20, 20);
SELECT count(*), sum(n) FROM seen;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT publish(1, 20, 20);
COMMIT;
CALL cqrs.catch_up();
SELECT * FROM compare();

-- the owner's rights, which have to be there each time
REVOKE UPDATE ON app.inline FROM regress_modeller;
SELECT try(1, 20, 20);
GRANT UPDATE ON app.inline TO regress_modeller;
REVOKE INSERT ON app.inline FROM regress_modeller;
SELECT try(1, 20, 20);
GRANT INSERT ON app.inline TO regress_modeller;
SELECT try(1, 20, 20);
BEGIN;
REVOKE EXECUTE ON FUNCTION pg_catalog.int8pl(bigint, bigint) FROM PUBLIC;
SELECT try(1, 20, 20);
ROLLBACK;
-- a publication that wants a replica identity
BEGIN;
SET LOCAL client_min_messages = error;
ALTER TABLE app.inline REPLICA IDENTITY NOTHING;
CREATE PUBLICATION regress_updates FOR TABLE app.inline;
SELECT try(1, 20, 20);
ROLLBACK;
SELECT try(1, 20, 20);
-- by another index
ALTER TABLE app.by_keys DROP CONSTRAINT by_keys_k_v_key;
SELECT try(1, 20, 20);
ALTER TABLE app.by_keys ADD CONSTRAINT again UNIQUE NULLS NOT DISTINCT (v, k);
SELECT try(1, 20, 20), try(1, 20, 20);
SET TimeZone = 'Asia/Tokyo';
SELECT try(1, 20, 20), try(1, 20, 20);
RESET TimeZone;
CALL cqrs.catch_up();
SELECT * FROM compare();
-- rebuilt, first without a row that is there, and then with all of them
CALL cqrs.rebuild_projection('by_key');
CALL cqrs.rebuild_projection('inline');
SELECT * FROM compare();

-- with somebody who looks on, it is all the executor's
LOAD 'auto_explain';
SELECT publish(1, 1000, 310);
CALL cqrs.catch_up();
SELECT view, rows, differ, locked_first > 0 AS locked_first FROM compare();

SELECT cqrs.drop_projection(name, true) FROM cqrs.projection ORDER BY name;
DROP OWNED BY regress_modeller;
DROP ROLE regress_modeller;
DROP FUNCTION publish, try, compare, see;
DROP TABLE seen;
DROP EXTENSION cqrs_views;
