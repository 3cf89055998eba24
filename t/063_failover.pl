# An asynchronous standby lacks what had not reached it when the primary died: events, and what workers had made of
# events. What it has must fit together. It goes on with positions and transaction ids that the old primary had used, and
# with sessions that have been there all along. (t/006_standby.pl has a backlog, and what was prepared.)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsSurvival;
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', allows_streaming => 1, hot_standby_feedback => 'on', wal_keep_size => '256MB');
create_survivors($primary, 'postgres');
publish_events($primary, 'postgres', 30);
$primary->backup('base');

# --- nothing is lost but what the publishers' sessions lose

my $standby = new_standby('second', $primary);
my $session = session_of($standby);
my @publishers = start_publishers($primary, 'postgres', 3);
is($session->query("SELECT cqrs.wait_for('$_', '1 minute');"), 't', "a session of the standby waits for $_")
  foreach qw(each viewed each_inline);
$primary->kill9;
stop_publishers(undef, undef, @publishers);
$standby->promote;
survived($standby, 'postgres', 'promoted while publishers were at it');
lives_on($session, $standby);
@publishers = start_publishers($standby, 'postgres', 2);
stop_publishers($standby, 'postgres', @publishers);
survived($standby, 'postgres', 'and publishers go on');

# --- commits are lost

$standby->backup('base');
my $third = new_standby('third', $standby);
$session = session_of($third);
$standby->wait_for_catchup($third, 'replay', $standby->lsn('flush'));
is($session->query("SELECT cqrs.wait_for('viewed', '1 minute');"), 't', 'a session of the next standby waits');

# no more of it arrives: neither these events nor what the workers make of them
$third->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = ''");
$third->reload;
poll_ok($third, 'postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver', 'the standby is cut off');
publish_events($standby, 'postgres', 100);
survived($standby, 'postgres', 'on the primary that will be lost');
my $gone = last_of($standby);
$standby->stop('immediate');
$third->promote;
my $kept = last_of($third);
cmp_ok($kept->{position}, '<', $gone->{position}, 'events are lost');
survived($third, 'postgres', 'promoted with commits lost');
lives_on($session, $third);
publish_events($third, 'postgres', 100);
survived($third, 'postgres', 'and publishers go on');
cmp_ok(
	$third->safe_psql(
		'postgres', "SELECT count(*) FROM cqrs.outbox WHERE position > $kept->{position} AND xid <= '$gone->{xid}'"),
	'>', 0, 'control: with transaction ids that the lost primary had used');
cmp_ok(
	$third->safe_psql(
		'postgres', "SELECT count(*) FROM cqrs.outbox WHERE position > $kept->{position} AND position <= $gone->{position}"),
	'>', 0, 'control: and positions');

# --- cut off between an event and what was made of it

$third->safe_psql('postgres', 'ALTER SYSTEM RESET primary_conninfo');
$third->backup('base');
my $fourth = new_standby('fourth', $third);
$third->safe_psql('postgres', "SELECT cqrs.pause_projection('$_')") foreach qw(each batch folded viewed);
publish_events($third, 'postgres', 50);
$third->wait_for_catchup($fourth, 'replay', $third->lsn('flush'));
$fourth->safe_psql('postgres', "ALTER SYSTEM SET primary_conninfo = ''");
$fourth->reload;
poll_ok($fourth, 'postgres', 'SELECT count(*) = 0 FROM pg_stat_wal_receiver', 'the standby is cut off');
$third->safe_psql('postgres', "SELECT cqrs.resume_projection('$_')") foreach qw(each batch folded viewed);
survived($third, 'postgres', 'on the primary that will be lost');
$third->stop('immediate');
$fourth->promote;
$fourth->safe_psql('postgres', "SELECT cqrs.resume_projection('$_')") foreach qw(each batch folded viewed);
survived($fourth, 'postgres', 'processed again where that was lost');
publish_events($fourth, 'postgres', 50);
survived($fourth, 'postgres', 'and publishers go on');

$fourth->stop;
done_testing();

# A standby made from the latest backup of a primary, that it follows.
sub new_standby
{
	my ($name, $of) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init_from_backup($of, 'base', has_streaming => 1);
	$node->start;
	return $node;
}

# A session that looks at everything while its server is a standby, and remembers.
sub session_of
{
	my ($node) = @_;
	my $opened = $node->background_psql('postgres', on_error_stop => 0);

	$opened->query('SELECT count(*) FROM cqrs.projection_status; SELECT count(*) FROM cqrs.dead_letter;');
	$opened->query("SELECT cqrs.fold('fold(folded,cqrs.event)', 'a1', 'Thing'); SELECT happen('a1'); CALL cqrs.catch_up();");
	return $opened;
}

# That session, on what has become a primary.
sub lives_on
{
	my ($opened, $node) = @_;
	my $before = $node->safe_psql('postgres', "SELECT version FROM aggregate WHERE id = 'a1'");

	$opened->{stderr} = '';
	$opened->query("SELECT happen('a1'); BEGIN; SELECT happen('a1'); COMMIT; CALL cqrs.catch_up();");
	is( $opened->query("SELECT version - $before FROM aggregate WHERE id = 'a1';"),
		'2', 'a session from before publishes');
	is($opened->query("SELECT cqrs.wait_for('each', '1 minute');"), 't', 'waits');
	is($opened->query("SELECT n = $before + 2 FROM $_ WHERE key = 'a1';"), 't', "reads from $_") foreach qw(viewed viewed_inline);
	is($opened->{stderr}, '', 'and meets no error');
	$opened->quit;
	survived($node, 'postgres', 'with what that session published');
	return;
}

sub last_of
{
	my ($node) = @_;
	my ($position, $xid) = split /\|/,
	  $node->safe_psql('postgres', 'SELECT max(position), max(xid::text::bigint) FROM cqrs.outbox');

	return { position => $position, xid => $xid };
}
