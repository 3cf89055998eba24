-- A row that can't be made an event does not stop the others: it is put aside, with later ones of its key, and tried again on demand.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA attach_parking;
SET search_path = attach_parking;
CREATE TABLE t (id text, type text, who text, version int, body text);
CREATE FUNCTION attach(payload text) RETURNS bigint LANGUAGE sql AS $$
	SELECT cqrs.attach_outbox('t', 's', 'mapping', jsonb_build_object('event_id', 'id', 'aggregate_type', '''T''', 'aggregate_id', 'who',
		'aggregate_version', 'version', 'event_type', 'type', 'payload', payload), existing_rows => 'leave') $$;
CREATE VIEW parked AS SELECT row->>'id' AS id, key, reason, sqlstate, message, attempts FROM cqrs.source_dead_letter ORDER BY number;
CREATE VIEW taken AS SELECT aggregate_id, string_agg(aggregate_version || ':' || payload::text, ' ' ORDER BY position) AS versions FROM cqrs.outbox GROUP BY 1 ORDER BY 1;
SELECT attach('body');

-- what is wrong with each, and whom it holds up; in one statement
INSERT INTO t VALUES ('1', 'E', 'a', 1, '{}'), ('2', 'E', 'a', 2, 'oops'), ('3', 'E', 'b', 1, '{}'), ('4', 'E', 'a', 3, '{}'), ('5', NULL, 'c', 1, '{}'),
	('6', 'E', NULL, 1, '{}'), (NULL, 'E', 'd', 1, '{}'), ('7', 'E', 'c', 2, '{}'), ('8', 'E', 'e', 1, '"\u0000"'), ('9', 'E', 'b', 2, '{"n": 1}');
SELECT * FROM parked;
SELECT * FROM taken;
-- row by row, and from then on
INSERT INTO t VALUES ('10', 'E', 'a', 4, '{}');
INSERT INTO t VALUES ('11', 'E', 'b', 3, '{}');
COPY t FROM stdin;
12	E	d	2	{}
13	E	e	2	oops
\.
SELECT * FROM parked WHERE id::int >= 10;
-- what comes again is not put aside again
INSERT INTO t SELECT * FROM t;
SELECT events, duplicates, rows_parked FROM cqrs.source_status;
SELECT count(*) FROM cqrs.received WHERE position IS NULL;

-- nothing is mended: each key is tried once, and stays as it is
SELECT cqrs.retry_source_dead_letters('t');
SELECT id, reason, attempts FROM parked;
-- a mapping that takes what is wrong for what it may have meant; until there is one, the rows wait
SELECT cqrs.detach_outbox('t');
SELECT count(*) FROM parked;
SELECT cqrs.retry_source_dead_letters('t');
SELECT attach($$CASE WHEN body ~ '^[[{"]' THEN body ELSE to_json(body)::text END$$);
-- one key; what comes in the meantime is behind what is left
SELECT cqrs.retry_source_dead_letters('t', 'a');
INSERT INTO t VALUES ('14', 'E', 'a', 5, '{}'), ('15', 'E', 'e', 3, '{}');
SELECT * FROM taken;
SELECT id, key, reason FROM parked;
-- all others; those that have no type, key or id are for good, as is the one with what no text may have
SELECT cqrs.retry_source_dead_letters('t');
SELECT * FROM parked;
-- forget some: up to a number, of a key, and of no key
SELECT cqrs.discard_source_dead_letters('t', 'c', (SELECT min(number) FROM cqrs.source_dead_letter WHERE key = 'c'));
SELECT cqrs.retry_source_dead_letters('t', 'c');
SELECT cqrs.discard_source_dead_letters('t', 'e'), cqrs.discard_source_dead_letters('t', NULL), cqrs.discard_source_dead_letters('t', 'nobody');
SELECT cqrs.discard_source_dead_letters('t', 'd', 0);
SELECT * FROM parked;
SELECT * FROM taken;
-- what was forgotten does not come back
INSERT INTO t SELECT * FROM t WHERE type IS NULL OR who = 'e';
SELECT events, duplicates, rows_parked FROM cqrs.source_status;
-- an id that is found later: the row that came again meanwhile is the event, and the one put aside is none
SELECT cqrs.detach_outbox('t');
SELECT cqrs.attach_outbox('t', 's', 'mapping', '{"event_id": "coalesce(id, who || version)", "aggregate_type": "type", "aggregate_id": "who", "event_type": "type", "aggregate_version": "version", "payload": "body"}', 'leave');
SELECT count(*) FROM parked;
SELECT cqrs.retry_source_dead_letters('t');
INSERT INTO t VALUES (NULL, 'E', 'd', 1, '{}');
SELECT * FROM taken WHERE aggregate_id = 'd';
SELECT count(*) FROM parked;

