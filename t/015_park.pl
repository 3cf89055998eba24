# An event that fails is put aside, with what follows of its key, while other keys go on: for every kind of handler, for
# views, and inline. Workers try it again, then it is a dead letter, until somebody retries or discards it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server(
	'park',
	'cqrs_views.max_retries' => 2,
	'cqrs_views.retry_delay' => '20ms');
create_database($node, 'postgres');
sql(q{
	CREATE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
		'BEGIN RETURN (payload->>''v'')::int; END'});
my @kinds = create_totals($node, 'postgres');
sql(q{
	CREATE TABLE skipping (id text, v int);
	CREATE TABLE stopping (id text, v int);
	CREATE FUNCTION skipping(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
		'BEGIN INSERT INTO skipping VALUES (e.aggregate_id, value_of(e.payload)); END';
	CREATE FUNCTION stopping(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
		'BEGIN INSERT INTO stopping VALUES (e.aggregate_id, value_of(e.payload)); END';
	SELECT cqrs.create_projection('skipping', 'skipping(cqrs.event)', '{skipping}', on_error => 'skip');
	SELECT cqrs.create_projection('stopping', 'stopping(cqrs.event)', '{stopping}', on_error => 'stop')});

# --- one culprit of a key, one of another, in one batch

sql(q{SELECT cqrs.publish('T', 'k' || i % 5, 'E', jsonb_build_object('v', CASE WHEN i IN (13, 27) THEN 'bad' ELSE i::text END))
	FROM generate_series(1, 40) AS i});
is(sql("SELECT bool_and(cqrs.wait_for(name, '1 minute')) FROM cqrs.projection WHERE name <> 'stopping'"), 't',
	'nobody waits for a parked event');
poll_ok($node, 'postgres', "SELECT count(*) FROM cqrs.dead_letter WHERE reason = 'failed'", 'given up after retries', 10);
is(sql("SELECT DISTINCT attempts FROM cqrs.dead_letter WHERE reason = 'failed' AND projection <> 'skipping'"), 3,
	'tried once, and retried twice');
foreach my $kind (@kinds)
{
	is(sql("SELECT string_agg(position || ' ' || reason, ', ' ORDER BY position) FROM cqrs.dead_letter
			WHERE projection = '$kind' AND key = 'k3'"),
		'13 failed, 18 behind, 23 behind, 28 behind, 33 behind, 38 behind', "$kind: what is behind waits");
	is(sql("SELECT string_agg(position || ' ' || reason, ', ' ORDER BY position) FROM cqrs.dead_letter
			WHERE projection = '$kind' AND key = 'k2'"), '27 failed, 32 behind, 37 behind', "$kind: the other key");
	is(sql("SELECT string_agg(id || ' ' || total, ', ' ORDER BY id) FROM totals WHERE kind = '$kind'"),
		'k0 180, k1 148, k2 60, k3 11, k4 172', "$kind: all that came before, and other keys");
	is(sql("SELECT state, events_processed, events_parked, retries FROM cqrs.projection_status WHERE name = '$kind'"),
		'running|31|9|0', "$kind: the status");
}
like(sql("SELECT context FROM cqrs.dead_letter WHERE projection = 'singly' AND position = 13"),
	qr/value_of.*projection "singly", event at position 13/s, 'the context says where');
is(sql('SELECT count(*) FROM skipping'), 38, 'skip: all others are applied');
is(sql("SELECT string_agg(position || ' ' || reason, ', ' ORDER BY position) FROM cqrs.dead_letter WHERE projection = 'skipping'"),
	'13 failed, 27 failed', 'skip: recorded');
is(sql("SELECT state, events_parked FROM cqrs.projection_status WHERE name = 'stopping'"), 'stopped|0', 'stop: stopped');

# --- events that come meanwhile, across a restart

sql(q{SELECT cqrs.publish('T', 'k3', 'E', '{"v": 1000}'), cqrs.publish('T', 'k4', 'E', '{"v": 1000}')});
$node->stop('immediate');
$node->start;
sql("SELECT cqrs.publish('T', 'k3', 'E', '{\"v\": 2000}')");
is(sql("SELECT bool_and(cqrs.wait_for(name, '1 minute')) FROM cqrs.projection WHERE name <> 'stopping'"), 't', 'caught up');
is(sql("SELECT string_agg(DISTINCT id || ' ' || total, ', ') FROM totals WHERE id IN ('k3', 'k4')"), 'k3 11, k4 1172',
	'a key with a dead letter waits, another does not');

# --- retried in vain, mended, retried for one key and for all

is(sql("SELECT cqrs.retry_dead_letters('singly')"), 0, 'still bad');
is(sql("SELECT DISTINCT attempts FROM cqrs.dead_letter WHERE projection = 'singly' AND reason = 'failed'"), 4, 'counted');
sql(q{CREATE OR REPLACE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN RETURN coalesce(nullif(payload->>''v'', ''bad''), ''0'')::int; END'});
is(sql("SELECT cqrs.retry_dead_letters('singly', 'k3'), cqrs.retry_dead_letters('singly', 'nobody')"), '8|0', 'one key');
is(sql("SELECT string_agg(v::text, ' ' ORDER BY n) FROM singly WHERE id = 'k3'"), '3 8 0 18 23 28 33 38 1000 2000', 'in order');
is(sql("SELECT cqrs.retry_dead_letters('singly')"), 3, 'the others');
my $heard = sql("LISTEN batched; SELECT cqrs.retry_dead_letters('batched')");
like($heard, qr/^11$/m, 'those of a projection');
like($heard, qr/"events": 8, "keys": \["k3"\]/, 'listeners hear of a key');
like($heard, qr/"events": 3, "keys": \["k2"\]/, 'and of the other');
is(sql("SELECT cqrs.discard_dead_letters('viewed', 'k3', 13), cqrs.discard_dead_letters('viewed', 'k2', 1)"), '1|0', 'discarded');
poll_ok($node, 'postgres', "SELECT total FROM viewed WHERE id = 'k3'", 'what was behind it is applied', 3151);
is(sql("SELECT count(*) FROM cqrs.dead_letter WHERE projection = 'viewed' AND key = 'k3'"), 0, 'and waits no more');
fails_ok($node, 'postgres', "SELECT cqrs.alter_projection('folded', key => 'aggregate_type')", qr/while it has dead letters/, 'a key that others wait for');
sql("CALL cqrs.rebuild_projection('folded', online => false)");
is(sql("SELECT string_agg(id || ' ' || total, ', ' ORDER BY id) FROM folded"), 'k0 180, k1 148, k2 129, k3 3151, k4 1172',
	'a rebuild applies all again');
is(sql("SELECT string_agg(projection || ' ' || events, ', ' ORDER BY projection)
		FROM (SELECT projection, count(*) AS events FROM cqrs.dead_letter GROUP BY 1) AS d"), 'skipping 2, viewed 3', 'the rest stays');

# --- inline

sql("SELECT cqrs.alter_projection('viewed', mode => 'inline')");
fails_ok($node, 'postgres', "SELECT cqrs.publish('T', 'k1', 'E', '{\"v\": \"worse\"}')", qr/invalid input syntax/, 'the publisher gets the error');
sql("SELECT cqrs.publish('T', k, 'E', '{\"v\": 5}') FROM unnest('{k1,k2}'::text[]) AS k");
is(sql("SELECT string_agg(total::text, ' ' ORDER BY id) FROM viewed WHERE id IN ('k1', 'k2')"), '153 60', 'what is behind a dead letter waits');
$heard = sql("LISTEN viewed; SELECT cqrs.retry_dead_letters('viewed')");
like($heard, qr/^4$/m, 'and comes in its turn');
like($heard, qr/"events": 4, "keys": \["k2"\]/, 'and listeners hear of it');
is(sql("SELECT total FROM viewed WHERE id = 'k2'"), 134, 'with what was before');

# --- an event that was skipped, before others of its key were parked: workers let it be, and nobody else waits for it

sql(q{CREATE OR REPLACE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
	'BEGIN RETURN (payload->>''v'')::int; END'});
sql("SELECT cqrs.alter_projection('viewed', mode => 'async')");
sql("SELECT cqrs.alter_projection('batched', on_error => 'skip'); SELECT cqrs.publish('T', 'k9', 'E', '{\"v\": \"skipped\"}')");
poll_ok($node, 'postgres', "SELECT count(*) FROM cqrs.dead_letter WHERE projection = 'batched' AND key = 'k9'", 'skipped', 1);
sql("SELECT cqrs.alter_projection('batched', on_error => 'park'); SELECT cqrs.publish('T', 'k9', 'E', '{\"v\": \"worst\"}')");
poll_ok($node, 'postgres', "SELECT array_agg(attempts || ' ' || (next_retry_at IS NULL) ORDER BY position) FROM cqrs.parked
	WHERE key = 'k9' AND projection = (SELECT id FROM cqrs.registry WHERE name = 'batched')", 'the other is given up, the skipped one was not tried',
	'{"1 true","3 true"}');
is(sql("SELECT bool_and(cqrs.wait_for(name, '1 minute')) FROM cqrs.projection WHERE name <> 'stopping'"), 't', 'and the others are done with both');
sql("SELECT cqrs.discard_dead_letters(name, 'k9') FROM cqrs.projection");

# --- what is no event's fault

sql('DROP FUNCTION singly(cqrs.event)');
sql("SELECT cqrs.publish('T', 'k1', 'E', '{\"v\": 6}')");
poll_ok($node, 'postgres', "SELECT state = 'stopped' AND events_parked = 0 FROM cqrs.projection_status WHERE name = 'singly'",
	'a handler that is missing parks nothing');
sql("SELECT cqrs.drop_projection('skipping', true)");
is(sql('SELECT count(*) FROM cqrs.parked'), 0, 'dead letters go with their projection');

$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}
