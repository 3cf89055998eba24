-- Single events are merged under the publisher's settings where none can matter, and under the view's where one may: the rows are the same, and what runs beside sees what it should.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
\set SHOW_CONTEXT never
CREATE SCHEMA app;
CREATE SCHEMA trap;
SET search_path = app;
SELECT cqrs.create_view('totals', $$
	SELECT aggregate_id AS id, count(*) AS n, sum((payload->>'x')::numeric) AS total, max(payload->>'x') AS largest
	FROM events WHERE event_type = 'Sold' GROUP BY 1 $$, mode => 'inline');
-- what a setting of the publisher's may change, though it is called immutable
SELECT cqrs.create_view('texts', $$
	SELECT aggregate_id AS id, max((occurred_at - timestamptz '2026-01-01 00:00+00')::text) AS since,
	       max((1.0::float8 / 3 * event_type::text::"char"::int)::text) AS ratio, max(convert_to(event_type, 'UTF8')::text) AS bytes,
	       max(timezone('IST', occurred_at)) AS ist, max(array_to_string(ARRAY['a', NULL], ',')) AS list
	FROM events GROUP BY 1 $$, mode => 'inline');
-- and, in newer versions, with the name of a time zone
SELECT cqrs.create_view('zones', format('SELECT aggregate_id AS id, max(%s) AS month, max(%s) AS day FROM events GROUP BY 1',
	CASE WHEN v < 160000 THEN 'timestamptz ''2026-02-28 20:00+00'''
	ELSE 'date_subtract(timestamptz ''2026-01-30 20:00+00'', interval ''-1 month'', coalesce(payload->>''zone'', ''IST''))' END,
	CASE WHEN v < 180000 THEN 'timestamptz ''2026-02-01 22:00+00'''
	ELSE 'date_trunc(''day'', timestamptz ''2026-02-02 20:00+00'', coalesce(payload->>''zone'', ''IST''))' END), mode => 'inline')
FROM CAST(current_setting('server_version_num') AS int) AS v;
RESET search_path;

-- publishers get in nothing of their own
CREATE FUNCTION trap.spring(jsonb, text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''caught: ->>''; END';
CREATE FUNCTION trap.spring(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''caught: +''; END';
CREATE FUNCTION trap.spring(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''caught: =''; END';
CREATE OPERATOR trap.->> (leftarg = jsonb, rightarg = text, function = trap.spring);
CREATE OPERATOR trap.+ (leftarg = bigint, rightarg = bigint, function = trap.spring);
CREATE OPERATOR trap.= (leftarg = text, rightarg = text, function = trap.spring);
CREATE TABLE trap.totals (LIKE app.totals);
CREATE FUNCTION pg_temp.publish(id text, x text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload, occurred_at)
	VALUES ('order', id, 'Sold', pg_catalog.jsonb_build_object('x', x), '2026-02-03 04:05:06.789+00') $$;
CREATE FUNCTION pg_temp.publish_each(VARIADIC numbers int[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. pg_catalog.array_length(numbers, 1) LOOP
		PERFORM pg_temp.publish('a', numbers[i]::text);
	END LOOP;
END $$;
SET search_path = trap, app, pg_catalog;
SELECT pg_temp.publish_each(1, 2, 3);
SET extra_float_digits = 0;
SET IntervalStyle = 'iso_8601';
SET DateStyle = 'German';
SET bytea_output = 'escape';
SET TimeZone = 'Asia/Kolkata';
SET timezone_abbreviations = 'India';
SELECT pg_temp.publish_each(4, 5, 6);
-- plans are made anew under these
ALTER TABLE app.totals ADD COLUMN note text;
ALTER TABLE app.texts ADD COLUMN note text;
SELECT pg_temp.publish_each(7, 8, 9);
RESET ALL;
\set SHOW_CONTEXT never
TABLE app.totals;
TABLE app.texts;
TABLE app.zones;
TABLE trap.totals;
CALL cqrs.rebuild_projection('texts', online => false);
TABLE app.texts;

-- what else a table has to be written to sees the view's settings
CREATE FUNCTION app.tell(what text) RETURNS boolean LANGUAGE plpgsql AS
	$$ BEGIN RAISE NOTICE '% under %', what, pg_catalog.current_setting('search_path'); RETURN true; END $$;
CREATE FUNCTION app.told(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN RAISE NOTICE '% under %', what, pg_catalog.current_setting('search_path'); RETURN what; END $$;
CREATE FUNCTION app.on_row() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN PERFORM app.tell('trigger'); RETURN NULL; END $$;
CREATE FUNCTION app.compare(text, text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN PERFORM app.tell('opclass'); RETURN bttextcmp($1, $2); END $$;
CREATE OPERATOR CLASS app.told_ops FOR TYPE text USING btree AS
	OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 app.compare(text, text);

SELECT pg_temp.publish_each(10, 11);
CREATE TRIGGER told AFTER INSERT OR UPDATE ON app.totals FOR EACH ROW EXECUTE FUNCTION app.on_row();
SELECT pg_temp.publish_each(12, 13);
DROP TRIGGER told ON app.totals;
ALTER TABLE app.totals ADD CONSTRAINT told CHECK (app.tell('check ' || n));
SELECT pg_temp.publish_each(14, 15);
ALTER TABLE app.totals DROP CONSTRAINT told;
SET client_min_messages = warning;
CREATE INDEX told ON app.totals (app.told(largest));
RESET client_min_messages;
SELECT pg_temp.publish('e', '16');
SELECT pg_temp.publish('f', '17');
DROP INDEX app.told;
SET client_min_messages = warning;
CREATE INDEX told ON app.totals (largest app.told_ops);
RESET client_min_messages;
SELECT pg_temp.publish('b', '18');
SELECT pg_temp.publish('b', '19');
DROP INDEX app.told;
ALTER TABLE app.totals ADD COLUMN told text GENERATED ALWAYS AS (app.told(largest)) STORED;
SELECT pg_temp.publish_each(20, 21);
ALTER TABLE app.totals DROP COLUMN told;
ALTER TABLE app.totals ADD COLUMN told boolean DEFAULT app.tell('default');
SELECT pg_temp.publish('c', '22');
SELECT pg_temp.publish('d', '23');
ALTER TABLE app.totals DROP COLUMN told;
SELECT pg_temp.publish_each(24, 25);
SELECT id, n, total, largest FROM app.totals ORDER BY id;

-- errors say what they did for the first event
\set SHOW_CONTEXT errors
SELECT pg_temp.publish('a', 'not a number');
\set SHOW_CONTEXT never
SELECT id, n, total, largest FROM app.totals ORDER BY id;

SELECT cqrs.drop_projection('totals', drop_read_tables => true), cqrs.drop_projection('texts', drop_read_tables => true), cqrs.drop_projection('zones', drop_read_tables => true);
SET client_min_messages = warning;
DROP SCHEMA app CASCADE;
DROP SCHEMA trap CASCADE;
DROP EXTENSION cqrs_views;
