-- A handler that fails stops its projection, with the error where it can be read, and nothing else.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE good (id text);
CREATE TABLE bad (id text);
CREATE FUNCTION to_good(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO good VALUES (e.aggregate_id); END';
CREATE FUNCTION to_bad(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.event_type = 'Bad' THEN
		RAISE 'cannot take %', e.aggregate_id USING ERRCODE = 'ZZ123', DETAIL = 'It is bad.', HINT = 'Send a good one.';
	END IF;
	INSERT INTO bad VALUES (e.aggregate_id);
END $$;
SELECT cqrs.create_projection('good', 'to_good(cqrs.event)', '{good}', on_error => 'stop');
SELECT cqrs.create_projection('bad', 'to_bad(cqrs.event)', '{bad}', on_error => 'stop');
-- until a worker, or somebody's catch_up, has run into it
CREATE PROCEDURE let_it_stop(projection name) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT state = 'stopped' FROM cqrs.projection_status WHERE name = projection);
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	COMMIT;
	CALL cqrs.catch_up();
END $$;
CREATE VIEW shown AS SELECT name, state, events_pending, retries, last_error, last_error_at IS NOT NULL AS at
FROM cqrs.projection_status ORDER BY name;

SELECT count(cqrs.publish('Order', 'o' || i, CASE i WHEN 3 THEN 'Bad' ELSE 'Good' END)) FROM generate_series(1, 4) AS i;
CALL let_it_stop('bad');
TABLE shown;
-- the whole batch is undone, nothing is lost, the other has gone on
SELECT * FROM bad;
SELECT count(*) FROM good;
SELECT cqrs.wait_for('good', '1 minute');
SELECT cqrs.wait_for('bad'); \echo :SQLSTATE
CALL cqrs.catch_up('bad'); \echo :SQLSTATE
CALL cqrs.catch_up();
-- resumed as it is, it stops again; whoever calls hears of it, also where a worker is first
SELECT cqrs.resume_projection('bad');
\set VERBOSITY terse
CALL cqrs.rebuild_projection('bad', online => false); \echo :SQLSTATE
\set VERBOSITY default
SELECT name, state, last_error IS NOT NULL AS told FROM shown;
-- mended, it goes on from where it was
CREATE OR REPLACE FUNCTION to_bad(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO bad VALUES (e.aggregate_id); END';
SELECT cqrs.resume_projection('bad');
CALL cqrs.catch_up('bad');
TABLE shown;
TABLE bad;

-- paused while stopped: the error stays to be read
CREATE OR REPLACE FUNCTION to_bad(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM 1 / 0; END';
SELECT cqrs.publish('Order', 'o5', 'Good') > 0 AS published;
CALL let_it_stop('bad');
SELECT cqrs.pause_projection('bad');
SELECT * FROM shown WHERE name = 'bad';

-- dropped, and made again
DROP FUNCTION to_bad;
SELECT cqrs.resume_projection('bad');
CALL let_it_stop('bad');
SELECT * FROM shown WHERE name = 'bad';
CREATE FUNCTION to_bad(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO bad VALUES (e.aggregate_id); END';
SELECT cqrs.resume_projection('bad');
CALL cqrs.catch_up('bad');
-- replaced by one of another signature
DROP FUNCTION to_bad;
CREATE FUNCTION to_bad(e cqrs.event) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
SELECT cqrs.publish('Order', 'o6', 'Good') > 0 AS published;
CALL let_it_stop('bad');
SELECT * FROM shown WHERE name = 'bad';
CREATE FUNCTION to_bad() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO bad SELECT aggregate_id FROM events; RETURN NULL; END';
SELECT cqrs.alter_projection('bad', handler => 'to_bad()');
SELECT cqrs.resume_projection('bad');
CALL cqrs.catch_up('bad');
SELECT * FROM shown WHERE name = 'bad';

-- a column of the read table renamed; the table dropped
ALTER TABLE bad RENAME COLUMN id TO other;
CREATE OR REPLACE FUNCTION to_bad() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO bad (id) SELECT aggregate_id FROM events; RETURN NULL; END';
SELECT cqrs.publish('Order', 'o7', 'Good') > 0 AS published;
CALL let_it_stop('bad');
SELECT last_error FROM shown WHERE name = 'bad';
ALTER TABLE bad RENAME COLUMN other TO id;
SELECT cqrs.resume_projection('bad');
CALL cqrs.catch_up('bad');
SELECT count(*) FROM bad;
SET cqrs_views.allow_writes = on;
DROP TABLE bad;
RESET cqrs_views.allow_writes;
SELECT cqrs.publish('Order', 'o8', 'Good') > 0 AS published;
CALL let_it_stop('bad');
SELECT regexp_replace(split_part(last_error, E'\n', 1), 'OID \d+', 'OID n') AS last_error FROM shown WHERE name = 'bad';
CREATE TABLE bad (id text);
SELECT cqrs.drop_projection('bad');
SELECT cqrs.create_projection('bad', 'to_bad()', '{bad}', on_error => 'stop');
CALL cqrs.catch_up('bad');

-- a key that fails
SELECT cqrs.alter_projection('bad', key => '(payload->>''n'')::int');
SELECT cqrs.publish('Order', 'o9', 'Good', '{"n": "none"}') > 0 AS published;
CALL let_it_stop('bad');
SELECT split_part(last_error, E'\n', 1) AS last_error FROM shown WHERE name = 'bad';
SELECT cqrs.alter_projection('bad', key => 'aggregate_id');
SELECT cqrs.resume_projection('bad');
CALL cqrs.catch_up('bad');
SELECT array_agg(id ORDER BY id) FROM bad;

-- dead letters: not in a transaction that may not see what was put aside meanwhile
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.retry_dead_letters('bad');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.discard_dead_letters('bad', 'o9');
ROLLBACK;
BEGIN;
SELECT cqrs.publish('Order', 'o9', 'Good') > 0 AS published;
SELECT cqrs.discard_dead_letters('bad', 'o9');
SELECT cqrs.retry_dead_letters('bad');
ROLLBACK;

DROP VIEW shown;
DROP PROCEDURE let_it_stop;
SELECT cqrs.drop_projection(name, true) FROM cqrs.projection;
DROP FUNCTION to_good, to_bad(), to_bad(cqrs.event);
DROP EXTENSION cqrs_views;
