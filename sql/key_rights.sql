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
SELECT cqrs.create_projection('p', 'keep(cqrs.event)', '{kept}', key => 'mine(everybodys(aggregate_id))');
SELECT cqrs.alter_projection('p', key => 'theirs(aggregate_id)');
-- by a superuser, too: it is the owner that it would run as
RESET ROLE;
SELECT cqrs.alter_projection('p', key => 'theirs(aggregate_id)');
SELECT key FROM cqrs.projection;
-- nor is one given away that a key calls
ALTER FUNCTION mine OWNER TO regress_stranger;

SELECT cqrs.drop_projection('p', drop_read_tables => true);
DROP SCHEMA keeping CASCADE;
REVOKE SELECT ON cqrs.outbox FROM regress_keeper;
DROP ROLE regress_keeper, regress_stranger;
DROP EXTENSION cqrs_views;
