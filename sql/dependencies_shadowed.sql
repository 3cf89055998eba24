-- What would take the place of what a view's query names, from earlier in the search_path or as a cast, is refused.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE SCHEMA shadows;
CREATE SCHEMA things;
SET search_path = shadows, things;
\set SHOW_CONTEXT never
\set VERBOSITY terse
CREATE AGGREGATE things.lowest(int) (sfunc = int4smaller, stype = int, sortop = <);
CREATE DOMAIN things.few AS int CHECK (VALUE < 100);
CREATE TYPE things.mood AS ENUM ('glad', 'sad');
CREATE FUNCTION things.to_mood(text) RETURNS mood LANGUAGE sql IMMUTABLE AS $$ SELECT 'sad'::things.mood $$;
SELECT cqrs.create_view('moods', $$
	SELECT (payload->>'mood')::mood AS mood, lowest((payload->>'n')::few::int) AS n FROM events GROUP BY 1 $$, mode => 'inline');
SELECT cqrs.publish('T', 'a', 'E', '{"mood": "glad", "n": 7}') > 0 AS published;

ALTER AGGREGATE things.lowest(int) RENAME TO lowest2; \echo :SQLSTATE
CREATE AGGREGATE shadows.lowest(int) (sfunc = int4larger, stype = int, sortop = >); \echo :SQLSTATE
DROP AGGREGATE things.lowest(int); \echo :SQLSTATE
CREATE DOMAIN shadows.few AS int; \echo :SQLSTATE
CREATE TYPE shadows.mood AS ENUM ('other'); \echo :SQLSTATE
CREATE CAST (text AS things.mood) WITH FUNCTION things.to_mood(text); \echo :SQLSTATE
-- what takes nothing's place
CREATE AGGREGATE shadows.lowest(text) (sfunc = text_smaller, stype = text);
DROP AGGREGATE shadows.lowest(text);
CREATE TYPE shadows.other AS ENUM ('other');
CREATE CAST (bytea AS things.mood) WITH INOUT;
\c -
SELECT cqrs.publish('T', 'a', 'E', '{"mood": "glad", "n": 5}') > 0 AS published;
SELECT * FROM shadows.moods;

SELECT cqrs.drop_projection('moods', true);
\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA shadows, things CASCADE;
DROP EXTENSION cqrs_views;
