-- A read table goes with its projection, not by DROP TABLE or what amounts to it.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_owner;
CREATE SCHEMA app AUTHORIZATION regress_owner;
CREATE SCHEMA "Other";
GRANT SELECT ON cqrs.outbox TO regress_owner;
SET ROLE regress_owner;
CREATE TABLE app.orders (id text PRIMARY KEY, note text);
CREATE TABLE app.lines (id text PRIMARY KEY);
CREATE FUNCTION app.on_order(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO app.orders VALUES (e.aggregate_id)';
SELECT cqrs.create_projection('orders', 'app.on_order(cqrs.event)', '{app.orders,app.lines}');
RESET ROLE;
CREATE TABLE "it's ""mine""" (id text);
CREATE FUNCTION on_event(cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('it''s', 'on_event(cqrs.event)', ARRAY['"it''s ""mine"""']::regclass[]);

-- every way to drop a table; CASCADE tells first what else would have gone
DROP TABLE app.orders; \echo :SQLSTATE
DROP TABLE "it's ""mine"""; \echo :SQLSTATE
SET client_min_messages = warning;
DROP TABLE IF EXISTS app.lines, app.orders CASCADE; \echo :SQLSTATE
DROP SCHEMA app CASCADE; \echo :SQLSTATE
DROP OWNED BY regress_owner; \echo :SQLSTATE
SET ROLE regress_owner;
DROP TABLE app.orders; \echo :SQLSTATE
-- (it warns of each grant, too)
SET client_min_messages = error;
DROP OWNED BY CURRENT_USER; \echo :SQLSTATE
DO $$ BEGIN EXECUTE 'DROP TABLE app.lines'; END $$; \echo :SQLSTATE
RESET ROLE;
SET session_replication_role = replica;
DROP TABLE app.orders; \echo :SQLSTATE
RESET session_replication_role;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM app.orders;
DROP TABLE app.orders; \echo :SQLSTATE
ROLLBACK;
-- by what it depends on
CREATE TYPE app.line AS (id text);
CREATE TABLE typed OF app.line;
SELECT cqrs.create_projection('typed', 'on_event(cqrs.event)', '{typed}');
DROP TYPE app.line CASCADE; \echo :SQLSTATE
-- a view's tables, both
SELECT cqrs.create_view('ends', 'SELECT aggregate_id, cqrs.last(payload) FROM events GROUP BY 1');
DROP TABLE ends; \echo :SQLSTATE
DROP TABLE ends_state; \echo :SQLSTATE
SELECT cqrs.drop_projection('ends');
SELECT to_regclass('ends_state');
DROP TABLE ends;
RESET client_min_messages;

-- nothing happened, and all goes on; also in the transaction, after a savepoint
BEGIN;
CREATE TABLE kept (a int);
SAVEPOINT s;
DROP TABLE app.orders;
ROLLBACK TO s;
DROP TABLE kept;
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
COMMIT;
CALL cqrs.catch_up();
TABLE app.orders;
-- whatever else is dropped, is, whether it looks like a read table or not
CREATE TEMP TABLE orders (a int);
DROP TABLE orders;
CREATE TABLE "Other".orders (a int);
DROP TABLE "Other".orders;
ALTER TABLE app.orders DROP note;
CREATE VIEW app.shown AS SELECT id FROM app.orders;
DROP VIEW app.shown;
CREATE INDEX made ON app.orders (id);
DROP INDEX app.made;

-- drop_projection drops, as part of another command, too
CREATE TABLE done AS SELECT cqrs.drop_projection('typed', drop_read_tables => true) IS NULL AS a;
SELECT to_regclass('typed');
BEGIN;
SELECT cqrs.drop_projection('orders', drop_read_tables => true);
SELECT to_regclass('app.orders'), to_regclass('app.lines');
ROLLBACK;
BEGIN;
SELECT cqrs.drop_projection('orders');
DROP TABLE app.orders, app.lines;
ROLLBACK;

-- a superuser who insists; a projection that lost its table hinders no other's guard
SET ROLE regress_owner;
SET cqrs_views.allow_writes = on; \echo :SQLSTATE
RESET ROLE;
BEGIN;
SET LOCAL cqrs_views.allow_writes = on;
DROP TABLE app.lines;
COMMIT;
SELECT read_tables[1] FROM cqrs.projection WHERE name = 'orders';
DROP TABLE app.orders; \echo :SQLSTATE
DROP TABLE "it's ""mine"""; \echo :SQLSTATE
DROP TABLE done;
CREATE TABLE app.lines (id text);
DROP TABLE app.lines;
-- who takes off the write guard first, as pg_restore --clean does, has dropped the other with it
BEGIN;
DROP TRIGGER cqrs_write_guard ON app.orders;
DROP TABLE app.orders;
ROLLBACK;
ALTER TABLE app.orders DISABLE TRIGGER cqrs_write_guard;
DROP TABLE app.orders; \echo :SQLSTATE
-- another trigger of that name does not make an ordinary table one to guard, or its lack a read table free
CREATE TABLE plain (a int);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER cqrs_write_guard BEFORE INSERT ON plain EXECUTE FUNCTION nothing();
DROP TABLE plain;

-- the function is nothing to call; the trigger goes with the extension only
SELECT cqrs.guard_drop(); \echo :SQLSTATE
SET ROLE regress_owner;
SELECT cqrs.guard_drop(); \echo :SQLSTATE
RESET ROLE;
DROP EVENT TRIGGER cqrs_drop_guard; \echo :SQLSTATE
SELECT evtevent, evtenabled FROM pg_event_trigger WHERE evtname = 'cqrs_drop_guard';

-- with the extension in one command, or after it
\set VERBOSITY terse
SET client_min_messages = warning;
BEGIN;
DROP EXTENSION cqrs_views CASCADE;
TABLE app.orders;
DROP TABLE app.orders, "it's ""mine""";
ROLLBACK;
CREATE ROLE regress_super SUPERUSER;
BEGIN;
DROP EXTENSION cqrs_views CASCADE;
SET ROLE regress_super;
CREATE EXTENSION cqrs_views;
CREATE TABLE theirs (id text);
CREATE FUNCTION on_theirs(cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('theirs', 'on_theirs(cqrs.event)', '{theirs}');
RESET ROLE;
DROP OWNED BY regress_super;
SELECT to_regclass('theirs'), to_regclass('cqrs.outbox');
ROLLBACK;
DROP EXTENSION cqrs_views CASCADE;
DROP SCHEMA app CASCADE;
DROP SCHEMA "Other";
DROP TABLE "it's ""mine""";
DROP FUNCTION nothing;
DROP ROLE regress_owner, regress_super;
