-- What an owner's code means does not depend on who publishes: where a statement, or the table that it writes to, calls code that looks up names or asks for settings, it finds those of the view.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA app;
CREATE SCHEMA trap;
CREATE ROLE regress_names_owner;
CREATE ROLE regress_names_publisher;
GRANT USAGE, CREATE ON SCHEMA app TO regress_names_owner;
GRANT USAGE ON SCHEMA app TO PUBLIC;
GRANT USAGE ON SCHEMA trap TO PUBLIC;
GRANT SELECT, TRIGGER ON cqrs.outbox TO regress_names_owner;
SELECT cqrs.grant_publish('regress_names_publisher');

-- the owner's code names nobody's schema; the publisher's path would find another function than his
CREATE FUNCTION app.look(text) RETURNS void LANGUAGE plpgsql IMMUTABLE AS 'BEGIN END';
CREATE FUNCTION trap.look(text) RETURNS void LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN RAISE WARNING 'caught as %', current_user; END $$;
CREATE FUNCTION trap.lower(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
	$$ BEGIN RAISE WARNING 'caught as %', current_user; RETURN pg_catalog.lower($1); END $$;
CREATE FUNCTION app.is_good(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN PERFORM look($1); RETURN true; END';
CREATE FUNCTION app.same(text, text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN PERFORM look($1); RETURN $1 OPERATOR(pg_catalog.=) $2; END';
CREATE FUNCTION app.hash(text, bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN PERFORM look($1); RETURN 1; END';
CREATE FUNCTION app.small(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower($1)';
CREATE DOMAIN app.good AS text CHECK (app.is_good(VALUE));
CREATE OPERATOR app.=== (leftarg = text, rightarg = text, function = app.same, commutator = OPERATOR(app.===));
CREATE OPERATOR CLASS app.same_ops FOR TYPE text USING btree AS
	OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 app.===, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 bttextcmp(text, text);
CREATE OPERATOR CLASS app.hash_ops FOR TYPE text USING hash AS
	OPERATOR 1 = (text, text), FUNCTION 2 app.hash(text, bigint);
CREATE TABLE app.parts (t text) PARTITION BY HASH (t app.hash_ops);
CREATE TEXT SEARCH DICTIONARY app.plain (TEMPLATE = simple);
CREATE TEXT SEARCH DICTIONARY trap.plain (TEMPLATE = snowball, language = english);
SET search_path = app;
CREATE TEXT SEARCH DICTIONARY app.similar (TEMPLATE = thesaurus, dictfile = thesaurus_sample, dictionary = plain);
CREATE TEXT SEARCH CONFIGURATION app.words (COPY = simple);
ALTER TEXT SEARCH CONFIGURATION app.words ALTER MAPPING FOR asciiword WITH app.similar, app.plain;
RESET search_path;

SET SESSION AUTHORIZATION regress_names_owner;
SET search_path = app;
SET TimeZone = 'UTC';
SELECT cqrs.create_view('totals', $$
	SELECT aggregate_id AS id, count(*) AS n, max(payload->>'x') AS largest
	FROM events WHERE event_type = 'Sold' GROUP BY 1 $$, mode => 'inline');
SELECT cqrs.create_view('ages', $$
	SELECT aggregate_id AS id, min(extract(day FROM age(occurred_at, timestamptz '2026-01-30 20:00+00'))) AS days
	FROM events WHERE event_type = 'Aged' GROUP BY 1 $$, mode => 'inline');
SELECT cqrs.create_view('shares', $$
	SELECT aggregate_id AS id, bool_and(satisfies_hash_partition('app.parts'::regclass::oid, 4, 1, aggregate_id)) AS first
	FROM events WHERE event_type = 'Shared' GROUP BY 1 $$, mode => 'inline');
SELECT cqrs.create_view('words', $$
	SELECT aggregate_id AS id, max(to_tsvector('words', aggregate_id)::text) AS words
	FROM events WHERE event_type = 'Said' GROUP BY 1 $$, mode => 'inline');
RESET SESSION AUTHORIZATION;

-- the second event of each finds the plans that the first has left
CREATE FUNCTION pg_temp.publish(id text, type text DEFAULT 'Sold') RETURNS void LANGUAGE plpgsql
SET search_path = trap, pg_catalog SET TimeZone = 'Asia/Tokyo' AS $$
BEGIN
	SET LOCAL SESSION AUTHORIZATION regress_names_publisher;
	FOR i IN 1 .. 3 LOOP
		INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload, occurred_at)
		VALUES ('order', id, type, pg_catalog.jsonb_build_object('x', 'X' || i), '2026-02-28 20:00+00');
	END LOOP;
	RESET SESSION AUTHORIZATION;
END $$;
SELECT pg_temp.publish('a');
SELECT pg_temp.publish('a', 'Aged');
SELECT pg_temp.publish('a', 'Shared');
SELECT pg_temp.publish('book ticket', 'Said');
CREATE TEXT SEARCH DICTIONARY trap.other (TEMPLATE = simple);
SELECT pg_temp.publish('book ticket', 'Said');

-- a domain's constraint looks at the NULL of a column that the statement does not name
ALTER TABLE app.totals ADD COLUMN note app.good;
SELECT pg_temp.publish('c');
ALTER TABLE app.totals DROP COLUMN note;

-- an operator's function is called for a conflict, though the index is ordered by PostgreSQL's
ALTER TABLE app.totals DROP CONSTRAINT totals_pkey;
CREATE UNIQUE INDEX same ON app.totals (id app.same_ops);
SELECT pg_temp.publish('d');
DROP INDEX app.same;
ALTER TABLE app.totals ADD PRIMARY KEY (id);
-- of a table without rows, as since PostgreSQL 17 they are compared under a search_path that the operator's code doesn't know
TABLE app.totals;
SET cqrs_views.allow_writes = on;
DELETE FROM app.totals;
RESET cqrs_views.allow_writes;
SET search_path = app;
ALTER TABLE app.totals ADD CONSTRAINT same EXCLUDE USING btree (largest app.same_ops WITH app.===, id WITH pg_catalog.=);
RESET search_path;
SELECT pg_temp.publish('e');
ALTER TABLE app.totals DROP CONSTRAINT same;

-- what is inlined into an index's expression is inlined again when only the index has changed
SET search_path = app;
CREATE INDEX small ON app.totals (app.small(largest));
RESET search_path;
SELECT pg_temp.publish('f');
SELECT pg_temp.publish('g');
ALTER INDEX app.small SET (fillfactor = 80);
SELECT pg_temp.publish('h');
DROP INDEX app.small;
SELECT pg_temp.publish('i');

TABLE app.totals;
TABLE app.ages;
TABLE app.words;

SELECT count(cqrs.drop_projection(name, drop_read_tables => true)) FROM cqrs.projection;
DROP SCHEMA app CASCADE;
DROP SCHEMA trap CASCADE;
DROP EXTENSION cqrs_views;
DROP ROLE regress_names_owner;
DROP ROLE regress_names_publisher;
