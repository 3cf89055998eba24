-- What a view's query can't contain: each refused with a cursor in the query, the reason and the way out.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA misuse;
SET search_path = misuse;
CREATE TABLE other (id text, n serial);
CREATE FUNCTION try(query text) RETURNS regclass LANGUAGE sql AS $$ SELECT cqrs.create_view('q', query) $$;
\set SHOW_CONTEXT never

-- not one SELECT from events
SELECT try(NULL);
SELECT try('');
SELECT try(' -- nothing
');
SELECT try('SELECT count(*) FROM');
SELECT try('SELECT count(*) FROM events; SELECT 1');
SELECT try('INSERT INTO other VALUES (1)');
SELECT try('CREATE TABLE third ()');
SELECT try('VALUES (1)');
SELECT try('SELECT count(*) INTO third FROM events');
SELECT try('SELECT');
SELECT try('SELECT 1 AS one');
SELECT try('SELECT FROM events');
SELECT try('WITH e AS (SELECT * FROM events) SELECT count(*) FROM e');
SELECT try('SELECT count(*) FROM events UNION ALL SELECT 1');
SELECT try('(SELECT count(*) FROM events) EXCEPT SELECT 1');
SELECT try('SELECT count(*) FROM other');
SELECT try('SELECT count(*) FROM cqrs.outbox');
SELECT try('SELECT count(*) FROM cqrs.events');
SELECT try('SELECT count(*) FROM no_such');
SELECT try('SELECT count(*) FROM events, other');
SELECT try('SELECT count(*) FROM events a JOIN events b ON a.aggregate_id = b.aggregate_id');
SELECT try('SELECT count(*) FROM events CROSS JOIN LATERAL jsonb_each(payload)');
SELECT try('SELECT count(*) FROM (SELECT * FROM events) AS e');
SELECT try('SELECT count(*) FROM generate_series(1, 2)');
SELECT try('SELECT count(*) FROM events TABLESAMPLE SYSTEM (10)');

-- clauses
SELECT try('SELECT aggregate_id, count(*) FROM events GROUP BY aggregate_id HAVING count(*) > 1');
SELECT try('SELECT aggregate_id, count(*) FROM events GROUP BY aggregate_id ORDER BY 2 DESC');
SELECT try('SELECT aggregate_id FROM events LIMIT 10');
SELECT try('SELECT aggregate_id FROM events OFFSET 10');
SELECT try('SELECT aggregate_id FROM events FETCH FIRST ROW ONLY');
SELECT try('SELECT DISTINCT aggregate_id FROM events');
SELECT try('SELECT DISTINCT ON (aggregate_id) aggregate_id, event_type FROM events');
SELECT try('SELECT aggregate_id FROM events FOR UPDATE');
SELECT try('SELECT aggregate_id FROM events WINDOW w AS (PARTITION BY source)');
SELECT try('SELECT source, aggregate_type, count(*) FROM events GROUP BY GROUPING SETS (source, aggregate_type)');
SELECT try('SELECT source, aggregate_type, count(*) FROM events GROUP BY ROLLUP (source, aggregate_type)');
SELECT try('SELECT source, aggregate_type, count(*) FROM events GROUP BY CUBE (source, aggregate_type)');

-- groups
SELECT try('SELECT count(*) FROM events GROUP BY aggregate_id');
SELECT try('SELECT aggregate_id, count(*) FROM events GROUP BY aggregate_id, source');
SELECT try('SELECT upper(source) AS source, count(*) FROM events GROUP BY events.source');
SELECT try('SELECT aggregate_id, source, count(*) FROM events GROUP BY aggregate_id');
SELECT try('SELECT (payload->''x'')::json AS x, count(*) FROM events GROUP BY 1');
SELECT try('SELECT point(1, 2) AS x, count(*) FROM events GROUP BY 1');
SELECT try('SELECT xmlcomment(source) AS x, count(*) FROM events GROUP BY 1');
SELECT try('SELECT (payload->>''x'')::xid AS x, count(*) FROM events GROUP BY 1');
SELECT try('SELECT count(*) AS n FROM events GROUP BY n');
SELECT string_agg('position + ' || i || ' AS p' || i, ', ') AS columns, string_agg(i::text, ', ') AS keys FROM generate_series(1, 33) AS i \gset
SELECT try('SELECT ' || :'columns' || ' FROM events GROUP BY ' || :'keys');

-- aggregates
SELECT try('SELECT avg(aggregate_version) FROM events');
SELECT try('SELECT count(DISTINCT source) FROM events');
SELECT try('SELECT array_agg(source) FROM events');
SELECT try('SELECT string_agg(source, '','' ORDER BY position) FROM events');
SELECT try('SELECT jsonb_object_agg(event_id, payload) FROM events');
SELECT try('SELECT sum(position ORDER BY position) FROM events');
SELECT try('SELECT stddev(position) FROM events');
SELECT try('SELECT var_pop(position) FROM events');
SELECT try('SELECT corr(position, aggregate_version) FROM events');
SELECT try('SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY aggregate_version) FROM events');
SELECT try('SELECT mode() WITHIN GROUP (ORDER BY source) FROM events');
SELECT try('SELECT rank(1) WITHIN GROUP (ORDER BY position) FROM events');
CREATE AGGREGATE product(numeric) (SFUNC = numeric_mul, STYPE = numeric, INITCOND = '1');
SELECT try('SELECT product(aggregate_version) FROM events');
SELECT try('SELECT cqrs.last(source, aggregate_version) FROM events');
SELECT try('SELECT cqrs.last(source, position + 1) FROM events');
SELECT try('SELECT cqrs.last(''x'') FROM events');
SELECT try('SELECT sum(source) FROM events');
SELECT try('SELECT sum(count(*)) FROM events');
SELECT try('SELECT coalesce(sum(position), 0) AS total FROM events');
SELECT try('SELECT aggregate_id, sum(position) / count(*) AS average FROM events GROUP BY aggregate_id');
SELECT try('SELECT max(position)::int FROM events');
SELECT try('SELECT count(*) FROM events WHERE count(*) > 1');
SELECT try('SELECT count(*) FILTER (WHERE count(*) > 1) FROM events');
SELECT try('SELECT count(*) OVER () FROM events');
SELECT try('SELECT aggregate_id, sum(count(*)) OVER (ORDER BY aggregate_id) FROM events GROUP BY aggregate_id');
SELECT try('SELECT row_number() OVER (ORDER BY position) FROM events');
SELECT try('SELECT source, grouping(source), count(*) FROM events GROUP BY source');

-- expressions
SELECT try('SELECT position, (SELECT max(id) FROM other) FROM events');
SELECT try('SELECT count(*) FROM events WHERE aggregate_id IN (SELECT id FROM other)');
SELECT try('SELECT count(*) FILTER (WHERE EXISTS (SELECT FROM other)) FROM events');
SELECT try('SELECT position, jsonb_object_keys(payload) FROM events');
SELECT try('SELECT position, generate_series(1, 2) FROM events');
SELECT try('SELECT position, random() FROM events');
SELECT try('SELECT count(*) FILTER (WHERE random() < 0.5) FROM events');
SELECT try('SELECT position, clock_timestamp() - occurred_at AS age FROM events');
SELECT try('SELECT position, now() FROM events');
SELECT try('SELECT position, age(occurred_at) FROM events');
SELECT try('SELECT position, current_timestamp FROM events');
SELECT try('SELECT count(*) FROM events WHERE occurred_at > current_date - 7');
SELECT try('SELECT count(*) FROM events WHERE source = current_user');
SELECT try('SELECT count(*) FROM events WHERE source = current_setting(''application_name'')');
SELECT try('SELECT count(*) FROM events WHERE occurred_at > ''now''');
SELECT try('SELECT count(*) FROM events WHERE occurred_at > timestamptz ''tomorrow''');
SELECT try('SELECT count(*) FROM events WHERE occurred_at::date = ''today''::date');
SELECT try('SELECT position, cqrs.current_xid() FROM events');
SELECT try('SELECT position, nextval(''other_n_seq'') FROM events');
CREATE FUNCTION dice(t text, r float8 DEFAULT random()) RETURNS float8 LANGUAGE sql IMMUTABLE AS 'SELECT r';
CREATE FUNCTION stamp(t text, at timestamptz DEFAULT current_timestamp) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT t || at';
SELECT try('SELECT position, upper(stamp(source)) AS t FROM events');
SELECT try('SELECT count(*) FILTER (WHERE dice(t => source) < 0.5) FROM events');
SELECT try('SELECT position, (payload->>''x'')::regclass FROM events');
SELECT try('SELECT position, concat((payload->>''x'')::oid::regclass) AS name FROM events');
SELECT try('SELECT position, to_tsvector(source) FROM events');
SELECT try('SELECT count(*) FROM events WHERE source = $1');
SELECT try('SELECT position, no_such FROM events');
SELECT try('SELECT position, no_such(source) FROM events');
SELECT try('SELECT position, xid FROM events');
SELECT try('SELECT position, ctid FROM events');
SELECT try('SELECT events FROM events');
SELECT try('SELECT (e).source FROM events e WHERE e IS NOT NULL');
SELECT try('SELECT position, ROW(source, event_type) AS pair FROM events');
SELECT try('SELECT count(*) FROM events WHERE source');

-- columns
SELECT try('SELECT source, source FROM events');
SELECT try('SELECT sum(position), sum(aggregate_version) FROM events');
SELECT try('SELECT position AS ctid FROM events');
CREATE DOMAIN needed AS text CHECK (VALUE IS NOT NULL);
SELECT try('SELECT cqrs.last(source::needed) FROM events');
SELECT try('SELECT source, cqrs.first(event_type::needed) FILTER (WHERE event_type <> '''') AS f FROM events GROUP BY 1');

-- nothing is left of all that
SELECT count(*) FROM cqrs.projection;
SELECT relname FROM pg_class WHERE relnamespace = 'misuse'::regnamespace AND relkind = 'r';

\set VERBOSITY terse
DROP SCHEMA misuse CASCADE;
DROP EXTENSION cqrs_views;
