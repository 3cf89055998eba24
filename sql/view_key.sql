-- The key of a view's read table: NULL is a group, where there can be one; and what a notification tells.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE FUNCTION key_of(relation regclass) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(regexp_replace(pg_get_indexdef(indexrelid), '.* USING btree ', CASE WHEN indisprimary THEN 'PRIMARY KEY ' ELSE 'UNIQUE ' END), ', ')
		|| CASE relreplident WHEN 'f' THEN ', REPLICA IDENTITY FULL' ELSE '' END
	FROM pg_class c LEFT JOIN pg_index i ON indrelid = c.oid WHERE c.oid = relation GROUP BY relreplident $$;
CREATE FUNCTION make(name text, query text) RETURNS text LANGUAGE sql AS 'SELECT key_of(cqrs.create_view(name, query))';

-- no group can be NULL
SELECT make('a1', 'SELECT aggregate_id, count(*) FROM events GROUP BY 1');
SELECT make('a2', 'SELECT event_type AS "the type", occurred_at::date AS day, count(*) FROM events GROUP BY 1, 2');
SELECT make('a3', $$ SELECT aggregate_type || ':' || aggregate_id AS id, date_trunc('hour', occurred_at) AS hour, max(position) FROM events GROUP BY 1, 2 $$);
SELECT make('a4', $$ SELECT coalesce(payload->>'k', 'none') AS k, CASE WHEN position > 10 THEN 'late' ELSE 'early' END AS c, count(*) FROM events GROUP BY 1, 2 $$);
SELECT make('a5', $$ SELECT payload->>'k' AS k, count(*) FROM events WHERE payload->>'k' IS NOT NULL AND event_type = 'E' GROUP BY 1 $$);
SELECT make('a6', $$ SELECT position, payload->>'k' AS k FROM events $$);
-- one may be
SELECT make('b1', $$ SELECT payload->>'k' AS k, count(*) FROM events GROUP BY 1 $$);
SELECT make('b2', 'SELECT aggregate_version, aggregate_id, count(*) FROM events GROUP BY 1, 2');
SELECT make('b3', $$ SELECT CASE WHEN position > 10 THEN 'late' END AS c, count(*) FROM events GROUP BY 1 $$);
SELECT make('b4', $$ SELECT payload->>'k' AS k, count(*) FROM events WHERE payload->>'k' IS NOT NULL OR event_type = 'E' GROUP BY 1 $$);
SELECT make('b5', $$ SELECT lower(CASE WHEN position > 2 THEN '[1,2]'::int4range ELSE '(,2]' END) AS l, count(*) FROM events GROUP BY 1 $$);
-- none at all
SELECT make('c1', 'SELECT count(*) FROM events');
SELECT make('c2', $$ SELECT payload->>'k' AS k FROM events $$);

-- a notification tells the groups of the batch; those of WHERE only
\setenv HEAR 'sed -nE "s/ received from.*//; /sentinel/d; s/^(.{300}).*/\\1.../; s/^Asynchronous notification //p"'
LISTEN a2; LISTEN c1; LISTEN a5; LISTEN a6; LISTEN c2;
\o | eval "$HEAR" | sort
SELECT cqrs.alter_projection(name, batch_size => 100) FROM cqrs.projection;
SELECT cqrs.pause_projection(name) FROM cqrs.projection;
SELECT count(cqrs.publish('A', 'a' || i, 'E', CASE WHEN i < 2 THEN jsonb_build_object('k', i) ELSE '{}' END,
	occurred_at => '2026-01-01 12:00')) FROM generate_series(1, 4) AS i;
SELECT cqrs.resume_projection(name) FROM cqrs.projection;
CALL cqrs.catch_up();
SELECT cqrs.wait_for(name, '1 minute') FROM cqrs.projection;
NOTIFY sentinel;
\o
UNLISTEN *;
TABLE b1 ORDER BY k;
TABLE a2;
TABLE a4 ORDER BY k, c;
TABLE b4 ORDER BY k;
TABLE b5 ORDER BY l;
-- inline, too, where NULL is a key and events that WHERE leaves out have none
SELECT cqrs.alter_projection('a5', mode => 'inline'), cqrs.alter_projection('b1', mode => 'inline');
LISTEN a5; LISTEN b1;
\o | eval "$HEAR" | sort
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('A', 'a', 'E', '{}'), ('A', 'a', 'E', '{"k": 5}');
CALL cqrs.catch_up('a5');
CALL cqrs.catch_up('b1');
NOTIFY sentinel;
\o
UNLISTEN *;

-- the index holds for writes by hand, too
SET cqrs_views.allow_writes = on;
INSERT INTO b1 VALUES (NULL, 1);
INSERT INTO c1 VALUES (1);
RESET cqrs_views.allow_writes;

SELECT name, key FROM cqrs.projection ORDER BY name;

DO $$
DECLARE
	p name;
BEGIN
	FOR p IN SELECT name FROM cqrs.projection LOOP
		PERFORM cqrs.drop_projection(p, true);
	END LOOP;
END $$;
DROP FUNCTION make, key_of;
DROP EXTENSION cqrs_views;
