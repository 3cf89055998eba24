-- What can't be attached, and what a mapping can't be: each with a hint, and with the cursor in the expression.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA attach_errors;
SET search_path = attach_errors;
CREATE ROLE regress_attach_errors;
CREATE TABLE t (id uuid, kind text, who int, body text, raw bytea, at time, "order" point);
CREATE FUNCTION try(relation regclass, source text DEFAULT 's', format text DEFAULT 'mapping', mapping jsonb DEFAULT NULL, existing_rows text DEFAULT 'take')
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text; hint text;
BEGIN
	PERFORM cqrs.attach_outbox(relation, source, format, mapping, existing_rows);
	PERFORM cqrs.detach_outbox(relation);
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ' ' || regexp_replace(SQLERRM, 'pg_temp_\d+', 'pg_temp'), nullif(detail, ''), nullif(hint, ''));
END $$;
-- a good mapping, and it with one entry replaced, or added
CREATE FUNCTION mapping(entry text DEFAULT NULL, expression text DEFAULT NULL) RETURNS jsonb LANGUAGE sql AS
$$ SELECT '{"event_id": "id", "aggregate_type": "kind", "aggregate_id": "who", "event_type": "kind"}'
	|| CASE WHEN entry IS NULL THEN '{}' ELSE jsonb_build_object(entry, expression) END $$;
\pset format unaligned
\pset tuples_only on
SELECT try('t', mapping => mapping());

