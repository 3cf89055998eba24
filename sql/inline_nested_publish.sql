-- Events that are published in the midst of something else: a switch to inline, another event, a call.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, id text);
CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log (id) VALUES (e.aggregate_id);
	IF e.event_type = 'Cause' THEN
		PERFORM cqrs.publish('Test', e.aggregate_id || ' effect', 'Effect');
	END IF;
END $$;

-- what a handler publishes while its projection becomes inline is processed, too
SELECT cqrs.publish('Test', 'history', 'Cause') > 0 AS published;
SELECT cqrs.create_projection('log', 'on_event(cqrs.event)', '{log}', mode => 'inline');
CALL cqrs.catch_up();
SELECT cqrs.wait_for('log');
SELECT state FROM cqrs.projection_status;
SELECT id FROM log ORDER BY n;

-- an event whose values publish another one draws its position first and is inserted last
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
VALUES ('Test', 'outer', 'Cause', jsonb_build_object('position', cqrs.publish('Test', 'inner', 'Plain')));
SELECT id, count(*) FROM log GROUP BY id HAVING id NOT LIKE 'history%' ORDER BY id;

-- a statement under way would not call the trigger that a switch makes
SELECT cqrs.alter_projection('log', mode => 'async');
WITH w AS (INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) VALUES ('Test', 'beside', 'Plain'))
SELECT cqrs.alter_projection('log', mode => 'inline');
\echo :SQLSTATE
SELECT mode, state FROM cqrs.projection_status;

SELECT cqrs.drop_projection('log', true);
DROP FUNCTION on_event;
DROP EXTENSION cqrs_views;
