-- Every way to misuse create_view but for the query: names, settings, rights. Each with its SQLSTATE, message and hint.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA misuse;
SET search_path = misuse;
\set SHOW_CONTEXT never
\set counting 'SELECT count(*) FROM events'

-- names: of a projection, and of a table and whatever shares its namespace
SELECT cqrs.create_view('taken', :'counting');
SELECT cqrs.create_view('taken', :'counting'); \echo :SQLSTATE
SELECT cqrs.create_view('', :'counting'); \echo :SQLSTATE
SELECT cqrs.create_view(NULL, :'counting'); \echo :SQLSTATE
CREATE TABLE a_table ();
SELECT cqrs.create_view('a_table', :'counting'); \echo :SQLSTATE
CREATE VIEW a_view AS SELECT 1;
SELECT cqrs.create_view('a_view', :'counting'); \echo :SQLSTATE
CREATE SEQUENCE a_sequence;
SELECT cqrs.create_view('a_sequence', :'counting'); \echo :SQLSTATE
CREATE TYPE a_type AS ENUM ();
SELECT cqrs.create_view('a_type', :'counting'); \echo :SQLSTATE
-- a state table finds another name
CREATE TABLE v_state ();
SELECT cqrs.create_view('v', 'SELECT cqrs.last(source) FROM events');
SELECT relname FROM pg_class WHERE relname LIKE 'v\_state%' AND relkind = 'r' ORDER BY relname;
SELECT cqrs.drop_projection('v', drop_read_tables => true);
-- long names, and such as must be quoted
SELECT cqrs.create_view(repeat('n', 63)::name, 'SELECT source, cqrs.last(source) AS l FROM events GROUP BY source');
SELECT cqrs.create_view('Select "all"', 'SELECT source AS "from", cqrs.last(source) AS "Where ""x""" FROM events GROUP BY source');
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'misuse'::regnamespace AND c.relkind = 'r' ORDER BY c.relname COLLATE "C";
SELECT cqrs.drop_projection(name, true) FROM cqrs.projection;
-- schemas: the first of the search_path, if there is one
SET search_path = no_such_schema;
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
SET search_path = '';
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
SET search_path = pg_temp, misuse;
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
SET search_path = cqrs;
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
SET search_path = pg_catalog, misuse;
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
SET search_path = misuse;

-- settings
SELECT cqrs.create_view('v', :'counting', mode => 'sync'); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', mode => NULL); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', start_at => 'yesterday'); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', start_at => NULL); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', on_error => 'ignore'); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', notify => 'all'); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', notify => NULL); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', batch_size => 0); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', batch_size => 1000001); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', segments => 2); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting', event_types => ARRAY['a', NULL]); \echo :SQLSTATE

-- what follows from the query can't be changed
SELECT cqrs.create_view('v', :'counting');
CREATE FUNCTION h(cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.alter_projection('v', key => 'source'); \echo :SQLSTATE
SELECT cqrs.alter_projection('v', handler => 'h(cqrs.event)'); \echo :SQLSTATE
SELECT cqrs.drop_projection('v', drop_read_tables => true);

-- transactions
BEGIN;
SELECT cqrs.publish('t', 'a', 'A');
SELECT cqrs.create_view('v', :'counting', mode => 'inline'); \echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.create_view('v', :'counting', mode => 'inline'); \echo :SQLSTATE
ROLLBACK;
CREATE TABLE log (id text);
CREATE FUNCTION creates(e cqrs.event) RETURNS void LANGUAGE sql AS $$ SELECT cqrs.create_view('v', 'SELECT count(*) FROM events') $$;
SELECT cqrs.create_projection('creates', 'creates(cqrs.event)', '{log}', mode => 'inline');
SELECT cqrs.publish('t', 'a', 'A'); \echo :SQLSTATE
SELECT cqrs.drop_projection('creates');

-- rights: to events, to publishers, to the schema, to the query's functions
CREATE ROLE regress_modeller;
CREATE ROLE regress_stranger;
GRANT USAGE ON SCHEMA misuse TO regress_modeller;
SET ROLE regress_modeller;
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
RESET ROLE;
GRANT SELECT ON cqrs.outbox TO regress_modeller;
SET ROLE regress_modeller;
SELECT cqrs.create_view('v', :'counting'); \echo :SQLSTATE
RESET ROLE;
GRANT CREATE ON SCHEMA misuse TO regress_modeller, regress_stranger;
GRANT USAGE ON SCHEMA misuse TO regress_stranger;
SET ROLE regress_modeller;
SELECT cqrs.create_view('v', :'counting', mode => 'inline'); \echo :SQLSTATE
RESET ROLE;
SET ROLE regress_stranger;
CREATE FUNCTION twice(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT n * 2';
CREATE OPERATOR @@@ (FUNCTION = twice, RIGHTARG = bigint);
RESET ROLE;
CREATE FUNCTION hidden(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT n';
REVOKE ALL ON FUNCTION hidden(bigint) FROM PUBLIC;
SET ROLE regress_modeller;
SELECT cqrs.create_view('v', 'SELECT sum(twice(position)) FROM events'); \echo :SQLSTATE
SELECT cqrs.create_view('v', 'SELECT sum(@@@ position) FROM events'); \echo :SQLSTATE
SELECT cqrs.create_view('v', 'SELECT sum(hidden(position)) FROM events'); \echo :SQLSTATE
SELECT cqrs.create_view('v', :'counting');
RESET ROLE;
-- managing it: its owner
SET ROLE regress_stranger;
SELECT cqrs.pause_projection('v'); \echo :SQLSTATE
SELECT cqrs.drop_projection('v', true); \echo :SQLSTATE
RESET ROLE;
SELECT name, owner FROM cqrs.projection;
SELECT cqrs.drop_projection('v', true);

\set VERBOSITY terse
DROP SCHEMA misuse CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_modeller, regress_stranger;
