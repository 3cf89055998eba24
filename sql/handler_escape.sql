-- Whatever an owner hangs on his read table or leaves in his schema runs as him, in a superuser's session too, in either mode; nothing of it is left to run as somebody else.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
\set SHOW_CONTEXT never
CREATE ROLE regress_owner;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_owner;
CREATE SCHEMA app AUTHORIZATION regress_owner;
SET ROLE regress_owner;
SET search_path = app, pg_catalog;
CREATE TABLE loot (by text, who name);
GRANT INSERT ON loot TO PUBLIC;
-- whoever runs it is written down, and it tries to be somebody else
CREATE FUNCTION steal(by text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.loot VALUES (by, current_user);
	BEGIN
		SET ROLE NONE;
		INSERT INTO app.loot VALUES (by || ' by SET ROLE NONE', current_user);
	EXCEPTION WHEN OTHERS THEN NULL;
	END;
	BEGIN
		PERFORM set_config('role', 'none', true), set_config('session_authorization', 'default', true);
		INSERT INTO app.loot VALUES (by || ' by set_config', current_user);
	EXCEPTION WHEN OTHERS THEN NULL;
	END;
	RETURN true;
END $$;
CREATE FUNCTION steals(by text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN app.steal(by); END';
CREATE FUNCTION definer(by text) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN app.steal(by); END';
CREATE FUNCTION on_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM app.steal(TG_NAME); RETURN coalesce(NEW, OLD); END';
CREATE FUNCTION on_row_definer() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN PERFORM app.steal(TG_NAME); RETURN NULL; END';
-- what generated statements could take for PostgreSQL's own
CREATE FUNCTION planted(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN app.steal(''operator = (text)''); END';
CREATE FUNCTION planted(bigint, bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM app.steal(''operator + (bigint)''); RETURN $1; END';
CREATE OPERATOR = (leftarg = text, rightarg = text, function = planted);
CREATE OPERATOR + (leftarg = bigint, rightarg = bigint, function = planted);
CREATE FUNCTION count(bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN PERFORM app.steal(''count''); RETURN 0; END';
CREATE FUNCTION now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN PERFORM app.steal(''now''); RETURN NULL; END';
CREATE FUNCTION coalesced(text) RETURNS text LANGUAGE sql AS 'SELECT $1';
-- a subtransaction while it loads a domain's constraints is more than PostgreSQL 18 can bear, so it must not be a constant
CREATE DOMAIN dom AS text CHECK (app.steals('domain' || left(VALUE, 0)));
CREATE TYPE pair AS (a text, b text);
CREATE FUNCTION to_text(pair) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM app.steal(''cast''); RETURN ($1).a; END';
CREATE CAST (pair AS text) WITH FUNCTION to_text(pair) AS IMPLICIT;
-- four read tables full of it
CREATE TABLE singly (id text PRIMARY KEY, n bigint DEFAULT app.steal('default')::int, d dom, CHECK (app.steals('check')));
CREATE TABLE batched (LIKE singly INCLUDING ALL);
CREATE TABLE folded (LIKE singly INCLUDING ALL);
CREATE FUNCTION singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	PERFORM app.definer('definer'), app.steal('handler');
	INSERT INTO singly (id, d) VALUES (e.aggregate_id, 'x') ON CONFLICT DO NOTHING;
END $$;
CREATE FUNCTION batched() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
	INSERT INTO batched (id, d) SELECT aggregate_id, 'x' FROM events;
	RETURN NULL;
END $$;
CREATE FUNCTION folded(t folded, e cqrs.event) RETURNS folded LANGUAGE plpgsql AS 'BEGIN t.n := 1; t.d := ''x''; RETURN t; END';
CREATE FUNCTION lowered(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM app.steal(''view''); RETURN t; END';
CREATE FUNCTION keyed(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM app.steal(''key''); RETURN t; END';
SELECT cqrs.create_projection('singly', 'singly(cqrs.event)', '{singly}', key => $$(ROW(keyed(aggregate_id), 'b')::pair)::text$$);
SELECT cqrs.create_projection('batched', 'batched()', '{batched}', key => 'keyed(aggregate_id)');
SELECT cqrs.create_projection('folded', 'folded(folded,cqrs.event)', '{folded}');
SELECT cqrs.create_view('viewed', $$SELECT lowered(aggregate_id) AS id, count(*) AS n, cqrs.last(event_type::dom) AS d FROM events GROUP BY 1$$);
DO $$ DECLARE t text; BEGIN
	FOREACH t IN ARRAY '{singly,batched,folded,viewed}'::text[] LOOP
		EXECUTE format('CREATE INDEX ON %1$s (app.steals(''index'' || id::pg_catalog.text)); CREATE INDEX ON %1$s (id) WHERE app.steals(''predicate'');
			ALTER TABLE %1$s ADD g boolean GENERATED ALWAYS AS (app.steals(''generated'')) STORED;
			CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OR DELETE ON %1$s FOR EACH ROW EXECUTE FUNCTION on_row();
			CREATE TRIGGER after_row AFTER INSERT OR UPDATE OR DELETE ON %1$s FOR EACH ROW EXECUTE FUNCTION on_row();
			CREATE CONSTRAINT TRIGGER deferred AFTER INSERT OR UPDATE OR DELETE ON %1$s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION on_row();
			CREATE TRIGGER truncated BEFORE TRUNCATE ON %1$s FOR EACH STATEMENT EXECUTE FUNCTION on_row_definer();
			CREATE POLICY p ON %1$s USING (app.steals(''policy'')) WITH CHECK (app.steals(''with check''));
			ALTER TABLE %1$s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
	END LOOP;
END $$;
-- (what the owner ran just now, in a superuser's session, is no handler)
TRUNCATE loot;

-- async: by workers and by a superuser's hand; rebuilt by one; inline: publishing, retrying, pausing
RESET ROLE;
RESET search_path;
-- (not each thing runs each time: a plan may have done with it)
CREATE FUNCTION what_ran() RETURNS TABLE (who name, much boolean, as_somebody_else text) LANGUAGE sql AS $$
	SELECT who, count(DISTINCT by) >= 8, string_agg(DISTINCT by, ', ' ORDER BY by) FILTER (WHERE who <> 'regress_owner') FROM app.loot GROUP BY 1
$$;
SELECT cqrs.publish('T', 'worker', 'E') > 0 AS published;
SELECT cqrs.wait_for(name, '1 minute') FROM cqrs.projection;
SELECT name, state, events_parked, last_error FROM cqrs.projection_status ORDER BY name;
SELECT * FROM what_ran();
TRUNCATE app.loot;
SELECT count(cqrs.pause_projection(name)) FROM cqrs.projection;
SELECT cqrs.publish('T', 'by hand', 'E') > 0 AS published;
SELECT count(cqrs.resume_projection(name)) FROM cqrs.projection;
CALL cqrs.catch_up();
CALL cqrs.rebuild_projection('singly');
CALL cqrs.rebuild_projection('batched');
CALL cqrs.rebuild_projection('folded');
CALL cqrs.rebuild_projection('viewed');
SELECT * FROM what_ran();
TRUNCATE app.loot;
-- inline, a deferred trigger would run at commit: an error
SELECT count(cqrs.alter_projection(name, mode => 'inline')) FROM cqrs.projection;
SELECT cqrs.publish('T', 'inline', 'E'); \echo :SQLSTATE
SET ROLE regress_owner;
DROP TRIGGER deferred ON app.singly; DROP TRIGGER deferred ON app.batched; DROP TRIGGER deferred ON app.folded; DROP TRIGGER deferred ON app.viewed;
RESET ROLE;
BEGIN;
SELECT cqrs.publish('T', 'inline', 'E') > 0 AS published;
SELECT current_user, current_setting('role') AS role;
COMMIT;
SELECT * FROM what_ran();
SELECT id FROM app.viewed ORDER BY id COLLATE "C";

-- a superuser retries dead letters
SELECT count(cqrs.alter_projection(name, mode => 'async', on_error => 'skip')) FROM cqrs.projection;
SELECT pg_get_functiondef('app.singly(cqrs.event)'::regprocedure) AS singly \gset
SET ROLE regress_owner;
CREATE OR REPLACE FUNCTION app.singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE ''not yet''; END';
RESET ROLE;
SELECT cqrs.publish('T', 'retried', 'E') > 0 AS published;
SELECT cqrs.wait_for('singly', '1 minute'), cqrs.wait_for('batched', '1 minute'), cqrs.wait_for('folded', '1 minute'), cqrs.wait_for('viewed', '1 minute');
TRUNCATE app.loot;
SET ROLE regress_owner;
:singly;
RESET ROLE;
SELECT cqrs.retry_dead_letters('singly');
SELECT * FROM what_ran();

SET client_min_messages = warning;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP FUNCTION what_ran;
DROP SCHEMA app CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner;
