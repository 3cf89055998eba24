-- pause_projection, resume_projection, drop_projection.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE a (id text);
CREATE TABLE b (id text);
CREATE FUNCTION to_a(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO a VALUES (e.aggregate_id); END';
CREATE FUNCTION to_b(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO b VALUES (e.aggregate_id); END';
SELECT cqrs.create_projection('a', 'to_a(cqrs.event)', '{a}');
SELECT cqrs.create_projection('b', 'to_b(cqrs.event)', '{b}', mode => 'inline');
CREATE VIEW shown AS SELECT name, state, events_pending, (SELECT count(*) FROM a) AS a, (SELECT count(*) FROM b) AS b
FROM cqrs.projection_status ORDER BY name;
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
CALL cqrs.catch_up();
TABLE shown;

-- paused: a backlog grows, of an inline projection too, and publishers don't notice
SELECT cqrs.pause_projection('a'), cqrs.pause_projection('b');
SELECT cqrs.publish('Order', 'o2', 'Placed') > 0 AS published;
CALL cqrs.catch_up();
TABLE shown;
-- again is no error
SELECT cqrs.pause_projection('a'), cqrs.pause_projection('b');
TABLE shown;
-- read tables stay guarded
INSERT INTO a VALUES ('by hand'); \echo :SQLSTATE
-- resumed: from where it was
SELECT cqrs.resume_projection('a'), cqrs.resume_projection('b');
SELECT cqrs.wait_for('a', '1 minute'), cqrs.wait_for('b');
TABLE shown;
SELECT cqrs.resume_projection('a'), cqrs.resume_projection('b');
SELECT cqrs.publish('Order', 'o3', 'Placed') > 0 AS published;
SELECT cqrs.wait_for('a', '1 minute');
TABLE shown;
-- both are part of the transaction
BEGIN;
SELECT cqrs.pause_projection('a'), cqrs.pause_projection('b');
SELECT cqrs.publish('Order', 'o4', 'Placed') > 0 AS published;
SELECT name, state, b FROM shown;
ROLLBACK;
SELECT cqrs.publish('Order', 'o5', 'Placed') > 0 AS published;
SELECT cqrs.wait_for('a', '1 minute');
TABLE shown;
BEGIN;
SELECT cqrs.pause_projection('b');
SELECT cqrs.publish('Order', 'o6', 'Placed') > 0 AS published;
SELECT cqrs.resume_projection('b'); \echo :SQLSTATE
ROLLBACK;
BEGIN;
SELECT cqrs.pause_projection('b');
SELECT cqrs.resume_projection('b');
SELECT cqrs.publish('Order', 'o7', 'Placed') > 0 AS published;
COMMIT;
SELECT cqrs.wait_for('a', '1 minute');
TABLE shown;
BEGIN;
SELECT cqrs.publish('Order', 'o8', 'Placed') > 0 AS published;
SELECT cqrs.pause_projection('b'); \echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT cqrs.pause_projection('b'); \echo :SQLSTATE
ROLLBACK;

SELECT cqrs.pause_projection('unknown'); \echo :SQLSTATE
SELECT cqrs.pause_projection(NULL); \echo :SQLSTATE
SELECT cqrs.pause_projection(''); \echo :SQLSTATE
SELECT cqrs.resume_projection('unknown'); \echo :SQLSTATE
SELECT cqrs.resume_projection(NULL); \echo :SQLSTATE

-- drop: the tables stay, with what is in them, as ordinary tables
SELECT cqrs.drop_projection('a');
TABLE shown;
INSERT INTO a VALUES ('by hand');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'a'::regclass;
SELECT cqrs.drop_projection('a'); \echo :SQLSTATE
SELECT cqrs.drop_projection(NULL); \echo :SQLSTATE
SELECT cqrs.drop_projection(''); \echo :SQLSTATE
-- one of the same name starts anew
TRUNCATE a;
SELECT cqrs.create_projection('a', 'to_a(cqrs.event)', '{a}');
CALL cqrs.catch_up('a');
TABLE shown;
SELECT events_processed FROM cqrs.projection_status WHERE name = 'a';
-- drop what is paused; drop the tables too; rolled back
SELECT cqrs.pause_projection('b');
DROP VIEW shown;
BEGIN;
SELECT cqrs.drop_projection('b', drop_read_tables => true);
SELECT to_regclass('b');
ROLLBACK;
SELECT name, state FROM cqrs.projection_status WHERE name = 'b';
CREATE VIEW on_b AS SELECT * FROM b;
SELECT cqrs.drop_projection('b', drop_read_tables => true); \echo :SQLSTATE
SELECT name FROM cqrs.projection WHERE name = 'b';
DROP VIEW on_b;
SELECT cqrs.drop_projection('b', drop_read_tables => true);
SELECT cqrs.publish('Order', 'o9', 'Placed') > 0 AS published;
-- drop what has lost its table, or its handler
SET cqrs_views.allow_writes = on;
DROP TABLE a;
RESET cqrs_views.allow_writes;
SELECT cqrs.drop_projection('a', true);
CREATE TABLE a (id text);
SELECT cqrs.create_projection('a', 'to_a(cqrs.event)', '{a}', mode => 'inline', start_at => 'now');
DROP FUNCTION to_a;
SELECT cqrs.drop_projection('a', NULL);
SELECT name FROM cqrs.projection;
SELECT cqrs.publish('Order', 'o10', 'Placed') > 0 AS published;
SELECT count(*) FROM a;

DROP TABLE a;
DROP FUNCTION to_b;
DROP EXTENSION cqrs_views;
