-- What becomes of projections of each kind when their read tables, and what these are made of, change: followed, refused, or an error that says so.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE ROLE regress_stranger;
GRANT SELECT ON cqrs.outbox TO regress_stranger;
CREATE SCHEMA app;
CREATE SCHEMA elsewhere;
SET search_path = app;
CREATE DOMAIN amount AS numeric;
CREATE FUNCTION rounded(n numeric) RETURNS numeric LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN round(n); END';
CREATE TABLE singly (id text PRIMARY KEY, n amount DEFAULT 0, note text);
CREATE TABLE batched (LIKE singly INCLUDING ALL);
CREATE TABLE folded (LIKE singly INCLUDING ALL);
CREATE FUNCTION singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO singly AS t (id, n) VALUES (e.aggregate_id, (e.payload->>'n')::numeric) ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n;
END $$;
CREATE FUNCTION batched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO batched AS t (id, n) SELECT aggregate_id, sum((payload->>'n')::numeric) FROM events GROUP BY 1 ON CONFLICT (id) DO UPDATE SET n = t.n + excluded.n;
	RETURN NULL;
END $$;
CREATE FUNCTION folded(t folded, e cqrs.event) RETURNS folded LANGUAGE plpgsql AS 'BEGIN t.n := coalesce(t.n, 0) + (e.payload->>''n'')::numeric; RETURN t; END';
SELECT cqrs.create_projection('singly', 'singly(cqrs.event)', '{singly}', mode => 'inline');
SELECT cqrs.create_projection('batched', 'batched()', '{batched}', mode => 'inline');
SELECT cqrs.create_projection('folded', 'folded(folded,cqrs.event)', '{folded}', mode => 'inline');
SELECT cqrs.create_view('viewed', $$SELECT aggregate_id AS id, sum((payload->>'n')::numeric) AS n, cqrs.last(event_type) AS note FROM events GROUP BY 1$$, mode => 'inline');
SELECT cqrs.publish('T', 'a', 'E', '{"n": 1.5}') > 0 AS published;
\set SHOW_CONTEXT never

-- one at a time: others are async, so that it is this one that the publisher hears of
CREATE PROCEDURE public.try(command text, projections name[] DEFAULT '{singly,batched,folded,viewed}') LANGUAGE plpgsql AS $$
DECLARE
	p name;
	message text;
	hint text;
	sum numeric;
	t regclass;
BEGIN
	FOREACH p IN ARRAY projections LOOP
		BEGIN
			PERFORM cqrs.alter_projection(name, mode => 'async') FROM cqrs.projection WHERE name <> p;
			t := p::text;
			EXECUTE replace(command, 'TABLE_', 'app.' || p);
			PERFORM cqrs.publish('T', 'a', 'E', '{"n": 2}');
			EXECUTE format('SELECT sum(n) FROM %s', t) INTO sum;
			RAISE 'has %', sum USING ERRCODE = 'ZZ000';
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
			RAISE INFO '%: %', p, concat_ws(' ', nullif(SQLSTATE, 'ZZ000'), regexp_replace(message, '(OID) \d+', '\1 n'), '| ' || nullif(hint, ''));
		END;
	END LOOP;
END $$;
CREATE PROCEDURE public.try_all(commands text[]) LANGUAGE plpgsql AS $$
DECLARE
	command text;
BEGIN
	FOREACH command IN ARRAY commands LOOP
		RAISE INFO '--- %', command;
		CALL public.try(command);
	END LOOP;
END $$;
\set VERBOSITY terse
-- the table
CALL public.try_all(ARRAY['SELECT', 'DROP TABLE TABLE_', 'DROP TABLE TABLE_ CASCADE', 'ALTER TABLE TABLE_ RENAME TO renamed',
	'ALTER TABLE TABLE_ SET SCHEMA elsewhere', 'ALTER TABLE TABLE_ OWNER TO regress_stranger', 'ALTER TABLE TABLE_ SET UNLOGGED',
	'CREATE TABLE app.child () INHERITS (TABLE_)', 'ALTER TABLE TABLE_ ENABLE ROW LEVEL SECURITY', 'ALTER TABLE TABLE_ FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY',
	'CREATE RULE r AS ON INSERT TO TABLE_ DO INSTEAD NOTHING', 'CREATE TABLE app.parent (LIKE TABLE_); ALTER TABLE TABLE_ INHERIT app.parent', 'ALTER TABLE TABLE_ SET (fillfactor = 50)', 'TRUNCATE TABLE_', 'ALTER TABLE TABLE_ DISABLE TRIGGER ALL']);
