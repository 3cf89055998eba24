-- Whose code a key may run: it runs as the projection's owner, so his own and superusers' only.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_keeper;
CREATE ROLE regress_stranger;
GRANT SELECT ON cqrs.outbox TO regress_keeper;
CREATE SCHEMA keeping AUTHORIZATION regress_keeper;
GRANT ALL ON SCHEMA keeping TO regress_stranger;
CREATE FUNCTION keeping.everybodys(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT t';

-- what looks harmless, until its owner changes it
SET ROLE regress_stranger;
SET search_path = keeping;
CREATE FUNCTION betray(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RAISE NOTICE 'runs as %', current_user;
	RETURN t;
END $$;
CREATE FUNCTION theirs(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN betray(t); END';
CREATE DOMAIN their_text AS text CHECK (betray(VALUE) IS NOT NULL);
CREATE TYPE their_row AS (id their_text);
CREATE DOMAIN their_inner AS text;
CREATE OPERATOR @@@ (FUNCTION = theirs, RIGHTARG = text);

SET ROLE regress_keeper;
CREATE TABLE kept (id text);
CREATE FUNCTION keep(event cqrs.event) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT; END;
CREATE FUNCTION mine(t text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT t';
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'theirs(aggregate_id)');
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'theirs(''a'')');
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'coalesce(mine(everybodys(theirs(source))), ''a'')');
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => '@@@ aggregate_id');
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'aggregate_id::their_text');
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => '''a''::their_text');
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'ARRAY[aggregate_id::their_text]');
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'ROW(aggregate_id)::their_row');
-- a constraint of what a domain is over is one of the domain's
CREATE DOMAIN my_outer AS their_inner;
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'aggregate_id::my_outer');
-- and what JSON functions return is made by them (17)
DO $$
BEGIN
	IF current_setting('server_version_num')::int < 170000 THEN
		RAISE insufficient_privilege;
	END IF;
	PERFORM cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}',
								   key => 'JSON_VALUE(payload, ''$.a'' RETURNING their_text)');
	RAISE 'not refused';
EXCEPTION WHEN insufficient_privilege THEN
END $$;
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'mine(everybodys(aggregate_id))');
SELECT cqrs.alter_projection('p', key => 'theirs(aggregate_id)');
-- by a superuser, too: it is the owner that it would run as
RESET ROLE;
SELECT cqrs.alter_projection('p', key => 'theirs(aggregate_id)');
SELECT key FROM cqrs.projection;
-- nor is one given away that a key calls
ALTER FUNCTION mine OWNER TO regress_stranger;
SELECT cqrs.drop_projection('p', drop_read_tables => true);

-- a superuser's function, until he is none any more: in a process, too, that has run it
CREATE PROCEDURE let_it_stop(projection name, OUT error text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT last_error INTO error FROM cqrs.projection_status WHERE name = projection AND state = 'stopped';
		EXIT WHEN FOUND;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
CREATE ROLE regress_boss SUPERUSER;
CREATE FUNCTION bosses(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN upper(t); END';
ALTER FUNCTION bosses OWNER TO regress_boss;
SET ROLE regress_keeper;
CREATE TABLE kept (id text);
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'bosses(aggregate_id)', notify => 'keys');
RESET ROLE;
SELECT count(cqrs.publish('T', 'a', 'E'));
SELECT cqrs.wait_for('p', '1 minute');
ALTER ROLE regress_boss NOSUPERUSER;
SELECT count(cqrs.publish('T', 'a', 'E'));
CALL let_it_stop('p', NULL);
DROP PROCEDURE let_it_stop;

SELECT cqrs.drop_projection('p', drop_read_tables => true);
DROP SCHEMA keeping CASCADE;
REVOKE SELECT ON cqrs.outbox FROM regress_keeper;
DROP ROLE regress_keeper, regress_stranger, regress_boss;
DROP EXTENSION cqrs_views;
