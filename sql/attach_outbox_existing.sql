-- Rows that are there already are taken in the source's order, or left; to detach and attach again repeats none.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA attach_existing;
SET search_path = attach_existing;
CREATE TABLE t (event_id uuid, aggregate_type text, aggregate_id text, aggregate_version bigint, event_type text, payload jsonb, "position" bigint);
CREATE VIEW taken AS SELECT aggregate_id, count(*), count(*) FILTER (WHERE aggregate_version < before) AS out_of_order
	FROM (SELECT *, lag(aggregate_version) OVER (PARTITION BY aggregate_id ORDER BY position) AS before FROM cqrs.outbox) AS o GROUP BY 1 ORDER BY 1;
-- more than fit into memory at once, in no order, some of them large
INSERT INTO t SELECT md5(n::text)::uuid, 'T', 'k' || n % 3, n, 'E', jsonb_build_object('n', n, 'large', repeat(md5(n::text), CASE WHEN n % 100 = 0 THEN 1000 ELSE 0 END)), n
FROM generate_series(1, 3500) AS n ORDER BY md5(n::text);
SET work_mem = '64kB';
SELECT cqrs.attach_outbox('t', 'before');
RESET work_mem;
SELECT * FROM taken;
SELECT count(*) FROM cqrs.outbox JOIN t USING (event_id, payload, aggregate_version);
-- again: nothing new but what came meanwhile
SELECT cqrs.detach_outbox('t');
INSERT INTO t SELECT md5(n::text)::uuid, 'T', 'k' || n % 3, n, 'E', '{}', n FROM generate_series(3510, 3501, -1) AS n;
SELECT count(*) FROM taken;
SELECT cqrs.attach_outbox('t', 'before');
SELECT * FROM taken;
SELECT events, duplicates FROM cqrs.source_status;
-- left: only what comes from then on
SELECT cqrs.detach_outbox('t');
INSERT INTO t SELECT md5(n::text)::uuid, 'T', 'left', n, 'E', '{}', n FROM generate_series(3511, 3520) AS n;
SELECT cqrs.attach_outbox('t', 'before', existing_rows => 'leave');
INSERT INTO t SELECT md5(n::text)::uuid, 'T', 'after', n, 'E', '{}', n FROM generate_series(3521, 3530) AS n;
SELECT * FROM taken;
-- as another source, they are other events
SELECT cqrs.detach_outbox('t');
SELECT cqrs.attach_outbox('t', 'another');
SELECT source, count(*) FROM cqrs.outbox GROUP BY 1 ORDER BY 1;
SELECT source, events, duplicates FROM cqrs.source_status;
-- what can't be mapped is put aside; what has no order by comes as it lies, rows of failing order first
SELECT cqrs.detach_outbox('t');
CREATE TABLE u (id int, who text, at text);
INSERT INTO u VALUES (1, 'a', '2'), (2, 'a', '1'), (3, 'a', 'x'), (NULL, 'b', '9'), (5, 'b', '3');
SELECT cqrs.attach_outbox('u', 'ordered', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "at", "order_by": "at::int"}');
SELECT event_type, aggregate_id FROM cqrs.outbox WHERE source = 'ordered' ORDER BY position;
SELECT row, reason FROM cqrs.source_dead_letter;
SELECT cqrs.attach_outbox('t', 'no order', 'cqrs_views', '{"order_by": null, "event_id": "aggregate_version"}');
SELECT count(*) FROM cqrs.outbox WHERE source = 'no order';

-- small rows that are sorted don't gather in memory until the statement ends
CREATE TABLE small (id int);
SELECT cqrs.attach_outbox('small', 'small', 'mapping', '{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "id", "event_type": "''E''", "order_by": "id"}');
CREATE FUNCTION measure() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	RAISE NOTICE '%', (SELECT max(used_bytes) < 500000 FROM pg_backend_memory_contexts WHERE name = 'AfterTriggerTupleContext');
	RETURN NULL;
END $$;
CREATE TRIGGER measure AFTER INSERT ON cqrs.outbox FOR EACH ROW WHEN (new.aggregate_id = '10000') EXECUTE FUNCTION measure();
INSERT INTO small SELECT generate_series(10000, 1, -1);
DROP TRIGGER measure ON cqrs.outbox;

-- inline projections apply what is received, in the transaction that receives it
CREATE TABLE kept (id text PRIMARY KEY, n bigint, last bigint);
CREATE FUNCTION keep(k kept, e cqrs.event) RETURNS kept LANGUAGE sql AS $$ SELECT e.aggregate_id, coalesce(k.n, 0) + 1, e.aggregate_version $$;
SELECT cqrs.create_projection('kept', 'keep(kept, cqrs.event)', '{kept}', mode => 'inline', sources => '{inline}', start_at => 'now');
CREATE TABLE i (LIKE t);
INSERT INTO i SELECT gen_random_uuid(), 'T', 'i', n, 'E', '{}', n FROM generate_series(1, 5) AS n;
BEGIN;
SELECT cqrs.attach_outbox('i', 'inline');
INSERT INTO i VALUES (gen_random_uuid(), 'T', 'i', 6, 'E', '{}', 6), (gen_random_uuid(), 'T', 'j', 1, 'E', '{}', 7);
SELECT * FROM kept ORDER BY id;
ROLLBACK;
SELECT count(*) FROM kept;
SELECT cqrs.attach_outbox('i', 'inline');
SELECT * FROM kept ORDER BY id;
-- an inline handler may write to an attached table: that is handled after the event, which each row is by itself
CREATE TABLE o (LIKE t);
SELECT cqrs.attach_outbox('o', 'nested');
CREATE TABLE log (n bigint GENERATED ALWAYS AS IDENTITY, what text);
CREATE FUNCTION log(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO log (what) VALUES (e.source || ' ' || e.aggregate_id);
	IF e.source = 'inline' THEN INSERT INTO o VALUES (gen_random_uuid(), 'T', 'caused by ' || e.aggregate_id, 1, 'E', '{}', 1); END IF;
END $$;
SELECT cqrs.create_projection('log', 'log(cqrs.event)', '{log}', mode => 'inline', start_at => 'now');
INSERT INTO i VALUES (gen_random_uuid(), 'T', 'x', 8, 'E', '{}', 6), (gen_random_uuid(), 'T', 'y', 9, 'E', '{}', 7);
SELECT what FROM log ORDER BY n;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;

DROP VIEW taken;
DROP EXTENSION cqrs_views CASCADE;
DROP SCHEMA attach_existing CASCADE;
