-- A restore into another cluster, played in one database: it becomes another incarnation's, and its events get other
-- transaction ids. (The real thing: t/065_dump_restore.pl.)
\set VERBOSITY terse
\set regression :DBNAME
CREATE DATABASE regress_eras;
\c regress_eras
CREATE EXTENSION cqrs_views;

CREATE PROCEDURE restore(shift bigint) LANGUAGE plpgsql AS $$
BEGIN
	-- workers are awake, and remember what does not change while a server runs
	LOCK TABLE cqrs.checkpoint;
	ALTER TABLE cqrs.era SET (autovacuum_enabled = true);
	UPDATE cqrs.registry SET name = name;
	ALTER TABLE cqrs.outbox DISABLE TRIGGER cqrs_immutable;
	UPDATE cqrs.outbox SET xid = (xid::text::bigint + shift)::text::xid8;
	ALTER TABLE cqrs.outbox ENABLE ALWAYS TRIGGER cqrs_immutable;
	-- snapshots of ids that are as much higher; none is in flight
	UPDATE cqrs.checkpoint SET done = format('%s:%s:', x, x)::pg_snapshot
	FROM (SELECT projection AS p, pg_snapshot_xmax(done)::text::bigint + shift AS x FROM cqrs.checkpoint) AS s
	WHERE projection = p AND pg_snapshot_xmax(done) > '2';
	UPDATE cqrs.incarnation SET id = gen_random_uuid();
	IF EXISTS (SELECT FROM pg_trigger WHERE tgname = 'cqrs_inline') THEN
		DROP TRIGGER cqrs_inline ON cqrs.outbox;
	END IF;
END $$;

CREATE TABLE log (seq bigint GENERATED ALWAYS AS IDENTITY, position bigint PRIMARY KEY);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO log (position) VALUES (e.position)';
CREATE TABLE inline_log (LIKE log INCLUDING ALL);
CREATE FUNCTION on_inline(e cqrs.event) RETURNS void LANGUAGE sql AS
	'INSERT INTO inline_log (position) VALUES (e.position)';
SELECT cqrs.create_projection('log', 'on_event(cqrs.event)', '{log}', on_error => 'stop');
SELECT cqrs.create_projection('inline_log', 'on_inline(cqrs.event)', '{inline_log}', mode => 'inline');
SELECT cqrs.create_view('counts', 'SELECT event_type, count(*) AS n FROM events GROUP BY 1');
CREATE VIEW handled AS
SELECT (SELECT array_agg(position ORDER BY seq) FROM log) AS log,
	(SELECT array_agg(position ORDER BY position) FROM inline_log) AS inline, (SELECT n FROM counts) AS n;
CREATE VIEW status AS
SELECT name, mode, state, events_pending AS pending FROM cqrs.projection_status ORDER BY name;
CREATE VIEW eras AS
SELECT DISTINCT number, first_position, incarnation = (SELECT id FROM cqrs.incarnation) AS current FROM cqrs.era
ORDER BY number;

-- each publisher is in another session, so that it is the first
SELECT cqrs.publish('T', 'a', 'E');
CALL cqrs.catch_up();
SELECT cqrs.pause_projection('log');
SELECT cqrs.publish('T', 'a', 'E');
TABLE eras;

-- ids far ahead; nobody has published yet
CALL restore(1000000);
\c
SELECT pending FROM status WHERE name = 'log';
SELECT cqrs.resume_projection('log');
CALL cqrs.catch_up();
SELECT * FROM handled;
SELECT * FROM status;
TABLE eras;
SELECT cqrs.publish('T', 'a', 'E');
SELECT inline FROM handled;
CALL cqrs.catch_up();
SELECT * FROM handled;

-- published first, by several, in part rolled back, and in a function that another event's values call
CALL restore(2000000);
\c
BEGIN;
SAVEPOINT s;
SELECT cqrs.publish('T', 'a', 'E');
ROLLBACK TO s;
SELECT cqrs.publish('T', 'a', 'E');
COMMIT;
\c
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('T', 'a', 'E', to_jsonb(cqrs.publish('T', 'a', 'E')));
TABLE eras;
CALL cqrs.catch_up();
SELECT * FROM handled;
SELECT * FROM status;
SELECT cqrs.wait_for('log', '1 s'), cqrs.wait_for('log', '1 s', 1), cqrs.wait_for('log', '1 s', 7);

-- paused through two of them; in the second one nothing was published
SELECT cqrs.pause_projection('log');
SELECT cqrs.pause_projection('inline_log');
SELECT cqrs.publish('T', 'a', 'E');
CALL restore(0);
\c
CALL cqrs.catch_up('counts');
CALL restore(0);
\c
SELECT cqrs.publish('T', 'a', 'E');
SELECT cqrs.resume_projection('log'), cqrs.resume_projection('inline_log');
CALL cqrs.catch_up();
SELECT * FROM handled;
TABLE eras;

-- an id that comes again in the transaction that asks about it
BEGIN;
ALTER TABLE cqrs.outbox DISABLE TRIGGER cqrs_immutable;
UPDATE cqrs.outbox SET xid = pg_current_xact_id() WHERE position < 3;
ALTER TABLE cqrs.outbox ENABLE ALWAYS TRIGGER cqrs_immutable;
SELECT cqrs.wait_for('log', '1 s');
SELECT cqrs.create_view('counts_again', 'SELECT event_type, count(*) AS n FROM events GROUP BY 1');
TABLE counts_again;
ROLLBACK;
CALL cqrs.rebuild_projection('log', online => false);
CALL cqrs.rebuild_projection('counts', online => false);
SELECT * FROM handled;

-- no word of whose ids a checkpoint has
BEGIN;
CALL restore(0);
DELETE FROM cqrs.era;
COMMIT;
\c
\set VERBOSITY sqlstate
CALL cqrs.catch_up('log');
SELECT state, last_error FROM cqrs.projection_status WHERE name = 'log';
\set VERBOSITY terse

-- a sequence that was not restored
\c
BEGIN;
LOCK TABLE cqrs.era IN SHARE ROW EXCLUSIVE MODE;
DELETE FROM cqrs.era;
SELECT setval('cqrs.outbox_position_seq', 1);
SELECT cqrs.publish('T', 'a', 'E'); \echo :SQLSTATE
ROLLBACK;
\c :regression
DROP DATABASE regress_eras;
