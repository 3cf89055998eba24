-- What becomes of an event that fails, for each kind of projection and each on_error; inline, the publisher gets the error, whatever on_error says.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA policies;
SET search_path = policies, public;
CREATE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (payload->>''v'')::int; END';
-- each of "park", "skip" and "stop" with each of four kinds
DO $$ DECLARE policy text; kind text; p text; BEGIN
	FOREACH policy IN ARRAY '{park,skip,stop}'::text[] LOOP
		FOREACH kind IN ARRAY '{batched,folded,singly,viewed}'::text[] LOOP
			p := policy || '_' || kind;
			IF kind = 'viewed' THEN
				PERFORM cqrs.create_view(p, 'SELECT aggregate_id AS id, sum(value_of(payload)) AS total FROM events GROUP BY 1', on_error => policy);
				CONTINUE;
			END IF;
			EXECUTE format('CREATE TABLE %I (id text PRIMARY KEY, total bigint)', p);
			EXECUTE format(CASE kind
				WHEN 'batched' THEN 'CREATE FUNCTION %1$I() RETURNS trigger LANGUAGE plpgsql AS ''BEGIN
					INSERT INTO %1$I AS t SELECT aggregate_id, sum(value_of(payload)) FROM events GROUP BY 1 ON CONFLICT (id) DO UPDATE SET total = t.total + excluded.total;
					RETURN NULL; END'''
				WHEN 'folded' THEN 'CREATE FUNCTION %1$I(t %1$I, e cqrs.event) RETURNS %1$I LANGUAGE plpgsql AS
					''BEGIN t.total := coalesce(t.total, 0) + value_of(e.payload); RETURN t; END'''
				ELSE 'CREATE FUNCTION %1$I(e cqrs.event) RETURNS void LANGUAGE plpgsql AS ''BEGIN
					INSERT INTO %1$I AS t VALUES (e.aggregate_id, value_of(e.payload)) ON CONFLICT (id) DO UPDATE SET total = t.total + excluded.total; END''' END, p);
			PERFORM cqrs.create_projection(p, format(CASE kind WHEN 'batched' THEN '%1$I()' WHEN 'folded' THEN '%1$I(%1$I,cqrs.event)' ELSE '%1$I(cqrs.event)' END, p)::regprocedure,
				ARRAY[p]::regclass[], on_error => policy);
		END LOOP;
	END LOOP;
END $$;
CREATE FUNCTION totals_of(p name, OUT totals text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SELECT string_agg(id || '' '' || total, '', '' ORDER BY id) FROM %I', p) INTO totals;
END $$;
CREATE VIEW shown AS SELECT name, state, events_processed AS done, events_parked AS parked, totals_of(name) AS totals
	FROM cqrs.projection_status ORDER BY substring(name from '_.*'), name;

-- one bad event of a, in the midst of others
SELECT count(cqrs.publish('T', k, 'E', jsonb_build_object('v', v))) FROM (VALUES ('a', '1'), ('b', '10'), ('a', 'bad'), ('b', '20'), ('a', '2')) AS e (k, v);
DO $$ BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT count(*) = 12 FROM cqrs.projection_status s WHERE CASE WHEN s.name ~ 'stop' THEN s.state = 'stopped'
			ELSE s.events_parked > 0 AND s.events_pending = 0 END);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT cqrs.pause_projection(name) IS NULL AS paused, count(*) FROM cqrs.projection WHERE name ~ 'park' GROUP BY 1;
TABLE shown;
-- mended, what was stopped is resumed; what was put aside is retried, by hand where nobody else would
CREATE OR REPLACE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN replace(payload->>''v'', ''bad'', ''1000'')::int; END';
SELECT count(cqrs.resume_projection(name)) FROM cqrs.projection;
SELECT count(cqrs.retry_dead_letters(name)) FROM cqrs.projection;
CALL cqrs.catch_up();
TABLE shown;

-- inline: the publisher's error, with its code, and where; nothing is put aside, and other events of the transaction are his to keep
CREATE OR REPLACE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (payload->>''v'')::int; END';
CREATE PROCEDURE try_inline() LANGUAGE plpgsql AS $$
DECLARE
	p name;
	context text;
BEGIN
	FOR p IN SELECT name FROM cqrs.projection ORDER BY 1 LOOP
		PERFORM cqrs.alter_projection(p, mode => 'inline');
		COMMIT;
		BEGIN
			PERFORM cqrs.publish('T', 'a', 'E', '{"v": "bad"}');
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
			RAISE INFO '%: % %', p, SQLSTATE, regexp_replace(substring(context from 'projection "[^\n]*'), '\d+', 'n', 'g');
		END;
		PERFORM cqrs.publish('T', 'a', 'E', '{"v": 100}');
		COMMIT;
		PERFORM cqrs.alter_projection(p, mode => 'async');
		COMMIT;
	END LOOP;
END $$;
CALL try_inline();
CALL cqrs.catch_up();
SELECT DISTINCT state, parked, totals FROM shown;

RESET search_path;
SET client_min_messages = warning;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA policies CASCADE;
DROP EXTENSION cqrs_views;
