-- A handler leaves nothing in the session of a superuser who publishes, retries, catches up or rebuilds that would run, be read or be lost there.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
\set SHOW_CONTEXT never
CREATE ROLE regress_owner;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_owner;
CREATE SCHEMA app AUTHORIZATION regress_owner;
CREATE TABLE secrets AS SELECT 'secret ' || i AS secret FROM generate_series(1, 3) AS i;

SET ROLE regress_owner;
SET search_path = app;
CREATE TABLE loot (by text, who name);
GRANT INSERT ON loot TO PUBLIC;
CREATE FUNCTION steal(by text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.loot VALUES (by, current_user);
	RETURN 'stolen';
END $$;
CREATE FUNCTION steals(by text) RETURNS boolean LANGUAGE sql AS 'SELECT app.steal(by) IS NOT NULL';
CREATE TABLE tried (n int GENERATED ALWAYS AS IDENTITY, what text CHECK (what <> 'fail'), outcome text);
-- each event brings what to do, and a name for it
CREATE FUNCTION try(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	BEGIN
		IF e.payload->>'sql' ~ '^SELECT' THEN
			EXECUTE e.payload->>'sql' INTO result;
		ELSE
			EXECUTE e.payload->>'sql';
		END IF;
		INSERT INTO tried (what, outcome) VALUES (e.aggregate_id, coalesce('ok, ' || result, 'ok'));
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO tried (what, outcome) VALUES (e.aggregate_id, SQLSTATE || ' ' || SQLERRM);
	END;
END $$;
CREATE FUNCTION replace_cursor(c refcursor) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CLOSE c;
	OPEN c FOR SELECT app.steal('cursor ' || c) UNION ALL SELECT app.steal('cursor ' || c);
END $$;
CREATE FUNCTION read_cursor(c refcursor) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	FETCH c INTO result;
	RETURN result;
END $$;
CREATE FUNCTION open_cursor(c refcursor) RETURNS refcursor LANGUAGE plpgsql AS $$
BEGIN
	OPEN c FOR SELECT app.steal('cursor ' || c);
	RETURN c;
END $$;
SELECT cqrs.create_projection('try', 'try(cqrs.event)', '{tried}', mode => 'inline');
RESET ROLE;
RESET search_path;
CREATE FUNCTION try(what text, sql text) RETURNS void LANGUAGE sql AS
	$$ SELECT cqrs.publish('Try', what, 'Try', jsonb_build_object('sql', sql)) $$;

-- the publisher's cursors: not to be closed and replaced, not to be read; those of the handler go
BEGIN;
DECLARE mine CURSOR FOR TABLE secrets;
FETCH mine;
SELECT try('close a cursor', 'SELECT app.replace_cursor(''mine'')');
SELECT try('read a cursor', 'SELECT app.read_cursor(''mine'')');
SELECT try('open a cursor', 'SELECT app.open_cursor(''planted'')');
SELECT try('declare a cursor', 'DECLARE declared CURSOR FOR SELECT app.steal(''cursor'')');
SELECT name FROM pg_cursors WHERE name <> '' ORDER BY name;
SAVEPOINT s;
SELECT try('fail', 'SELECT 1');
ROLLBACK TO s;
FETCH mine;
COMMIT;
-- also where the publisher did not get through with it, and where it has a name that it did not choose
CREATE FUNCTION publish_in_the_midst(what text, how text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	c refcursor;
	secret text;
BEGIN
	OPEN c FOR TABLE secrets;
	FETCH c INTO secret;
	RETURN NEXT secret;
	BEGIN
		FETCH c INTO secret;
		RETURN NEXT secret;
		PERFORM try(what, format(how, c));
		ASSERT false;
	EXCEPTION WHEN assert_failure THEN
		RETURN NEXT 'failed';
	END;
	PERFORM try(what, format(how, c));
	FETCH c INTO secret;
	RETURN NEXT secret;
	CLOSE c;
END $$;
SELECT * FROM publish_in_the_midst('close an unnamed cursor', 'SELECT app.replace_cursor(%L)');
-- one that outlives transactions, under the procedures too
BEGIN;
DECLARE held CURSOR WITH HOLD FOR TABLE secrets;
COMMIT;
SELECT try('close a held cursor', 'SELECT app.replace_cursor(''held'')');
SELECT try('fail', 'SELECT 1');
SELECT what, outcome FROM app.tried ORDER BY n;
CALL cqrs.rebuild_projection('try');
FETCH ALL FROM held;
CLOSE held;
TABLE app.loot;

-- types in the session's temporary schema, which stand before all others: inline, and by each way to apply events by hand
SET ROLE regress_owner;
SELECT cqrs.drop_projection('try');
TRUNCATE app.tried;
SET search_path = app;
SELECT cqrs.create_projection('try', 'app.try(cqrs.event)', '{app.tried}', mode => 'inline', start_at => 'now');
RESET search_path;
RESET ROLE;
SELECT try('plant a domain', 'CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid CHECK (app.steals(''inline''))');
SELECT '6b4f7cde-76ab-4f5a-b4ba-2ea2cd0ad5c1'::uuid IS NOT NULL AS harmless;
CREATE TEMP TABLE makes_a_temporary_schema ();
SELECT try('plant a type', 'CREATE TYPE pg_temp.date AS ENUM (''today'')');
SELECT try('plant a function', 'CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS ''SELECT app.steal(current_query())''');
SELECT try('plant a table', 'CREATE TABLE pg_temp.secrets (secret text)');
SET ROLE regress_owner;
SELECT cqrs.alter_projection('try', mode => 'async');
RESET ROLE;
SELECT try('plant a domain', 'CREATE DOMAIN pg_temp.uuid AS pg_catalog.uuid CHECK (app.steals(''by hand''))');
CALL cqrs.catch_up('try');
SELECT '6b4f7cde-76ab-4f5a-b4ba-2ea2cd0ad5c1'::uuid IS NOT NULL AS harmless;
CALL cqrs.rebuild_projection('try');
SELECT '6b4f7cde-76ab-4f5a-b4ba-2ea2cd0ad5c1'::uuid IS NOT NULL AS harmless;
SELECT DISTINCT what, left(outcome, 5) FROM app.tried WHERE what ~ 'plant' ORDER BY 1;
SELECT count(*) FROM pg_type WHERE typnamespace = pg_my_temp_schema() AND typname !~ 'makes_a';
TABLE app.loot;

-- large objects that the publisher has open, its locks, and what random() gives it
SET ROLE regress_owner;
SELECT cqrs.drop_projection('try');
TRUNCATE app.tried;
SET search_path = app;
SELECT cqrs.create_projection('try', 'app.try(cqrs.event)', '{app.tried}', mode => 'inline', start_at => 'now');
RESET search_path;
RESET ROLE;
SELECT pg_advisory_lock(815);
BEGIN;
SELECT lo_from_bytea(0, 'secret object') AS object \gset
SELECT lo_open(:object, 393216) AS fd;
SELECT try('read a large object', 'SELECT convert_from(loread(0, 100), ''UTF8'')');
SELECT try('close a large object', 'SELECT lo_close(0)');
SELECT try('open a large object', 'SELECT lo_open(lo_create(0), 131072)');
SELECT try('write a large object', 'SELECT lo_put(lo_create(0), 0, ''mine'') IS NOT NULL');
SELECT try('unlock', 'SELECT pg_advisory_unlock(815)');
SELECT try('unlock all', 'SELECT pg_advisory_unlock_all()');
SELECT try('lock', 'SELECT pg_advisory_lock(4711)');
SELECT try('lock until the end of the transaction', 'SELECT pg_advisory_xact_lock(4711)');
SELECT try('set the seed', 'SELECT setseed(0.5)');
-- under another name
SET LOCAL ROLE regress_owner;
CREATE OPERATOR app.=== (leftarg = int, rightarg = int, function = loread);
RESET ROLE;
SELECT try('read by an operator', 'SELECT convert_from(0 OPERATOR(app.===) 100, ''UTF8'')');
SELECT convert_from(loread(0, 100), 'UTF8') AS ours;
SELECT what, outcome FROM app.tried ORDER BY n;
ROLLBACK;
SELECT pg_advisory_unlock(815) AS still_held;

\set VERBOSITY terse
SELECT cqrs.drop_projection('try');
DROP FUNCTION try, publish_in_the_midst;
DROP SCHEMA app CASCADE;
DROP TABLE secrets, pg_temp.makes_a_temporary_schema;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner;
