-- catch_up and wait_for: what they do, and where they refuse.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE a (id text);
CREATE TABLE b (id text);
CREATE FUNCTION to_a(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO a VALUES (e.aggregate_id); END';
CREATE FUNCTION to_b(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.event_type = 'Bad' THEN RAISE 'bad event %', e.aggregate_id; END IF;
	INSERT INTO b VALUES (e.aggregate_id);
END $$;
CALL cqrs.catch_up();
SELECT cqrs.create_projection('a', 'to_a(cqrs.event)', '{a}');
SELECT cqrs.create_projection('b', 'to_b(cqrs.event)', '{b}');
CALL cqrs.catch_up();
CALL cqrs.catch_up('a');
SELECT cqrs.publish('Order', 'o' || i, 'Placed') FROM generate_series(1, 3) AS i;
CALL cqrs.catch_up('a');
SELECT count(*) FROM a;
CALL cqrs.catch_up(NULL);
SELECT count(*) FROM b;
SELECT cqrs.wait_for('a'), cqrs.wait_for('b');

-- not inside a transaction block, a function, a DO block
CALL cqrs.catch_up('unknown'); \echo :SQLSTATE
CALL cqrs.catch_up(''); \echo :SQLSTATE
BEGIN;
CALL cqrs.catch_up(); \echo :SQLSTATE
ROLLBACK;
CREATE FUNCTION in_function() RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL cqrs.catch_up(); END';
SELECT in_function(); \echo :SQLSTATE
DROP FUNCTION in_function;
-- but from a procedure or a DO block that may commit
DO $$ BEGIN CALL cqrs.catch_up(); END $$; \echo :SQLSTATE
DO $$ BEGIN
	PERFORM cqrs.publish('Order', 'do', 'Placed');
	COMMIT;
	CALL cqrs.catch_up();
	IF NOT EXISTS (SELECT FROM a WHERE id = 'do') THEN RAISE 'not there'; END IF;
	BEGIN
		CALL cqrs.catch_up();
	EXCEPTION WHEN active_sql_transaction THEN
		RAISE NOTICE '%', SQLERRM;
	END;
END $$; \echo :SQLSTATE
-- under any default isolation
SET default_transaction_isolation = 'serializable';
SELECT cqrs.publish('Order', 'serializable', 'Placed') > 0 AS published;
CALL cqrs.catch_up();
RESET default_transaction_isolation;
SELECT count(*) FROM a WHERE id = 'serializable';

-- wait_for: one's own events are not there before the commit
BEGIN;
SELECT cqrs.publish('Order', 'own', 'Placed') > 0 AS published;
SELECT cqrs.wait_for('a'); \echo :SQLSTATE
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT cqrs.publish('Order', 'undone', 'Placed') > 0 AS published;
ROLLBACK TO s;
SELECT cqrs.wait_for('a');
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.wait_for('a'); \echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT cqrs.wait_for('a'); \echo :SQLSTATE
ROLLBACK;
SELECT cqrs.wait_for('unknown'); \echo :SQLSTATE
SELECT cqrs.wait_for(NULL); \echo :SQLSTATE
-- up to an event; one that is not there yet may come
SELECT cqrs.publish('Order', 'position', 'Placed') AS position \gset
SELECT cqrs.wait_for('a', '1 minute', :position), cqrs.wait_for('a', up_to_position => 1), cqrs.wait_for('a', NULL, :position);
SELECT cqrs.wait_for('a', '20 ms', :position + 1);
SELECT cqrs.wait_for('a', '-1 day', :position + 1);
SELECT cqrs.wait_for('a', up_to_position => 0); \echo :SQLSTATE
SELECT cqrs.wait_for('a', up_to_position => -1); \echo :SQLSTATE
SELECT cqrs.wait_for('a', 'soon'); \echo :SQLSTATE
SET statement_timeout = '100ms';
SELECT cqrs.wait_for('a', '1 month', 1000000); \echo :SQLSTATE
SELECT cqrs.wait_for('a', '178000000 years', 1000000); \echo :SQLSTATE
SELECT cqrs.wait_for('a', NULL, 1000000); \echo :SQLSTATE
RESET statement_timeout;

-- paused
SELECT cqrs.pause_projection('a');
CALL cqrs.catch_up('a'); \echo :SQLSTATE
SELECT cqrs.wait_for('a'); \echo :SQLSTATE
SELECT cqrs.wait_for('a', up_to_position => 1); \echo :SQLSTATE
CALL cqrs.catch_up();
SELECT cqrs.resume_projection('a');
-- one that fails does not hold up another
SELECT cqrs.publish('Order', 'bad', 'Bad') > 0 AS published;
SELECT cqrs.wait_for('a', '1 minute');
SELECT count(*) FROM a WHERE id = 'bad';
DROP FUNCTION to_a, to_b;
SELECT cqrs.drop_projection(name, true) FROM cqrs.projection;
DROP EXTENSION cqrs_views;
