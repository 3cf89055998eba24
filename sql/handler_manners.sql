-- Handlers that leave memory and cursors behind, commit, or publish without end.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE kept (id text);
CREATE FUNCTION memory() RETURNS bigint LANGUAGE sql AS 'SELECT sum(total_bytes)::bigint FROM pg_backend_memory_contexts';

-- 100 MB, 50 kB an event: of an event, it goes with the event; of a batch, with the batch
CREATE TABLE seen (at text, bytes bigint);
CREATE FUNCTION hoard_singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	hoard text[] := array_agg(repeat(i::text, 500)) FROM generate_series(1, 100) AS i;
BEGIN
	IF e.aggregate_id IN ('1', '2000') THEN
		INSERT INTO seen VALUES ('event ' || e.aggregate_id, memory());
	END IF;
	INSERT INTO kept VALUES (e.aggregate_id);
END $$;
SELECT cqrs.create_projection('kept', 'hoard_singly(cqrs.event)', '{kept,seen}', mode => 'inline');
SELECT count(*) FROM generate_series(1, 2) AS i, cqrs.publish('T', 'before', 'E');
CREATE TABLE memories AS SELECT 'before' AS at, memory() AS bytes;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) SELECT 'T', i, 'E' FROM generate_series(1, 2000) AS i;
INSERT INTO memories SELECT 'after', memory();
SELECT max(bytes) - min(bytes) < 10000000 AS bounded FROM seen;
SELECT max(bytes) - min(bytes) < 10000000 AS bounded FROM memories;
SELECT count(*) FROM kept;
SELECT cqrs.drop_projection('kept');

-- cursors that nobody closes: they go with the batch
CREATE TABLE opened (n int GENERATED ALWAYS AS IDENTITY, id text);
CREATE FUNCTION open_cursors(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	c refcursor;
BEGIN
	OPEN c FOR SELECT 1;
	EXECUTE 'DECLARE mine CURSOR FOR SELECT 1';
	INSERT INTO opened (id) VALUES (e.aggregate_id);
END $$;
SELECT cqrs.create_projection('opened', 'open_cursors(cqrs.event)', '{opened}', batch_size => 1, start_at => 'now');
SELECT count(cqrs.publish('T', 'c' || i, 'E')) FROM generate_series(1, 5) AS i;
CALL cqrs.catch_up('opened');
SELECT id FROM opened ORDER BY n;
SELECT count(*) FROM cqrs.parked;
SELECT cqrs.drop_projection('opened');

-- COMMIT, where nobody catches the error: that of an event, by any kind of handler
CREATE TABLE outcomes (id text PRIMARY KEY);
CREATE TABLE outcomes_of_batches (id text);
CREATE FUNCTION singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO kept_by_singly VALUES (e.aggregate_id);
	IF e.event_type = 'Commit' THEN
		COMMIT;
	END IF;
END $$;
CREATE TABLE kept_by_singly (id text);
CREATE FUNCTION batched() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO outcomes_of_batches SELECT aggregate_id FROM events;
	IF EXISTS (SELECT FROM events WHERE event_type = 'Commit') THEN
		COMMIT;
	END IF;
	RETURN NULL;
END $$;
CREATE FUNCTION folded(state outcomes, e cqrs.event) RETURNS outcomes LANGUAGE plpgsql AS $$
BEGIN
	IF e.event_type = 'Commit' THEN
		ROLLBACK;
	END IF;
	state.id := e.aggregate_id;
	RETURN state;
END $$;
SELECT cqrs.create_projection('batched', 'batched()', '{outcomes_of_batches}', on_error => 'skip', start_at => 'now');
SELECT cqrs.create_projection('folded', 'folded(outcomes, cqrs.event)', '{outcomes}', on_error => 'skip', start_at => 'now');
SELECT cqrs.create_projection('singly', 'singly(cqrs.event)', '{kept_by_singly}', on_error => 'skip', start_at => 'now');
SELECT count(cqrs.publish('T', i::text, CASE i WHEN 3 THEN 'Commit' ELSE 'E' END)) FROM generate_series(1, 5) AS i;
CALL cqrs.catch_up();
SELECT projection, key, sqlstate, message FROM cqrs.dead_letter ORDER BY 1;
SELECT string_agg(id, ' ' ORDER BY id) FROM kept_by_singly;
SELECT string_agg(id, ' ' ORDER BY id) FROM outcomes_of_batches;
SELECT string_agg(id, ' ' ORDER BY id) FROM outcomes;
-- inline, the publisher hears of it
SELECT cqrs.alter_projection('singly', mode => 'inline');
SELECT cqrs.publish('T', '6', 'Commit'); \echo :SQLSTATE
SELECT string_agg(id, ' ' ORDER BY id) FROM kept_by_singly;

-- who answers each event with another is called with those that were there, and a batch ends
CREATE TABLE echoed (position bigint, n int);
CREATE FUNCTION echo(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO echoed VALUES (e.position, (e.payload->>'n')::int);
	PERFORM cqrs.publish('Echo', e.aggregate_id, 'Echo', jsonb_build_object('n', (e.payload->>'n')::int + 1));
END $$;
SELECT count(cqrs.drop_projection(name)) FROM cqrs.projection;
SELECT cqrs.create_projection('echo', 'echo(cqrs.event)', '{echoed}', aggregate_types => '{Echo}');
SELECT count(cqrs.publish('Echo', 'e' || i, 'Echo', '{"n": 0}')) FROM generate_series(1, 3) AS i;
CALL cqrs.catch_up('echo');
SELECT cqrs.pause_projection('echo');
-- each one has been answered once, those of the last batch excepted, and causes come before effects
SELECT count(*) > 0 AS called, count(*) = count(DISTINCT position) AS once FROM echoed;
SELECT count(*) - (SELECT count(*) FROM echoed) FROM cqrs.outbox WHERE aggregate_type = 'Echo';
SELECT count(*) FROM (SELECT n < lag(n) OVER (ORDER BY ctid) AS wrong FROM echoed) AS e WHERE wrong;
SELECT cqrs.drop_projection('echo');
DROP FUNCTION hoard_singly, open_cursors, singly, batched, folded, echo, memory;
DROP EXTENSION cqrs_views;
DROP TABLE kept, seen, memories, opened, outcomes, outcomes_of_batches, kept_by_singly, echoed;
