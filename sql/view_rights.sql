-- Who may make a view, as whom its query runs, and whose functions it may call.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_viewer;
CREATE ROLE regress_stranger;
CREATE SCHEMA viewing AUTHORIZATION regress_viewer;
GRANT USAGE ON SCHEMA viewing TO regress_stranger;
CREATE PROCEDURE let_it_stop(projection name, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT last_error INTO error FROM cqrs.projection_status WHERE name = projection AND state = 'stopped';
		EXIT WHEN FOUND;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CREATE FUNCTION publish(id text) RETURNS void LANGUAGE sql SECURITY DEFINER AS
	'SELECT cqrs.publish(''T'', id, ''E'')';

SET ROLE regress_viewer;
SET search_path = viewing;
-- SELECT on the outbox; for inline, TRIGGER
SELECT cqrs.create_view('v', 'SELECT position FROM events');
RESET ROLE;
GRANT SELECT ON cqrs.outbox TO regress_viewer;
SET ROLE regress_viewer;
SELECT cqrs.create_view('v', 'SELECT position FROM events', mode => 'inline');
SELECT cqrs.create_view('v', 'SELECT position FROM events') FROM set_config('search_path', 'public', true);
-- functions that change nothing and see nothing, of one's own or a superuser's
CREATE FUNCTION fold(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lower(t) || '' by '' || current_user; END';
CREATE FUNCTION looking(t text) RETURNS text LANGUAGE sql STABLE AS 'SELECT t';
RESET ROLE;
CREATE FUNCTION viewing.theirs(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT t';
ALTER FUNCTION viewing.theirs OWNER TO regress_stranger;
SET ROLE regress_viewer;
SELECT cqrs.create_view('v', 'SELECT position, looking(aggregate_id) AS id FROM events');
SELECT cqrs.create_view('v', 'SELECT position, theirs(aggregate_id) AS id FROM events');
SELECT cqrs.create_view('v', 'SELECT fold(aggregate_id) AS id, count(*) AS n FROM events GROUP BY 1');
DROP FUNCTION fold;
-- whoever publishes
SET ROLE regress_stranger;
SELECT public.publish('A');
SELECT cqrs.wait_for('v', '1 minute');
SELECT cqrs.drop_projection('v');
SELECT cqrs.alter_projection('v', mode => 'inline');
RESET ROLE;
GRANT TRIGGER ON cqrs.outbox TO regress_viewer;
SET ROLE regress_viewer;
SELECT cqrs.alter_projection('v', mode => 'inline');
SET ROLE regress_stranger;
SELECT public.publish('a');
SET ROLE regress_viewer;
TABLE v;
SELECT cqrs.alter_projection('v', mode => 'async');
-- a function can't be given away, or be not immutable any more; where that is forced, it stops the view
RESET ROLE;
ALTER FUNCTION viewing.fold OWNER TO regress_stranger;
ALTER FUNCTION viewing.fold STABLE;
SET cqrs_views.allow_writes = on;
ALTER FUNCTION viewing.fold OWNER TO regress_stranger;
SELECT public.publish('a');
CALL public.let_it_stop('v', NULL);
ALTER FUNCTION viewing.fold OWNER TO regress_viewer;
ALTER FUNCTION viewing.fold STABLE;
SELECT cqrs.resume_projection('v');
CALL public.let_it_stop('v', NULL);
ALTER FUNCTION viewing.fold IMMUTABLE;
RESET cqrs_views.allow_writes;
SELECT cqrs.resume_projection('v');
CALL cqrs.catch_up('v');
TABLE v;

-- whoever owns a type can give it a constraint, or a cast
RESET ROLE;
GRANT CREATE ON SCHEMA viewing TO regress_stranger;
SET ROLE regress_stranger;
CREATE DOMAIN theirs AS integer;
CREATE TYPE mood AS ENUM ('ok');
SET ROLE regress_viewer;
CREATE TYPE mixed AS (n theirs[]);
SELECT cqrs.create_view('w', $$ SELECT count((payload->>'n')::theirs) FROM events $$);
SELECT cqrs.create_view('w', $$ SELECT count(*) FROM events WHERE payload->>'m' = ('ok'::mood)::text $$);
SELECT cqrs.create_view('w', $$ SELECT cqrs.last((payload->>'x')::mixed) FROM events $$);
RESET ROLE;
ALTER TYPE mood OWNER TO regress_viewer;
SET ROLE regress_viewer;
SELECT cqrs.create_view('w', $$ SELECT (payload->>'m')::mood AS m, count(*) AS n FROM events GROUP BY 1 $$);
RESET ROLE;
ALTER TYPE mood OWNER TO regress_stranger;

RESET search_path;
DROP EXTENSION cqrs_views;
DROP PROCEDURE let_it_stop;
DROP FUNCTION publish;
DROP SCHEMA viewing CASCADE;
DROP ROLE regress_viewer, regress_stranger;
