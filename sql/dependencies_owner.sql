-- REASSIGN OWNED moves projections with what they are made of; DROP OWNED and DROP ROLE are refused as long as they are there.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_a;
CREATE ROLE regress_b;
CREATE ROLE regress_c;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_a;
CREATE SCHEMA app AUTHORIZATION regress_a;
CREATE TABLE superusers (id text);
CREATE FUNCTION superusers(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.superusers VALUES (e.aggregate_id); END';
SELECT cqrs.create_projection('superusers', 'superusers(cqrs.event)', '{superusers}');
SET ROLE regress_a;
SET search_path = app;
CREATE TABLE singly (id text, by name);
CREATE TABLE inlined (id text, by name);
CREATE TABLE folded (id text PRIMARY KEY, by name);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO singly VALUES (e.aggregate_id, current_user); END';
CREATE FUNCTION on_inline() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO inlined SELECT aggregate_id, current_user FROM events; RETURN NULL; END';
CREATE FUNCTION fold(t folded, e cqrs.event) RETURNS folded LANGUAGE plpgsql AS 'BEGIN t.by := current_user; RETURN t; END';
CREATE FUNCTION named(id text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN id || '' by '' || current_user; END';
SELECT cqrs.create_projection('singly', 'on_event(cqrs.event)', '{singly}', key => 'named(aggregate_id)');
SELECT cqrs.create_projection('inlined', 'on_inline()', '{inlined}', mode => 'inline');
SELECT cqrs.create_projection('folded', 'fold(folded,cqrs.event)', '{folded}');
SELECT cqrs.create_view('viewed', 'SELECT named(aggregate_id) AS id, cqrs.last(event_type) AS type FROM events GROUP BY 1');
RESET ROLE;
RESET search_path;
CREATE FUNCTION apply_one(id text) RETURNS void LANGUAGE sql AS $$ SELECT cqrs.publish('T', id, 'E') $$;
CREATE VIEW seen AS
	SELECT 'singly' AS name, id, by FROM app.singly UNION ALL SELECT 'inlined', id, by FROM app.inlined
	UNION ALL SELECT 'folded', id, by FROM app.folded UNION ALL SELECT 'viewed', split_part(id, ' by ', 1), split_part(id, ' by ', 2) FROM app.viewed;
SELECT apply_one('as a');
CALL cqrs.catch_up();

-- refused as long as they are there: to drop the role, and what it owns
DROP ROLE regress_a; \echo :SQLSTATE
SET client_min_messages = warning;
DROP OWNED BY regress_a; \echo :SQLSTATE
RESET client_min_messages;
-- whoever may not reassign, moves nothing
SET ROLE regress_c;
\set VERBOSITY terse
REASSIGN OWNED BY regress_a TO regress_b; \echo :SQLSTATE
\set VERBOSITY default
RESET ROLE;
-- the new owner needs the rights that the old one had
REASSIGN OWNED BY regress_a TO regress_b; \echo :SQLSTATE
GRANT SELECT ON cqrs.outbox TO regress_b;
REASSIGN OWNED BY regress_a TO regress_b; \echo :SQLSTATE
GRANT TRIGGER ON cqrs.outbox TO regress_b;
SELECT DISTINCT owner FROM cqrs.projection WHERE name <> 'superusers';
-- not in the end
BEGIN;
REASSIGN OWNED BY regress_a TO regress_b;
SELECT apply_one('rolled back');
SELECT name, owner FROM cqrs.projection ORDER BY name;
SELECT by FROM app.inlined WHERE id = 'rolled back';
ROLLBACK;
-- PostgreSQL's recipe for removing a role; what was published before its commit is inline as a, else as b
BEGIN;
SELECT apply_one('still as a');
REASSIGN OWNED BY regress_a, regress_c TO regress_b;
COMMIT;
SELECT apply_one('as b');
DROP OWNED BY regress_a;
DROP ROLE regress_a;
SELECT apply_one('without a');
CALL cqrs.catch_up();
SELECT name, owner FROM cqrs.projection ORDER BY name;
SELECT name, state, events_parked FROM cqrs.projection_status ORDER BY name;
SELECT id, by, string_agg(name, ', ' ORDER BY name) AS names FROM seen GROUP BY 1, 2 ORDER BY 1, 2;
CALL cqrs.rebuild_projection('inlined');
CALL cqrs.rebuild_projection('viewed');
CALL cqrs.rebuild_projection('folded');
SELECT DISTINCT name, by FROM seen ORDER BY 1, 2;
-- it is the new owner's to manage, as whom it runs
SET ROLE regress_b;
SELECT cqrs.alter_projection('inlined', mode => 'async');
SET ROLE regress_c;
SELECT cqrs.pause_projection('inlined'); \echo :SQLSTATE
RESET ROLE;

-- each part by itself: not followed, but stopped, until all are one owner's
CREATE PROCEDURE let_it_stop(projection name, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT last_error INTO error FROM cqrs.projection_status WHERE name = projection AND state = 'stopped';
		EXIT WHEN FOUND;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
ALTER TABLE app.singly OWNER TO regress_c;
SELECT apply_one('of c');
CALL let_it_stop('singly', NULL);
ALTER TABLE app.singly OWNER TO regress_b;
ALTER FUNCTION app.on_event OWNER TO regress_c;
SELECT cqrs.resume_projection('singly');
CALL let_it_stop('singly', NULL);
ALTER FUNCTION app.on_event OWNER TO regress_b;
REVOKE SELECT ON cqrs.outbox FROM regress_b;
SELECT cqrs.resume_projection('singly');
CALL let_it_stop('singly', NULL);
GRANT SELECT ON cqrs.outbox TO regress_b;
SELECT cqrs.resume_projection('singly');
SELECT count(cqrs.resume_projection(name)) FROM cqrs.projection_status WHERE state = 'stopped';
CALL cqrs.catch_up();
SELECT by FROM app.singly WHERE id = 'of c';
SELECT DISTINCT state, events_parked FROM cqrs.projection_status;

SET client_min_messages = warning;
DROP VIEW seen;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA app CASCADE;
DROP TABLE superusers;
DROP FUNCTION superusers, apply_one;
DROP PROCEDURE let_it_stop;
DROP EXTENSION cqrs_views;
DROP ROLE regress_b, regress_c;
