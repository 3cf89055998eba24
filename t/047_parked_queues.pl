# The queues of events that were put aside, at their corners: several that failed in one queue, earlier events that come
# later, keys that can't be computed, definitions that change meanwhile, and views that keep the order of events.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server(
	'parked_queues',
	'cqrs_views.max_retries' => 2,
	'cqrs_views.retry_delay' => '20ms');
create_database($node, 'postgres');

# whose value can be mended, and whose key, too; it stumbles where it is told to
sql(q{
	CREATE SEQUENCE mended;
	CREATE SEQUENCE stumbles;
	CREATE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
		IF payload->>'v' = 'bad' AND (SELECT last_value FROM mended) > 1 THEN RETURN 0; END IF;
		RETURN (payload->>'v')::int; END $$;
	CREATE FUNCTION key_of(payload jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
		IF payload->>'k' = 'none' AND (SELECT last_value FROM mended) = 1 THEN RAISE 'there is no key'; END IF;
		IF (SELECT last_value FROM stumbles) = 2 THEN RAISE 'nobody''s fault' USING ERRCODE = 'lock_not_available'; END IF;
		RETURN replace(payload->>'k', 'none', 'a'); END $$;
	CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, position bigint, k text, v int);
	CREATE FUNCTION log(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
		'BEGIN INSERT INTO log (position, k, v) VALUES (e.position, e.payload->>''k'', value_of(e.payload)); END';
	CREATE FUNCTION since(bigint) RETURNS text LANGUAGE sql AS 'SELECT string_agg(k || coalesce(v::text, ''''), '' '' ORDER BY n)
		FROM log WHERE position > $1'});

# --- two that failed in one queue: each has its retries, and no more than those

my $from = begin_log();
events('none1', 'none2');
given_up(2, 'two keys that can\'t be computed');
is(sql('SELECT max(attempts) FROM cqrs.parked'), 3, 'after as many retries as there may be');
is(attempts_logged($from), 1, 'which is said once');

$from = begin_log();
my $late = $node->background_psql('postgres');
$late->query_safe(q{BEGIN; SELECT cqrs.publish('T', 'x', 'E', '{"k": "k", "v": "bad"}')});
events('kbad');
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.parked', 'an event is put aside', 1);
$late->query_safe('COMMIT');
$late->quit;
given_up(2, 'one that comes before it, and fails, too');
cmp_ok(sql('SELECT max(attempts) FROM cqrs.parked'), '<=', 4, 'neither is tried for ever');
mend();
is(sql("SELECT cqrs.retry_dead_letters('log')"), 2, 'both are retried');
is(sql("SELECT string_agg(position::text, ' ' ORDER BY n) = string_agg(position::text, ' ' ORDER BY position) FROM log"), 't', 'in their order');

# --- a retry that is asked for, and fails, takes none of workers' retries away

set('cqrs_views.retry_delay', '500ms');
begin_log();
events('abad');
poll_ok($node, 'postgres', 'SELECT attempts FROM cqrs.parked', 'put aside', 1);
is(sql("SELECT cqrs.retry_dead_letters('log')"), 0, 'still bad');
is(sql('SELECT attempts, next_retry_at IS NOT NULL FROM cqrs.parked'), '2|t', 'a worker will try again');
mend();
poll_ok($node, 'postgres', 'SELECT count(*) FROM log', 'and does', 1);
set('cqrs_views.retry_delay', '20ms');

begin_log();
sql("SELECT cqrs.alter_projection('log', on_error => 'skip')");
events('abad');
given_up(1, 'an event is skipped');
sql("SELECT cqrs.alter_projection('log', on_error => 'park')");
set('cqrs_views.retry_delay', '500ms');
events('abad', 'a1');
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.parked', 'others of its key are aside', 3);
sql("SELECT cqrs.retry_dead_letters('log')");
is(sql("SELECT string_agg(attempts || ' ' || (next_retry_at IS NOT NULL), ', ' ORDER BY position) FROM cqrs.parked"),
	'2 false, 2 true, 0 false', 'a skipped event holds up nobody, and workers will try the next');
mend();
poll_ok($node, 'postgres', 'SELECT since(0)', 'and do', 'a0 a1');
set('cqrs_views.retry_delay', '20ms');

# --- what is left behind what is discarded is tried again, also if it has failed, but not for ever

begin_log();
events('none1', 'none2');
given_up(2, 'two without keys');
mend();
is(sql("SELECT cqrs.discard_dead_letters('log', NULL, (SELECT min(position) FROM cqrs.parked))"), 1, 'one is discarded');
poll_ok($node, 'postgres', 'SELECT since(0)', 'the other is tried again', 'none2');

# --- an event whose key can be computed by now waits behind others of it

begin_log();
events('aworse', 'a1', 'none2');
given_up(3, 'a queue, and one without a key');
mend();
is(sql("SELECT cqrs.retry_dead_letters('log')"), 0, 'none is applied');
is(sql("SELECT string_agg(key || ' ' || reason, ', ' ORDER BY position) FROM cqrs.parked"), 'a failed, a behind, a behind', 'one is in the other queue now');
sql("SELECT cqrs.discard_dead_letters('log', 'a', (SELECT min(position) FROM cqrs.parked))");
poll_ok($node, 'postgres', 'SELECT since(0)', 'in order', 'a1 none2');

# --- a retry that is cancelled is cancelled

begin_log();
events('abad', map { "a$_" } 1 .. 60);
given_up(61, 'a long queue');
mend();
sql(q{CREATE OR REPLACE FUNCTION log(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
	'BEGIN PERFORM pg_sleep(0.05); INSERT INTO log (position, k, v) VALUES (e.position, e.payload->>''k'', value_of(e.payload)); END'});
fails_ok($node, 'postgres', "SET statement_timeout = '500ms'; SELECT cqrs.retry_dead_letters('log')", qr/canceling statement due to statement timeout/, 'as any statement');
is(sql('SELECT count(*) FROM log'), 0, 'and has done nothing');
sql(q{CREATE OR REPLACE FUNCTION log(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
	'BEGIN INSERT INTO log (position, k, v) VALUES (e.position, e.payload->>''k'', value_of(e.payload)); END'});
is(sql("SELECT cqrs.retry_dead_letters('log')"), 61, 'another time it works');

# --- a key that can't be computed while another event is aside: the event is put aside, and neither handled nor tried at once

begin_log();
events('abad');
given_up(1, 'a dead letter');
events('b1', 'none3', 'c2');
given_up(2, 'and one without a key');
is(sql("SELECT since(0)"), 'b1 c2', 'others go on, in their order');
is(sql("SELECT events_processed FROM cqrs.projection_status WHERE name = 'log'"), 2, 'and are counted');
is(sql("SELECT attempts FROM cqrs.parked WHERE key IS NULL"), 3, 'it was tried by workers, as others are');
mend();
is(sql("SELECT cqrs.retry_dead_letters('log')"), 2, 'when they are mended, they are applied');

begin_log();
set('cqrs_views.enabled', 'off');
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.worker_status', 'without workers', 0);
events('a1', 'b2', 'none3', 'b4', 'a5');
sql("CALL cqrs.catch_up()");
is(sql("SELECT since(0)"), 'a1 b2 b4 a5', 'catch_up handles no event without its key');
is(sql('SELECT attempts, key IS NULL FROM cqrs.parked'), '3|t', 'having tried as often as there may be retries');
set('cqrs_views.enabled', 'on');
mend();
sql("SELECT cqrs.retry_dead_letters('log')");

# --- errors of keys that are no event's fault, while an event is aside: retried, or the projection stops, and workers stay

begin_log();
events('abad');
given_up(1, 'a dead letter');
my $log = -s $node->logfile;
sql("SELECT setval('stumbles', 2)");
events('b1');
poll_ok($node, 'postgres', "SELECT retries > 0 FROM cqrs.projection_status WHERE name = 'log'", 'what is nobody\'s fault is retried');
sql("SELECT setval('stumbles', 1)");
is(sql("SELECT cqrs.wait_for('log', '1 minute'), since(0)"), 't|b1', 'until it works');
sql("SELECT cqrs.alter_projection('log', on_error => 'stop')");
events('none1');
poll_ok($node, 'postgres', "SELECT state FROM cqrs.projection_status WHERE name = 'log'", 'on_error says what an event without a key does', 'stopped');
sql("SELECT cqrs.drop_projection('log')");

sql(q{SELECT cqrs.create_view('sick', 'SELECT payload->>''k'' AS k, sum(value_of(payload)) AS v FROM events GROUP BY 1', start_at => 'now');
	SELECT cqrs.create_view('well', 'SELECT count(*) AS n FROM events', start_at => 'now')});
unmend();
events('abad');
given_up(1, 'a dead letter of a view');
sql('ALTER TABLE sick ALTER v TYPE numeric');
events('b1');
poll_ok($node, 'postgres', "SELECT state FROM cqrs.projection_status WHERE name = 'sick'", 'a view whose table has changed stops', 'stopped');
like(sql("SELECT last_error FROM cqrs.projection_status WHERE name = 'sick'"), qr/^42804/, 'and says why');
is(sql("SELECT cqrs.wait_for('well', '1 minute'), n FROM well"), 't|2', 'others go on');
unlike(slurp_file($node->logfile, $log), qr/exited with exit code/, 'no worker has failed');
sql("SELECT cqrs.drop_projection(name, true) FROM cqrs.projection");

# --- views that keep the order: what is aside is yet to come, wherever it is

foreach my $policy (qw(park skip))
{
	unmend();
	sql(qq{SELECT cqrs.create_view('kept', 'SELECT (payload->>''k'')::numeric AS k, sum(value_of(payload)) AS v,
		cqrs.first(payload->>''v'') AS f, cqrs.last(payload->>''v'') AS l FROM events GROUP BY 1', on_error => '$policy', start_at => 'now')});
	foreach my $event ('1.0:bad', '1.00:2', '1.00:3', '1.0:bad', '1.00:5')
	{
		events($event);
		ok(sql("SELECT cqrs.wait_for('kept', '1 minute')"), "$policy: $event");
	}
	given_up(2, "$policy: events are aside");
	mend();
	sql("SELECT cqrs.retry_dead_letters('kept')");
	is(sql('SELECT v, f, l FROM kept'), '10|bad|5', "$policy: the table is what the query says");
	sql("SELECT cqrs.drop_projection('kept', true)");
}

# --- what is counted and told of a view does not depend on what is aside

unmend();
sql(q{SELECT cqrs.create_view('some', 'SELECT payload->>''k'' AS k, sum(value_of(payload)) AS v FROM events WHERE payload->>''v'' <> ''9'' GROUP BY 1', start_at => 'now')});
events('a9', 'b1', 'c9');
is(counted('some'), 3, 'events that WHERE rejects are counted');
events('abad');
given_up(1, 'with a dead letter');
events('d9', 'b1', 'c9');
is(counted('some'), 6, 'they are, too');
sql("SELECT cqrs.alter_projection('some', event_types => '{Other}')");
is(sql("SELECT cqrs.retry_dead_letters('some')"), 1, 'what is not wanted any more leaves the queue');
is(counted('some'), 6, 'and is not counted');
sql("SELECT cqrs.drop_projection('some', true)");

# --- inline: what is put behind is neither told nor counted before it is applied; what a handler publishes meanwhile follows

begin_log();
events('abad');
given_up(1, 'a dead letter');
sql("SELECT cqrs.alter_projection('log', mode => 'inline')");
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN log');
events('a1', 'b2', 'a3');
is(counted('log'), 1, 'one was applied');
mend();
sql(q{CREATE OR REPLACE FUNCTION log(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO log (position, k, v) VALUES (e.position, e.payload->>'k', value_of(e.payload));
	IF e.payload->>'v' = 'bad' THEN PERFORM cqrs.publish('T', 'x', 'Derived', '{"k": "a", "v": 7}'); END IF; END $$});
is(sql("SELECT cqrs.retry_dead_letters('log')"), 4, 'the others are, with what the handler published');
is(sql('SELECT since(0)'), 'b2 a0 a1 a3 a7', 'in order');
is(sql('SELECT count(*) FROM cqrs.parked'), 0, 'nothing is left');
events('a8');
is(sql('SELECT since(0)'), 'b2 a0 a1 a3 a7 a8', 'and the key is as any other');
my $heard = join ' ', $listener->query_safe("SELECT 'heard'") =~ /"events": (\d+), "keys": (\S+)\}"/g;
like($heard, qr/^1 \["b"\] 3 \["a"\] 1 \["a"\]/, 'each is told once');
$listener->quit;

# --- inline: retries that fail are nothing to publishers of other keys; a handler that publishes without end is stopped

begin_log();
set('cqrs_views.max_retries', 100000);
events('abad');
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.parked', 'an event is aside', 1);
sql("SELECT cqrs.alter_projection('log', mode => 'inline')");
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cqrs.outbox');
my $attempts = sql('SELECT attempts FROM cqrs.parked');
poll_ok($node, 'postgres', "SELECT attempts > $attempts + 1 FROM cqrs.parked", 'which workers try again and again');
$reader->query_safe(q{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ('T', 'x', 'E', '{"k": "b", "v": 1}')});
$reader->query_safe('COMMIT');
$reader->quit;
is(sql('SELECT since(0)'), 'b1', 'repeatable read or not');
set('cqrs_views.enabled', 'off');
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.worker_status', 'without workers', 0);
sql(q{CREATE OR REPLACE FUNCTION log(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO log (position, k, v) VALUES (e.position, e.payload->>'k', value_of(e.payload));
	PERFORM cqrs.publish('T', 'x', 'Derived', '{"k": "a", "v": 7}'); END $$});
mend();
fails_ok($node, 'postgres', "SELECT cqrs.retry_dead_letters('log')", qr/keep publishing events/, 'the handler is told to stop');
is(sql('SELECT since(0)'), 'b1', 'and nothing has changed');
sql(q{CREATE OR REPLACE FUNCTION log(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
	'BEGIN INSERT INTO log (position, k, v) VALUES (e.position, e.payload->>''k'', value_of(e.payload)); END'});
is(sql("SELECT cqrs.retry_dead_letters('log')"), 1, 'another one does its work');
set('cqrs_views.enabled', 'on');
set('cqrs_views.max_retries', 2);

# --- inline: what is retried before workers have passed it is counted once

begin_log();
events('abad');
given_up(1, 'a dead letter');
sql("SELECT cqrs.alter_projection('log', mode => 'inline')");
set('cqrs_views.enabled', 'off');
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.worker_status', 'without workers', 0);
events('a1', 'b2', 'a3');
mend();
is(sql("SELECT cqrs.retry_dead_letters('log')"), 3, 'with two that were behind');
is(counted('log'), 4, 'each is counted once');
is(sql('SELECT since(0)'), 'b2 a0 a1 a3', 'and applied once');
set('cqrs_views.enabled', 'on');

# --- a checkpoint that is missing is an error

unmend();
sql("SELECT cqrs.alter_projection('log', mode => 'async')");
events('abad');
given_up(1, 'a dead letter');
mend();
sql("DELETE FROM cqrs.checkpoint WHERE projection = (SELECT id FROM cqrs.registry WHERE name = 'log')");
fails_ok($node, 'postgres', "SELECT cqrs.retry_dead_letters('log')", qr/has no row in cqrs.checkpoint/, 'a retry without a checkpoint is refused');

$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Creates the projection anew, which sees what comes from now on. Returns the size of the log file.
sub begin_log
{
	unmend();
	sql("SELECT cqrs.drop_projection(name) FROM cqrs.projection");
	sql("TRUNCATE log");
	sql("SELECT cqrs.create_projection('log', 'log(cqrs.event)', '{log}', key => 'key_of(payload)', start_at => 'now')");
	return -s $node->logfile;
}

# Publishes events, in one statement: each a key, and behind it a value, apart where they could be mistaken.
sub events
{
	my $events = join ', ', map { /^(none|[^:]+?):?(bad|worse|\d+)$/ ? "('$1', '$2')" : die "what is $_?" } @_;

	sql("INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'T', 'x', 'E', jsonb_build_object('k', k, 'v', v) FROM (VALUES $events) AS e (k, v)");
	return;
}

sub mend { return sql("SELECT setval('mended', 2)") }
sub unmend { return sql("SELECT setval('mended', 1)") }

sub set
{
	my ($name, $value) = @_;

	sql("ALTER SYSTEM SET $name = '$value'");
	sql('SELECT pg_reload_conf()');
	return;
}

# So many are aside, and nobody tries them again.
sub given_up
{
	my ($events, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll_ok($node, 'postgres', 'SELECT (SELECT count(*) FROM cqrs.dead_letter), (SELECT count(*) FROM cqrs.parked)', $what, "$events|$events");
}

# How often a worker has said since then that it gives up.
sub attempts_logged
{
	my ($since) = @_;
	my @said = slurp_file($node->logfile, $since) =~ /gives up the event/g;

	return scalar @said;
}

# How many events a projection has processed, once workers have.
sub counted
{
	my ($name) = @_;

	sql("CALL cqrs.catch_up('$name')");
	return sql("SELECT events_processed FROM cqrs.projection_status WHERE name = '$name'");
}
