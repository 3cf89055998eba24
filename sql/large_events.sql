-- Events of many megabytes, long keys, and batches of large ones.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE sizes (position bigint, id_length int, size int, checksum text, source name);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO sizes VALUES (e.position, length(e.aggregate_id), length(e.payload->>'x'), md5(e.payload->>'x'), 'event');
END $$;
CREATE TABLE sizes_of_batches (LIKE sizes);
CREATE FUNCTION on_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO sizes_of_batches SELECT position, length(aggregate_id), length(payload->>'x'), md5(payload->>'x'), 'batch' FROM events;
	RETURN NULL;
END $$;
CREATE TABLE copies (e cqrs.event);
CREATE FUNCTION keep(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO public.copies VALUES (e)';
SELECT cqrs.create_projection('events', 'on_event(cqrs.event)', '{sizes}');
SELECT cqrs.create_projection('batches', 'on_batch()', '{sizes_of_batches}');
SELECT cqrs.create_projection('copies', 'keep(cqrs.event)', '{copies}');

-- ten megabytes, compressible and not; keys of a megabyte
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Big', 'a', 'Placed', jsonb_build_object('x', repeat('0123456789', 1024 * 1024));
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Big', 'b', 'Placed', jsonb_build_object('x', string_agg(md5(i::text), '')) FROM generate_series(1, 10 * 1024 * 32) AS i;
SELECT cqrs.publish('Big', repeat('ü', 1024 * 1024), 'Placed', '{"x": "long key"}');
SELECT cqrs.publish(repeat('t', 1024 * 1024), 'c', repeat('e', 1024 * 1024), '{"x": "long names"}') IS NOT NULL AS published;
-- fifty of a megabyte: more than a batch holds in memory
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Big', i::text, 'Placed', jsonb_build_object('x', repeat(md5(i::text), 32 * 1024)) FROM generate_series(1, 50) AS i;
CALL cqrs.catch_up();
SELECT count(*), min(id_length), max(id_length), max(size), sum(size) FROM sizes;
SELECT count(*) AS differences FROM sizes s FULL JOIN sizes_of_batches b USING (position, id_length, size, checksum) WHERE s IS NULL OR b IS NULL;
SELECT count(*) AS differences FROM sizes FULL JOIN cqrs.outbox o USING (position) WHERE sizes IS NULL OR o IS NULL
	OR checksum <> md5(o.payload->>'x') OR id_length <> length(o.aggregate_id);
SELECT count(*) AS same FROM copies JOIN cqrs.outbox o ON o.position = (e).position AND o.payload = (e).payload AND o.aggregate_id = (e).aggregate_id;
-- inline too, in one statement
SELECT cqrs.alter_projection(name, mode => 'inline') FROM cqrs.projection;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Big', i::text, 'Inline', jsonb_build_object('x', repeat(md5(i::text), 32 * 1024)) FROM generate_series(1, 30) AS i;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Big', 'inline', 'Inline', jsonb_build_object('x', string_agg(md5(i::text), '')) FROM generate_series(1, 10 * 1024 * 32) AS i;
SELECT count(*) AS differences FROM sizes FULL JOIN cqrs.outbox o USING (position) WHERE sizes IS NULL OR o IS NULL OR checksum <> md5(o.payload->>'x');
SELECT count(*) AS differences FROM sizes s FULL JOIN sizes_of_batches b USING (position, id_length, size, checksum) WHERE s IS NULL OR b IS NULL;
SELECT count(*) AS same FROM copies JOIN cqrs.outbox o ON o.position = (e).position AND o.payload = (e).payload;
CALL cqrs.catch_up();
-- keys of many bytes, computed
SELECT cqrs.alter_projection('events', key => 'payload->>''x'' || aggregate_id');
SELECT cqrs.publish('Big', 'd', 'Placed', '{"x": "computed"}') IS NOT NULL AS published;
CALL cqrs.catch_up();
SELECT name, state, events_pending, events_processed FROM cqrs.projection_status ORDER BY name;

DROP FUNCTION on_event, on_batch, keep;
SELECT count(cqrs.drop_projection(name, true)) FROM cqrs.projection;
DROP EXTENSION cqrs_views;
