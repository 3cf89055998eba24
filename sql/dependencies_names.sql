-- What a projection is made of may get another name, or another schema: that is followed.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA app;
CREATE SCHEMA other;
SET search_path = app, public;
CREATE TABLE singly (id text, n int);
CREATE TABLE batched (id text, n int);
CREATE TABLE totals (id text PRIMARY KEY, n int);
CREATE TABLE inlined (id text, n int);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
	'BEGIN INSERT INTO singly VALUES (e.aggregate_id, (e.payload->>''n'')::int); END';
CREATE FUNCTION on_batch() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO batched SELECT aggregate_id, (payload->>''n'')::int FROM events; RETURN NULL; END';
CREATE FUNCTION reduce(t totals, e cqrs.event) RETURNS totals LANGUAGE plpgsql AS
	'BEGIN t.n := coalesce(t.n, 0) + (e.payload->>''n'')::int; RETURN t; END';
CREATE FUNCTION on_inline(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
	'BEGIN INSERT INTO inlined VALUES (e.aggregate_id, (e.payload->>''n'')::int); END';
CREATE FUNCTION key_of(e_id text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''key of '' || e_id';
CREATE DOMAIN amount AS int;
SELECT cqrs.create_projection('singly', 'on_event(cqrs.event)', '{singly}', key => 'key_of(aggregate_id)');
SELECT cqrs.create_projection('batched', 'on_batch()', '{batched}');
SELECT cqrs.create_projection('totals', 'reduce(totals,cqrs.event)', '{totals}');
SELECT cqrs.create_projection('inlined', 'on_inline(cqrs.event)', '{inlined}', mode => 'inline', key => 'key_of(aggregate_id)');
SELECT cqrs.create_view('viewed', $$SELECT key_of(aggregate_id) AS id, sum((payload->>'n')::amount::int) AS n FROM events GROUP BY 1$$);
CREATE VIEW app.sums AS
	SELECT 'singly' AS name, sum(n) FROM singly UNION ALL SELECT 'batched', sum(n) FROM batched UNION ALL SELECT 'totals', sum(n) FROM totals
	UNION ALL SELECT 'inlined', sum(n) FROM inlined UNION ALL SELECT 'viewed', sum(n) FROM viewed;
CREATE VIEW app.handlers AS SELECT name, handler FROM cqrs.projection WHERE handler IS NOT NULL ORDER BY name;
SELECT cqrs.publish('T', 'a', 'E', '{"n": 1}') > 0 AS published;
CALL cqrs.catch_up();
SELECT DISTINCT sum FROM sums;

-- handlers
ALTER FUNCTION on_event RENAME TO "on ""that"" event";
ALTER ROUTINE on_batch SET SCHEMA other;
ALTER FUNCTION reduce RENAME TO fold;
DO $$ BEGIN ALTER FUNCTION on_inline RENAME TO renamed; ALTER FUNCTION renamed RENAME TO at_once; END $$;
-- not that one: it is another function
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE ''not mine''; END';
TABLE handlers;
SELECT cqrs.publish('T', 'a', 'E', '{"n": 10}') > 0 AS published;
CALL cqrs.catch_up();
SELECT DISTINCT sum FROM sums;
-- not in the end
BEGIN;
ALTER FUNCTION fold RENAME TO never;
TABLE handlers;
ROLLBACK;
BEGIN;
SAVEPOINT s;
ALTER FUNCTION fold RENAME TO never;
ROLLBACK TO s;
ALTER FUNCTION at_once RENAME TO now;
COMMIT;
TABLE handlers;

-- read tables: a reducer's is its type; handlers that name theirs are on their own
ALTER TABLE totals RENAME TO running_totals;
ALTER TABLE running_totals SET SCHEMA other;
ALTER TABLE viewed RENAME TO shown;
ALTER TABLE shown SET SCHEMA other;
TABLE handlers;
SELECT name, read_tables FROM cqrs.projection ORDER BY name;

-- schemas, of what is named with them and of what is searched for in them
ALTER SCHEMA other RENAME TO "the Other";
ALTER SCHEMA app RENAME TO "App, 2";
SET search_path = "App, 2", public;
TABLE handlers;
SELECT name, settings[1] FROM cqrs.registry ORDER BY name;
SELECT cqrs.publish('T', 'a', 'E', '{"n": 100}') > 0 AS published;
CALL cqrs.catch_up();
SELECT DISTINCT sum FROM sums;
SELECT id FROM "the Other".shown;
-- rebuilt under the new names, in either mode
SELECT cqrs.alter_projection('viewed', mode => 'inline');
SELECT cqrs.alter_projection('totals', mode => 'inline');
SELECT cqrs.alter_projection('inlined', mode => 'async');
CALL cqrs.rebuild_projection('viewed');
CALL cqrs.rebuild_projection('totals');
CALL cqrs.rebuild_projection('inlined');
SELECT cqrs.publish('T', 'a', 'E', '{"n": 1000}') > 0 AS published;
CALL cqrs.catch_up();
SELECT DISTINCT sum FROM sums;
SELECT DISTINCT state, events_parked FROM cqrs.projection_status;

-- a role that is renamed: "$user" is what it was when the projection was made
CREATE ROLE regress_before;
CREATE SCHEMA regress_before AUTHORIZATION regress_before;
GRANT SELECT ON cqrs.outbox TO regress_before;
SET ROLE regress_before;
SET search_path = "$user", public;
CREATE TABLE mine (id text);
CREATE FUNCTION on_mine(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO mine VALUES (current_user); END';
SELECT cqrs.create_projection('mine', 'on_mine(cqrs.event)', '{mine}', start_at => 'now');
RESET ROLE;
ALTER ROLE regress_before RENAME TO regress_after;
SELECT cqrs.publish('T', 'b', 'E', '{"n": 0}') > 0 AS published;
SELECT cqrs.wait_for('mine', '1 minute');
SELECT DISTINCT id FROM regress_before.mine;
SELECT owner FROM cqrs.projection WHERE name = 'mine';

RESET search_path;
SET client_min_messages = warning;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA "App, 2" CASCADE;
DROP SCHEMA "the Other" CASCADE;
DROP SCHEMA regress_before CASCADE;
DROP EXTENSION cqrs_views CASCADE;
DROP ROLE regress_after;
