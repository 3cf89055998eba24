-- The key of a projection: an expression over the columns of cqrs.event, and nothing else.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA keys;
SET search_path = keys;
CREATE TABLE t (id text);
CREATE FUNCTION h(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION try(key text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text; hint text; internal int;
BEGIN
	PERFORM cqrs.create_projection('p', 'keys.h(cqrs.event)', '{keys.t}', key => try.key);
	PERFORM cqrs.drop_projection('p');
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(detail, ''), nullif(hint, ''));
END $$;
\pset format unaligned
\pset tuples_only on

-- good ones: any immutable or stable expression of a type that has a text form
SELECT key, try(key) FROM unnest(ARRAY['aggregate_id', 'event_type', 'source', 'position', 'event_id', 'aggregate_version',
	'occurred_at', 'payload', 'payload->>''id''', '"payload" -> ''a'' -> 1', 'aggregate_type || '':'' || aggregate_id',
	'coalesce(payload->>''customer'', aggregate_id)', 'CASE WHEN event_type = ''x'' THEN ''a'' ELSE ''b'' END',
	'md5(aggregate_id)', '''all''', 'NULL', 'position % 10', 'payload #>> ''{a,b}''', E' \n aggregate_id -- a comment \n',
	'aggregate_id COLLATE "C"', 'ARRAY[aggregate_type, aggregate_id]', 'ROW(aggregate_type, aggregate_id)',
	'(payload->>''n'')::numeric', 'events.aggregate_id', 'aggregate_id IS NULL', 'lower(aggregate_id::varchar(3))',
	'jsonb_path_query_first(payload, ''$.id'')', '$$dollar$$ || aggregate_id', 'greatest(source, event_type)']) AS key;

-- syntax
SELECT key, try(key) FROM unnest(ARRAY['', ' ', '--', '/*', '''', '"', 'aggregate_id ||', '(aggregate_id', 'aggregate_id)',
	'aggregate_id aggregate_id', 'DEFAULT', '*', 'events.*', 'cqrs.events.*', '(events).*', 'aggregate_id AS key', 'aggregate_id key', 'DISTINCT aggregate_id',
	'aggregate_id, event_type', '$1', ':x', '%s', E'\\']) AS key;
-- more than one expression
SELECT key, try(key) FROM unnest(ARRAY['aggregate_id FROM cqrs.events', 'aggregate_id; DROP TABLE keys.t', 'aggregate_id INTO keys.x',
	'aggregate_id WHERE true', 'aggregate_id LIMIT 1', 'aggregate_id ORDER BY 1', 'aggregate_id GROUP BY 1', 'aggregate_id UNION SELECT ''x''',
	'1) FROM pg_class; --', 'aggregate_id FOR UPDATE', 'aggregate_id WINDOW w AS ()', 'aggregate_id FETCH FIRST ROW WITH TIES',
	'aggregate_id; SELECT 1']) AS key;
-- unknown things
SELECT key, try(key) FROM unnest(ARRAY['customer', 'xid', 'outbox.aggregate_id', 'payload.id', 'nofunction(aggregate_id)',
	'aggregate_id + 1', 'aggregate_id::nosuchtype', 'aggregate_id COLLATE nosuch']) AS key;
-- what is not a matter of the event alone
SELECT key, try(key) FROM unnest(ARRAY['(SELECT aggregate_id)', '(SELECT rolname FROM pg_authid LIMIT 1)',
	'EXISTS (SELECT)', 'aggregate_id IN (SELECT ''a'')', 'ARRAY(SELECT ''a'')', 'max(aggregate_id)', 'count(*)',
	'row_number() OVER ()', 'max(aggregate_id) OVER ()', 'grouping(aggregate_id)', 'generate_series(1, 2)', 'jsonb_object_keys(payload)',
	'unnest(ARRAY[aggregate_id])', 'coalesce(aggregate_id, jsonb_object_keys(payload))',
	'random()', 'clock_timestamp()', 'aggregate_id || random()', 'nextval(''cqrs.outbox_position_seq'')',
	'gen_random_uuid()', 'events', 'events::text', 'row_to_json(events)', 'ctid', 'tableoid', 'xmin', 'events.ctid',
	'pg_sleep(1)', 'set_config(''cqrs_views.allow_writes'', ''on'', false)', 'cqrs.publish(''a'', ''b'', ''c'')']) AS key;
CREATE FUNCTION volatile_key(text) RETURNS text LANGUAGE plpgsql VOLATILE AS 'BEGIN RETURN $1; END';
CREATE FUNCTION stable_key(text) RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN $1; END';
SELECT key, try(key) FROM unnest(ARRAY['keys.volatile_key(aggregate_id)', 'keys.stable_key(aggregate_id)', 'stable_key(aggregate_id)']) AS key;
SELECT try(NULL);
SELECT left(try(repeat('(', 20000) || 'aggregate_id' || repeat(')', 20000)), 5) AS too_deep;
-- where in the expression it went wrong is shown
\set VERBOSITY default
SELECT cqrs.create_projection('p', 'h(cqrs.event)', '{t}', key => 'aggregate_type || customer');
SELECT count(*) FROM cqrs.projection;
SELECT count(*) FROM t;

\set VERBOSITY terse
DROP SCHEMA keys CASCADE;
DROP EXTENSION cqrs_views;
