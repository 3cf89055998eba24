-- Each role calls each function, and tries each statement on each table and view, that is a member of the extension.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_publisher;
CREATE ROLE regress_owner;
CREATE ROLE regress_other;
CREATE ROLE regress_reader;
CREATE ROLE regress_monitor;
CREATE ROLE regress_stranger;
CREATE ROLE regress_super SUPERUSER;
CREATE TABLE roles AS SELECT rolname AS role FROM pg_roles WHERE rolname ~ '^regress_(publisher|owner|other|reader|monitor|stranger|super)$';

-- what is granted: a publisher, the owners of two projections, who reads one's table, and who monitors
SELECT cqrs.grant_publish('regress_publisher');
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_owner, regress_other;
GRANT pg_monitor TO regress_monitor;
-- each has a schema with what it takes to make a projection
DO $$ DECLARE r text; BEGIN
	FOR r IN SELECT role FROM roles LOOP
		EXECUTE format('CREATE SCHEMA %1$I AUTHORIZATION %1$I; SET LOCAL ROLE %1$I; SET LOCAL search_path = %1$I;
			CREATE TABLE kept (id text PRIMARY KEY, n int);
			CREATE TABLE free (id text PRIMARY KEY, n int);
			CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS ''BEGIN ASSERT e.event_type <> ''''Bad''''; INSERT INTO kept VALUES (e.aggregate_id); END'';
			CREATE FUNCTION reduce(t free, e cqrs.event) RETURNS free LANGUAGE sql AS ''SELECT e.aggregate_id, 1'';
			CREATE FUNCTION no_trigger() RETURNS trigger LANGUAGE plpgsql AS ''BEGIN RETURN NULL; END''', r);
		RESET ROLE;
		IF r IN ('regress_owner', 'regress_other') THEN
			EXECUTE format('SET LOCAL ROLE %I', r);
			PERFORM cqrs.create_projection(r::name, format('%I.on_event(cqrs.event)', r)::regprocedure, ARRAY[format('%I.kept', r)::regclass], on_error => 'skip');
			PERFORM cqrs.create_view((r || '_view')::name, 'SELECT aggregate_id AS id, count(*) AS n FROM events GROUP BY 1') FROM set_config('search_path', r, true);
			RESET ROLE;
		END IF;
	END LOOP;
END $$;
GRANT USAGE ON SCHEMA regress_owner TO PUBLIC;
CREATE TABLE regress_owner.arrived (event_id text, aggregate_type text, aggregate_id text, event_type text);
ALTER TABLE regress_owner.arrived OWNER TO regress_owner;
SELECT cqrs.attach_outbox('regress_owner.arrived', 'elsewhere');
INSERT INTO regress_owner.arrived VALUES ('1', 'T', 'arrived', 'Good'), ('2', 'T', '2', NULL);
GRANT SELECT ON regress_owner.kept, regress_owner.regress_owner_view TO regress_reader;
SELECT count(cqrs.publish('T', id, type)) FROM (VALUES ('1', 'Good'), ('2', 'Bad')) AS e (id, type);
SELECT count(*) FROM cqrs.projection WHERE cqrs.wait_for(name, '1 minute');

-- how to call each function; ME is the role, and its schema
CREATE TABLE calls (function regprocedure PRIMARY KEY, call text NOT NULL);
INSERT INTO calls VALUES
	('cqrs.current_xid()', 'SELECT cqrs.current_xid()'),
	('cqrs.count_event(bigint)', 'SELECT cqrs.count_event(1)'),
	('cqrs.count_event(bigint, xid8)', 'SELECT cqrs.count_event(1, ''1'')'),
	('cqrs.count_events(bigint)', 'SELECT cqrs.count_events(1)'),
	('cqrs.publish(text, text, text, jsonb, jsonb, uuid, bigint, timestamptz)', 'SELECT cqrs.publish(''T'', ''3'', ''Good'')'),
	('cqrs.grant_publish(regrole)', 'SELECT cqrs.grant_publish(''ME'')'),
	('cqrs.first_transition(internal, anyelement)', 'SELECT cqrs.first_transition(NULL, 1)'),
	('cqrs.first_transition(internal, anyelement, bigint)', 'SELECT cqrs.first_transition(NULL, 1, 1)'),
	('cqrs.last_transition(anyelement, anyelement)', 'SELECT cqrs.last_transition(1, 1)'),
	('cqrs.last_transition(internal, anyelement, bigint)', 'SELECT cqrs.last_transition(NULL, 1, 1)'),
	('cqrs.kept_value(internal, anyelement)', 'SELECT cqrs.kept_value(NULL, 1)'),
	('cqrs.kept_value(internal, anyelement, bigint)', 'SELECT cqrs.kept_value(NULL, 1, 1)'),
	('cqrs.first(anyelement)', 'SELECT cqrs.first(1)'),
	('cqrs.first(anyelement, bigint)', 'SELECT cqrs.first(1, 1)'),
	('cqrs.last(anyelement)', 'SELECT cqrs.last(1)'),
	('cqrs.last(anyelement, bigint)', 'SELECT cqrs.last(1, 1)'),
	('cqrs.guard_outbox()', 'CREATE TRIGGER t BEFORE UPDATE ON ME.free EXECUTE FUNCTION cqrs.guard_outbox()'),
	('cqrs.registry_changed()', 'CREATE TRIGGER t BEFORE UPDATE ON ME.free EXECUTE FUNCTION cqrs.registry_changed()'),
	('cqrs.guard_read_table()', 'CREATE TRIGGER t BEFORE UPDATE ON ME.free EXECUTE FUNCTION cqrs.guard_read_table()'),
	('cqrs.apply_inline()', 'CREATE TRIGGER t BEFORE UPDATE ON ME.free EXECUTE FUNCTION cqrs.apply_inline()'),
	('cqrs.guard_drop()', 'CREATE EVENT TRIGGER regress_t ON sql_drop EXECUTE FUNCTION cqrs.guard_drop()'),
	('cqrs.guard_names()', 'CREATE EVENT TRIGGER regress_u ON ddl_command_end EXECUTE FUNCTION cqrs.guard_names()'),
	('cqrs.create_projection(name, regprocedure, regclass[], text, text[], text[], text[], text, text, text, text, integer, integer)',
		'SELECT cqrs.create_projection(''new'', ''ME.on_event(cqrs.event)'', ''{ME.free}'')'),
	('cqrs.create_view(name, text, text, text[], text[], text[], text, text, text, integer, integer)',
		'SELECT cqrs.create_view(''new'', ''SELECT position FROM events'') FROM set_config(''search_path'', ''ME'', true)'),
	('cqrs.view_definition(name)', 'SELECT cqrs.view_definition(''regress_owner_view'')'),
	('cqrs.alter_projection(name, text, text[], text[], text[], text, text, text, integer, integer, regprocedure, name)',
		'SELECT cqrs.alter_projection(''regress_owner'', notify => ''none'')'),
	('cqrs.drop_projection(name, boolean)', 'SELECT cqrs.drop_projection(''regress_owner'', drop_read_tables => true)'),
	('cqrs.pause_projection(name)', 'SELECT cqrs.pause_projection(''regress_owner'')'),
	('cqrs.resume_projection(name)', 'SELECT cqrs.resume_projection(''regress_owner'')'),
	('cqrs.retry_dead_letters(name, text)', 'SELECT cqrs.retry_dead_letters(''regress_owner'')'),
	('cqrs.discard_dead_letters(name, text, bigint)', 'SELECT cqrs.discard_dead_letters(''regress_owner'', ''2'')'),
	('cqrs.rebuild_projection(name, boolean)', 'CALL cqrs.rebuild_projection(''regress_owner'')'),
	('cqrs.catch_up(name)', 'CALL cqrs.catch_up(''regress_owner'')'),
	('cqrs.wait_for(name, interval, bigint)', 'SELECT cqrs.wait_for(''regress_owner'')'),
	('cqrs.fold(regprocedure, cqrs.event[])', 'SELECT cqrs.fold(''ME.reduce(ME.free, cqrs.event)'', VARIADIC ''{}''::cqrs.event[])'),
	('cqrs.fold(regprocedure, anyelement, cqrs.event[])', 'SELECT cqrs.fold(''ME.reduce(ME.free, cqrs.event)'', NULL::ME.free, VARIADIC ''{}''::cqrs.event[])'),
	('cqrs.fold(regprocedure, text, text)', 'SELECT cqrs.fold(''ME.reduce(ME.free, cqrs.event)'', ''1''::text)'),
	('cqrs.fold(regprocedure, anyelement, text, text, bigint)', 'SELECT cqrs.fold(''ME.reduce(ME.free, cqrs.event)'', NULL::ME.free, ''1''::text)'),
	('cqrs.attach_outbox(regclass, text, text, jsonb, text)',
		'SELECT cqrs.attach_outbox(''ME.free'', ''s'', ''mapping'', ''{"event_id": "id", "aggregate_type": "id", "aggregate_id": "id", "event_type": "id"}'')'),
	('cqrs.detach_outbox(regclass)', 'SELECT cqrs.detach_outbox(''regress_owner.arrived'')'),
	('cqrs.retry_source_dead_letters(regclass, text)', 'SELECT cqrs.retry_source_dead_letters(''regress_owner.arrived'')'),
	('cqrs.discard_source_dead_letters(regclass, text, bigint)', 'SELECT cqrs.discard_source_dead_letters(''regress_owner.arrived'', ''2'')'),
	('cqrs.receive()', 'CREATE TRIGGER t AFTER INSERT ON ME.free REFERENCING NEW TABLE AS n EXECUTE FUNCTION cqrs.receive()'),
	('cqrs.attachment_changed()', 'CREATE TRIGGER t AFTER INSERT ON ME.free EXECUTE FUNCTION cqrs.attachment_changed()'),
	('cqrs.guard_alter()', 'CREATE EVENT TRIGGER regress_t ON ddl_command_end EXECUTE FUNCTION cqrs.guard_alter()'),
	('cqrs.get_projection_status()', 'SELECT cqrs.get_projection_status()'),
	('cqrs.reset_stats(name)', 'SELECT cqrs.reset_stats(''regress_owner'')'),
	('cqrs.get_worker_status()', 'SELECT cqrs.get_worker_status()'),
	('cqrs.get_rebuild_progress()', 'SELECT cqrs.get_rebuild_progress()');

-- the extension's members: a function without a line above, or a kind of object that this knows nothing of, is a failure
CREATE VIEW members AS SELECT classid, objid FROM pg_depend
	WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e' AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'cqrs_views');
SELECT classid::regclass AS class, pg_describe_object(classid, objid, 0) AS "has no line" FROM members
WHERE NOT CASE classid WHEN 'pg_proc'::regclass THEN objid IN (SELECT function FROM calls)
	WHEN 'pg_class'::regclass THEN EXISTS (SELECT FROM pg_class WHERE oid = objid AND relkind IN ('r', 'v', 'S', 'c'))
	ELSE classid IN ('pg_type'::regclass, 'pg_namespace'::regclass, 'pg_event_trigger'::regclass) END;
-- statements on each relation, the outbox's INSERT being one that works; and a projection's own tables
CREATE TABLE attempts (n int GENERATED ALWAYS AS IDENTITY, object text, what text, statement text);
INSERT INTO attempts (object, what, statement)
SELECT coalesce(c.function::text, pg_describe_object(m.classid, m.objid, 0)), 'call', coalesce(c.call, 'has no line')
FROM members m LEFT JOIN calls c ON c.function = m.objid WHERE m.classid = 'pg_proc'::regclass ORDER BY c.function::text COLLATE "C";
INSERT INTO attempts (object, what, statement)
SELECT relation, what, CASE WHEN relation = 'cqrs.outbox' AND what = 'INSERT' THEN 'INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES (''T'', ''4'', ''Good'')'
	ELSE format(statement, relation, last) END
FROM (SELECT c.oid::regclass::text AS relation, relkind, (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND NOT attisdropped ORDER BY attnum DESC LIMIT 1) AS last
	FROM pg_class c WHERE oid IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass) OR oid IN ('regress_owner.kept'::regclass, 'regress_owner.regress_owner_view'::regclass)) AS r,
(VALUES (1, 'SELECT', 'rvS', 'SELECT * FROM %s'), (2, 'INSERT', 'rv', 'INSERT INTO %s DEFAULT VALUES'), (3, 'UPDATE', 'rv', 'UPDATE %1$s SET %2$I = %2$I'),
	(4, 'DELETE', 'rv', 'DELETE FROM %s'), (5, 'TRUNCATE', 'rv', 'TRUNCATE %s'), (6, 'LOCK', 'rv', 'LOCK TABLE %s IN ACCESS EXCLUSIVE MODE'),
	(7, 'TRIGGER', 'rv', 'CREATE TRIGGER t AFTER INSERT ON %s EXECUTE FUNCTION ME.no_trigger()'), (8, 'nextval', 'S', 'SELECT nextval(''%s'')'), (9, 'setval', 'S', 'SELECT setval(''%s'', 1)')
) AS s (m, what, kinds, statement) WHERE strpos(kinds, relkind::text) > 0 ORDER BY relation COLLATE "C", m;

-- each attempt is undone, and in a transaction of its own
-- (that a function of type internal can't be called, minor versions of PostgreSQL say in two ways)
CREATE TABLE outcomes (n int, role name, outcome text, shown bigint);
CREATE PROCEDURE attempt_all() LANGUAGE plpgsql AS $$
DECLARE
	a record;
	shown bigint;
	outcome text;
BEGIN
	FOR a IN SELECT * FROM attempts, roles ORDER BY n, role LOOP
		shown := NULL;
		BEGIN
			EXECUTE format('SET LOCAL ROLE %I', a.role);
			EXECUTE replace(a.statement, 'ME', a.role);
			GET DIAGNOSTICS shown = ROW_COUNT;
			RAISE SQLSTATE 'OK000';
		EXCEPTION WHEN OTHERS THEN
			outcome := CASE SQLSTATE WHEN 'OK000' THEN 'ok' WHEN '42883' THEN '0A000' ELSE SQLSTATE END;
		END;
		INSERT INTO outcomes VALUES (a.n, a.role, outcome, shown);
		COMMIT;
	END LOOP;
END $$;
CALL attempt_all();
SELECT CASE WHEN what = 'call' THEN regexp_replace(object, '\(.{40,}\)', '(..)') ELSE object || ' ' || what END AS attempt,
	max(outcome) FILTER (WHERE role = 'regress_publisher') AS publisher, max(outcome) FILTER (WHERE role = 'regress_owner') AS owner,
	max(outcome) FILTER (WHERE role = 'regress_other') AS other, max(outcome) FILTER (WHERE role = 'regress_reader') AS reader,
	max(outcome) FILTER (WHERE role = 'regress_monitor') AS monitor, max(outcome) FILTER (WHERE role = 'regress_stranger') AS stranger,
	max(outcome) FILTER (WHERE role = 'regress_super') AS super
FROM attempts JOIN outcomes USING (n) GROUP BY n, object, what ORDER BY n;
-- the view that shows each role its own
SELECT role, shown AS dead_letters FROM attempts JOIN outcomes USING (n) WHERE statement = 'SELECT * FROM cqrs.dead_letter' ORDER BY 1;
SELECT role, shown AS source_dead_letters FROM attempts JOIN outcomes USING (n) WHERE statement = 'SELECT * FROM cqrs.source_dead_letter' ORDER BY 1;

-- procedures that commit are refused in there; by themselves
\set VERBOSITY sqlstate
SELECT 'SET ROLE ' || role, 'CALL cqrs.catch_up(''regress_owner'')', 'CALL cqrs.rebuild_projection(''regress_owner'')', 'RESET ROLE' FROM roles ORDER BY role \gexec

\set VERBOSITY terse
SELECT cqrs.detach_outbox('regress_owner.arrived');
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP VIEW members;
DROP TABLE attempts, calls, outcomes;
DROP PROCEDURE attempt_all;
DROP SCHEMA regress_publisher, regress_owner, regress_other, regress_reader, regress_monitor, regress_stranger, regress_super CASCADE;
DROP TABLE roles;
DROP EXTENSION cqrs_views;
DROP ROLE regress_publisher, regress_owner, regress_other, regress_reader, regress_monitor, regress_stranger, regress_super;