-- its key
CALL public.try_all(ARRAY['ALTER TABLE TABLE_ DROP COLUMN id CASCADE', 'ALTER TABLE TABLE_ RENAME id TO key', 'ALTER TABLE TABLE_ ALTER id TYPE varchar',
	'ALTER TABLE TABLE_ ALTER id TYPE varchar(3)', 'ALTER TABLE TABLE_ ALTER id TYPE char(10)', 'ALTER TABLE TABLE_ ALTER id TYPE int USING 1',
	'DO ''BEGIN EXECUTE (SELECT format(''''ALTER TABLE TABLE_ DROP CONSTRAINT %I'''', conname) FROM pg_constraint WHERE conrelid = ''''TABLE_''''::regclass AND contype = ''''p''''); END''',
	'ALTER TABLE TABLE_ ALTER id SET DEFAULT ''x''', 'ALTER TABLE TABLE_ ADD UNIQUE (id, n)']);
-- another column, what it is made of, and more of them
CALL public.try_all(ARRAY['ALTER TABLE TABLE_ DROP COLUMN n CASCADE', 'ALTER TABLE TABLE_ RENAME n TO m; ALTER TABLE TABLE_ ADD n numeric', 'ALTER TABLE TABLE_ ALTER n TYPE int',
	'ALTER TABLE TABLE_ ALTER n TYPE text', 'ALTER TABLE TABLE_ DROP COLUMN note', 'ALTER TABLE TABLE_ ALTER n SET DEFAULT 7', 'ALTER TABLE TABLE_ ADD CHECK (n < 2)',
	'ALTER TABLE TABLE_ ADD more int NOT NULL DEFAULT 3', 'ALTER TABLE TABLE_ ADD more numeric GENERATED ALWAYS AS (app.rounded(n)) STORED',
	'ALTER TABLE TABLE_ ADD more int NOT NULL', 'CREATE UNIQUE INDEX ON TABLE_ (app.rounded(n))',
	'CREATE INDEX ON TABLE_ (app.rounded(n)); DROP FUNCTION app.rounded CASCADE', 'DROP DOMAIN app.amount CASCADE', 'DROP DOMAIN app.amount']);
-- all are as they were
SELECT DISTINCT mode, state, events_parked FROM cqrs.projection_status;
SELECT 'singly' AS name, n FROM singly UNION ALL SELECT 'batched', n FROM batched UNION ALL SELECT 'folded', n FROM folded UNION ALL SELECT 'viewed', n FROM viewed;
-- async, it is the table that is to blame, and no event
SELECT count(cqrs.alter_projection(name, mode => 'async')) FROM cqrs.projection WHERE name IN ('folded', 'viewed');
ALTER TABLE viewed DROP CONSTRAINT viewed_pkey;
ALTER TABLE folded DROP CONSTRAINT folded_pkey;
SELECT cqrs.publish('T', 'a', 'E', '{"n": 2}') > 0 AS published;
DO $$ BEGIN
	FOR i IN 1..6000 LOOP
		EXIT WHEN (SELECT count(*) = 2 FROM cqrs.projection_status WHERE state = 'stopped');
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT name, state, events_pending, events_parked, last_error FROM cqrs.projection_status WHERE mode = 'async' ORDER BY name;
ALTER TABLE viewed ADD PRIMARY KEY (id);
ALTER TABLE folded ADD PRIMARY KEY (id);
SELECT cqrs.resume_projection('viewed'), cqrs.resume_projection('folded');
CALL cqrs.catch_up();
SELECT 'folded' AS name, n FROM folded UNION ALL SELECT 'viewed', n FROM viewed;

RESET search_path;
SET client_min_messages = warning;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
DROP SCHEMA app CASCADE;
DROP SCHEMA elsewhere;
DROP PROCEDURE try, try_all;
DROP EXTENSION cqrs_views;
DROP ROLE regress_stranger;
