# Whoever waits on a standby must not wait for nothing, nor be told too early: not when replay stops, when the standby is
# promoted meanwhile, when it follows another standby, or when its WAL comes from an archive.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $primary = new_server('primary', allows_streaming => 1, has_archiving => 1, hot_standby_feedback => 'on');
create_database($primary, 'postgres');
create_log_projection($primary, 'postgres', 'p');
create_log_projection($primary, 'postgres', 'at_once', arguments => "mode => 'inline'");
$primary->safe_psql('postgres', "SELECT cqrs.create_view('counted', 'SELECT aggregate_id, count(*) FROM events GROUP BY 1')");
my @names = qw(p at_once counted);
my %read_table = (p => 'p_log', at_once => 'at_once_log');
publish($primary, 'postgres', 10);
handled_once($primary, 'postgres', 'p', 'on the primary');
$primary->backup('base');
my $standby = standby_of('standby', $primary, has_streaming => 1);
$standby->backup('base');
my $cascaded = standby_of('cascaded', $standby, has_streaming => 1);

# --- a standby of a standby

my $missing = 0;
foreach (1 .. 8)
{
	my $position = $primary->safe_psql('postgres', "SELECT cqrs.publish('Thing', 'a', 'Happened')");

	foreach my $name (qw(p at_once))
	{
		$missing++
		  unless on($cascaded, "SELECT cqrs.wait_for('$name', '1 minute', $position)") eq 't'
		  && on($cascaded, "SELECT count(*) FROM $read_table{$name} WHERE position = $position") eq '1';
	}
}
is($missing, 0, 'what wait_for waited for on a standby of a standby is there');

# --- replay is paused somewhere on the way

