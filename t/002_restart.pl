# Whatever ends a worker, the launcher or the server, processing must go on by itself afterwards, from the
# checkpoint: no event is lost, none is handled again.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('restart', restart_after_crash => 'on');
create_database($node, 'postgres');
create_log_projection($node, 'postgres', 'each');
create_log_projection($node, 'postgres', 'batch', kind => 'batch', arguments => 'batch_size => 7');

# Waits for a worker other than this one, if any, and returns its process id.
sub new_worker
{
	my $old = shift // 0;

	poll_ok($node, 'postgres',
		"SELECT count(*) > 0 FROM cqrs.worker_status WHERE pid <> $old", 'there is a new worker');
	return (grep { $_ != $old } worker_pids($node, 'postgres'))[0];
}

sub handled
{
	my ($what) = @_;

	handled_once($node, 'postgres', 'each', "$what, per event");
	handled_once($node, 'postgres', 'batch', "$what, per batch");
	return;
}

publish($node, 'postgres', 50);
handled('at first');

# --- a worker is terminated, in the middle of a batch or asleep

my $worker = new_worker();
publish($node, 'postgres', 500);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
new_worker($worker);
publish($node, 'postgres', 50);
handled('after the end of a worker');

# --- a worker is cancelled

# The handler waits for the table's lock, so the batch is under way when it is cancelled.
my $locker = $node->background_psql('postgres');
$locker->query_safe('CREATE TABLE gate ()');
$node->safe_psql(
	'postgres', q{
	CREATE TABLE gated_log (
		seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, position bigint, key text, version bigint);
	CREATE FUNCTION gated_handle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM FROM gate;
			INSERT INTO gated_log (position, key, version)
			VALUES (e.position, e.aggregate_id, e.aggregate_version);
		END $$ SET lock_timeout = 0;
	SELECT cqrs.create_projection('gated', 'gated_handle(cqrs.event)', '{gated_log}')});
handled_once($node, 'postgres', 'gated', 'before a cancellation');
$locker->query_safe('BEGIN; LOCK gate');
publish($node, 'postgres', 1);
my $waiting = "FROM pg_locks WHERE NOT granted AND relation = 'gate'::regclass";
poll_ok($node, 'postgres', "SELECT count(*) = 1 $waiting", 'a batch is under way');
my $log_offset = -s $node->logfile;
is($node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) $waiting"), 't', 'cancelled');
$node->wait_for_log(qr{projection "gated" will be retried}, $log_offset);
$locker->query_safe('COMMIT');
handled_once($node, 'postgres', 'gated', 'after a cancellation');
handled('after a cancellation');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT state, ' ') FROM cqrs.projection_status"),
	'running', 'a cancellation stops nothing');
$locker->quit;

# --- the launcher is terminated; workers go on without it

my $launcher = launcher_pid($node);
$node->safe_psql('postgres', "SELECT pg_terminate_backend($launcher)");
publish($node, 'postgres', 20);
handled('without a launcher');
poll_ok($node, 'postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'cqrs_views launcher' AND pid <> $launcher",
	'there is a new launcher');
($worker) = worker_pids($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($worker)");
new_worker($worker);
publish($node, 'postgres', 20);
handled('with a new launcher');

# --- a worker is killed, and with it all sessions

($worker) = worker_pids($node, 'postgres');
publish($node, 'postgres', 500);
$log_offset = -s $node->logfile;
is(kill('KILL', $worker), 1, 'killed a worker');
$node->wait_for_log(qr/reinitializing.*ready to accept connections/s, $log_offset);
new_worker($worker);
handled('after a crash, what was left');
publish($node, 'postgres', 50);
handled('after a crash');

# --- the server restarts

$node->safe_psql('postgres', "SELECT cqrs.pause_projection('each')");
publish($node, 'postgres', 500);
foreach my $mode (qw(immediate fast))
{
	$node->stop($mode);
	$node->start;
	handled_once($node, 'postgres', 'batch', "after stopping with $mode");
	publish($node, 'postgres', 30);
	handled_once($node, 'postgres', 'batch', "after stopping with $mode and publishing");
}
is($node->safe_psql('postgres', "SELECT state FROM cqrs.projection_status WHERE name = 'each'"),
	'paused', 'a paused projection stays paused');
is($node->safe_psql('postgres', unhandled('each')), '560', 'and handles nothing');
$node->safe_psql('postgres', "SELECT cqrs.resume_projection('each')");
handled('after resuming');

$node->stop;
done_testing();
