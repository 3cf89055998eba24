-- What can't be a reducer or its read table, and what goes wrong in one.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA misuse;
SET search_path = misuse;
CREATE TABLE t (id text PRIMARY KEY, n int CHECK (n < 100), email text UNIQUE);
CREATE TABLE other (id text PRIMARY KEY);
CREATE FUNCTION keep(s t, e cqrs.event) RETURNS t LANGUAGE plpgsql AS $$
BEGIN
	IF e.event_type = 'Failing' THEN RAISE 'cannot take %', e.aggregate_id USING ERRCODE = 'ZZ123', HINT = 'Send another.'; END IF;
	IF e.event_type = 'Removed' THEN RETURN NULL; END IF;
	s.n := coalesce(s.n, 0) + coalesce((e.payload->>'n')::int, 1);
	s.email := coalesce(e.payload->>'email', s.email);
	RETURN s;
END $$;

-- the table: another one, several, a primary key that no key fits into
SELECT cqrs.create_projection('p', 'keep(t,cqrs.event)', '{other}'); \echo :SQLSTATE
SELECT cqrs.create_projection('p', 'keep(t,cqrs.event)', '{t,other}'); \echo :SQLSTATE
CREATE FUNCTION try(key_column text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text; hint text;
BEGIN
	EXECUTE 'CREATE TABLE tried (' || key_column || ')';
	CREATE FUNCTION keep_tried(s tried, e cqrs.event) RETURNS tried LANGUAGE plpgsql AS 'BEGIN RETURN s; END';
	EXECUTE $try$ SELECT cqrs.create_projection('tried', 'misuse.keep_tried(misuse.tried,cqrs.event)', '{misuse.tried}') $try$;
	PERFORM cqrs.drop_projection('tried');
	DROP TABLE tried CASCADE;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE COLLATION blind (provider = icu, locale = 'und', deterministic = false);
CREATE DOMAIN key_domain AS text;
SET client_min_messages = warning;
SELECT key_column, try(key_column) FROM unnest(ARRAY['id text PRIMARY KEY', 'id varchar PRIMARY KEY', 'n int, id text COLLATE "C", PRIMARY KEY (id)',
	'id text UNIQUE NOT NULL', 'id int PRIMARY KEY', 'id uuid PRIMARY KEY', 'id varchar(10) PRIMARY KEY', 'id char(10) PRIMARY KEY', 'id name PRIMARY KEY',
	'id misuse.key_domain PRIMARY KEY', 'a text, b text, PRIMARY KEY (a, b)', 'id text PRIMARY KEY DEFERRABLE', 'id text COLLATE misuse.blind PRIMARY KEY',
	'a text, id text GENERATED ALWAYS AS (lower(a)) STORED PRIMARY KEY']) AS key_column \gx
RESET client_min_messages;

-- the function
CREATE DOMAIN t_domain AS t;
CREATE FUNCTION keep_domain(s t_domain, e cqrs.event) RETURNS t_domain LANGUAGE plpgsql AS 'BEGIN RETURN s; END';
SELECT cqrs.create_projection('p', 'keep_domain(t_domain,cqrs.event)', '{t}'); \echo :SQLSTATE
CREATE FUNCTION keep_strict(s t, e cqrs.event) RETURNS t LANGUAGE plpgsql STRICT AS 'BEGIN RETURN s; END';
SELECT cqrs.create_projection('p', 'keep_strict(t,cqrs.event)', '{t}'); \echo :SQLSTATE
CREATE FUNCTION keep_turned(e cqrs.event, s t) RETURNS t LANGUAGE plpgsql AS 'BEGIN RETURN s; END';
SELECT cqrs.create_projection('p', 'keep_turned(cqrs.event,t)', '{t}'); \echo :SQLSTATE
\set VERBOSITY terse
CREATE FUNCTION keep_other(s t, e cqrs.event) RETURNS other LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
SELECT cqrs.create_projection('p', 'keep_other(t,cqrs.event)', '{t}'); \echo :SQLSTATE
CREATE FUNCTION keep_set(s t, e cqrs.event) RETURNS SETOF t LANGUAGE plpgsql AS 'BEGIN END';
SELECT cqrs.create_projection('p', 'keep_set(t,cqrs.event)', '{t}'); \echo :SQLSTATE
CREATE FUNCTION keep_record(INOUT s t, e cqrs.event, OUT n int) LANGUAGE plpgsql AS 'BEGIN END';
SELECT cqrs.create_projection('p', 'keep_record(t,cqrs.event)', '{t}'); \echo :SQLSTATE
CREATE FUNCTION keep_scalar(s int, e cqrs.event) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN s; END';
SELECT cqrs.create_projection('p', 'keep_scalar(int,cqrs.event)', '{t}'); \echo :SQLSTATE
CREATE FUNCTION keep_any(s anyelement, e cqrs.event) RETURNS anyelement LANGUAGE plpgsql AS 'BEGIN RETURN s; END';
SELECT cqrs.create_projection('p', 'keep_any(anyelement,cqrs.event)', '{t}'); \echo :SQLSTATE
CREATE FUNCTION keep_event(s cqrs.event, e cqrs.event) RETURNS cqrs.event LANGUAGE plpgsql AS 'BEGIN RETURN s; END';
SELECT cqrs.create_projection('p', 'keep_event(cqrs.event,cqrs.event)', '{t}'); \echo :SQLSTATE
\set VERBOSITY default

-- it fails: the event's position is told, and nothing of the batch is done
CREATE VIEW shown AS SELECT state, events_pending, last_error FROM cqrs.projection_status;
CREATE PROCEDURE let_it_stop() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT state = 'stopped' FROM cqrs.projection_status);
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	COMMIT;
END $$;
SELECT cqrs.create_projection('p', 'keep(t,cqrs.event)', '{t}', on_error => 'stop');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('T', 'a', 'Good'), ('T', 'b', 'Failing'), ('T', 'a', 'Good');
CALL let_it_stop();
TABLE shown;
TABLE t;
SELECT cqrs.alter_projection('p', event_types => '{Good,Removed}');
SELECT cqrs.resume_projection('p');
CALL cqrs.catch_up();
TABLE t;
-- a constraint: the row is told by the error, the batch by its context
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('T', 'a', 'Good', '{"n": 50}'), ('T', 'a', 'Good', '{"n": 60}');
CALL let_it_stop();
TABLE shown;
-- a null key
SELECT cqrs.alter_projection('p', key => 'payload->>''key''');
SELECT cqrs.resume_projection('p');
CALL let_it_stop();
TABLE shown;
-- altered meanwhile: the function, then the table
SELECT cqrs.alter_projection('p', key => 'aggregate_id');
ALTER TABLE t DROP CONSTRAINT t_n_check;
ALTER FUNCTION keep STRICT;
SELECT cqrs.resume_projection('p');
CALL let_it_stop();
SELECT split_part(last_error, E'\n', 1) AS last_error FROM shown;
ALTER FUNCTION keep CALLED ON NULL INPUT;
ALTER TABLE t DROP CONSTRAINT t_pkey;
SELECT cqrs.resume_projection('p');
CALL let_it_stop();
SELECT split_part(last_error, E'\n', 1) AS last_error FROM shown;
ALTER TABLE t ADD PRIMARY KEY (id);
-- replaced by another signature, then gone
SET cqrs_views.allow_writes = on;
ALTER FUNCTION keep RENAME TO was_keep;
RESET cqrs_views.allow_writes;
CREATE FUNCTION keep(s t, e cqrs.event) RETURNS void LANGUAGE sql AS '';
SELECT cqrs.resume_projection('p');
CALL let_it_stop();
SELECT split_part(last_error, E'\n', 1) AS last_error FROM shown;
DROP FUNCTION keep;
SELECT cqrs.resume_projection('p');
CALL let_it_stop();
SELECT split_part(last_error, E'\n', 1) AS last_error FROM shown;
SELECT cqrs.alter_projection('p', handler => 'was_keep(t,cqrs.event)');
SELECT cqrs.resume_projection('p');
CALL cqrs.catch_up();
SELECT id, n FROM t;
-- values that move from row to row: what a row gives up in a batch, another one can take if the constraint is deferrable
SELECT count(cqrs.publish('T', id, type, jsonb_build_object('email', email))) FROM (VALUES ('x', 'Good', '1'), ('y', 'Good', '2')) AS v (id, type, email);
CALL cqrs.catch_up();
ALTER TABLE t DROP CONSTRAINT t_email_key, ADD UNIQUE (email) DEFERRABLE;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('T', 'x', 'Good', '{"email": "3"}'), ('T', 'y', 'Good', '{"email": "1"}'),
	('T', 'x', 'Good', '{"email": "2"}'), ('T', 'y', 'Removed', '{}'), ('T', 'z', 'Good', '{"email": "1"}');
CALL cqrs.catch_up();
SELECT id, email FROM t WHERE email IS NOT NULL ORDER BY id;
-- the function must leave its table to the engine
CREATE OR REPLACE FUNCTION was_keep(s t, e cqrs.event) RETURNS t LANGUAGE plpgsql AS $$
BEGIN
	UPDATE t SET n = 0;
	RETURN s;
END $$;
SELECT cqrs.publish('T', 'a', 'Good') > 0 AS published;
CALL let_it_stop();
TABLE shown;
\set VERBOSITY terse
SET client_min_messages = warning;
SELECT cqrs.drop_projection('p');
DROP SCHEMA misuse CASCADE;
DROP EXTENSION cqrs_views;
