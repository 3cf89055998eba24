-- event_types, aggregate_types and sources: each a list of which one must fit, and all three must.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_shop;
CREATE ROLE "regress Märkte";
SELECT cqrs.grant_publish(r) FROM unnest('{regress_shop,"\"regress Märkte\""}'::regrole[]) AS r;
CREATE FUNCTION make(name text, VARIADIC filters text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE %I (position bigint)', name);
	EXECUTE format('CREATE FUNCTION %I(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
		''BEGIN INSERT INTO %I VALUES (e.position); END''', name, name);
	PERFORM cqrs.create_projection(name, format('%I(cqrs.event)', name)::regprocedure, ARRAY[format('%I', name)::regclass],
		event_types => filters[1]::text[], aggregate_types => filters[2]::text[], sources => filters[3]::text[]);
END $$;
CREATE FUNCTION shown(OUT projection name, OUT positions text) RETURNS SETOF record LANGUAGE plpgsql AS $$
BEGIN
	FOR projection IN SELECT name FROM cqrs.projection ORDER BY name COLLATE "C" LOOP
		EXECUTE format('SELECT string_agg(position::text, '' '' ORDER BY ctid) FROM %I', projection) INTO positions;
		RETURN NEXT;
	END LOOP;
END $$;
CREATE FUNCTION publish_all() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	s text; a text; e text;
BEGIN
	FOREACH s IN ARRAY '{regress_shop,regress Märkte}'::text[] LOOP
		EXECUTE format('SET ROLE %I', s);
		FOREACH a IN ARRAY '{Order,Payment}'::text[] LOOP
			FOREACH e IN ARRAY '{Placed,Paid,placed}'::text[] LOOP
				PERFORM cqrs.publish(a, '1', e);
			END LOOP;
		END LOOP;
		RESET ROLE;
	END LOOP;
END $$;

SELECT make('a none', NULL, NULL, NULL);
SELECT make('b event', '{Placed}', NULL, NULL);
SELECT make('c events', '{Paid,Placed,Unknown}', NULL, NULL);
SELECT make('d aggregate', NULL, '{Payment}', NULL);
SELECT make('e source', NULL, NULL, '{"regress Märkte"}');
SELECT make('f event and source', '{Placed}', NULL, '{regress_shop}');
SELECT make('g all three', '{Placed,Paid}', '{Order}', '{"regress Märkte"}');
SELECT make('h nothing', '{Unknown}', '{Order}', NULL);
SELECT make('i twice', '{Placed,Placed}', '{Order}', NULL);
SELECT make('j no pattern', '{%,Plac%,.*}', NULL, NULL);
SELECT make('k case', '{PLACED,placed}', NULL, NULL);
SELECT publish_all();
SELECT position, source, aggregate_type, event_type FROM cqrs.outbox ORDER BY position;
CALL cqrs.catch_up();
SELECT * FROM shown();

-- what is filtered out is processed all the same, and not counted
SELECT name, events_pending, events_processed, state FROM cqrs.projection_status ORDER BY name COLLATE "C";
SELECT cqrs.wait_for('h nothing', '1 minute');

-- changed: from the checkpoint on; NULL leaves it, '{}' clears it
SELECT cqrs.alter_projection('b event', event_types => '{Paid}', aggregate_types => '{Order}');
SELECT cqrs.alter_projection('g all three', event_types => '{}', sources => '{}');
SELECT name, event_types, aggregate_types, sources FROM cqrs.projection WHERE name IN ('b event', 'g all three') ORDER BY name;
SELECT publish_all();
CALL cqrs.catch_up();
SELECT * FROM shown() WHERE projection IN ('b event', 'g all three');
CALL cqrs.rebuild_projection('b event', online => false);
SELECT * FROM shown() WHERE projection = 'b event';

-- with odd elements
SELECT cqrs.alter_projection('h nothing', event_types => ARRAY['', E'a,b "c" {d} \\ '' e']);
SELECT event_types FROM cqrs.projection WHERE name = 'h nothing';
SELECT cqrs.alter_projection('h nothing', aggregate_types => '{}');
SELECT cqrs.publish('', '', '') AS empty, cqrs.publish('Order', '1', E'a,b "c" {d} \\ '' e') AS odd;
CALL cqrs.catch_up('h nothing');
SELECT * FROM shown() WHERE projection = 'h nothing';
SELECT cqrs.alter_projection('h nothing', event_types => ARRAY['a', NULL]); \echo :SQLSTATE

\set VERBOSITY terse
DROP FUNCTION make, shown, publish_all;
DO $$
DECLARE
	p name;
BEGIN
	FOR p IN SELECT name FROM cqrs.projection LOOP
		PERFORM cqrs.drop_projection(p, true);
		EXECUTE format('DROP FUNCTION %I', p);
	END LOOP;
END $$;
DROP EXTENSION cqrs_views;
DROP ROLE regress_shop, "regress Märkte";
