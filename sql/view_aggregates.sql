-- Every aggregate that can be merged, over every kind of type: in batches of all sizes the read table equals the query
-- over all events.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');

-- all events in position order, for the query to be run by hand
CREATE VIEW events AS SELECT position, event_id, source, aggregate_type, aggregate_id, aggregate_version, event_type,
	payload, metadata, occurred_at FROM cqrs.outbox ORDER BY position;
CREATE FUNCTION differences(name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('WITH expected AS (%s), seen AS (TABLE %I)
		SELECT count(*) FROM ((TABLE expected EXCEPT ALL TABLE seen) UNION ALL (TABLE seen EXCEPT ALL TABLE expected)) AS d',
		cqrs.view_definition(name), name) INTO n;
	RETURN n;
END $$;

-- three keys and NULL; half of the values are missing
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload, occurred_at)
SELECT 'A', 'a' || i % 3, (ARRAY['x', 'y'])[1 + i % 2],
	CASE WHEN i % 7 < 4 THEN jsonb_build_object('n', (i * 7919 % 201) - 100, 'b', i % 5 < 4, 'm', (ARRAY['sad', 'ok', 'happy'])[1 + i % 3],
		'k', CASE WHEN i % 4 < 3 THEN i % 4 END) ELSE '{}' END,
	'2026-01-01'::timestamptz + i * interval '7 hours 13 minutes'
FROM generate_series(1, 300) AS i;

SELECT cqrs.create_view('counts', $$ SELECT aggregate_id, count(*), count(payload->>'n') AS n, count(*) FILTER (WHERE event_type = 'x') AS x
	FROM events GROUP BY aggregate_id $$, start_at => 'now');
SELECT cqrs.create_view('sums', $$ SELECT (payload->>'k')::int AS k, sum((payload->>'n')::smallint) AS s2, sum((payload->>'n')::int) AS s4,
	sum((payload->>'n')::bigint) AS s8, sum((payload->>'n')::numeric / 8) AS n, sum((payload->>'n')::real) AS f4, sum((payload->>'n')::float8 / 8) AS f8,
	sum((payload->>'n')::int * interval '1 hour') AS i, sum((payload->>'n')::int::money) AS m,
	sum(CASE payload->>'n' WHEN '-100' THEN 'NaN' ELSE '1' END::numeric) FILTER (WHERE event_type = 'x') AS nan
	FROM events GROUP BY 1 $$, start_at => 'now');
SELECT cqrs.create_view('extremes', $$ SELECT payload->>'k' AS k, event_type, min((payload->>'n')::int) AS i, max((payload->>'n')::smallint) AS s,
	min((payload->>'n')::bigint) AS b, max((payload->>'n')::numeric) AS n, min((payload->>'n')::real) AS f, max((payload->>'n')::float8) AS d,
	min(payload->>'n') AS t, max(payload->>'n' COLLATE "C") AS c, min((payload->>'n')::char(4)) AS bp, max(occurred_at) AS o, min(occurred_at::date) AS dt, max(occurred_at::timestamp) AS ts,
	min(occurred_at::time) AS tm, max((payload->>'n')::int * interval '1 day') AS iv, min((payload->>'m')::mood) AS e,
	max(ARRAY[payload->>'n', event_type]) AS a, max((payload->>'n')::int::money) AS mo, min('10.0.0.1'::inet + (payload->>'n')::int) AS ip
	FROM events GROUP BY 1, 2 $$, start_at => 'now');
SELECT cqrs.create_view('booleans', $$ SELECT (payload->>'b')::boolean AS b, bool_and((payload->>'n')::int > 0) AS a, bool_or((payload->>'n')::int > 0) AS o,
	every((payload->>'n')::int > -90) FILTER (WHERE event_type = 'y') AS e, bit_and((payload->>'n')::int) AS ba, bit_or((payload->>'n')::bigint) AS bo,
	bit_and((payload->>'n')::int::bit(12)) AS bb FROM events GROUP BY 1 $$, start_at => 'now');
