# What a worker does shows in pg_stat_activity and in worker_status: the projection, and where it is; and the log tells in
# a line each of retries, recovery, slow batches, dead letters and stops.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $node = new_server(
	'activity',
	'cqrs_views.max_retries' => 1,
	'cqrs_views.retry_delay' => '20ms',
	'cqrs_views.log_min_batch_duration' => '0');
create_database($node, 'postgres');
$node->safe_psql('postgres', q{
	CREATE TABLE seen (position bigint);
	CREATE TABLE gate (open boolean);
	INSERT INTO gate VALUES (false);
	CREATE FUNCTION seen(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF e.event_type = 'Wait' THEN
			PERFORM pg_advisory_xact_lock(1);
		ELSIF e.event_type = 'Gate' AND NOT (SELECT open FROM gate) THEN
			RAISE EXCEPTION 'not yet' USING ERRCODE = '40001';
		ELSIF e.event_type = 'Bad' THEN
			RAISE EXCEPTION 'never';
		END IF;
		INSERT INTO seen VALUES (e.position);
	END $$;
	SELECT cqrs.create_projection('seen', 'seen(cqrs.event)', '{seen}')});
wait_until_idle($node, 'postgres');
is($node->safe_psql('postgres', q{SELECT query FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'}),
	'waiting for events', 'an idle worker says so');

# --- at work: a handler that hangs

my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
my $position = $node->safe_psql('postgres', "SELECT cqrs.publish('T', 'a', 'Wait')");
poll_ok($node, 'postgres', qq{SELECT state || ': ' || query FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'
	AND wait_event = 'advisory'}, 'projection and position', "active: processing seen: 1 events from position $position");
like($node->safe_psql('postgres', 'SELECT string_agg(activity, chr(10)) FROM cqrs.worker_status'),
	qr/^processing seen: 1 events from position $position$/m, 'worker_status says the same');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
$holder->quit;
is($node->safe_psql('postgres', "SELECT cqrs.wait_for('seen', '1 minute')"), 't', 'it goes on');

# --- the log

my $from = -s $node->logfile;
$position = $node->safe_psql('postgres', "SELECT cqrs.publish('T', 'a', 'Gate')");
poll_ok($node, 'postgres', q{SELECT retries > 1 FROM cqrs.projection_status}, 'it is retried');
$node->safe_psql('postgres', 'UPDATE gate SET open = true');
is($node->safe_psql('postgres', "SELECT cqrs.wait_for('seen', '1 minute')"), 't', 'until it works');
logged(qr/LOG:  projection "seen" will be retried: not yet$/m, 'a retry');
logged(qr/LOG:  projection "seen" recovered after \d+ retries, at position $position$/m, 'recovery');
logged(qr/LOG:  projection "seen": 1 events up to position $position in \d+ ms$/m, 'a batch');
my $retries = () = slurp_file($node->logfile, $from) =~ /not yet/g;
my $announced = () = slurp_file($node->logfile, $from) =~ /will be retried/g;
is($retries, $announced, 'a retry is one line');

$from = -s $node->logfile;
$position = $node->safe_psql('postgres', "SELECT cqrs.publish('T', 'a', 'Bad')");
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.dead_letter', 'an event is given up', 1);
logged(qr/LOG:  projection "seen" put 1 events aside, first that at position $position: never$/m, 'putting aside');
logged(qr/LOG:  projection "seen" gives up the event at position $position after \d+ attempts: never$/m, 'giving up');

# --- off again

$node->append_conf('postgresql.conf', "cqrs_views.log_min_batch_duration = -1");
$node->safe_psql('postgres', "SELECT cqrs.discard_dead_letters('seen', 'a')");
$node->reload;
$node->safe_psql('postgres', "SELECT cqrs.alter_projection('seen', on_error => 'stop')");
$node->restart;
$from = -s $node->logfile;
$node->safe_psql('postgres', "SELECT cqrs.publish('T', 'a', 'E')");
is($node->safe_psql('postgres', "SELECT cqrs.wait_for('seen', '1 minute')"), 't', 'processed');
unlike(slurp_file($node->logfile, $from), qr/events up to position/, 'batches are not logged');
$position = $node->safe_psql('postgres', "SELECT cqrs.publish('T', 'a', 'Bad')");
poll_ok($node, 'postgres', 'SELECT state FROM cqrs.projection_status', 'stopped', 'stopped');
logged(qr/LOG:  projection "seen" stopped: never\n.*DETAIL:.*\n.*event at position $position$/m, 'a stop, with the position');

# --- counters survive both kinds of restart, until somebody resets them

my $counters = 'SELECT events_processed, batches FROM cqrs.projection_status';
my $before = $node->safe_psql('postgres', $counters);
like($before, qr/^[1-9]/, 'there are counters');
$node->restart;
is($node->safe_psql('postgres', $counters), $before, 'a clean restart keeps them');
$node->safe_psql('postgres', 'CHECKPOINT');
$node->stop('immediate');
$node->start;
is($node->safe_psql('postgres', $counters), $before, 'a crash, too');
$node->safe_psql('postgres', "SELECT cqrs.reset_stats('seen')");
is($node->safe_psql('postgres', $counters), '0|0', 'reset_stats sets them to zero');

# The log since the last mark has, or soon will have, a line.
sub logged
{
	my ($line, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	ok($node->wait_for_log($line, $from), "logged: $what");
	return;
}

$node->stop;
done_testing();
