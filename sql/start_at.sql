-- start_at: from the first event, or from now, which is exactly the transaction that creates the projection.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE beginning (position bigint);
CREATE TABLE now (position bigint);
CREATE FUNCTION to_beginning(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO public.beginning VALUES (e.position)';
CREATE FUNCTION to_now(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO public.now VALUES (e.position)';

SELECT cqrs.publish('Order', 'history', 'Placed') FROM generate_series(1, 3);
SELECT cqrs.create_projection('beginning', 'to_beginning(cqrs.event)', '{beginning}', start_at => 'beginning');
SELECT cqrs.create_projection('now', 'to_now(cqrs.event)', '{now}', start_at => 'now');
SELECT cqrs.publish('Order', 'later', 'Placed');
CALL cqrs.catch_up();
SELECT array_agg(position ORDER BY position) FROM beginning;
SELECT array_agg(position ORDER BY position) FROM now;

-- in a transaction that published before and publishes after: both are "now"
SELECT cqrs.drop_projection('now');
TRUNCATE now;
BEGIN;
SELECT cqrs.publish('Order', 'before', 'Placed');
SELECT cqrs.create_projection('now', 'to_now(cqrs.event)', '{now}', start_at => 'now');
SELECT cqrs.publish('Order', 'after', 'Placed');
COMMIT;
SELECT cqrs.publish('Order', 'later', 'Placed');
CALL cqrs.catch_up();
SELECT array_agg(position ORDER BY position) FROM now;

-- the same with savepoints; what they roll back never was
SELECT cqrs.drop_projection('now');
TRUNCATE now;
BEGIN;
SAVEPOINT a;
SELECT cqrs.publish('Order', 'undone', 'Placed');
ROLLBACK TO a;
SAVEPOINT b;
SELECT cqrs.publish('Order', 'before', 'Placed');
SAVEPOINT c;
SELECT cqrs.create_projection('now', 'to_now(cqrs.event)', '{now}', start_at => 'now');
RELEASE c;
RELEASE b;
SAVEPOINT d;
SELECT cqrs.publish('Order', 'undone', 'Placed');
ROLLBACK TO d;
SELECT cqrs.publish('Order', 'after', 'Placed');
COMMIT;
CALL cqrs.catch_up();
SELECT array_agg(position ORDER BY position) FROM now;
SELECT array_agg(position ORDER BY position) FROM beginning;

-- repeatable read: now is the time of the call, not of the transaction's snapshot
SELECT cqrs.drop_projection('now');
TRUNCATE now;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM cqrs.outbox;
SELECT cqrs.create_projection('now', 'to_now(cqrs.event)', '{now}', start_at => 'now');
SELECT cqrs.publish('Order', 'repeatable read', 'Placed');
COMMIT;
CALL cqrs.catch_up();
SELECT array_agg(position ORDER BY position) FROM now;

-- inline: now too, and nothing published before in the same transaction
SELECT cqrs.drop_projection('now');
TRUNCATE now;
BEGIN;
SELECT cqrs.publish('Order', 'before', 'Placed');
SELECT cqrs.create_projection('now', 'to_now(cqrs.event)', '{now}', mode => 'inline', start_at => 'now'); \echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT cqrs.create_projection('now', 'to_now(cqrs.event)', '{now}', mode => 'inline', start_at => 'now'); \echo :SQLSTATE
ROLLBACK;
-- what a savepoint rolled back was not published
BEGIN;
SAVEPOINT a;
SELECT cqrs.publish('Order', 'undone', 'Placed');
ROLLBACK TO a;
SELECT cqrs.create_projection('now', 'to_now(cqrs.event)', '{now}', mode => 'inline', start_at => 'now');
SELECT cqrs.publish('Order', 'after', 'Placed');
SELECT array_agg(position ORDER BY position) FROM now;
COMMIT;
SELECT cqrs.publish('Order', 'later', 'Placed');
SELECT array_agg(position ORDER BY position) FROM now;

-- a rebuild starts at the first event, whatever start_at says
CALL cqrs.rebuild_projection('now', online => false);
CALL cqrs.catch_up();
SELECT array_agg(position ORDER BY position) FROM now;
SELECT (SELECT array_agg(position ORDER BY position) FROM now) = array_agg(position ORDER BY position) AS all_events FROM cqrs.outbox;
SELECT start_at FROM cqrs.projection ORDER BY name;

SELECT cqrs.drop_projection(name, true) FROM cqrs.projection;
DROP FUNCTION to_beginning, to_now;
DROP EXTENSION cqrs_views;
