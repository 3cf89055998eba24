-- A view's read table may be altered, but not into one that keeps other values than the query gives: then the view stops.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE PROCEDURE let_it_stop(projection name, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT last_error INTO error FROM cqrs.projection_status WHERE name = projection AND state = 'stopped';
		EXIT WHEN FOUND;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT cqrs.create_view('totals', $$ SELECT payload->>'k' AS k, sum((payload->>'n')::numeric) AS total, max(payload->>'t') AS t
	FROM events GROUP BY 1 $$);
CREATE FUNCTION publish() RETURNS void LANGUAGE sql AS
	$$ SELECT cqrs.publish('T', 'a', 'E', '{"k": "a", "n": 0.25, "t": "B"}') $$;
SELECT publish();
CALL cqrs.catch_up('totals');

-- a type that would round
ALTER TABLE totals ALTER total TYPE numeric(10,2);
SELECT publish();
CALL let_it_stop('totals', NULL);
ALTER TABLE totals ALTER total TYPE numeric;
SELECT cqrs.resume_projection('totals');
CALL cqrs.catch_up('totals');
-- a collation with another order
ALTER TABLE totals ALTER t TYPE text COLLATE "C";
SELECT publish();
CALL let_it_stop('totals', NULL);
ALTER TABLE totals ALTER t TYPE text;
SELECT cqrs.resume_projection('totals');
CALL cqrs.catch_up('totals');
TABLE totals;
SELECT cqrs.drop_projection('totals', drop_read_tables => true);

-- a trigger of the owner's that keeps a row from being written, since nothing would change
SELECT cqrs.create_view('latest', $$ SELECT payload->>'k' AS k, cqrs.last(payload->>'t') AS t FROM events GROUP BY 1 $$, mode => 'inline');
CREATE TRIGGER only_changes BEFORE UPDATE ON latest FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
SELECT publish(), publish();
SELECT cqrs.publish('T', 'a', 'E', '{"k": "a", "t": "C"}') > 0 AS published;
TABLE latest;
SELECT cqrs.drop_projection('latest', drop_read_tables => true);
DROP FUNCTION publish;
DROP PROCEDURE let_it_stop;
DROP EXTENSION cqrs_views;