-- a row that the table's columns don't take any more stays aside, and holds up its own key only
CREATE TABLE changed (id text, who text, amount text);
SELECT cqrs.attach_outbox('changed', 'changed', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''", "payload": "to_json(amount::numeric)::text"}');
INSERT INTO changed VALUES ('c1', 'x', '12,5'), ('c2', 'x', '1'), ('c3', 'y', '1e');
SELECT cqrs.detach_outbox('changed');
TRUNCATE changed;
ALTER TABLE changed ALTER amount TYPE int USING amount::int;
SELECT cqrs.attach_outbox('changed', 'changed', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''", "payload": "to_json(amount)::text"}');
SELECT cqrs.retry_source_dead_letters('changed');
SELECT id, key, reason, sqlstate, attempts FROM parked WHERE id LIKE 'c%';
ALTER TABLE changed ALTER amount TYPE text;
SELECT cqrs.detach_outbox('changed');
SELECT cqrs.attach_outbox('changed', 'changed', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''", "payload": "to_json(amount)::text"}');
SELECT cqrs.retry_source_dead_letters('changed');
SELECT count(*) FROM parked WHERE id LIKE 'c%';
SELECT cqrs.detach_outbox('changed');

-- rows keep their place before later ones of their key, also where a new mapping gives them another
CREATE FUNCTION rekeyed(key text) RETURNS bigint LANGUAGE sql AS $$ SELECT cqrs.attach_outbox('changed', 'changed', 'mapping', jsonb_build_object('event_id', 'id', 'aggregate_type', '''T''', 'aggregate_id', key, 'event_type', '''E''', 'payload', 'to_json(amount::numeric)::text')) $$;
SELECT rekeyed('who');
INSERT INTO changed VALUES ('k1', 'z', 'wrong'), ('k2', 'z', '2');
SELECT cqrs.detach_outbox('changed');
SELECT rekeyed('''customer-'' || who');
INSERT INTO changed VALUES ('k3', 'z', '3');
SELECT id, key, reason FROM parked WHERE id LIKE 'k%';
SELECT cqrs.detach_outbox('changed');
SELECT cqrs.attach_outbox('changed', 'changed', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "upper(who)", "event_type": "''E''", "payload": "to_json(amount)::text"}');
SELECT cqrs.retry_source_dead_letters('changed');
SELECT aggregate_id, payload FROM cqrs.outbox WHERE source = 'changed' AND aggregate_id = 'Z' ORDER BY position;
SELECT cqrs.detach_outbox('changed');

-- JSON that can't be read as such holds up its own row only
CREATE TABLE unread (id text, who text, body json);
SELECT cqrs.attach_outbox('unread', 'unread', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''", "payload": "body"}');
INSERT INTO unread VALUES ('u1', 'zero', '{"x": "\u0000"}'), ('u2', 'half', '"\ud800"'), ('u3', 'well', '{"x": 1}');
SELECT cqrs.retry_source_dead_letters('unread');
SELECT cqrs.detach_outbox('unread');
SELECT cqrs.attach_outbox('unread', 'unread', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''", "payload": "body"}');
SELECT key, reason, sqlstate, attempts FROM cqrs.source_dead_letter WHERE source = 'unread' ORDER BY number;
SELECT aggregate_id FROM cqrs.outbox WHERE source = 'unread';
SELECT cqrs.detach_outbox('unread');
SELECT cqrs.attach_outbox('unread', 'unread', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''", "payload": "replace(body::text, E''\\\\u0000'', ''zero'')"}');
SELECT cqrs.retry_source_dead_letters('unread', 'zero');
SELECT payload FROM cqrs.outbox WHERE source = 'unread' AND aggregate_id = 'zero';
SELECT cqrs.discard_source_dead_letters('unread', 'half');
SELECT cqrs.detach_outbox('unread');

-- columns that changed meanwhile: a value comes back by its text, whatever the type is; what was added has its default; nothing is lost under another name
CREATE TABLE turned (id text, who text, body text, extra json, gone int);
CREATE FUNCTION turned(payload text) RETURNS bigint LANGUAGE sql AS $$ SELECT cqrs.attach_outbox('turned', 'turned', 'mapping', jsonb_build_object('event_id', 'id', 'aggregate_type', '''T''', 'aggregate_id', 'who', 'event_type', '''E''', 'payload', payload), 'leave') $$;
SELECT turned('body::jsonb || (who || ''!'')::jsonb');
INSERT INTO turned VALUES ('t1', 'a', '{"n": 1}', '"x"', 1), ('t2', 'b', '{"n": 2}', NULL, 2);
SELECT cqrs.detach_outbox('turned');
TRUNCATE turned;
ALTER TABLE turned ALTER body TYPE jsonb USING NULL, ALTER extra TYPE text, DROP gone;
ALTER TABLE turned ADD added int DEFAULT 7;
SELECT turned('jsonb_build_object(''body'', body, ''extra'', extra)');
SELECT cqrs.retry_source_dead_letters('turned', 'a');
SELECT cqrs.detach_outbox('turned');
ALTER TABLE turned RENAME body TO content;
SELECT turned('content');
SELECT cqrs.retry_source_dead_letters('turned');
SELECT key, reason, sqlstate, message FROM cqrs.source_dead_letter WHERE source = 'turned';
SELECT cqrs.detach_outbox('turned');
ALTER TABLE turned ADD body jsonb, ADD gone int;
SELECT turned('jsonb_build_object(''body'', coalesce(content, body), ''added'', added)');
SELECT cqrs.retry_source_dead_letters('turned');
SELECT aggregate_id, payload FROM cqrs.outbox WHERE source = 'turned' ORDER BY position;
SELECT cqrs.detach_outbox('turned');

-- a trigger on the outbox that tries them again itself makes nothing an event twice
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM cqrs.retry_source_dead_letters('attach_parking.again'); RETURN NULL; END $$;
CREATE TABLE again (id text, who text, amount text);
CREATE FUNCTION attach_again(amount text, wanted text) RETURNS bigint LANGUAGE sql AS $$ SELECT cqrs.attach_outbox('again', 'again', 'mapping', jsonb_build_object('event_id', 'id', 'aggregate_type', '''T''', 'aggregate_id', 'who', 'event_type', '''E''', 'payload', amount, 'where', wanted), 'take') $$;
SELECT attach_again('to_json(amount::numeric)::text', NULL);
INSERT INTO again VALUES ('a1', 'a', 'x'), ('a2', 'b', 'x'), ('a3', 'c', 'x'), ('a4', 'd', 'x');
SELECT cqrs.detach_outbox('again');
SELECT attach_again('to_json(amount)::text', 'id <> ''a4''');
CREATE TRIGGER again AFTER INSERT ON cqrs.outbox FOR EACH ROW EXECUTE FUNCTION again();
SELECT cqrs.retry_source_dead_letters('again');
DROP TRIGGER again ON cqrs.outbox;
SELECT count(*), count(DISTINCT event_id) FROM cqrs.outbox WHERE source = 'again';
SELECT count(*) FROM cqrs.source_dead_letter WHERE source = 'again';
-- one that was not wanted when it was tried again is known as little as one that never was
SELECT cqrs.detach_outbox('again');
SELECT attach_again('to_json(amount)::text', NULL) AS taken;
SELECT cqrs.detach_outbox('again');

-- a row with columns of all kinds, and one that was dropped, survives being put aside
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (one int, two text);
CREATE FUNCTION pair_json(pair) RETURNS json IMMUTABLE RETURN '{"one": "way"}'::json;
CREATE CAST (pair AS json) WITH FUNCTION pair_json(pair);
CREATE DOMAIN anything AS json;
CREATE TABLE kinds (gone int, id uuid, a int[], b bytea, c timestamptz, d mood, e json, f interval, g numeric, h point, i jsonb, j char(3), k text,
	l pair, m jsonb, n int[], o float8, p bool, q anything, r text, s int DEFAULT 7);
ALTER TABLE kinds DROP gone;
SET timezone = 'Asia/Kolkata';
SET datestyle = 'SQL, DMY';
SELECT cqrs.attach_outbox('kinds', 'kinds', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "d", "event_type": "nullif(k, ''not yet'')",
	"payload": "jsonb_build_object(''a'', a, ''b'', b, ''c'', c, ''d'', d, ''e'', e, ''f'', f, ''g'', g, ''h'', h::text, ''i'', i, ''j'', j, ''l'', l::text, ''m'', m::text, ''n'', n::text, ''o'', o::text, ''p'', p, ''q'', q::text, ''r'', r, ''s'', s)"}');
INSERT INTO kinds VALUES ('00000000-0000-0000-0000-00000000000a', '{1,NULL}', '\x00ff', '2020-01-01 12:00:00.123456+02', 'happy', '{"x":  1, "x": 2}', '1 mon 2 days', 1.10, '(1,2)', '"ä"', 'x', 'not yet',
	'(1,"a, b")', 'null', '[0:1]={1,2}', 'NaN', true, 'null', E'"\\\n', NULL);
SELECT message FROM parked;
SELECT row FROM cqrs.source_dead_letter;
SELECT cqrs.detach_outbox('kinds');
SELECT cqrs.attach_outbox('kinds', 'kinds', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "d", "event_type": "k",
	"payload": "jsonb_build_object(''a'', a, ''b'', b, ''c'', c, ''d'', d, ''e'', e, ''f'', f, ''g'', g, ''h'', h::text, ''i'', i, ''j'', j, ''l'', l::text, ''m'', m::text, ''n'', n::text, ''o'', o::text, ''p'', p, ''q'', q::text, ''r'', r, ''s'', s)"}', 'leave');
SELECT cqrs.retry_source_dead_letters('kinds');
SELECT event_type, payload FROM cqrs.outbox WHERE source = 'kinds';
RESET timezone;
RESET datestyle;

-- what is nobody's fault is thrown, so that whoever inserts tries again; so is what is wrong with the mapping as a whole
CREATE FUNCTION fails(code text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = code; END $$;
CREATE TABLE u (id text, code text);
SELECT cqrs.attach_outbox('u', 'u', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "id", "event_type": "fails(code)"}');
INSERT INTO u VALUES ('1', '40001');
INSERT INTO u VALUES ('2', '57014'), ('3', 'P0001');
INSERT INTO u VALUES ('4', 'P0001');
DROP FUNCTION fails;
INSERT INTO u VALUES ('5', 'P0001');
SELECT id, sqlstate, message FROM parked;
SELECT count(*) FROM u;

DROP VIEW taken, parked;
DROP EXTENSION cqrs_views;
DROP SCHEMA attach_parking CASCADE;
