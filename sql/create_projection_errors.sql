-- Every way to misuse create_projection, each with its SQLSTATE, message and hint.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA misuse;
SET search_path = misuse;
CREATE TABLE t (id text PRIMARY KEY);
CREATE TABLE u (id text PRIMARY KEY);
CREATE FUNCTION h(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (e.aggregate_id); END';
SELECT cqrs.create_projection('p', 'h(cqrs.event)', '{t}');

-- names
SELECT cqrs.create_projection('p', 'h(cqrs.event)', '{u}'); \echo :SQLSTATE
SELECT cqrs.create_projection('', 'h(cqrs.event)', '{u}'); \echo :SQLSTATE
SELECT cqrs.create_projection(NULL, 'h(cqrs.event)', '{u}'); \echo :SQLSTATE

-- handlers: none, none of that name, of no signature that there is
SELECT cqrs.create_projection('q', NULL, '{u}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'unknown', '{u}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'unknown(cqrs.event)', '{u}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 0, '{u}'); \echo :SQLSTATE
CREATE FUNCTION wrong(jsonb) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('q', 'wrong(jsonb)', '{u}'); \echo :SQLSTATE
CREATE FUNCTION wrong_result(cqrs.event) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT cqrs.create_projection('q', 'wrong_result(cqrs.event)', '{u}'); \echo :SQLSTATE
\set VERBOSITY terse
CREATE FUNCTION wrong_arguments(cqrs.event, int DEFAULT 1) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('q', 'wrong_arguments(cqrs.event,int)', '{u}'); \echo :SQLSTATE
CREATE FUNCTION wrong_set(cqrs.event) RETURNS SETOF void LANGUAGE sql AS '';
SELECT cqrs.create_projection('q', 'wrong_set(cqrs.event)', '{u}'); \echo :SQLSTATE
CREATE FUNCTION wrong_variadic(VARIADIC cqrs.event[]) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('q', 'wrong_variadic(cqrs.event[])', '{u}'); \echo :SQLSTATE
CREATE PROCEDURE wrong_procedure(cqrs.event) LANGUAGE sql AS '';
SELECT cqrs.create_projection('q', 'wrong_procedure(cqrs.event)', '{u}'); \echo :SQLSTATE
CREATE FUNCTION wrong_outbox(cqrs.outbox) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.create_projection('q', 'wrong_outbox(cqrs.outbox)', '{u}'); \echo :SQLSTATE
CREATE FUNCTION wrong_any(anyelement) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
SELECT cqrs.create_projection('q', 'wrong_any(anyelement)', '{u}'); \echo :SQLSTATE
CREATE FUNCTION wrong_event_trigger() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
SELECT cqrs.create_projection('q', 'wrong_event_trigger()', '{u}'); \echo :SQLSTATE
CREATE AGGREGATE wrong_aggregate(cqrs.event) (SFUNC = array_append, STYPE = cqrs.event[]);
SELECT cqrs.create_projection('q', 'wrong_aggregate(cqrs.event)', '{u}'); \echo :SQLSTATE
\set VERBOSITY default

-- read tables
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{t}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', NULL); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', ARRAY[NULL]::regclass[]); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u,u}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', ARRAY[0]::regclass[]); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u,unknown}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u,t}'); \echo :SQLSTATE
CREATE VIEW v AS SELECT * FROM u;
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{v}'); \echo :SQLSTATE
CREATE TABLE parted (id text) PARTITION BY LIST (id);
CREATE TABLE part PARTITION OF parted DEFAULT;
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{parted}'); \echo :SQLSTATE
\set VERBOSITY terse
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{part}'); \echo :SQLSTATE
CREATE TABLE parent (id text);
CREATE TABLE child () INHERITS (parent);
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{parent}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{child}'); \echo :SQLSTATE
-- a parent that has lost its child is an ordinary table again
DROP TABLE child;
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{parent}'); \echo :SQLSTATE
SELECT cqrs.drop_projection('q');
CREATE MATERIALIZED VIEW m AS SELECT 1 AS id;
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{m}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u_pkey}'); \echo :SQLSTATE
CREATE TYPE composite AS (id text);
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{composite}'); \echo :SQLSTATE
\set VERBOSITY default
CREATE UNLOGGED TABLE unlogged (id text);
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{unlogged}'); \echo :SQLSTATE
CREATE TEMP TABLE temporary (id text);
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{temporary}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{cqrs.outbox}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{cqrs.checkpoint}'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{pg_class}'); \echo :SQLSTATE

-- settings
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', mode => 'sync'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', mode => 'Async'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', mode => ''); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', mode => NULL); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', start_at => 'yesterday'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', start_at => NULL); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', on_error => 'ignore'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', on_error => NULL); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', notify => 'all'); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', notify => NULL); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', batch_size => 0); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', batch_size => -1); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', batch_size => 1000001); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', segments => 0); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', segments => 2); \echo :SQLSTATE
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{u}', segments => NULL); \echo :SQLSTATE
SELECT cqrs.create_projection('r', 'h(cqrs.event)', '{u}', event_types => ARRAY['a', NULL]); \echo :SQLSTATE
SELECT cqrs.create_projection('r', 'h(cqrs.event)', '{u}', sources => ARRAY[NULL]::text[]); \echo :SQLSTATE
SELECT name FROM cqrs.projection;

\set VERBOSITY terse
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA misuse CASCADE;
DROP EXTENSION cqrs_views;
