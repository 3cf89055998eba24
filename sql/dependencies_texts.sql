-- What a view's query and a key name can neither go, nor change, nor be taken by something else. It is kept as text.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_stranger;
CREATE SCHEMA app;
CREATE SCHEMA elsewhere;
SET search_path = app;
\set SHOW_CONTEXT never
CREATE FUNCTION label(n numeric) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN ''nr. '' || n; END';
CREATE FUNCTION key_of(id text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(id)';
CREATE FUNCTION glue(a text, b text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT a || b';
CREATE OPERATOR #||# (leftarg = text, rightarg = text, function = glue);
CREATE DOMAIN amount AS int;
CREATE TYPE color AS ENUM ('red', 'green');
CREATE COLLATION ours FROM "C";
CREATE TABLE kept (id text);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO app.kept VALUES (e.aggregate_id); END';
SELECT cqrs.create_projection('kept', 'on_event(cqrs.event)', '{kept}', key => 'key_of(aggregate_id) #||# ((payload->>''n'')::amount)::text');
SELECT cqrs.create_view('labels', $$
	SELECT label(aggregate_version) AS label, aggregate_id COLLATE ours AS id, count(*) AS events,
		max((payload->>'color')::color::text #||# '!'::text) AS color, sum((payload->>'n')::amount::int) AS n FROM events GROUP BY 1, 2 $$);
SELECT cqrs.publish('T', 'a', 'E', '{"n": 1, "color": "red"}', aggregate_version => 1) > 0 AS published;
CALL cqrs.catch_up();

-- functions: of the view
ALTER FUNCTION label RENAME TO another; \echo :SQLSTATE
ALTER FUNCTION label SET SCHEMA elsewhere; \echo :SQLSTATE
ALTER FUNCTION label STABLE; \echo :SQLSTATE
ALTER FUNCTION label OWNER TO regress_stranger; \echo :SQLSTATE
CREATE OR REPLACE FUNCTION label(n numeric) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN n; END'; \echo :SQLSTATE
CREATE FUNCTION label(n bigint) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN n; END'; \echo :SQLSTATE
DROP FUNCTION label; \echo :SQLSTATE
\set VERBOSITY terse
DROP FUNCTION label CASCADE; \echo :SQLSTATE
-- of the key
ALTER FUNCTION key_of RENAME TO another; \echo :SQLSTATE
\set VERBOSITY default
DROP FUNCTION key_of; \echo :SQLSTATE
\set VERBOSITY terse
-- operators, types, collations, and the schemas that they are in
DROP OPERATOR #||# (text, text); \echo :SQLSTATE
ALTER OPERATOR #||# (text, text) SET SCHEMA elsewhere; \echo :SQLSTATE
DROP DOMAIN amount; \echo :SQLSTATE
ALTER DOMAIN amount RENAME TO quantity; \echo :SQLSTATE
ALTER TYPE color RENAME TO colour; \echo :SQLSTATE
DROP TYPE color; \echo :SQLSTATE
ALTER COLLATION ours RENAME TO theirs; \echo :SQLSTATE
ALTER SCHEMA app OWNER TO regress_stranger;
ALTER SCHEMA app OWNER TO CURRENT_USER;
ALTER SCHEMA app RENAME TO app2;
ALTER SCHEMA app2 RENAME TO app;
-- what changes nothing of that
CREATE OR REPLACE FUNCTION label(n numeric) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN ''no. '' || n; END';
ALTER FUNCTION label COST 1000;
ALTER TYPE color ADD VALUE 'blue';
ALTER DOMAIN amount ADD CHECK (VALUE < 1000);
CREATE FUNCTION label(a text, b text) RETURNS text LANGUAGE sql AS 'SELECT a';
DROP FUNCTION label(text, text);
SELECT cqrs.publish('T', 'a', 'E', '{"n": 2, "color": "blue"}', aggregate_version => 2) > 0 AS published;
CALL cqrs.catch_up();
SELECT * FROM labels ORDER BY label;
SELECT name, state, events_parked FROM cqrs.projection_status ORDER BY name;

-- a superuser who insists; and a view that is broken already keeps nobody from anything
SET cqrs_views.allow_writes = on;
ALTER FUNCTION label RENAME TO another;
RESET cqrs_views.allow_writes;
ALTER FUNCTION another RENAME TO yet_another;
SELECT cqrs.publish('T', 'a', 'E', '{"n": 3, "color": "red"}', aggregate_version => 2) > 0 AS published;
DO $$ BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT state = 'stopped' FROM cqrs.projection_status WHERE name = 'labels');
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT split_part(last_error, E'\n', 1) AS last_error FROM cqrs.projection_status WHERE name = 'labels';
ALTER FUNCTION yet_another RENAME TO label;
SELECT cqrs.resume_projection('labels');
CALL cqrs.catch_up('labels');
SELECT * FROM labels ORDER BY label;

-- one that does not come to an end, since a type's input may run a CHECK, holds nobody up
CREATE FUNCTION slow(t text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF current_setting('app.slow', true) = 'yes' THEN PERFORM pg_sleep(3600); END IF;
	RETURN true;
END $$;
CREATE DOMAIN slowly AS text CHECK (app.slow(VALUE));
CREATE TYPE slow_pair AS (a slowly, b text);
SELECT cqrs.create_view('slow', $$SELECT position, ('(x,y)'::slow_pair).b FROM events$$, event_types => '{None}');
SET app.slow = 'yes';
ALTER FUNCTION label COST 10;
RESET app.slow;
ALTER TYPE slow_pair RENAME TO a_pair; \echo :SQLSTATE

-- with the projection, the reason goes
SELECT cqrs.drop_projection('slow', drop_read_tables => true);
SELECT cqrs.alter_projection('kept', key => 'aggregate_id');
DROP FUNCTION key_of;
SELECT cqrs.drop_projection('labels');
DROP FUNCTION label;
DROP OPERATOR #||# (text, text);
TABLE labels;
SELECT cqrs.drop_projection('kept', drop_read_tables => true);
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA app CASCADE;
DROP SCHEMA elsewhere;
DROP EXTENSION cqrs_views;
DROP ROLE regress_stranger;
