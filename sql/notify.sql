-- Notifications: the channel, the payload, what is too large for one, and who sends none.
CREATE EXTENSION IF NOT EXISTS cqrs_views;
CREATE TABLE t (n bigint);
CREATE FUNCTION h(e cqrs.event) RETURNS void LANGUAGE sql AS 'INSERT INTO public.t VALUES (e.position)';
SELECT cqrs.create_projection('Orders "1"', 'h(cqrs.event)', '{t}');
LISTEN "Orders ""1""";
LISTEN sentinel;
/*
 * psql shows the notifications that came in during a statement after it, with the sender's process id. So between two
 * \o everything goes through a filter that leaves the notifications, without the process. A worker may be the sender:
 * its notification is in the queue before wait_for returns, and so before the one that we send ourselves then.
 */
\setenv HEAR 'sed -nE "s/ received from.*//; /sentinel/d; s/^(.{300}).*/\\1.../; s/^Asynchronous notification //p"'

-- keys: each once, in order of appearance
\o | eval "$HEAR"
BEGIN;
SELECT count(cqrs.publish('Order', 'o' || i % 3, 'Placed')) FROM generate_series(1, 5) AS i;
COMMIT;
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
-- whoever hears it finds the rows
SELECT max(n) FROM t;
-- one that is filtered out is no news
\o | eval "$HEAR"
SELECT cqrs.alter_projection('Orders "1"', event_types => '{Placed}');
SELECT cqrs.publish('Order', 'filtered', 'Paid');
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
-- keys that need escapes, and a NULL
\o | eval "$HEAR"
SELECT cqrs.alter_projection('Orders "1"', key => 'nullif(aggregate_id, ''nothing'')');
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
SELECT 'Order', id, 'Placed' FROM unnest(ARRAY['"', E'\\', E'a\nb\tc', '{}', '', 'ü', E'\u0001', 'nothing', '日本語', '/', '<>&']) AS id;
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
-- too many for one: 7,999 bytes is what a notification holds
\o | eval "$HEAR"
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
SELECT 'Order', rpad(i::text, 850, '.'), 'Placed' FROM generate_series(1, 10) AS i;
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
-- one too long by itself
\o | eval "$HEAR"
SELECT cqrs.publish('Order', repeat('x', 8000), 'Placed');
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
-- one that just fits, and one byte more
\o | eval "$HEAR"
SELECT cqrs.publish('Order', repeat('x', 7999 - length('{"projection": "Orders \"1\"", "position": 31, "events": 1, "keys": [""]}')), 'Placed');
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
\o | eval "$HEAR"
SELECT cqrs.publish('Order', repeat('x', 8000 - length('{"projection": "Orders \"1\"", "position": 32, "events": 1, "keys": [""]}')), 'Placed');
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
-- batch: no keys; none: nothing
\o | eval "$HEAR"
SELECT cqrs.alter_projection('Orders "1"', notify => 'batch');
SELECT cqrs.publish('Order', 'o1', 'Placed');
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
\o | eval "$HEAR"
SELECT cqrs.alter_projection('Orders "1"', notify => 'none');
SELECT cqrs.publish('Order', 'o1', 'Placed');
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
SELECT cqrs.alter_projection('Orders "1"', notify => 'nobody'); \echo :SQLSTATE

-- what was put aside is told when it is applied: one for each key's; with the keys that are told for others
CREATE FUNCTION pg_temp.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';
CREATE TRIGGER refuse BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION pg_temp.refuse();
ALTER TABLE t ENABLE ALWAYS TRIGGER refuse;
\o | eval "$HEAR"
SELECT cqrs.alter_projection('Orders "1"', notify => 'keys', key => 'aggregate_id', on_error => 'skip');
BEGIN;
SELECT count(cqrs.publish('Order', 'r' || i % 2, 'Placed')) FROM generate_series(1, 5) AS i;
COMMIT;
SELECT cqrs.wait_for('Orders "1"', '1 minute');
NOTIFY sentinel;
\o
DROP TRIGGER refuse ON t;
\o | eval "$HEAR"
SELECT cqrs.retry_dead_letters('Orders "1"');
NOTIFY sentinel;
\o
SELECT max(n) FROM t;
SELECT cqrs.retry_dead_letters('Orders "1"');

-- inline: after the commit, by whoever moves the checkpoint
\o | eval "$HEAR"
SELECT cqrs.alter_projection('Orders "1"', mode => 'inline', notify => 'keys', key => 'aggregate_id');
BEGIN;
SELECT cqrs.publish('Order', 'inline', 'Placed');
SELECT max(n) FROM t;
COMMIT;
CALL cqrs.catch_up('Orders "1"');
NOTIFY sentinel;
\o
\o | eval "$HEAR"
BEGIN;
SELECT cqrs.publish('Order', 'undone', 'Placed');
ROLLBACK;
CALL cqrs.catch_up('Orders "1"');
NOTIFY sentinel;
\o
-- a new name is a new channel
\o | eval "$HEAR"
SELECT cqrs.alter_projection('Orders "1"', new_name => 'moved');
LISTEN moved;
SELECT cqrs.publish('Order', 'renamed', 'Placed');
CALL cqrs.catch_up('moved');
NOTIFY sentinel;
\o
UNLISTEN *;

SELECT cqrs.drop_projection('moved', true);
DROP FUNCTION h;
DROP EXTENSION cqrs_views;
