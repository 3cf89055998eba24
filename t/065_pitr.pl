# Recovery to a point in time ends in the middle of things: events are there that no worker has seen, others whose
# projection is half-way through. From there a timeline of its own begins, with transaction ids and positions that the old
# one uses for something else.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsSurvival;
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $origin = new_server('origin', allows_streaming => 1, has_archiving => 1, autovacuum => 'off');
my $state = 'SELECT max(position), max(xid::text::bigint) FROM cqrs.outbox';
create_survivors($origin, 'postgres');
publish_events($origin, 'postgres', 30);

# --- what there is to recover

my @publishers = start_publishers($origin, 'postgres', 3);
$origin->backup('base');
my %targets;
publish_events($origin, 'postgres', 20);
sql($origin, "SELECT pg_create_restore_point('busy')");
$targets{name} = "recovery_target_name = 'busy'";
publish_events($origin, 'postgres', 20);
$targets{time} = "recovery_target_time = '" . sql($origin, 'SELECT clock_timestamp()') . "'";
publish_events($origin, 'postgres', 20);
$targets{'transaction id'} = "recovery_target_xid = '" . sql($origin, 'SELECT pg_current_xact_id()') . "'";
publish_events($origin, 'postgres', 20);
$targets{'before a transaction id'} =
  "recovery_target_xid = '" . sql($origin, 'SELECT pg_current_xact_id()') . "'\nrecovery_target_inclusive = off";
publish_events($origin, 'postgres', 20);
is(stop_publishers($origin, 'postgres', @publishers), '', 'publishers meet no error');

# a point where nothing has been made of the latest events, and a prepared transaction has more
set_workers('off');
publish_events($origin, 'postgres', 30);
sql($origin, "INSERT INTO aggregate VALUES ('late'); BEGIN; SELECT happen('late'); PREPARE TRANSACTION 'late'");
sql($origin, "SELECT pg_create_restore_point('backlog')");
$targets{backlog} = "recovery_target_name = 'backlog'";
sql($origin, "ROLLBACK PREPARED 'late'");
set_workers('on');

# more transaction ids than the workers of a clone take before its publishers begin
sql($origin, 'DO $$ BEGIN FOR i IN 1 .. 5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
publish_events($origin, 'postgres', 100);
survived($origin, 'postgres', 'the origin');
my ($last, $last_xid) = split /\|/, sql($origin, $state);
my $segment = sql($origin, 'SELECT pg_walfile_name(pg_current_wal_lsn())');
sql($origin, 'SELECT pg_switch_wal()');
poll_ok($origin, 'postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver", 'everything is archived');

# --- each target

foreach my $what (sort keys %targets)
{
	my $clone = PostgreSQL::Test::Cluster->new('clone_' . $what =~ s/\W/_/gr);

	$clone->init_from_backup($origin, 'base', has_restoring => 1, standby => 0);
	$clone->append_conf('postgresql.conf', "$targets{$what}\nrecovery_target_action = 'pause'\narchive_mode = off");
	$clone->start;
	poll_ok($clone, 'postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'", "$what: reached");
	is(sql($clone, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cqrs_views%'"), '0', "$what: nobody works yet");
	my ($position, $xid) = split /\|/, sql($clone, $state);
	cmp_ok($position, '<', $last, "$what: it is before the end");
	sql($clone, 'SELECT pg_wal_replay_resume()');
	poll_ok($clone, 'postgres', 'SELECT NOT pg_is_in_recovery()', "$what: recovered");
	if ($what eq 'backlog')
	{
		@publishers = start_publishers($clone, 'postgres', 1);
		sql($clone, "COMMIT PREPARED 'late'");
		stop_publishers($clone, 'postgres', @publishers);
	}
	survived($clone, 'postgres', "$what: what was there");
	@publishers = start_publishers($clone, 'postgres', 2);
	is(stop_publishers($clone, 'postgres', @publishers), '', "$what: publishers go on");
	survived($clone, 'postgres', "$what: what came later");
	cmp_ok(sql($clone, "SELECT count(*) FROM cqrs.outbox WHERE position > $position AND xid <= '$last_xid'"),
		'>', 0, "$what, control: transaction ids of the old timeline are used again");
	$clone->stop;
}

publish_events($origin, 'postgres', 30);
survived($origin, 'postgres', 'the origin, by itself');

$origin->stop;
done_testing();

sub sql
{
	my ($node, $sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

# Lets the origin's workers process projections, or not.
sub set_workers
{
	my ($enabled) = @_;

	sql($origin, "ALTER SYSTEM SET cqrs_views.enabled = $enabled; SELECT pg_reload_conf()");
	poll_ok($origin, 'postgres', 'SELECT count(*) > 0 FROM cqrs.worker_status', "workers: $enabled", $enabled eq 'on' ? 't' : 'f');
	return;
}
