# pg_upgrade starts the old and the new server to read and load their catalogs. Workers that came up in these
# would write to what is being moved, and columns of some types make it refuse. Transaction ids survive, so
# afterwards processing must go on from the same checkpoints, and triggers must fire when they did.
#
# environment:
#   CQRS_UPGRADE_TO  the pg_config of a newer server that has the extension (default: one that Debian's packages brought)

use strict;
use warnings FATAL => 'all';

use File::Basename qw(dirname);
use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsSurvival;
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = 'pg_upgrade';
my $found = eval { run_log([ $program, '--version' ]) };
plan skip_all => 'there is no pg_upgrade here' unless $found;

my @logs = qw(p filtered at_once);
my $old = new_server('old');
create_survivors($old, 'shop');
create_log_projection($old, 'shop', 'p', arguments => 'batch_size => 10');
create_log_projection($old, 'shop', 'filtered', kind => 'batch', arguments => "event_types => '{Happened}'");
create_log_projection($old, 'shop', 'at_once', arguments => "mode => 'inline'");
create_database($old, 'postgres');
publish_events($old, 'shop', 50);
handled_once($old, 'shop', $_, "old cluster, $_") foreach @logs;

# one that stops in the middle of a frozen interval
$old->safe_psql('shop', 'CREATE TABLE mended ()');
create_log_projection(
	$old, 'shop', 'walk',
	first => "IF e.position >= 60 AND NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'mended'::regclass AND attnum = 1) THEN
		RAISE 'broken'; END IF;",
	arguments => "batch_size => 5, on_error => 'stop'");
poll_ok($old, 'shop', "SELECT state = 'stopped' FROM cqrs.projection_status WHERE name = 'walk'", 'one projection is stopped');
my $walk = "SELECT c.target IS NOT NULL AND c.last_position > 0, c.* FROM cqrs.checkpoint AS c
	WHERE projection = (SELECT id FROM cqrs.registry WHERE name = 'walk')";
like($old->safe_psql('shop', $walk), qr/^t/, 'in the middle of an interval');

# A backlog, and a transaction that was in flight at the checkpoint and has committed since.
my $session = $old->background_psql('shop');
$session->query_safe("INSERT INTO aggregate VALUES ('late'); BEGIN; SELECT happen('late')");
publish_events($old, 'shop', 20);
handled_once($old, 'shop', $_, "old cluster, beside an open transaction, $_") foreach qw(p filtered);
$old->safe_psql('shop', "SELECT cqrs.pause_projection('$_')") foreach qw(p filtered viewed);
$session->query_safe('COMMIT');
$session->quit;
publish_events($old, 'shop', 30);

# --- what pg_upgrade refuses

$old->safe_psql('shop', "INSERT INTO aggregate VALUES ('prepared'); BEGIN; SELECT happen('prepared'); PREPARE TRANSACTION 'prepared'");
$old->stop;
my $new = new_cluster('new');
command_checks_all(upgrade($old, $new, '--check'), 1, [qr/prepared transactions/], [qr/^/], 'not with prepared transactions');
$old->start;
$old->safe_psql('shop', "COMMIT PREPARED 'prepared'");

# --- copied

my %before = state_of($old);
$old->stop;
command_ok(upgrade($old, $new, '--check'), 'pg_upgrade --check');
command_ok(upgrade($old, $new), 'pg_upgrade');
$new->start;
is_same($new, %before);
go_on($new, 'new cluster');
cmp_ok(
	$new->safe_psql("shop", q{SELECT min(position) FROM
		(SELECT position FROM cqrs.outbox ORDER BY position DESC LIMIT 40) AS o}),
	'>', $before{'last position'}, 'positions go on');
poll_ok($new, 'postgres', "SELECT count(DISTINCT datname) = 2 FROM pg_stat_activity
		WHERE backend_type = 'cqrs_views worker'", 'both databases have workers');
$old->start;
go_on($old, 'the old cluster, for itself');
$old->stop;

# --- and once more, linked

$new->safe_psql('shop', "SELECT cqrs.pause_projection('$_')") foreach qw(p folded viewed);
publish_events($new, 'shop', 20);
%before = state_of($new);
$new->stop;
my $linked = new_cluster('linked');
command_ok(upgrade($new, $linked, '--link'), 'pg_upgrade --link');
$linked->start;
is_same($linked, %before);
go_on($linked, 'linked cluster');

# --- to a newer version

SKIP:
{
	my $newer = newer_pg_config();

	skip 'no newer PostgreSQL that has cqrs_views is here; CQRS_UPGRADE_TO can name its pg_config', 1
	  unless defined $newer;
	chomp(my $bindir = `$newer --bindir`);
	$linked->safe_psql('shop', "SELECT cqrs.pause_projection('$_')") foreach qw(p folded viewed);
	publish_events($linked, 'shop', 20);
	%before = state_of($linked);
	$linked->stop;
	my $latest = new_cluster('newer', dirname($bindir));
	command_ok(upgrade($linked, $latest), 'pg_upgrade to ' . `$newer --version`);
	$latest->start;
	is_same($latest, %before);
	go_on($latest, 'newer version');
	$latest->stop;
	$linked->start;
}
$linked->stop;
done_testing();

# A cluster to upgrade to.
sub new_cluster
{
	my ($name, $install_path) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name, defined $install_path ? (install_path => $install_path) : ());

	$node->init;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cqrs_views'\nmax_prepared_transactions = 20");
	return $node;
}