SELECT cqrs.create_view('ends', $$ SELECT aggregate_id AS id, cqrs.first(payload->>'n' ORDER BY position) AS f FROM events GROUP BY 1 $$);
SELECT cqrs.create_view('ends', $$ SELECT aggregate_id AS id, cqrs.first(payload->>'n', position) AS f, cqrs.last(payload->'n', position) AS l,
	cqrs.first((payload->>'n')::int, position) FILTER (WHERE event_type = 'x') AS fx, cqrs.last((payload->>'n')::numeric, position) FILTER (WHERE event_type = 'x') AS lx,
	cqrs.last(occurred_at, position) FILTER (WHERE event_type = 'never') AS never FROM events GROUP BY 1 $$, start_at => 'now');
SELECT cqrs.create_view('one', $$ SELECT count(*), sum((payload->>'n')::int) AS s, cqrs.first(payload, position) AS f, cqrs.last(event_type, position) AS l,
	max(position) AS p FROM events $$, start_at => 'now');
SELECT cqrs.create_view('none', $$ SELECT 'constant' AS c FROM events GROUP BY () $$, start_at => 'now');
SELECT cqrs.create_view('groups', $$ SELECT event_type, upper(event_type) AS u, aggregate_id || '!' AS a FROM events GROUP BY 1, aggregate_id || '!' $$, start_at => 'now');
SELECT cqrs.create_view('appended', $$ SELECT position, (payload->>'n')::int + 1 AS n FROM events WHERE event_type = 'x' $$, start_at => 'now');
SELECT cqrs.create_view('keyless', $$ SELECT aggregate_id, payload->'n' AS n FROM events WHERE payload ? 'n' $$, start_at => 'now');
-- before any event
TABLE one;
TABLE none;

-- from the first event, in batches of various sizes
CREATE PROCEDURE rebuild_all(batch int) LANGUAGE plpgsql AS $$
DECLARE
	p record;
BEGIN
	FOR p IN SELECT name FROM cqrs.projection ORDER BY name LOOP
		PERFORM cqrs.alter_projection(p.name, batch_size => batch);
		COMMIT;
		CALL cqrs.rebuild_projection(p.name, online => false);
	END LOOP;
END $$;
CALL rebuild_all(1);
SELECT name, differences(name) FROM cqrs.projection ORDER BY name;
CALL rebuild_all(7);
SELECT name, differences(name) FROM cqrs.projection ORDER BY name;
CALL rebuild_all(1000);
SELECT name, differences(name) FROM cqrs.projection ORDER BY name;

-- and after some more
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT aggregate_type, aggregate_id, event_type, payload || '{"n": 7}' FROM cqrs.outbox WHERE position % 11 = 0;
CALL cqrs.catch_up();
SELECT name, differences(name) FROM cqrs.projection ORDER BY name;
TABLE one;
TABLE ends ORDER BY id;

-- a row whose fields are all NULL is no NULL, neither as a value nor as a group
CREATE TYPE pair AS (n int, k text);
SELECT cqrs.create_view('pairs', $$ SELECT (payload->>'k')::int AS k, cqrs.first(((payload->>'n')::int, payload->>'m')::pair, position)
	FILTER (WHERE payload->>'m' IS NULL) AS f FROM events GROUP BY 1 $$, start_at => 'now');
SELECT cqrs.create_view('pair_groups', $$ SELECT CASE WHEN event_type = 'x' THEN ((payload->>'n')::int % 2, payload->>'m')::pair END AS p, count(*) AS n,
	cqrs.last(position, position) AS l FROM events GROUP BY 1 $$, start_at => 'now');
CALL rebuild_all(3);
SELECT name, differences(name) FROM cqrs.projection WHERE name ~ 'pair' ORDER BY name;

-- a view that is filled at once is the same as one that was caught up
CREATE TABLE before AS TABLE extremes;
SELECT cqrs.create_view('filled', cqrs.view_definition('extremes')), cqrs.create_view('filled_ends', cqrs.view_definition('ends'));
SELECT differences('filled'), differences('filled_ends');
SELECT count(*) FROM (TABLE filled EXCEPT TABLE before) AS d;

DO $$
DECLARE
	p name;
BEGIN
	FOR p IN SELECT name FROM cqrs.projection LOOP
		PERFORM cqrs.drop_projection(p, true);
	END LOOP;
END $$;
DROP TABLE before;
DROP VIEW events;
DROP FUNCTION differences;
DROP PROCEDURE rebuild_all;
DROP TYPE mood, pair;
DROP EXTENSION cqrs_views;
