# A server that dies loses the commits that it had not flushed, those of workers among them, which commit with
# synchronous_commit off. Events, read tables and checkpoints must go together then, and transaction ids and
# positions are used again. So they must where it dies in the middle of a rebuild, of a change of mode, or in recovery.
# (t/018_faults.pl has failing handlers and kills at random, t/020_random_writers.pl prepared transactions and late commits.)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsSurvival;
use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_server('crash', autovacuum => 'off', restart_after_crash => 'on');
create_survivors($node, 'postgres');
publish_events($node, 'postgres', 50);
survived($node, 'postgres', 'at first');

# --- what was not flushed is lost

my $lost = 0;
my %used_again = (positions => 0, transactions => 0);
foreach my $round (1 .. 4)
{
	my $flushed = max_position();
	my $writer = $node->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");

	# then WAL is written by nobody but a commit that waits for it
	kill 'STOP', $writer;
	$node->safe_psql('postgres', 'SET synchronous_commit = off; CALL publish_random(30)');
	$node->safe_psql('postgres', "SELECT cqrs.wait_for('$_', '1 minute')") foreach qw(each batch folded viewed);
	my ($position, $xid) = split /\|/, $node->safe_psql('postgres', 'SELECT max(position), max(xid::text::bigint) FROM cqrs.outbox');
	my $log_offset = -s $node->logfile;
	if ($round % 2)
	{
		kill 'KILL', $writer;
		$node->wait_for_log(qr/reinitializing.*ready to accept connections/s, $log_offset);
	}
	else
	{
		kill_postmaster($node, $writer);
	}
	my $kept = max_position();
	$lost++ if $kept < $position;
	cmp_ok($kept, '>=', $flushed, "round $round: what was flushed is there");
	survived($node, 'postgres', "round $round: after the crash");
	publish_events($node, 'postgres', 30);
	survived($node, 'postgres', "round $round: and later");
	$used_again{transactions}++
	  if $node->safe_psql('postgres', "SELECT count(*) FROM cqrs.outbox WHERE position > $kept AND xid <= '$xid'") > 0;
	$used_again{positions}++
	  if $node->safe_psql('postgres', "SELECT count(*) FROM cqrs.outbox WHERE position > $kept AND position <= $position") > 0;
}
cmp_ok($lost, '>', 0, 'control: there were commits to lose');
note("crashes that lost events: $lost; that had transaction ids used again: $used_again{transactions}, positions: $used_again{positions}");
cmp_ok($used_again{transactions}, '>', 0, 'control: transaction ids were used again');

# --- in the middle of things

my %things = (
	rebuild => "CALL cqrs.rebuild_projection('each', online => false);\nCALL cqrs.rebuild_projection('viewed_inline', online => false)",
	mode => join(
		";\n", map { my $mode = $_; map { "SELECT cqrs.alter_projection('$_', mode => '$mode')" } qw(each_inline viewed_inline folded) }
		  qw(async inline) x 20),
	define => join(";\n", map { "SELECT cqrs.create_view('more$_', 'SELECT event_type, count(*) FROM events GROUP BY 1')" } 1 .. 200));
my $directory = PostgreSQL::Test::Utils::tempdir();
foreach my $thing (sort keys %things)
{
	append_to_file("$directory/$thing.sql", $things{$thing});
	foreach my $round (1 .. 2)
	{
		my @publishers = start_publishers($node, 'postgres', 2, 'SET synchronous_commit = off');
		my $output = '';
		my $busy = IPC::Run::start(
			[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr('postgres'), '-f', "$directory/$thing.sql" ],
			'<', \undef, '>', \$output, '2>&1');

		# a moment somewhere in it
		usleep(rand 300_000);
		if ($round % 2)
		{
			kill_postmaster($node);
		}
		else
		{
			$node->stop('immediate');
			$node->start;
		}
		stop_publishers(undef, undef, @publishers, { run => $busy, errors => '' });
		$node->safe_psql('postgres', "SELECT cqrs.alter_projection('$_', mode => 'inline')") foreach qw(each_inline viewed_inline);
		$node->safe_psql('postgres', "SELECT cqrs.alter_projection('folded', mode => 'async')");
		survived($node, 'postgres', "$thing, round $round");
	}
}
my $more = $node->safe_psql('postgres', "SELECT string_agg(name, ' ') FROM cqrs.projection WHERE name LIKE 'more%'");
is( join(' ', grep { $node->safe_psql('postgres', "SELECT cqrs.wait_for('$_', '1 minute'); SELECT count <> (SELECT count(*) FROM cqrs.outbox)
		FROM $_") ne "t\nf" } split / /, $more),
	'', 'the views that had been made have everything');

# --- and once more while it recovers

my @publishers = start_publishers($node, 'postgres', 2);
$node->stop('immediate');
foreach (1 .. 3)
{
	$node->start(fail_ok => 1);
	$node->stop('immediate');
}
$node->start;
stop_publishers(undef, undef, @publishers);
survived($node, 'postgres', 'crashed again as soon as it was back');
publish_events($node, 'postgres', 30);
survived($node, 'postgres', 'and later');

$node->stop;
done_testing();

sub max_position
{
	return $node->safe_psql('postgres', 'SELECT max(position) FROM cqrs.outbox');
}
