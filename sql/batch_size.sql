-- batch_size, the setting and the projection's own: what is in a batch, and that the last one may be smaller.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE sizes (n int GENERATED ALWAYS AS IDENTITY, size int, first bigint, last bigint);
CREATE FUNCTION on_batch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO sizes (size, first, last) SELECT count(*), min(position), max(position) FROM events;
	RETURN NULL;
END $$;
-- never more than size, nothing left out, nothing twice, in order
CREATE FUNCTION check_sizes(size int) RETURNS TABLE (events bigint, bounded bool, gapless bool) LANGUAGE sql AS $$
	SELECT sum(s.size), bool_and(s.size <= check_sizes.size), bool_and(s.first = s.before + 1)
	FROM (SELECT *, lag(last, 1, 0) OVER (ORDER BY n) AS before FROM sizes) s;
$$;
SELECT count(cqrs.publish('Order', 'o' || i, 'Placed')) FROM generate_series(1, 1000) AS i;

-- of the projection, from one on
SELECT cqrs.create_projection('sizes', 'on_batch()', '{sizes}', batch_size => 1);
CALL cqrs.catch_up('sizes');
SELECT * FROM check_sizes(1);
SELECT batches, events_processed FROM cqrs.projection_status;
SELECT cqrs.alter_projection('sizes', batch_size => 7);
CALL cqrs.rebuild_projection('sizes', online => false);
SELECT * FROM check_sizes(7);
SELECT batches >= 1000 / 7 AS enough FROM cqrs.projection_status;
-- 1000 are many, 999 leave one
SELECT cqrs.alter_projection('sizes', batch_size => 999);
CALL cqrs.rebuild_projection('sizes', online => false);
SELECT * FROM check_sizes(999);
SELECT batch_size FROM cqrs.projection;

-- 0 is back to the setting, of whoever processes
SELECT cqrs.alter_projection('sizes', batch_size => 0);
SELECT batch_size FROM cqrs.projection;
CALL cqrs.rebuild_projection('sizes', online => false);
SELECT * FROM check_sizes(10000);
SHOW cqrs_views.batch_size;
SET cqrs_views.batch_size = 0; \echo :SQLSTATE
SET cqrs_views.batch_size = 1000001; \echo :SQLSTATE
SET cqrs_views.batch_size = 'many'; \echo :SQLSTATE
SELECT cqrs.alter_projection('sizes', batch_size => -1); \echo :SQLSTATE
SELECT cqrs.alter_projection('sizes', batch_size => 1000001); \echo :SQLSTATE

-- the events of one transaction may take several batches
SELECT cqrs.alter_projection('sizes', batch_size => 10);
BEGIN;
SELECT count(cqrs.publish('Order', 'o' || i, 'Placed')) FROM generate_series(1, 25) AS i;
COMMIT;
SELECT cqrs.wait_for('sizes', '1 minute');
SELECT sum(size), max(last) FROM sizes;

SELECT cqrs.drop_projection('sizes', true);
DROP FUNCTION on_batch, check_sizes;
DROP EXTENSION cqrs_views;
