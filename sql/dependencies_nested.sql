-- Commands run commands: event triggers do, and so may the CHECK of a domain. Each keeps what was noted when it began.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA app;
CREATE SCHEMA aside;
SET search_path = app;
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE TABLE kept (id text);
CREATE TABLE more (id text);
CREATE FUNCTION key_of(id text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(id)';
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO kept VALUES (e.aggregate_id); END';
CREATE FUNCTION on_more(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO more VALUES (e.aggregate_id); END';
CREATE FUNCTION aside.other() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE VIEW aside.texts AS SELECT name, handler, settings[1] AS path FROM cqrs.registry ORDER BY id;
SELECT cqrs.create_projection('kept', 'on_event(cqrs.event)', '{kept}', key => 'key_of(aggregate_id)');

-- by an event trigger, after the command and before ours
CREATE FUNCTION aside.audit() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN ALTER FUNCTION aside.other() COST 7; END';
CREATE EVENT TRIGGER audit ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA', 'DROP FUNCTION') EXECUTE FUNCTION aside.audit();
ALTER SCHEMA app RENAME TO app2;
TABLE aside.texts;
DROP FUNCTION app2.key_of; \echo :SQLSTATE
-- one that fails, and one that is undone
CREATE OR REPLACE FUNCTION aside.audit() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	BEGIN
		ALTER FUNCTION aside.missing() COST 7;
	EXCEPTION WHEN undefined_function THEN NULL; END;
	BEGIN
		ALTER FUNCTION app3.on_event RENAME TO never;
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN NULL; END;
END $$;
ALTER SCHEMA app2 RENAME TO app3;
TABLE aside.texts;
DROP EVENT TRIGGER audit;

-- by one before the command and after ours: a handler gets two names at once
CREATE FUNCTION aside.ahead() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN ALTER SCHEMA app3 RENAME TO app4; END';
CREATE EVENT TRIGGER later ON ddl_command_start WHEN TAG IN ('ALTER ROUTINE') EXECUTE FUNCTION aside.ahead();
ALTER ROUTINE app4.on_event RENAME TO handle;
TABLE aside.texts;
DROP EVENT TRIGGER later;

-- commands that begin and come to no end: by an error, and by a superuser who insists in the midst of one
BEGIN;
DO $$ BEGIN ALTER FUNCTION aside.missing() COST 7; EXCEPTION WHEN undefined_function THEN NULL; END $$;
SAVEPOINT s;
ALTER SCHEMA app4 RENAME TO aside; \echo :SQLSTATE
ROLLBACK TO s;
ALTER SCHEMA app4 RENAME TO app;
COMMIT;
TABLE aside.texts;
DROP FUNCTION app.key_of; \echo :SQLSTATE
CREATE FUNCTION aside.insist() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM set_config('cqrs_views.allow_writes', 'on', true);
END $$;
CREATE EVENT TRIGGER audit ON ddl_command_end WHEN TAG IN ('ALTER AGGREGATE', 'ALTER FUNCTION') EXECUTE FUNCTION aside.insist();
BEGIN;
ALTER FUNCTION aside.other() COST 8;
SET LOCAL cqrs_views.allow_writes = off;
ALTER SCHEMA app RENAME TO app2;
DROP EVENT TRIGGER audit;
COMMIT;
TABLE aside.texts;
DROP FUNCTION app2.key_of; \echo :SQLSTATE

-- by what a query names, while that is read
CREATE FUNCTION aside.meddle(t text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
	IF current_setting('aside.meddle', true) = 'yes' THEN ALTER FUNCTION aside.other() COST 9; END IF;
	RETURN true;
END $$;
CREATE DOMAIN aside.meddled AS text CHECK (aside.meddle(VALUE));
CREATE TYPE aside.pair AS (a aside.meddled, b text);
SET search_path = app2;
SELECT cqrs.create_view('meddling', $$SELECT position, ('(x,y)'::aside.pair).b FROM events$$, event_types => '{None}');
SELECT cqrs.create_projection('more', 'on_more(cqrs.event)', '{more}', key => 'key_of(aggregate_id)');
-- before a command: nobody else's notes are lost
SET aside.meddle = 'yes';
ALTER SCHEMA app2 RENAME TO app;
TABLE aside.texts;
DROP FUNCTION app.key_of; \echo :SQLSTATE
RESET aside.meddle;
-- after it: that is no meaning
CREATE OR REPLACE FUNCTION aside.audit() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM set_config('aside.meddle', 'yes', false);
END $$;
CREATE EVENT TRIGGER audit ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA', 'DROP FUNCTION') EXECUTE FUNCTION aside.audit();
\set VERBOSITY default
ALTER SCHEMA app RENAME TO app2; \echo :SQLSTATE
\set VERBOSITY terse
-- not even if it is caught
CREATE OR REPLACE FUNCTION aside.meddle(t text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
	IF current_setting('aside.meddle', true) = 'yes' THEN
		BEGIN
			ALTER FUNCTION aside.other() COST 9;
		EXCEPTION WHEN object_not_in_prerequisite_state THEN NULL; END;
	END IF;
	RETURN true;
END $$;
RESET aside.meddle;
ALTER SCHEMA app RENAME TO app2;
TABLE aside.texts;
RESET aside.meddle;
DROP FUNCTION app2.key_of; \echo :SQLSTATE
SELECT procost FROM pg_proc WHERE proname = 'other';
DROP EVENT TRIGGER audit;
RESET aside.meddle;

-- and they still do what they are for
SELECT cqrs.publish('T', 'a', 'E') > 0 AS published;
CALL cqrs.catch_up();
SELECT name, state, events_parked FROM cqrs.projection_status ORDER BY name;
TABLE app2.kept;
SET client_min_messages = warning;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
RESET search_path;
DROP SCHEMA app2 CASCADE;
DROP SCHEMA aside CASCADE;
DROP EXTENSION cqrs_views;
