-- The views to look at: their columns, and what they show of a projection's life.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
SELECT attrelid::regclass AS view, attname, format_type(atttypid, atttypmod) AS type FROM pg_attribute
WHERE attrelid IN ('cqrs.projection_status'::regclass, 'cqrs.worker_status'::regclass, 'cqrs.rebuild_progress'::regclass)
AND attnum > 0 ORDER BY attrelid::regclass::text COLLATE "C", attnum;

CREATE TABLE t (id text);
CREATE FUNCTION h(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (e.aggregate_id); END';
SELECT cqrs.create_projection('p', 'h(cqrs.event)', '{t}', event_types => '{Placed}');
CREATE VIEW shown AS SELECT state, events_pending, lag > interval '0' AS behind, lag < interval '1 hour' AS not_long, last_position,
	events_processed, batches FROM cqrs.projection_status;
-- nothing yet
SELECT name, mode, kind, state, events_pending, lag, last_position, events_processed, batches, events_parked, retries,
	next_retry_at, last_error, last_error_at, read_tables FROM cqrs.projection_status;
SELECT cqrs.publish('Order', 'o1', 'Placed');
CALL cqrs.catch_up();
TABLE shown;
-- pending: exact up to a thousand, whatever the transactions, and whether it is wanted or not
SELECT cqrs.pause_projection('p');
TABLE shown;
SELECT cqrs.publish('Order', 'o2', 'Placed');
TABLE shown;
SELECT cqrs.publish('Order', 'o3', 'Paid') FROM generate_series(1, 2);
BEGIN;
SELECT cqrs.publish('Order', 'undone', 'Placed');
ROLLBACK;
TABLE shown;
SELECT count(cqrs.publish('Order', 'many', 'Placed')) FROM generate_series(1, 997);
SELECT events_pending FROM shown;
-- beyond, it is estimated from positions: of the 1001, and one that was rolled back
SELECT count(cqrs.publish('Order', 'one more', 'Placed')) FROM generate_series(1, 1);
SELECT events_pending BETWEEN 1001 AND 1002 AS estimated FROM shown;
-- what is not committed is not pending, for others
BEGIN;
SELECT cqrs.publish('Order', 'own', 'Placed') > 0 AS published;
SELECT events_pending BETWEEN 1001 AND 1003 AS estimated FROM shown;
ROLLBACK;
SELECT cqrs.resume_projection('p');
CALL cqrs.catch_up();
SELECT state, events_pending, behind, last_position = (SELECT max(position) FROM cqrs.outbox) AS at_end, events_processed, batches > 1 AS batches FROM shown;

-- lag is that of the oldest event that waits
SELECT cqrs.pause_projection('p');
SELECT cqrs.publish('Order', 'old', 'Placed', occurred_at => now() - interval '3 days') > 0 AS published;
SELECT cqrs.publish('Order', 'new', 'Placed') > 0 AS published;
SELECT lag BETWEEN interval '3 days' AND interval '3 days 1 hour' AS three_days FROM cqrs.projection_status;
-- one that comes from the future is no lag below zero
SELECT cqrs.resume_projection('p');
CALL cqrs.catch_up();
SELECT cqrs.pause_projection('p');
SELECT cqrs.publish('Order', 'future', 'Placed', occurred_at => now() + interval '3 days') > 0 AS published;
SELECT events_pending, lag FROM cqrs.projection_status;
-- ends of time
SELECT cqrs.publish('Order', 'ever', 'Placed', occurred_at => '-infinity') > 0 AS published;
SELECT events_pending FROM cqrs.projection_status;
SELECT cqrs.publish('Order', 'ever', 'Placed', occurred_at => 'infinity') > 0 AS published;
SELECT events_pending FROM cqrs.projection_status;
SELECT cqrs.resume_projection('p');
CALL cqrs.catch_up();

-- under repeatable read they show what is, not what was
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT state, events_pending FROM cqrs.projection_status;
COMMIT;
-- in a read-only transaction, a parallel query, a subquery
BEGIN READ ONLY;
SELECT state, events_pending FROM cqrs.projection_status;
COMMIT;
SELECT (SELECT state FROM cqrs.projection_status), count(*) FROM cqrs.projection, cqrs.projection_status;
-- workers: of this database, one at least when there is something to do
SELECT cqrs.publish('Order', 'work', 'Placed') > 0 AS published;
SELECT cqrs.wait_for('p', '1 minute');
SELECT count(*) > 0 AS working, bool_and(pid IS NOT NULL AND activity <> '' AND since <= clock_timestamp()) AS told
FROM cqrs.worker_status WHERE database = current_database();
SELECT count(*) FROM cqrs.worker_status w LEFT JOIN pg_stat_activity a USING (pid) WHERE a.backend_type <> 'cqrs_views worker';
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs_views launcher';
-- counters begin anew on request, for who may manage the projection
SELECT events_processed > 0 AS counted FROM cqrs.projection_status;
SELECT cqrs.reset_stats('p');
SELECT events_processed, batches, last_position > 0 AS is_where_it_was FROM cqrs.projection_status;
SELECT cqrs.reset_stats('nobody');

DROP VIEW shown;
SELECT cqrs.drop_projection('p', true);
SELECT * FROM cqrs.projection_status;
DROP FUNCTION h;
DROP EXTENSION cqrs_views;
