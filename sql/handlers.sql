-- Handlers of both kinds: what they get, in which order, in which language.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
SELECT cqrs.publish('Order', 'o' || i % 2, CASE i % 3 WHEN 0 THEN 'Placed' ELSE 'Paid' END, jsonb_build_object('i', i),
	jsonb_build_object('m', i), md5(i::text)::uuid, i, timestamptz '2001-01-01 00:00+00' + i * interval '1 hour') FROM generate_series(1, 7) AS i;

-- per event, plpgsql: every column, as it was published
CREATE TABLE copies (n int GENERATED ALWAYS AS IDENTITY, e cqrs.event);
CREATE FUNCTION copy_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO copies (e) VALUES (e);
END $$;
SELECT cqrs.create_projection('copies', 'copy_event(cqrs.event)', '{copies}');
CALL cqrs.catch_up('copies');
SELECT n, (e).position, (e).aggregate_id, (e).event_type, (e).payload, (e).metadata, (e).aggregate_version AS version,
	(e).occurred_at AT TIME ZONE 'UTC' AS occurred_at FROM copies ORDER BY n;
SELECT count(*) AS exact FROM copies JOIN cqrs.outbox o ON o.position = (e).position
WHERE (e).event_id = o.event_id AND (e).source = o.source AND (e).aggregate_type = o.aggregate_type;

-- per event, SQL in both forms; the arguments have any names, or none
CREATE TABLE totals (id text PRIMARY KEY, n int, last bigint);
CREATE FUNCTION count_sql(cqrs.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.totals VALUES ($1.aggregate_id, 1, $1.position)
	ON CONFLICT (id) DO UPDATE SET n = totals.n + 1, last = excluded.last;
$$;
CREATE TABLE totals_atomic (LIKE totals INCLUDING ALL);
CREATE FUNCTION count_atomic(the_event cqrs.event) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO totals_atomic VALUES (the_event.aggregate_id, 1, the_event.position)
	ON CONFLICT (id) DO UPDATE SET n = totals_atomic.n + 1, last = excluded.last;
END;
-- reads what it wrote for the event before
CREATE TABLE chain (position bigint, before bigint);
CREATE FUNCTION link(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	last bigint := (SELECT max(position) FROM chain);
BEGIN
	INSERT INTO chain VALUES (e.position, last);
END $$;
-- several statements, one of them for nothing; STRICT, STABLE and SECURITY DEFINER change nothing
CREATE TABLE paid (id text PRIMARY KEY);
CREATE FUNCTION paid(e cqrs.event) RETURNS void LANGUAGE sql STRICT SECURITY DEFINER AS $$
	DELETE FROM public.paid WHERE id = e.aggregate_id AND e.event_type = 'Placed';
	INSERT INTO public.paid SELECT e.aggregate_id WHERE e.event_type = 'Paid' ON CONFLICT DO NOTHING;
$$;
SELECT cqrs.create_projection('totals', 'count_sql(cqrs.event)', '{totals}');
SELECT cqrs.create_projection('totals_atomic', 'count_atomic(cqrs.event)', '{totals_atomic}');
SELECT cqrs.create_projection('chain', 'link(cqrs.event)', '{chain}', batch_size => 50);
SELECT cqrs.create_projection('paid', 'paid(cqrs.event)', '{paid}');

-- per batch: the transition table "events", with the columns of cqrs.event
CREATE TABLE batches (n int GENERATED ALWAYS AS IDENTITY, positions bigint[], tg text[]);
CREATE FUNCTION on_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO batches (positions, tg)
	SELECT array_agg(position), ARRAY[TG_NAME, TG_WHEN, TG_LEVEL, TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_NARGS::text]
	FROM events;
	-- twice, and joined to itself
	IF (SELECT count(*) FROM events a JOIN events b USING (position)) <> (SELECT count(*) FROM events) THEN
		RAISE 'the batch changed while it was read';
	END IF;
	RETURN NULL;
END $$;
CREATE TABLE whole (LIKE cqrs.events);
CREATE FUNCTION keep_whole() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO whole SELECT * FROM events;
	RETURN NEW;  -- is ignored
END $$;
SELECT cqrs.create_projection('batches', 'on_batch()', '{batches}', batch_size => 30);
SELECT cqrs.create_projection('whole', 'keep_whole()', '{whole}');
CALL cqrs.catch_up();
TABLE totals ORDER BY id;
SELECT count(*) AS differences FROM (TABLE totals EXCEPT TABLE totals_atomic) d;
SELECT * FROM chain ORDER BY position;
TABLE paid ORDER BY id;
SELECT DISTINCT tg FROM batches;
SELECT unnest(positions) AS position FROM batches ORDER BY n;
SELECT count(*) AS differences FROM (TABLE whole EXCEPT SELECT position, event_id, source, aggregate_type, aggregate_id,
	aggregate_version, event_type, payload, metadata, occurred_at FROM cqrs.outbox) d;

-- batches of all sizes, so of all plans, give the same
SELECT count(cqrs.publish('Order', 'o' || i % 2, 'Placed')) FROM generate_series(1, 1) AS i;
CALL cqrs.catch_up();
SELECT count(cqrs.publish('Order', 'o' || i % 2, 'Placed')) FROM generate_series(1, 30) AS i;
CALL cqrs.catch_up();
SELECT count(cqrs.publish('Order', 'o' || i % 2, 'Placed')) FROM generate_series(1, 3000) AS i;
CALL cqrs.catch_up();
TABLE totals ORDER BY id;
SELECT count(*), min(position), max(position), count(before) FROM chain;
SELECT count(*) AS differences FROM (TABLE totals EXCEPT TABLE totals_atomic) d;
SELECT count(*), count(DISTINCT position) FROM whole;
SELECT count(*) AS events, bool_and(position > before) AS in_order, max(cardinality) <= 30 AS bounded
FROM (SELECT position, lag(position) OVER (ORDER BY n, ordinality) AS before, cardinality(positions)
	FROM batches, unnest(positions) WITH ORDINALITY AS u (position, ordinality)) s;

-- a handler that returns nothing, reads nothing, or does nothing is as good
CREATE FUNCTION idle(cqrs.event) RETURNS void LANGUAGE sql AS 'SELECT';
SELECT cqrs.alter_projection('totals', handler => 'idle(cqrs.event)');
SELECT cqrs.publish('Order', 'o1', 'Placed') > 0 AS published;
CALL cqrs.catch_up('totals');
SELECT events_processed FROM cqrs.projection_status WHERE name = 'totals';

\set VERBOSITY terse
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP TABLE copies, totals, totals_atomic, chain, paid, batches, whole CASCADE;
DROP FUNCTION copy_event, count_sql, link, paid, idle, on_batch, keep_whole;
DROP EXTENSION cqrs_views;
