-- An attached table's mapping means the same when a schema or a text search configuration gets another name.
CREATE EXTENSION cqrs_views;
CREATE SCHEMA app;
CREATE SCHEMA helpers;
CREATE FUNCTION helpers.short(text) RETURNS text IMMUTABLE RETURN left($1, 3);
CREATE TEXT SEARCH CONFIGURATION helpers.ours (COPY = english);
SET search_path = app, helpers;
SET default_text_search_config = 'ours';
CREATE TABLE notes (id text PRIMARY KEY, said text);
SELECT cqrs.attach_outbox('notes', 'notes', 'mapping', '{"event_id": "id", "aggregate_type": "''Note''", "aggregate_id": "short(id)", "event_type": "''Said''", "payload": "jsonb_build_object(''words'', to_tsvector(said)::text)"}');
RESET search_path;
RESET default_text_search_config;
CREATE VIEW kept AS SELECT s AS kept FROM cqrs.attachment, unnest(settings) AS s WHERE s ~ '^(search_path|default_text)';
CREATE VIEW said AS SELECT aggregate_id, payload FROM cqrs.outbox ORDER BY position;
TABLE kept;

-- there is no projection here
ALTER SCHEMA helpers RENAME TO "hel.pers";
TABLE kept;
INSERT INTO app.notes VALUES ('first', 'running');
ALTER TEXT SEARCH CONFIGURATION "hel.pers".ours RENAME TO "Ours";
TABLE kept;
INSERT INTO app.notes VALUES ('second', 'running');

-- within a transaction that is rolled back, and one that goes on
BEGIN;
ALTER SCHEMA app RENAME TO gone;
ALTER SCHEMA "hel.pers" RENAME TO gone_too;
TABLE kept;
INSERT INTO gone.notes VALUES ('third', 'running');
ROLLBACK;
TABLE kept;
BEGIN;
ALTER SCHEMA app RENAME TO application;
INSERT INTO application.notes VALUES ('fourth', 'running');
ALTER TEXT SEARCH CONFIGURATION "hel.pers"."Ours" SET SCHEMA application;
INSERT INTO application.notes VALUES ('fifth', 'running');
COMMIT;
TABLE kept;
TABLE said;

-- one that is gone keeps its name, and the mapping says so
DROP TEXT SEARCH CONFIGURATION application."Ours";
INSERT INTO application.notes VALUES ('sixth', 'running');
TABLE said;
DROP SCHEMA "hel.pers" CASCADE;
INSERT INTO application.notes VALUES ('seventh', 'running');
TABLE kept;

SELECT cqrs.detach_outbox('application.notes');
DROP VIEW kept, said;
DROP EXTENSION cqrs_views;
DROP SCHEMA application CASCADE;
