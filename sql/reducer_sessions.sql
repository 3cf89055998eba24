-- What a session keeps for the read tables of reducers, it lets go of when they are gone.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE PROCEDURE use_table(name text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE TABLE %I (id text PRIMARY KEY, n bigint)', name);
	EXECUTE format('CREATE FUNCTION %I(s %I, e cqrs.event) RETURNS %I LANGUAGE sql AS %L', 'keep_' || name, name, name,
		'SELECT e.aggregate_id, coalesce(s.n, 0) + 1');
	-- inline, so that this session applies its events, and no worker
	EXECUTE format('SELECT cqrs.create_projection(%L, %L, %L, mode => %L)', name, format('keep_%s(%s,cqrs.event)', name, name),
		ARRAY[name], 'inline');
	COMMIT;
	PERFORM cqrs.publish('Order', 'o1', 'Placed');
END $$;

CALL use_table('a');
CALL use_table('b');
TABLE a;
TABLE b;
SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'cqrs_views reducer table';
SELECT cqrs.drop_projection(name) FROM cqrs.projection;
DROP TABLE a, b CASCADE;
-- the next one has them looked through
CALL use_table('c');
TABLE c;
SELECT count(*) FROM pg_backend_memory_contexts WHERE name = 'cqrs_views reducer table';

SELECT cqrs.drop_projection('c');
DROP TABLE c CASCADE;
DROP PROCEDURE use_table;
DROP EXTENSION cqrs_views;
