-- A view means the same whoever publishes, and whenever: settings that change what text or a value means don't reach it.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
SET TimeZone = 'Asia/Tokyo';
SET DateStyle = 'SQL, DMY';
SELECT cqrs.create_view('texts', $$ SELECT position, payload->>'k' = 'a\\b' AS x, payload->>'k' = null AS y, (payload->>'a')::text[] AS a,
	(payload->>'f')::float8::text AS f, decode('ff', 'hex')::text AS b, occurred_at::date AS day, (payload->>'d')::date::text AS d FROM events $$, mode => 'inline');
SELECT cqrs.create_view('ends', $$ SELECT aggregate_id, max(position) AS p, cqrs.last(event_type) AS l FROM events GROUP BY 1 $$, mode => 'inline');
RESET TimeZone;
RESET DateStyle;
CREATE FUNCTION publish() RETURNS void LANGUAGE sql AS $$
	INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload, occurred_at)
	VALUES ('T', 'a', 'E', jsonb_build_object('k', 'a' || chr(92) || chr(92) || 'b', 'a', '{x,NULL}', 'f', '0.30000000000000004', 'd', '03/02/2026'),
		'2026-01-31 20:00 UTC') $$;
SELECT publish();
\c
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET transform_null_equals = on;
SET quote_all_identifiers = on;
SET array_nulls = off;
SET extra_float_digits = 0;
SET bytea_output = escape;
SET TimeZone = 'America/New_York';
SET DateStyle = 'German';
SELECT publish();
\c
SELECT count(*), count(DISTINCT (x, y, a, f, b, day, d)) AS different FROM texts;
SELECT x, y, a[2] IS NULL AS a, f, b, day = '2026-02-01' AS day, d FROM texts LIMIT 1;
TABLE ends;

-- a constant means the same whatever the styles, and whatever the name of the time zone is taken for elsewhere
SET TimeZone = 'Asia/Kolkata';
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
SELECT cqrs.create_view('constants', $$ SELECT occurred_at < '2026-01-31 20:00:01 UTC' AS early, count(*) AS n,
	max(occurred_at + '-1 day 2 hours -3 seconds') AS less FROM events WHERE occurred_at > '2026-01-31 19:59:59 UTC' GROUP BY 1 $$);
SELECT col_description('constants'::regclass, 1);
SELECT publish();
CALL cqrs.catch_up('constants');
SELECT early, n, less = (SELECT max(occurred_at + '-1 day 2 hours -3 seconds') FROM cqrs.outbox) AS less FROM constants;
RESET TimeZone;
RESET DateStyle;
RESET IntervalStyle;

-- words that mean the moment at which the query is parsed
SELECT cqrs.create_view('w', $$ SELECT count(*) FROM events WHERE occurred_at < 'now' $$);
SELECT cqrs.create_view('w', $$ SELECT count(*) FROM events WHERE occurred_at < timestamptz 'Tomorrow 12:00' $$);
SELECT cqrs.create_view('w', $$ SELECT count(*) FILTER (WHERE occurred_at::date = ANY ('{today, yesterday}')) FROM events $$);
SELECT cqrs.create_view('w', $$ SELECT count(*) FROM events WHERE occurred_at < 'now'::text::timestamptz $$);
SELECT cqrs.create_view('w', $$ SELECT count(*) FROM events WHERE occurred_at <@ '{[now,)}'::tstzmultirange $$);
CREATE DOMAIN days AS date[];
SELECT cqrs.create_view('w', $$ SELECT count(*) FROM events WHERE occurred_at::date = ANY ('{today}'::days) $$);
CREATE TYPE stay AS (guest text, since date);
SELECT cqrs.create_view('w', $$ SELECT position, (('(now,today)'::stay)).since FROM events $$);
SELECT cqrs.create_view('w', $$ SELECT count(*) FROM events WHERE event_type IN ('today', 'now') AND payload->>'when' = 'tomorrow' AND occurred_at < 'infinity' $$);

-- a read table that is gone is said to be so, also to publishers
SET cqrs_views.allow_writes = on;
DROP TABLE ends;
RESET cqrs_views.allow_writes;
\set VERBOSITY sqlstate
SELECT publish();
\c
SELECT publish();

SELECT cqrs.drop_projection(name, true) FROM cqrs.projection;
-- comments say who maintains the tables, under his name of now, and nobody once the view is dropped
\c
CREATE FUNCTION shout(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper(t)';
SELECT cqrs.create_view('kept', 'SELECT shout(aggregate_id) AS id, cqrs.last(source) AS by, count(*) AS n FROM events GROUP BY 1');
COMMENT ON COLUMN kept.n IS 'mine';
SELECT cqrs.alter_projection('kept', new_name => 'still kept');
CREATE VIEW comments AS SELECT objoid::regclass AS relation, objsubid, description FROM pg_description
	WHERE classoid = 'pg_class'::regclass AND objoid IN ('kept'::regclass, 'kept_state'::regclass) ORDER BY 1, 2;
TABLE comments;
DROP FUNCTION shout;
DROP VIEW comments;
SELECT cqrs.drop_projection('still kept');
SELECT objsubid, description FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = 'kept'::regclass;
DROP FUNCTION shout;
DROP TABLE kept;
DROP FUNCTION publish;
DROP DOMAIN days;
DROP TYPE stay;
DROP EXTENSION cqrs_views;
