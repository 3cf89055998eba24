-- A handler that goes, or changes into what can't be called, stops its projection, or fails the publisher: with nothing put aside, and with a hint.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_stranger;
CREATE SCHEMA app;
CREATE SCHEMA handlers;
SET search_path = app;
CREATE TABLE singly (id text);
CREATE TABLE batched (id text);
CREATE TABLE folded (id text PRIMARY KEY, n int);
CREATE FUNCTION handlers.singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO singly VALUES (e.aggregate_id); END';
CREATE FUNCTION handlers.batched() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO batched SELECT aggregate_id FROM events; RETURN NULL; END';
CREATE FUNCTION handlers.folded(t folded, e cqrs.event) RETURNS folded LANGUAGE plpgsql AS 'BEGIN t.n := coalesce(t.n, 0) + 1; RETURN t; END';
SELECT cqrs.create_projection('singly', 'handlers.singly(cqrs.event)', '{singly}');
SELECT cqrs.create_projection('batched', 'handlers.batched()', '{batched}');
SELECT cqrs.create_projection('folded', 'handlers.folded(app.folded,cqrs.event)', '{folded}');
-- what a command makes of each projection's next event inline; undone then
CREATE PROCEDURE app.try(command text, projections name[] DEFAULT '{singly,batched,folded}') LANGUAGE plpgsql AS $$
DECLARE
	projection name;
	status record;
	message text;
	hint text;
BEGIN
	FOREACH projection IN ARRAY projections LOOP
		BEGIN
			PERFORM cqrs.alter_projection(projection, mode => 'inline');
			EXECUTE replace(command, 'HANDLER', 'handlers.' || projection);
			PERFORM cqrs.publish('T', 'inline', 'E');
			RAISE 'worked' USING ERRCODE = 'ZZ000';
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
			RAISE INFO 'inline %: % %', projection, SQLSTATE, concat_ws(E'\n  hint: ', message, nullif(hint, ''));
		END;
	END LOOP;
END $$;
CALL try('DROP FUNCTION HANDLER');
CALL try('DROP SCHEMA handlers CASCADE');
CALL try('ALTER FUNCTION HANDLER OWNER TO regress_stranger');
CALL try('CREATE OR REPLACE FUNCTION handlers.singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS ''BEGIN INSERT INTO app.singly VALUES (e.aggregate_id); END''', '{singly}');
CALL try('CREATE OR REPLACE FUNCTION handlers.folded(t app.folded, e cqrs.event) RETURNS app.folded STRICT LANGUAGE plpgsql AS ''BEGIN RETURN t; END''', '{folded}');
CALL try('CREATE OR REPLACE FUNCTION handlers.singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS ''BEGIN INSERT INTO nowhere VALUES (1); END''', '{singly}');
CALL try('ALTER FUNCTION HANDLER STRICT', '{folded}');
CALL try('ALTER FUNCTION HANDLER SECURITY DEFINER');
CALL try('ALTER FUNCTION HANDLER SET search_path = nowhere', '{singly,folded}');
CALL try('DROP FUNCTION handlers.singly; CREATE FUNCTION handlers.singly(e cqrs.event) RETURNS int LANGUAGE sql AS ''SELECT 1''', '{singly}');
CALL try('DROP FUNCTION handlers.singly; CREATE FUNCTION handlers.singly(e cqrs.event) RETURNS SETOF void LANGUAGE sql AS ''SELECT''', '{singly}');
CALL try('DROP FUNCTION handlers.singly; CREATE PROCEDURE handlers.singly(e cqrs.event) LANGUAGE sql AS ''SELECT''', '{singly}');
CALL try('DROP FUNCTION handlers.batched; CREATE FUNCTION handlers.batched() RETURNS event_trigger LANGUAGE plpgsql AS ''BEGIN END''', '{batched}');
CALL try('DROP FUNCTION handlers.singly; CREATE FUNCTION handlers.singly(e cqrs.event, f int DEFAULT 1) RETURNS void LANGUAGE sql AS ''''', '{singly}');
CALL try('ALTER FUNCTION HANDLER RENAME TO followed');
CALL try('DROP TYPE cqrs.event CASCADE', '{singly}');

-- async: stopped, and gone on from there when mended
CREATE PROCEDURE app.let_it_stop(OUT projections text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT bool_and(state = 'stopped') FROM cqrs.projection_status);
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	SELECT string_agg(concat_ws(', ', name, state, events_pending, events_parked), '; ' ORDER BY name) INTO projections FROM cqrs.projection_status;
END $$;
SELECT pg_get_functiondef('handlers.singly'::regproc) AS singly, pg_get_functiondef('handlers.batched'::regproc) AS batched,
	pg_get_functiondef('handlers.folded'::regproc) AS folded \gset
DROP FUNCTION handlers.singly, handlers.batched, handlers.folded;
SELECT cqrs.publish('T', 'a', 'E') > 0 AS published;
CALL let_it_stop(NULL);
SELECT name, last_error FROM cqrs.projection_status ORDER BY name;
:singly;
:batched;
:folded;
SELECT count(cqrs.resume_projection(name)) FROM cqrs.projection;
CALL cqrs.catch_up();
SELECT (SELECT count(*) FROM singly), (SELECT count(*) FROM batched), (SELECT n FROM folded);
ALTER FUNCTION handlers.singly OWNER TO regress_stranger;
ALTER FUNCTION handlers.batched OWNER TO regress_stranger;
ALTER FUNCTION handlers.folded OWNER TO regress_stranger;
SELECT cqrs.publish('T', 'a', 'E') > 0 AS published;
CALL let_it_stop(NULL);
SELECT name, split_part(last_error, E'\n', 3) AS hint FROM cqrs.projection_status ORDER BY name;
ALTER FUNCTION handlers.singly OWNER TO CURRENT_USER;
ALTER FUNCTION handlers.batched OWNER TO CURRENT_USER;
ALTER FUNCTION handlers.folded OWNER TO CURRENT_USER;
SELECT count(cqrs.resume_projection(name)) FROM cqrs.projection;
CALL cqrs.catch_up();
SELECT (SELECT count(*) FROM singly), (SELECT count(*) FROM batched), (SELECT n FROM folded);

RESET search_path;
SET client_min_messages = warning;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA app CASCADE;
DROP SCHEMA handlers CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_stranger;
