-- What a handler makes of texts is not up to who publishes: the default configuration is that of the projection's creation.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_owner;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_owner;
CREATE SCHEMA app AUTHORIZATION regress_owner;
CREATE SCHEMA config;
GRANT USAGE ON SCHEMA config TO regress_owner;
CREATE TEXT SEARCH CONFIGURATION config.ours (COPY = english);
SET ROLE regress_owner;
SET search_path = app, config;
CREATE TABLE words (id text, words text);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO words VALUES (e.aggregate_id, to_tsvector(e.payload->>'text')::text);
END $$;
SET default_text_search_config = 'ours';
SELECT cqrs.create_projection('words', 'on_event(cqrs.event)', '{words}');
RESET ROLE;
CREATE FUNCTION config.publish(id text) RETURNS boolean LANGUAGE sql AS
	$$ SELECT cqrs.publish('T', id, 'E', '{"text": "running"}') > 0 $$;
CREATE VIEW config.kept AS SELECT s AS kept FROM cqrs.registry, unnest(settings) AS s WHERE s LIKE '%text_search%' ORDER BY id;
TABLE kept;

-- in a worker, in catch_up, in a publisher's session, in a rebuild
SET default_text_search_config = 'simple';
SELECT publish('worker');
SELECT cqrs.wait_for('words', '1 minute');
SELECT publish('catch_up');
CALL cqrs.catch_up('words');
SELECT cqrs.alter_projection('words', mode => 'inline');
SELECT publish('inline');
TABLE words;
SHOW default_text_search_config;
CALL cqrs.rebuild_projection('words');
SELECT words, count(*) FROM words GROUP BY 1;

-- no parallel workers, who would take it over as the publisher, who may not name it; but for PostgreSQL's own
CREATE TABLE gathers (id text, workers text);
CREATE FUNCTION on_gather(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO gathers VALUES (e.aggregate_id, current_setting('max_parallel_workers_per_gather'));
END $$;
SET default_text_search_config = 'config.ours';
SELECT cqrs.create_projection('gathers', 'on_gather(cqrs.event)', '{gathers}', mode => 'inline', start_at => 'now');
SET max_parallel_workers_per_gather = 2;
SELECT publish('ours');
SELECT cqrs.drop_projection('gathers');
SET default_text_search_config = 'simple';
SELECT cqrs.create_projection('gathers', 'on_gather(cqrs.event)', '{gathers}', mode => 'inline', start_at => 'now');
SELECT publish('simple');
TABLE gathers;
SHOW max_parallel_workers_per_gather;
RESET max_parallel_workers_per_gather;
SELECT cqrs.drop_projection('gathers', drop_read_tables => true);

-- a session that quotes all names keeps them as they are, and changes none
SET quote_all_identifiers = on;
SET default_text_search_config = 'simple';
CREATE TABLE quoted (id text);
CREATE FUNCTION on_quoted(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO app.quoted VALUES (e.aggregate_id)';
SELECT cqrs.create_projection('quoted', 'on_quoted(cqrs.event)', '{quoted}', start_at => 'now');
CREATE TABLE unrelated (id text);
TABLE kept;
SELECT handler FROM cqrs.registry;
SELECT cqrs.drop_projection('quoted', drop_read_tables => true);
DROP TABLE unrelated;
RESET quote_all_identifiers;

-- a new name
ALTER TEXT SEARCH CONFIGURATION config.ours RENAME TO "Ours";
TABLE kept;
ALTER SCHEMA config RENAME TO "con.fig";
SET search_path = app, "con.fig";
TABLE kept;
SELECT publish('renamed');
ALTER TEXT SEARCH CONFIGURATION "Ours" SET SCHEMA app;
TABLE kept;
SELECT publish('moved');
ALTER TEXT SEARCH CONFIGURATION app."Ours" SET SCHEMA "con.fig";
-- none that the owner may use: the same for all, whatever theirs is
REVOKE USAGE ON SCHEMA "con.fig" FROM regress_owner;
SET default_text_search_config = 'english';
SELECT publish('revoked');
GRANT USAGE ON SCHEMA "con.fig" TO regress_owner;
SELECT publish('granted');
DROP TEXT SEARCH CONFIGURATION "Ours";
SELECT publish('dropped');
CREATE TEXT SEARCH CONFIGURATION "con.fig"."Ours" (COPY = english);
SET default_text_search_config = '"Ours"';
SELECT publish('there again');
DROP TEXT SEARCH CONFIGURATION "Ours";
SELECT publish('gone again');
-- one that is gone, or only the session's, when a projection is created, and none that was kept
CREATE TABLE more (id text, words text);
CREATE FUNCTION on_more(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO more VALUES (e.aggregate_id, to_tsvector(e.payload->>'text')::text);
END $$;
SELECT cqrs.create_projection('more', 'on_more(cqrs.event)', '{more}', mode => 'inline', start_at => 'now');
CREATE TEXT SEARCH CONFIGURATION pg_temp.ours (COPY = english);
SET default_text_search_config = 'pg_temp.ours';
CREATE TABLE last (id text, words text);
SELECT cqrs.create_projection('last', 'on_more(cqrs.event)', '{last}', event_types => '{None}');
TABLE kept;
SET default_text_search_config = 'english';
UPDATE cqrs.registry SET settings = settings[:7] WHERE name = 'words';
SELECT publish('not kept');
TABLE words;
TABLE more;
SELECT name, state, events_parked FROM cqrs.projection_status ORDER BY name;

RESET search_path;
SET client_min_messages = warning;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA app CASCADE;
DROP SCHEMA "con.fig" CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_owner;