-- relations
CREATE TABLE whole (id uuid) PARTITION BY HASH (id);
CREATE TABLE part PARTITION OF whole FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE parent (id uuid);
CREATE TABLE child () INHERITS (parent);
CREATE VIEW v AS SELECT * FROM t;
CREATE TEMP TABLE temporary (id uuid);
CREATE TABLE kept (id text PRIMARY KEY, n bigint);
CREATE FUNCTION h(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
SELECT cqrs.create_projection('p', 'h(cqrs.event)', '{kept}');
SELECT relation::text, try(relation) FROM unnest('{cqrs.outbox,cqrs.received,cqrs.source_status,pg_class,whole,part,parent,child,v,temporary,kept}'::regclass[]) AS relation;
SELECT try(NULL), try(4711::oid::regclass);
SELECT cqrs.detach_outbox('t');
SELECT cqrs.detach_outbox(NULL);
-- arguments
SELECT try('t', NULL), try('t', ''), try('t', format => NULL), try('t', format => 'kafka'), try('t', existing_rows => 'all'), try('t', existing_rows => NULL);
SELECT format, try('t', format => format) FROM unnest('{cqrs_views,debezium,eventuate,mapping}'::text[]) AS format;
SELECT mapping, try('t', mapping => mapping) FROM unnest(ARRAY['1', '"x"', 'null', '[]', '{}', '{"position": "1"}', '{"source": "x"}', '{"Event_id": "id"}', '{"event_id": 1}',
	'{"event_id": {"a": "b"}}', '{"event_id": ["id"]}', '{"event_id": null}', '{"event_id": "id"}']::jsonb[]) AS mapping;
SELECT try('t', format => 'debezium', mapping => '{"event_id": "id", "aggregate_type": "kind"}');

-- expressions: of the right type, and of the row alone
SELECT entry, expression, try('t', mapping => mapping(entry, expression)) FROM (VALUES ('payload', 'raw'), ('payload', 'who'), ('payload', 'kind'), ('payload', '''{}'''),
	('metadata', 'at'), ('occurred_at', 'at'), ('occurred_at', 'body'), ('occurred_at', 'who'), ('aggregate_version', 'body'), ('aggregate_version', 'id'),
	('where', 'who'), ('where', 'body'), ('where', 'id'), ('where', 'who > 1'), ('order_by', 'order'), ('order_by', 'ROW(at, id)'), ('order_by', 'body::json'),
	('event_id', 'raw'), ('event_id', 'who'), ('aggregate_id', 'id'), ('payload', ''), ('payload', 'body body'), ('payload', 'nothing'), ('payload', '"Body"'),
	('payload', 'cqrs.nothing(body)'), ('payload', '(SELECT 1)'), ('payload', 'max(body)'), ('payload', 'unnest(ARRAY[body])'), ('payload', 't'), ('payload', 'to_jsonb(t)'),
	('payload', 'ctid'), ('payload', 'to_jsonb(random())'), ('payload', 'body; DROP TABLE t'), ('event_id', 'gen_random_uuid()'), ('event_type', '$1')) AS e (entry, expression);
\set VERBOSITY default
SELECT cqrs.attach_outbox('t', 's', 'mapping', mapping('payload', 'jsonb_build_object(''a'', nobody)'));
SELECT cqrs.attach_outbox('t', 's', 'mapping', mapping('payload', 'body ||'));
\set VERBOSITY terse

DROP VIEW v;
-- already attached; then neither a read table, nor gone, nor without a column that it needs
SELECT cqrs.attach_outbox('t', 's', 'mapping', mapping('payload', 'body'));
SELECT cqrs.attach_outbox('t', 'other', 'mapping', mapping());
\set VERBOSITY default
DROP TABLE t CASCADE;
DROP SCHEMA attach_errors CASCADE;
ALTER TABLE t RENAME body TO text;
ALTER TABLE t DROP body CASCADE;
ALTER TABLE t DROP who, ADD other int;
ALTER TABLE t ALTER id TYPE bytea USING NULL;
ALTER TABLE t ALTER body TYPE bytea USING NULL;
ALTER TABLE t OWNER TO regress_attach_errors;
ALTER TABLE t INHERIT parent;
\set VERBOSITY terse
SELECT cqrs.create_projection('q', 'h(cqrs.event)', '{t}');
-- what does no harm is allowed, and followed
ALTER TABLE t ALTER body TYPE varchar, ALTER who TYPE text, DROP raw, ADD raw int;
ALTER TABLE t RENAME at TO "At";
ALTER TABLE t RENAME TO "T";
CREATE SCHEMA attach_errors_2;
ALTER TABLE "T" SET SCHEMA attach_errors_2;
INSERT INTO attach_errors_2."T" VALUES ('00000000-0000-0000-0000-00000000000a', 'k', 'me', '[1]');
SELECT source, aggregate_id, payload FROM cqrs.outbox;
SELECT source, relation FROM cqrs.source_status;
-- its triggers: what ENABLE makes of them is put right; without the one for statements, nothing is lost without a word
ALTER TABLE attach_errors_2."T" DISABLE TRIGGER ALL;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgname ~ '^cqrs_receive' ORDER BY 1;
ALTER TABLE attach_errors_2."T" ENABLE TRIGGER ALL;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgname ~ '^cqrs_receive' ORDER BY 1;
ALTER TABLE attach_errors_2."T" DISABLE TRIGGER cqrs_receive;
SET session_replication_role = replica;
INSERT INTO attach_errors_2."T" VALUES ('00000000-0000-0000-0000-00000000000b', 'k', 'me', '[1]');
RESET session_replication_role;
ALTER TABLE attach_errors_2."T" ENABLE TRIGGER cqrs_receive;
SET session_replication_role = replica;
INSERT INTO attach_errors_2."T" VALUES ('00000000-0000-0000-0000-00000000000b', 'k', 'me', '[1]');
RESET session_replication_role;
SELECT events, duplicates FROM cqrs.source_status;
-- an invalid call of a trigger function; and a table whose trigger its owner has dropped may go, and is forgotten
CREATE TRIGGER bad BEFORE INSERT ON kept FOR EACH STATEMENT EXECUTE FUNCTION cqrs.receive();
CREATE TRIGGER bad AFTER INSERT ON parent FOR EACH STATEMENT EXECUTE FUNCTION cqrs.receive();
INSERT INTO parent VALUES (NULL);
DROP TRIGGER bad ON parent;
CREATE TRIGGER bad AFTER INSERT ON parent REFERENCING NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION cqrs.receive();
INSERT INTO parent VALUES (NULL);
DROP TRIGGER cqrs_receive ON attach_errors_2."T";
DROP TABLE attach_errors_2."T";
SELECT count(*) FROM cqrs.source_status;
CREATE TABLE again (id uuid, kind text, who int);
SELECT cqrs.attach_outbox('again', 's', 'mapping', mapping());
SELECT source, relation FROM cqrs.source_status;
-- part of an inheritance tree by now: no other can be attached, but what is attached can be looked after, and detached
CREATE TABLE heir () INHERITS (again);
SELECT cqrs.retry_source_dead_letters('again'), cqrs.discard_source_dead_letters('again', 'none'), cqrs.detach_outbox('again');
SELECT cqrs.attach_outbox('again', 's', 'mapping', mapping());
DROP TABLE heir;
SELECT cqrs.attach_outbox('again', 's', 'mapping', mapping());
-- not in a handler
CREATE OR REPLACE FUNCTION h(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM cqrs.detach_outbox('again'); END $$;
SELECT cqrs.publish('T', '1', 'E');
SELECT cqrs.alter_projection('p', on_error => 'stop');
DO $$ BEGIN
	FOR i IN 1 .. 3000 LOOP
		EXIT WHEN (SELECT state = 'stopped' FROM cqrs.projection_status WHERE name = 'p');
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
SELECT last_error ~ 'cannot detach a table in a handler' FROM cqrs.projection_status;
SELECT cqrs.detach_outbox('again'), cqrs.drop_projection('p');
DROP EXTENSION cqrs_views CASCADE;
DROP SCHEMA attach_errors, attach_errors_2 CASCADE;
DROP ROLE regress_attach_errors;