# The command that upgrades a cluster: the newer server's pg_upgrade.
sub upgrade
{
	my ($from, $to, @options) = @_;

	# it leaves its scripts and logs where it is called
	chdir $PostgreSQL::Test::Utils::tmp_check or die;
	return [
		$to->installed_command($program), '--no-sync', @options,
		'--old-datadir', $from->data_dir, '--new-datadir', $to->data_dir,
		'--old-bindir', $from->config_data('--bindir'), '--new-bindir', $to->config_data('--bindir'),
		'--socketdir', $to->host, '--old-port', $from->port, '--new-port', $to->port ];
}

# What must be the same in the upgraded cluster.
sub state_of
{
	my ($node) = @_;
	my %queries = (
		'last position' => 'SELECT max(position) FROM cqrs.outbox',
		incarnation => 'SELECT id FROM cqrs.incarnation',
		backlog => unhandled('p'),
		'frozen interval' => $walk,
		'checkpoints of what is at rest' => "SELECT c.* FROM cqrs.checkpoint AS c JOIN cqrs.registry AS r ON r.id = c.projection
			WHERE r.state IN ('paused', 'stopped') ORDER BY projection",
		triggers => 'SELECT tgrelid::regclass, tgname, tgenabled, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2',
		'event triggers' => 'SELECT evtname, evtenabled, evtfoid::regproc FROM pg_event_trigger ORDER BY 1',
		# before PostgreSQL 17, a member's row type and array types were members, too
		'what depends on the extension' => "SELECT pg_describe_object(d.classid, d.objid, d.objsubid) COLLATE \"C\", deptype FROM pg_depend AS d
			WHERE refclassid = 'pg_extension'::regclass AND deptype IN ('e', 'x') AND NOT (classid = 'pg_type'::regclass AND EXISTS (
				SELECT FROM pg_depend AS i WHERE i.classid = d.classid AND i.objid = d.objid AND i.deptype = 'i')) ORDER BY 1",
		'what is dumped of it' => "SELECT t::regclass FROM pg_extension, unnest(extconfig) AS t WHERE extname = 'cqrs_views' ORDER BY 1",
		definitions => 'SELECT to_jsonb(p) FROM cqrs.projection AS p ORDER BY name');

	return map { $_ => $node->safe_psql('shop', $queries{$_}) } keys %queries;
}

sub is_same
{
	my ($node, %before) = @_;
	my %now = state_of($node);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($now{$_}, $before{$_}, $node->name . ": the same $_") foreach sort keys %before;
	return;
}

# The backlog, what is published now, and the guards.
sub go_on
{
	my ($node, $what) = @_;
	my $paused = $node->safe_psql('shop', "SELECT cqrs.resume_projection(name) FROM cqrs.projection_status WHERE state = 'paused'");
	my ($status, $output, $errors);

	local $Test::Builder::Level = $Test::Builder::Level + 1;
	survived($node, 'shop', "$what, the backlog");
	handled_once($node, 'shop', $_, "$what, the backlog, $_") foreach @logs;
	$node->safe_psql('shop', "ALTER TABLE mended ADD COLUMN IF NOT EXISTS yes text;
		SELECT cqrs.resume_projection(name) FROM cqrs.projection_status WHERE state = 'stopped'");
	handled_once($node, 'shop', 'walk', "$what, the frozen interval");
	my @publishers = start_publishers($node, 'shop', 2);
	is(stop_publishers($node, 'shop', @publishers), '', "$what: publishers go on");
	survived($node, 'shop', $what);
	handled_once($node, 'shop', $_, "$what, $_") foreach @logs, 'walk';
	($status, $output, $errors) = $node->psql('shop', "INSERT INTO p_log (position, key) VALUES (0, 'a')");
	like($errors, qr/cannot write to read table "p_log"/, "$what: the write guard is there");
	($status, $output, $errors) = $node->psql('shop', 'SET session_replication_role = replica; DELETE FROM viewed_inline');
	like($errors, qr/cannot write to read table "viewed_inline"/, "$what: always");
	($status, $output, $errors) = $node->psql('shop', 'SET session_replication_role = replica; DROP TABLE p_log');
	like($errors, qr/cannot drop read table "p_log"/, "$what: and so is the drop guard");
	($status, $output, $errors) = $node->psql('shop', 'SET session_replication_role = replica; DELETE FROM cqrs.outbox');
	like($errors, qr/events are immutable|cannot/, "$what: and the outbox's");
	return;
}

# The pg_config of a newer server with the extension, or undef.
sub newer_pg_config
{
	my $current = int($new->pg_version =~ s/\..*//r);

	foreach my $candidate ($ENV{CQRS_UPGRADE_TO} // (), reverse glob '/usr/lib/postgresql/*/bin/pg_config')
	{
		next unless -x $candidate;
		my ($version) = `$candidate --version` =~ /(\d+)/;
		chomp(my $share = `$candidate --sharedir`);

		return $candidate if $version > $current && -e "$share/extension/cqrs_views.control";
	}
	return;
}