on($standby, 'SELECT pg_wal_replay_pause()');
poll_ok($standby, 'postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'", 'the first standby replays no more');
my $position = $primary->safe_psql('postgres', "SELECT cqrs.publish('Thing', 'b', 'Happened')");
handled_once($primary, 'postgres', 'p', 'on the primary');
my $lsn = $primary->lsn('flush');
poll_ok($standby, 'postgres', "SELECT pg_last_wal_receive_lsn() >= '$lsn'", 'and has received more');
foreach my $name (@names)
{
	my $began = time;

	is(on($standby, "SELECT cqrs.wait_for('$name', '300 ms')"), 'f', "$name: false at the timeout");
	is(on($standby, "SELECT cqrs.wait_for('$name', '300 ms', $position)"), 'f', "$name: for a position, too");
	cmp_ok(time - $began, '>', 0.6, "$name: not before");
	is(on($standby, "SELECT cqrs.wait_for('$name', '0')"), 'f', "$name: one may ask without waiting");
}

# what the first one has received it passes on, replayed or not
poll_ok($cascaded, 'postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'", 'the second one goes on');
is(on($cascaded, "SELECT cqrs.wait_for('$_', '1 minute', $position)"), 't', "$_: and so do those who wait there") foreach @names;
on($standby, 'SELECT pg_wal_replay_resume()');
is(on($standby, "SELECT cqrs.wait_for('$_', '1 minute', $position)"), 't', "$_: resumed") foreach @names;

# --- a projection is dropped, or paused, while somebody waits

on($primary, 'ALTER SYSTEM SET cqrs_views.enabled = off; SELECT pg_reload_conf()');
poll_ok($primary, 'postgres', "SELECT count(*) = 0 FROM cqrs.worker_status", 'the primary has no workers');
create_log_projection($primary, 'postgres', 'short_lived');
publish($primary, 'postgres', 1);
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
my $waiting = waiting_on($standby, "SELECT cqrs.wait_for('short_lived', NULL)", 'SELECT 1');
$primary->safe_psql('postgres', "SELECT cqrs.drop_projection('short_lived')");
like(end_of($waiting), qr/projection "short_lived" does not exist/, 'a projection that is dropped meanwhile');
$waiting = waiting_on($standby, "SELECT cqrs.wait_for('p', NULL)", 'SELECT 1');
$primary->safe_psql('postgres', "SELECT cqrs.pause_projection('p')");
like(end_of($waiting), qr/cannot wait for projection "p": it is paused/, 'one that is paused meanwhile');
$primary->safe_psql('postgres', "SELECT cqrs.resume_projection('p')");

# --- promotion

# Nobody processes these events on the primary. Who waits for them does so until the promoted standby's workers have.
publish($primary, 'postgres', 20);
my $last = on($primary, 'SELECT max(position) FROM cqrs.outbox');
poll_ok($_, 'postgres', "SELECT max(position) = $last FROM cqrs.outbox", 'events arrive') foreach $standby, $cascaded;
my @for_all = map { waiting_on($_, "SELECT cqrs.wait_for('p', NULL)", unhandled('p')) } $standby, $cascaded;

# and these wait for an event that is to come
my $ahead = $last + 100;
my @for_later = map { waiting_on($_, "SELECT cqrs.wait_for('p', NULL, $ahead)", "SELECT count(*) FROM p_log WHERE position = $ahead") }
  $standby, $cascaded;
is(on($_, "SELECT cqrs.wait_for('p', '100 ms')"), 'f', 'nothing happens to them yet') foreach $standby, $cascaded;

# and this one for what has been received, of which the end is half of a record whose other half nobody will ever send
kill 'STOP', split /\n/, on($primary, "SELECT pid FROM pg_stat_activity WHERE backend_type IN ('background writer', 'checkpointer')");
my ($for_received, $tries);
until ($for_received && is_waiting($for_received))
{
	die 'nobody waits' if $tries++ > 50;

	# the other half has come all the same, if the WAL writer had something else to flush
	on($primary, "SELECT pg_logical_emit_message(false, 'long', repeat('x', 300000))");
	poll_ok($standby, 'postgres', 'SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()', 'half of a record arrives');
	$for_received = session_on($standby, "SELECT cqrs.wait_for('at_once', NULL)", 'SELECT 0');
}
$primary->stop('immediate');
on($standby, 'ALTER SYSTEM SET cqrs_views.enabled = on; SELECT pg_reload_conf()');
$standby->promote;
is(end_of($for_received), "t\n0\n", 'who waited for half a record waits no more');
is(end_of($_), "t\n0\n", 'who waited is told when the promoted standby has processed them') foreach @for_all;
publish($standby, 'postgres', $ahead - $last);
is(end_of($_), "t\n1\n", 'and of an event that it published') foreach @for_later;
handled_once($standby, 'postgres', $_, "promoted, $_") foreach qw(p at_once);
$standby->wait_for_catchup($cascaded, 'replay', $standby->lsn('flush'));
is(on($cascaded, "SELECT cqrs.wait_for('$_', '1 minute')"), 't', "$_: on the standby that follows it") foreach @names;
is(on($cascaded, unhandled($_)), '0', "$_: has everything") foreach qw(p at_once);
$cascaded->stop;

# --- WAL from an archive

# What such a standby has received is what it has replayed.
$last = on($standby, 'SELECT max(position) FROM cqrs.outbox');
on($standby, 'SELECT pg_switch_wal()');
my $shipped = standby_of('shipped', $primary, has_restoring => 1);
poll_ok($shipped, 'postgres', "SELECT max(position) = $last FROM cqrs.outbox", 'a standby without a connection gets the events');
is(on($shipped, "SELECT cqrs.wait_for('p', '1 minute', $last)"), 't', 'and one can wait there');
is(on($shipped, unhandled('p')), '0', 'everything has been processed');
is(on($shipped, "SELECT cqrs.wait_for('p', '1 minute')"), 't', 'for all that there is');
is(on($shipped, "SELECT cqrs.wait_for('p', '100 ms', 1000000)"), 'f', 'but not for more');

$shipped->stop;
$standby->stop;
done_testing();

# A standby made from the latest backup of a server.
sub standby_of
{
	my ($name, $of, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($of, 'base', %options);
	$node->start;
	return $node;
}

sub on
{
	my ($node, $sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Starts a session that waits, and then runs a query.
sub waiting_on
{
	my $session = session_on(@_);

	is_waiting($session) or die 'nobody waits';
	return $session;
}

# Starts a session that may wait, and then runs a query.
sub session_on
{
	my ($node, $wait, $query) = @_;
	my %session = (output => '', node => $node, wait => $wait);

	$session{run} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-c', $wait, '-c', $query ],
		'<', \undef, '>', \$session{output}, '2>&1', IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return \%session;
}

# Does the session wait, or has it ended?
sub is_waiting
{
	my ($session) = @_;
	(my $pattern = $session->{wait}) =~ s/'/''/g;

	while ($session->{run}->pumpable)
	{
		return 1 if on($session->{node}, "SELECT count(*) FROM pg_stat_activity WHERE query = '$pattern' AND state = 'active'") > 0;
		$session->{run}->pump_nb;
	}
	$session->{run}->finish;
	return 0;
}

# What it has printed when it ends.
sub end_of
{
	my ($session) = @_;

	$session->{run}->finish;
	return $session->{output};
}
