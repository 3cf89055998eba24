-- Reducers with large rows: stored out of line, as are the events' payloads; and more of them than fits into memory at once.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE docs (id text PRIMARY KEY, nothing int, first jsonb, all_of_it text, n int);
CREATE FUNCTION keep_docs(s docs, e cqrs.event) RETURNS docs LANGUAGE plpgsql AS $$
BEGIN
	s.first := coalesce(s.first, e.payload);
	s.all_of_it := concat(s.all_of_it, e.payload->>'text');
	s.n := coalesce(s.n, 0) + 1;
	RETURN s;
END $$;
ALTER TABLE docs ALTER all_of_it SET STORAGE EXTERNAL;
CREATE TABLE written (rows bigint);
CREATE FUNCTION count_written() RETURNS trigger LANGUAGE plpgsql AS
	'BEGIN INSERT INTO written SELECT count(*) FROM changed; RETURN NULL; END';
CREATE TRIGGER inserted AFTER INSERT ON docs REFERENCING NEW TABLE AS changed EXECUTE FUNCTION count_written();
CREATE TRIGGER updated AFTER UPDATE ON docs REFERENCING NEW TABLE AS changed EXECUTE FUNCTION count_written();
SELECT cqrs.create_projection('docs', 'keep_docs(docs,cqrs.event)', '{docs}', start_at => 'now', batch_size => 1000);
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Doc', i % 40, 'Written', jsonb_build_object('text', repeat(md5(i::text), 6250)) FROM generate_series(1, 60) AS i;
CALL cqrs.catch_up();
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
SELECT 'Doc', i % 40, 'Written', jsonb_build_object('text', repeat(md5(i::text), 6250)) FROM generate_series(61, 200) AS i;
CALL cqrs.catch_up();
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) SELECT 'Doc', i % 40, 'Written' FROM generate_series(1, 100) AS i;
CALL cqrs.catch_up();
SELECT count(*) AS docs, sum(n) AS events, min(length(all_of_it)), count(nothing) FROM docs;
SELECT count(*) AS differences FROM docs FULL JOIN (SELECT aggregate_id AS id, string_agg(payload->>'text', '' ORDER BY position) AS all_of_it,
	(array_agg(payload ORDER BY position))[1] AS first FROM cqrs.outbox WHERE aggregate_type = 'Doc' GROUP BY 1) o USING (id, all_of_it, first) WHERE docs IS NULL OR o IS NULL;
-- more than the 40 rows of each of three batches
SELECT sum(rows) > 120 AS in_slices FROM written;
DROP FUNCTION keep_docs;
SELECT cqrs.drop_projection('docs', true);
DROP TABLE written CASCADE;
DROP EXTENSION cqrs_views;
