# Errors that are nobody's fault are retried for ever, and never put aside: raised with each of their SQLSTATEs, by each
# kind of handler, whatever on_error is; a real deadlock, lock timeout and lack of resources; and workers that are
# cancelled and terminated.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @states = qw(08000 08001 08003 08006 40000 40001 40P01 53000 53100 53200 53300 53400 55P03 57000 57014 57P01 57P02 57P03
	58000 58030 58P01 72000 HV00N);
my $node = new_server(
	'nobodys_fault',
	'cqrs_views.max_retries' => 1,
	'cqrs_views.retry_delay' => '5ms',
	'cqrs_views.max_retry_delay' => '20ms');
create_database($node, 'postgres');

# --- each SQLSTATE, three times

# counts what is rolled back, too
sql(q{CREATE FUNCTION stumble(projection text, state text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
	IF state ~ '^[0-9A-Z]{5}$' AND nextval(format('%I', projection || '_' || state)) <= 3 THEN
		RAISE 'it is nobody''s fault' USING ERRCODE = state;
	END IF;
	RETURN 1;
	END $$});
foreach my $policy (qw(park skip stop))
{
	my $arguments = "on_error => '$policy', event_types => '{State}'";

	foreach my $kind (qw(batched folded singly viewed))
	{
		my $name = "${kind}_$policy";

		sql(join(';', map { qq(CREATE SEQUENCE "${name}_$_") } @states));
		if ($kind eq 'viewed')
		{
			sql("SELECT cqrs.create_view('$name', 'SELECT aggregate_id AS id, sum(stumble(''$name'', aggregate_id)) AS n FROM events
				GROUP BY 1', $arguments)");
			next;
		}
		sql("CREATE TABLE $name (id text PRIMARY KEY, n int)");
		my %handlers = (
			batched => ['', '', 'trigger', "INSERT INTO $name SELECT aggregate_id, stumble('$name', aggregate_id) FROM events; RETURN NULL"],
			folded => ["state $name, e cqrs.event", "$name, cqrs.event", $name, "state.n := stumble('$name', e.aggregate_id); RETURN state"],
			singly => ['e cqrs.event', 'cqrs.event', 'void', "INSERT INTO $name VALUES (e.aggregate_id, stumble('$name', e.aggregate_id))"]);
		my ($parameters, $types, $result, $body) = @{ $handlers{$kind} };
		sql("CREATE FUNCTION handle_$name($parameters) RETURNS $result LANGUAGE plpgsql AS \$\$ BEGIN $body; END \$\$;
			SELECT cqrs.create_projection('$name', 'handle_$name($types)', '{$name}', $arguments)");
	}
}
sql("SELECT cqrs.publish('T', s, 'State') FROM unnest('{@{[join ',', @states, 'fine']}}'::text[]) AS s");
foreach my $projection (split /\n/, sql('SELECT name FROM cqrs.projection ORDER BY 1'))
{
	my $attempts = join ' + ', map { qq((SELECT least(last_value, 4) FROM "${projection}_$_")) } @states;

	is(sql("SELECT cqrs.wait_for('$projection', '1 minute')"), 't', "$projection: has caught up");
	is(sql("SELECT count(*), sum(n) FROM $projection"), (@states + 1) . '|' . (@states + 1), "$projection: all is applied, once");
	is(sql("SELECT $attempts"), 4 * @states, "$projection: after three failures with each SQLSTATE");
}
is(sql("SELECT DISTINCT state, retries, events_parked FROM cqrs.projection_status"), 'running|0|0', 'and no harm is done');
is(sql('SELECT count(*) FROM cqrs.parked'), 0, 'nothing is put aside');
sql('SELECT cqrs.drop_projection(name) FROM cqrs.projection');

# --- real ones

sql(q{
	CREATE TABLE other (a int);
	CREATE TABLE done (position bigint PRIMARY KEY);
	CREATE SEQUENCE calls;
	CREATE FUNCTION handle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		INSERT INTO done VALUES (e.position);
		IF e.event_type = 'Crossing' THEN
			PERFORM nextval('calls'), pg_sleep(0.5);
			LOCK other IN SHARE MODE;
		ELSIF e.event_type = 'Sleeping' AND nextval('calls') = 1 THEN
			PERFORM pg_sleep(3600);
		ELSIF e.event_type = 'Spilling' AND nextval('calls') <= 4 THEN
			SET LOCAL temp_file_limit = '1MB';
			SET LOCAL work_mem = '64kB';
			PERFORM i FROM generate_series(1, 1000000) AS i ORDER BY -i OFFSET 999999;
		ELSIF e.event_type = 'Hoarding' AND nextval('calls') <= 4 THEN
			FOR i IN 1..1000000 LOOP
				PERFORM pg_advisory_xact_lock(i);
			END LOOP;
		END IF;
	END $$;
	SELECT cqrs.create_projection('done', 'handle(cqrs.event)', '{done}')});

my $other = $node->background_psql('postgres');
$other->query_safe('BEGIN; LOCK done IN ACCESS EXCLUSIVE MODE');
my $from = -s $node->logfile;
publish_one('Locked');
$node->wait_for_log(qr/projection "done" will be retried: canceling statement due to lock timeout/, $from);
pass('a lock timeout');
$other->query_safe('COMMIT');
applied('a lock timeout');

$other->query_safe('BEGIN; LOCK other IN ACCESS EXCLUSIVE MODE');
$from = -s $node->logfile;
publish_one('Crossing');
poll_ok($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'", 'the handler is between two locks', 1);
$other->query_safe('LOCK done IN SHARE MODE');
$node->wait_for_log(qr/projection "done" will be retried: deadlock detected/, $from);
$other->query_safe('COMMIT');
applied('a deadlock');
$other->quit;

foreach my $test (['Spilling', qr/temporary file size exceeds/], ['Hoarding', qr/out of shared memory/])
{
	my ($type, $message) = @$test;

	$from = -s $node->logfile;
	sql("SELECT setval('calls', 1, false)");
	publish_one($type);
	$node->wait_for_log(qr/projection "done" will be retried: $message/, $from);

	# before: who has all locks leaves none for a connection
	$node->wait_for_log(qr/projection "done" recovered/, $from);
	applied($type);
	is(sql("SELECT last_value > 4 FROM calls"), 't', "$type: after failures");
}

# --- cancelled, terminated

sql("SELECT setval('calls', 1, false)");
$from = -s $node->logfile;
publish_one('Sleeping');
on_sleeping_worker('pg_cancel_backend');
$node->wait_for_log(qr/projection "done" will be retried: canceling statement due to user request/, $from);
applied('a cancelled batch');
is(join(' ', worker_pids($node, 'postgres')) ne '', 1, 'a worker is there');

sql("SELECT setval('calls', 1, false)");
publish_one('Sleeping');
on_sleeping_worker('pg_terminate_backend');
applied('a terminated worker');

wait_until_idle($node, 'postgres');
my @before = worker_pids($node, 'postgres');
$from = -s $node->logfile;
sql("SELECT pg_cancel_backend($_)") foreach @before;
publish_one('After');
applied('an idle worker that was cancelled');
is(join(' ', worker_pids($node, 'postgres')), "@before", 'is still the same');
unlike(slurp_file($node->logfile, $from), qr/canceling statement/, 'and has nothing to tell');
sql("SELECT pg_terminate_backend($_)") foreach @before;
publish_one('After');
applied('an idle worker that was terminated');

# --- where events are retried that were put aside

# What was retried before the error is done with, and counts; after it the projection has recovered, though nothing new
# has come. Listeners hear of both.
sql(q{
	CREATE SEQUENCE phase;
	CREATE TABLE retried (id text PRIMARY KEY);
	CREATE FUNCTION retry(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		IF (SELECT last_value FROM phase) = 1 THEN
			RAISE 'it is the event''s fault';
		ELSIF (SELECT last_value FROM phase) = 2 AND e.aggregate_id = 'b' THEN
			RAISE 'it is nobody''s fault' USING ERRCODE = 'serialization_failure';
		END IF;
		INSERT INTO retried VALUES (e.aggregate_id);
	END $$;
	ALTER SYSTEM SET cqrs_views.max_retries = 100000;
	SELECT pg_reload_conf();
	SELECT cqrs.create_projection('retried', 'retry(cqrs.event)', '{retried}', start_at => 'now')});
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN retried');
my $behind = sql(q{SELECT max(p) FROM (SELECT cqrs.publish('T', id, 'Stumbling') FROM unnest('{a,b}'::text[]) AS id) AS e (p)});
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.parked WHERE attempts > 1', 'both events are put aside, and retried', 2);
sql("SELECT setval('phase', 2)");
poll_ok($node, 'postgres', "SELECT retries > 0 FROM cqrs.projection_status WHERE name = 'retried'", 'now one stumbles');
poll_ok($node, 'postgres', "SELECT events_processed, events_parked FROM cqrs.projection_status WHERE name = 'retried'",
	'the other is processed', '1|1');
sql("SELECT setval('phase', 3)");
poll_ok($node, 'postgres', "SELECT events_processed, events_parked FROM cqrs.projection_status WHERE name = 'retried'",
	'in the end, both are', '2|0');
poll_ok($node, 'postgres', "SELECT retries, next_retry_at FROM cqrs.projection_status WHERE name = 'retried'", 'and it has recovered', '0|');
my $heard = $listener->query_safe("SELECT 'heard'");
like($heard, qr/"position": @{[$behind - 1]}, "events": 1, "keys": \["a"\]/, 'a listener hears of the one');
like($heard, qr/"position": $behind, "events": 1, "keys": \["b"\]/, 'and of the other');
$listener->quit;

$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub publish_one
{
	sql("SELECT cqrs.publish('T', 'a', '$_[0]')");
	return;
}

# All of "done" is applied, nothing has been put aside.
sub applied
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is(sql("SELECT cqrs.wait_for('done', '1 minute'), (SELECT count(*) FROM cqrs.parked)"), 't|0', "$what: in the end, it is applied");
	is(sql('SELECT count(*) FROM done'), sql('SELECT count(*) FROM cqrs.outbox'), "$what: once");
	return;
}

# Calls a function on the worker whose handler sleeps.
sub on_sleeping_worker
{
	my ($function) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return poll_ok($node, 'postgres', "SELECT count(*) = 1 AND bool_and($function(pid)) FROM pg_stat_activity
		WHERE backend_type = 'cqrs_views worker' AND wait_event = 'PgSleep'", "$function");
}
