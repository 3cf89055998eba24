-- Where a handler runs: as the owner, under the settings of the projection's creation, in a security-restricted operation.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_owner;
CREATE ROLE regress_publisher;
SELECT cqrs.grant_publish(r) FROM unnest('{regress_owner,regress_publisher}'::regrole[]) AS r;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_owner;
CREATE SCHEMA "app, one" AUTHORIZATION regress_owner;
CREATE SCHEMA trap;
GRANT ALL ON SCHEMA trap TO PUBLIC;

-- the settings of its creation, whatever those of the worker, the publisher or the session that catches up
SET ROLE regress_owner;
SET search_path = "app, one", public;
SET TimeZone = 'Asia/Kathmandu';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'iso_8601';
CREATE TABLE context (id text, who name, path text, shown text);
CREATE FUNCTION helper() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'ours'::text $$;
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO context VALUES (e.aggregate_id, current_user, current_setting('search_path'),
		concat_ws(' ', e.occurred_at, '02/01/2003'::date - date '2003-01-01', interval '1 day 2 hours', helper()));
	-- what it sets ends with the batch
	PERFORM set_config('TimeZone', 'UTC', false), set_config('search_path', 'trap', false), set_config('application_name', 'handler', false);
END $$;
SELECT cqrs.create_projection('context', 'on_event(cqrs.event)', '{context}');
RESET ROLE;
CREATE FUNCTION trap.helper() RETURNS text LANGUAGE sql AS $$ SELECT 'trapped by ' || current_user $$;
RESET TimeZone; RESET DateStyle; RESET IntervalStyle;
SET search_path = trap, pg_temp;
SELECT cqrs.publish('Order', 'async', 'Placed', occurred_at => '2001-02-03 04:05:06+00') > 0 AS published;
CALL cqrs.catch_up('context');
SET ROLE regress_owner;
SELECT cqrs.alter_projection('context', mode => 'inline');
SET ROLE regress_publisher;
SELECT cqrs.publish('Order', 'inline', 'Placed', occurred_at => '2001-02-03 04:05:06+00') > 0 AS published;
SELECT current_user, current_setting('search_path'), current_setting('TimeZone'), current_setting('application_name') = 'handler' AS leaked;
RESET ROLE;
SELECT * FROM "app, one".context;
SET search_path = "app, one";

-- what a restricted operation can't do; each would let the owner's code run later, or as somebody else
SET ROLE regress_owner;
CREATE TABLE parent (id text PRIMARY KEY);
CREATE TABLE child (id text REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE tried (what text, outcome text);
CREATE FUNCTION try(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		EXECUTE e.payload->>'sql';
		INSERT INTO tried VALUES (e.payload->>'sql', 'ok');
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO tried VALUES (e.payload->>'sql', SQLSTATE || ' ' || SQLERRM);
	END;
END $$;
SELECT cqrs.create_projection('try', 'try(cqrs.event)', '{tried,child,parent}', event_types => '{Try}', mode => 'inline');
RESET ROLE;
CREATE FUNCTION attempts() RETURNS SETOF text LANGUAGE sql AS $$
	VALUES ('SET ROLE postgres'), ('RESET ROLE'), ('SET SESSION AUTHORIZATION postgres'), ('RESET SESSION AUTHORIZATION'),
	('CREATE TEMP TABLE t ()'), ('CREATE TEMP VIEW v AS SELECT 1'), ('DECLARE c CURSOR WITH HOLD FOR SELECT 1'), ('LISTEN x'), ('UNLISTEN *'),
	('PREPARE p AS SELECT 1'), ('DEALLOCATE ALL'), ('DISCARD ALL'), ('SET CONSTRAINTS ALL DEFERRED'),
	('INSERT INTO child VALUES (''orphan'')'), ('COMMIT'), ('ROLLBACK'), ('LOCK TABLE parent'), ('CREATE TABLE made (a int)'), ('DROP TABLE made'),
	('SET cqrs_views.allow_writes = on'), ('SET LOCAL work_mem = ''4MB'''), ('NOTIFY x'), ('SELECT 1'), ('TRUNCATE child, parent'), ('CALL cqrs.catch_up()'),
	('SELECT cqrs.publish(''Made'', ''1'', ''By handler'')'), ('DELETE FROM cqrs.outbox'), ('SELECT cqrs.pause_projection(''try'')'),
	('SELECT cqrs.drop_projection(''try'')'), ('SELECT cqrs.alter_projection(''context'', notify => ''none'')'), ('SELECT cqrs.resume_projection(''try'')'),
	('SELECT cqrs.create_projection(''q'', ''try(cqrs.event)'', ''{parent}'')'), ('SELECT cqrs.wait_for(''try'')'), ('SELECT cqrs.grant_publish(''regress_owner'')'), ('UPDATE context SET who = NULL')
$$;
SELECT count(cqrs.publish('Try', 'inline', 'Try', jsonb_build_object('sql', a))) FROM attempts() AS a;
SELECT what, outcome FROM tried ORDER BY ctid;
-- the worker's turn: the same outcomes, where it can tell
SET ROLE regress_owner;
SELECT cqrs.alter_projection('try', mode => 'async');
RESET ROLE;
CREATE TABLE before AS SELECT * FROM tried;
SELECT count(cqrs.publish('Try', 'async', 'Try', jsonb_build_object('sql', a))) FROM attempts() AS a;
SELECT cqrs.wait_for('try', '1 minute');
SELECT what, outcome FROM tried t WHERE outcome NOT IN (SELECT outcome FROM before b WHERE b.what = t.what);
SELECT source, event_type FROM cqrs.outbox WHERE aggregate_type = 'Made';

RESET search_path;
\set VERBOSITY terse
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA "app, one" CASCADE;
DROP SCHEMA trap CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner, regress_publisher;
