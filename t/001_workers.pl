# A publisher's commit must wake a worker of its own database, and nothing else may wake workers but a slow
# poll, which is for the commits that can't tell (COMMIT PREPARED). This looks at who is there, who is woken,
# and how often.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# Without autovacuum, whose transactions are something to look at, too.
my $node = new_server('workers', autovacuum => 'off');
my @databases = qw(one two three);

# --- who is there

poll_ok($node, 'postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'cqrs_views launcher' AND datname IS NULL",
	'there is a launcher, connected to no database');
foreach my $database (@databases)
{
	create_database($node, $database);
	create_log_projection($node, $database, 'p');
}
create_database($node, 'postgres');
poll_ok($node, 'postgres',
	"SELECT array_agg(DISTINCT datname ORDER BY datname) = '{one,postgres,three,two}'
		FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'",
	'each database with the extension gets a worker');
poll_ok($node, 'postgres',
	"SELECT count(*) FILTER (WHERE a.pid IS NOT NULL AND a.datname = w.database
			AND w.activity <> '' AND w.since <= clock_timestamp()) = count(*) AND count(*) = 4
		FROM cqrs.worker_status w LEFT JOIN pg_stat_activity a ON a.pid = w.pid",
	'worker_status shows all of them in every database');

# --- processing after commit

publish($node, $_, 10) foreach @databases;
handled_once($node, $_, 'p', "database $_") foreach @databases;

# Each round publishes right after the worker went to sleep, so that with the poll alone it would take about
# as long as the poll's period, a second.
my $session = $node->background_psql('one');
my @rounds;
foreach my $round (1 .. 15)
{
	wait_until_idle($node, 'one') if $round == 1;
	my $started = time;
	$session->query_safe("SELECT cqrs.publish('Thing', 'a', 'Happened')");
	$session->query_safe("SELECT cqrs.wait_for('p')");
	push @rounds, time - $started;
}
@rounds = sort { $a <=> $b } @rounds;
cmp_ok($rounds[7], '<', 0.5, 'a commit wakes the worker: it does not wait for the poll');
handled_once($node, 'one', 'p', 'one by one');

is($session->query_safe("BEGIN; SELECT cqrs.publish('Thing', 'a', 'Happened'); ROLLBACK;
		SELECT cqrs.wait_for('p')") =~ s/^\d+\n//r,
	't', 'wait_for returns at once where nothing was committed');
my $position = $session->query_safe("SELECT cqrs.publish('Thing', 'a', 'Happened')");
is($session->query_safe("SELECT cqrs.wait_for('p', '1 minute', $position)"),
	't', 'wait_for waits for a position');
is($session->query_safe("SELECT EXISTS (SELECT FROM p_log WHERE position = $position)"),
	't', 'and then the event has been handled');
is($session->query_safe("SELECT cqrs.wait_for('p', '100 ms', $position + 1000)"),
	'f', 'wait_for gives up at its timeout');
$session->quit;

# --- prepared transactions

$node->safe_psql('two', "BEGIN; SELECT cqrs.publish('Thing', 'a', 'Prepared'); PREPARE TRANSACTION 'late'");
publish($node, 'two', 3);
handled_once($node, 'two', 'p', 'beside a prepared transaction');
wait_until_idle($node, 'two');
$node->safe_psql('two', "COMMIT PREPARED 'late'");
handled_once($node, 'two', 'p', 'a prepared transaction, found by the poll');

# --- notifications

my $listener = $node->background_psql('one');
$listener->query_safe('LISTEN p');
publish($node, 'one', 2);
my $heard = '';
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$heard .= $listener->query_safe('SELECT') // '';
	last if $heard =~ /"events": 2/;
	usleep(100_000);
}
my ($worker) = worker_pids($node, 'one');
like($heard, qr/"p" with payload "\{"projection": "p", "position": \d+, "events": 2, "keys": \["a"\]\}" received from server process with PID $worker\./,
	'a worker tells the listeners');
$listener->quit;

# --- idle means idle

# A worker that looks for events says so, and since when it does something else.
poll_ok($node, 'postgres', "SELECT now() - since > '3 s' FROM cqrs.worker_status WHERE database = 'three'",
	'where nothing is written, polls have nothing to look at');

# A prepared transaction is one that may commit without a word; be it the latest of all.
my $prepared = $node->safe_psql('three', "BEGIN; SELECT cqrs.publish('Thing', 'a', 'Prepared') > 0;
		PREPARE TRANSACTION 'latest'; SELECT now()") =~ s/^t\n//r;
poll_ok($node, 'postgres', "SELECT since > '$prepared'::timestamptz + '4 s' FROM cqrs.worker_status WHERE database = 'three'",
	'while a transaction is prepared, polls look');
$node->safe_psql('three', "COMMIT PREPARED 'latest'");
handled_once($node, 'three', 'p', 'a prepared transaction, the latest, and nothing else happens');

# Sleeping is a voluntary context switch, so these count wake-ups. The poll makes one a second; what the
# bound must exclude is a loop, which makes thousands.
SKIP:
{
	skip '/proc does not tell context switches here', 2
	  unless -r "/proc/$worker/status" && slurp_file("/proc/$worker/status") =~ /^voluntary_ctxt/m;
	my $launcher = launcher_pid($node);
	my %switches;
	my $started;
	my $elapsed;

	wait_until_idle($node, 'three');
	my ($idle) = worker_pids($node, 'three');
	my $count = sub {
		my ($pid) = @_;
		return slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s+(\d+)/m ? $1 : die;
	};
	$started = time;
	%switches = map { $_ => $count->($_) } $launcher, $idle;
	usleep(5_000_000);    # the interval to measure, not a wait for something
	$elapsed = time - $started;
	cmp_ok(($count->($idle) - $switches{$idle}) / $elapsed, '<', 10, 'an idle worker sleeps');
	cmp_ok(($count->($launcher) - $switches{$launcher}) / $elapsed, '<', 2, 'the launcher sleeps');
}

$node->stop;
done_testing();
