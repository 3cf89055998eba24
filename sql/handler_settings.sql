-- What a handler does doesn't depend on who publishes: settings that anybody may change, and that change what SQL, a
-- function or an index does, have their defaults. By the function that a session first calls, and once it knows it.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_modeller;
CREATE ROLE regress_publisher;
SELECT cqrs.grant_publish('regress_publisher');
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_modeller;
CREATE SCHEMA app AUTHORIZATION regress_modeller;
SET ROLE regress_modeller;
SET search_path = app;
CREATE TABLE tags AS SELECT i, ARRAY[1] AS t FROM generate_series(1, 20000) AS i;
CREATE INDEX ON tags USING gin (t);
ANALYZE tags;
CREATE VIEW ones AS SELECT 1 AS one;
CREATE TABLE handled (id text, found bigint, said text, one int);
ALTER TABLE handled ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON handled USING (true) WITH CHECK (true);
CREATE FUNCTION handle(e cqrs.event) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
	x int;
BEGIN
	ASSERT (e.payload->>'n')::int >= 0, 'negative';
	SELECT v INTO x FROM (VALUES (1), (2)) AS t (v);
	INSERT INTO handled SELECT e.aggregate_id, count(*), E'it\'s', (SELECT one FROM ones) FROM tags WHERE t @> ARRAY[1];
END $$;
SELECT cqrs.create_projection('handled', 'handle(cqrs.event)', '{handled}', mode => 'inline', on_error => 'stop');
\c
SET ROLE regress_publisher;
SET gin_fuzzy_search_limit = 100;
SET backslash_quote = off;
SET row_security = off;
SET plpgsql.check_asserts = off;
SET plpgsql.extra_errors = 'all';
SET plpgsql.extra_warnings = 'all';
SET restrict_nonsystem_relation_kind = 'view';
\set SHOW_CONTEXT never
SELECT cqrs.publish('T', 'a', 'E', '{"n": -1}');
SELECT cqrs.publish('T', 'b', 'E', '{"n": 1}') > 0 AS published;
SELECT cqrs.publish('T', 'c', 'E', '{"n": -1}');
SELECT cqrs.publish('T', 'd', 'E', '{"n": 1}') > 0 AS published;
-- they are as they were
SHOW plpgsql.check_asserts;
SHOW plpgsql.extra_errors;
SHOW gin_fuzzy_search_limit;
SHOW row_security;
\c
TABLE app.handled;
SELECT cqrs.drop_projection('handled');
DROP SCHEMA app CASCADE;
DROP OWNED BY regress_modeller, regress_publisher;
DROP ROLE regress_modeller, regress_publisher;
DROP EXTENSION cqrs_views;
