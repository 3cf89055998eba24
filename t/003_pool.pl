# Workers are few, databases and projections may be many: each must get its turn, nobody may wait for ever
# for somebody slow, and what the settings say must hold without a restart.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('pool', 'cqrs_views.max_workers' => 1);
my @databases = qw(one two three);
my $count_workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'";

# Changes a setting in the running server.
sub set
{
	my ($name, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $name = $value");
	$node->reload;
	return;
}

# --- one worker for three databases

foreach my $database (@databases)
{
	create_database($node, $database);
	create_log_projection($node, $database, 'p');
}
foreach my $round (1 .. 2)
{
	publish($node, $_, 10) foreach @databases;
	handled_once($node, $_, 'p', "one worker, round $round, database $_") foreach @databases;
}
cmp_ok($node->safe_psql('postgres', $count_workers), '<=', 1, 'there is no more than one worker');

# --- more, and fewer again

set('cqrs_views.max_workers', 3);
publish($node, $_, 10) foreach @databases;
poll_ok($node, 'postgres', "$count_workers", 'a larger pool is used', 3);
handled_once($node, $_, 'p', "three workers, database $_") foreach @databases;
set('cqrs_views.max_workers', 1);
poll_ok($node, 'postgres', "$count_workers", 'a smaller pool lets workers go', 1);
publish($node, $_, 10) foreach @databases;
handled_once($node, $_, 'p', "one worker again, database $_") foreach @databases;

# --- databases whose extension is broken

# Their workers fail at whatever they do. With as many of these as there are places, none must keep one.
my @broken = qw(broken shattered);
my $failure = qr{^[^\n]* (\d+:\d+:\d+)\.\d+ [^\n]*ERROR:[^\n]* does not exist}m;
set('cqrs_views.max_workers', 2);
foreach my $database (@broken)
{
	create_database($node, $database);
	create_log_projection($node, $database, 'p');
	handled_once($node, $database, 'p', "database $database before it breaks");
}
my $log_offset = -s $node->logfile;
foreach my $database (@broken)
{
	publish($node, $database, 1);
	$node->safe_psql($database, 'SET cqrs_views.allow_writes = on; ALTER TABLE cqrs.registry RENAME state TO condition');
}
poll_ok($node, 'postgres', "$count_workers AND datname IN ('broken', 'shattered')", 'workers that fail go', 0);
foreach my $round (1 .. 3)
{
	publish($node, $_, 10) foreach @databases;
	handled_once($node, $_, 'p', "beside broken databases, round $round, database $_") foreach @databases;
}
$node->wait_for_log(qr{(?:$failure.*){8}}s, $log_offset);
my $log = substr slurp_file($node->logfile), $log_offset;
my @times = map { 3600 * $_->[0] + 60 * $_->[1] + $_->[2] } map { [split /:/] }
	$log =~ m{$failure}g;
cmp_ok(($times[7] - $times[0]) % 86400, '>=', 5, 'they come again less and less often');
foreach my $database (@broken)
{
	$node->safe_psql($database, 'SET cqrs_views.allow_writes = on; ALTER TABLE cqrs.registry RENAME condition TO state');
	handled_once($node, $database, 'p', "database $database is whole again");
	$node->safe_psql('postgres', "DROP DATABASE $database");
}
set('cqrs_views.max_workers', 4);

# --- off and on

# A backlog that takes many batches: whoever is told to stop in the middle of it must come back for the rest.
$node->safe_psql('one', "SELECT cqrs.alter_projection('p', batch_size => 1)");
set('cqrs_views.enabled', 'off');
poll_ok($node, 'postgres', $count_workers, 'switched off, the workers go', 0);
publish($node, $_, 2000) foreach @databases;
is($node->safe_psql('two', unhandled('p')), '2000', 'and nothing is handled');
set('cqrs_views.enabled', 'on');
poll_ok($node, 'one', 'SELECT count(*) > 60 FROM p_log', 'switched on, they come back');
set('cqrs_views.enabled', 'off');
poll_ok($node, 'postgres', $count_workers, 'switched off in the middle of a backlog', 0);
set('cqrs_views.enabled', 'on');
my $started = time;
handled_once($node, $_, 'p', "switched on again, database $_") foreach @databases;
cmp_ok(time - $started, '<', 30, 'before the launcher looks at all databases, once a minute');

# --- a slow projection beside a quick one

# A projection that is slow, or not yet known, does not share transactions with others. The handler is slow
# enough to be called that, and waits for a lock, without a timeout, where it shall be slow for as long as the
# test wants.
my $gate = $node->background_psql('one');
my $at_the_gate = "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND relation = 'gate'::regclass";
$node->safe_psql('one', "SELECT cqrs.alter_projection('p', batch_size => 0)");
$gate->query_safe('CREATE TABLE gate ()');
$gate->query_safe('BEGIN; LOCK gate');
create_log_projection($node, 'one', 'slow',
	first => 'SET LOCAL lock_timeout = 0; PERFORM FROM gate; PERFORM pg_sleep(0.4);',
	arguments => "start_at => 'now'");
my $expected = 3;
foreach my $round ('not yet known', 'known to be slow')
{
	publish($node, 'one', 1);
	poll_ok($node, 'one', $at_the_gate, "$round: a handler is slow");
	publish($node, 'one', 2);
	handled_once($node, 'one', 'p', "$round: beside a slow handler");
	poll_ok($node, 'one', $at_the_gate, "$round: the handler is still slow");
	$gate->query_safe('COMMIT');
	poll_ok($node, 'one', "SELECT count(*) = count(DISTINCT position) AND count(*) = $expected FROM slow_log",
		"$round: the slow handler gets there, too");
	$expected += 3;
	$gate->query_safe('BEGIN; LOCK gate');
}
$gate->query_safe('COMMIT');
$gate->quit;

# --- a locked read table

my $locker = $node->background_psql('two');
create_log_projection($node, 'two', 'locked');
handled_once($node, 'two', 'locked', 'before the lock');
$locker->query_safe('BEGIN; LOCK locked_log IN SHARE MODE');
publish($node, 'two', 5);
handled_once($node, 'two', 'p', 'beside a locked read table');
publish($node, 'two', 5);
handled_once($node, 'two', 'p', 'beside a locked read table, again');
is($node->safe_psql('two', unhandled('locked')), '10', 'the projection of the locked table waits');
poll_ok($node, 'two',
	"SELECT state = 'running' AND retries > 0 AND last_error LIKE '55P03:%'
		FROM cqrs.projection_status WHERE name = 'locked'",
	'and its status says why');
$locker->query_safe('COMMIT');
handled_once($node, 'two', 'locked', 'after the lock');
$locker->quit;

# --- more projections than a pass takes

# A worker must not go to sleep before it has looked at all of them, whichever it looks at first: those that it knows to be
# quick, a share at a time, or one that is new. Nothing is written meanwhile, so that no poll would find the rest.
set('cqrs_views.max_workers', 1);
create_database($node, 'many');
publish($node, 'many', 1);
$node->safe_psql('many', join ';', map { "SELECT cqrs.create_view('v$_', 'SELECT event_type, count(*) FROM events GROUP BY 1')" } 1 .. 100);
create_log_projection($node, 'many', 'small', kind => 'batch', arguments => 'batch_size => 3');
my $pending = "SELECT count(*) = 0 FROM cqrs.projection_status WHERE state = 'running' AND events_pending > 0";
foreach my $round (1 .. 3)
{
	$node->safe_psql('many', "SELECT cqrs.pause_projection('small')");
	publish($node, 'many', 60);
	poll_ok($node, 'many', $pending, "round $round: all others have caught up");
	$node->safe_psql('many', "SELECT cqrs.create_view('new$round', 'SELECT event_type FROM events', start_at => 'now')");
	$node->safe_psql('many', "SELECT cqrs.resume_projection('small')");
	is($node->safe_psql('many', "SELECT cqrs.wait_for('small', '10 seconds')"), 't', "round $round: one of many with a backlog goes on");
}
handled_once($node, 'many', 'small', 'one of many');

$node->stop;
done_testing();
