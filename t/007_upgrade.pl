# pg_upgrade starts the old and the new server to read and load their catalogs. Workers that came up in these
# would write to what is being moved, and columns of some types make it refuse. Transaction ids survive, so
# afterwards processing must go on from the same checkpoints.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = 'pg_upgrade';
my $found = eval { run_log([ $program, '--version' ]) };
plan skip_all => 'there is no pg_upgrade here' unless $found;

my $old = new_server('old');
create_database($old, 'shop');
create_log_projection($old, 'shop', 'p', arguments => 'batch_size => 10');
create_log_projection($old, 'shop', 'filtered', kind => 'batch', arguments => "event_types => '{Happened}'");
create_log_projection($old, 'shop', 'at_once', arguments => "mode => 'inline'");
create_database($old, 'postgres');
publish($old, 'shop', 50);
handled_once($old, 'shop', $_, "old cluster, $_") foreach qw(p filtered at_once);

# A backlog, and a transaction that was in flight at the checkpoint and has committed since.
my $session = $old->background_psql('shop');
$session->query_safe("BEGIN; SELECT cqrs.publish('Thing', 'b', 'Happened')");
publish($old, 'shop', 20);
handled_once($old, 'shop', $_, "old cluster, beside an open transaction, $_") foreach qw(p filtered);
$old->safe_psql('shop', "SELECT cqrs.pause_projection('$_')") foreach qw(p filtered);
$session->query_safe('COMMIT');
$session->quit;
publish($old, 'shop', 30);
my $position = $old->safe_psql('shop', 'SELECT max(position) FROM cqrs.outbox');
$old->stop;

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init;
$new->append_conf('postgresql.conf', "shared_preload_libraries = 'cqrs_views'");
my $bindir = $new->config_data('--bindir');
my @upgrade = (
	$program, '--no-sync',
	'--old-datadir', $old->data_dir, '--new-datadir', $new->data_dir,
	'--old-bindir', $bindir, '--new-bindir', $bindir,
	'--socketdir', $new->host, '--old-port', $old->port, '--new-port', $new->port);
# it leaves its scripts and logs where it is called
chdir $PostgreSQL::Test::Utils::tmp_check or die;
command_ok([ @upgrade, '--check' ], 'pg_upgrade --check');
command_ok([@upgrade], 'pg_upgrade');

$new->start;
is($new->safe_psql('shop', 'SELECT max(position) FROM cqrs.outbox'), $position, 'the events are there');
is($new->safe_psql('shop', unhandled('p')), '31', 'and so is the backlog');
$new->safe_psql('shop', "SELECT cqrs.resume_projection('$_')") foreach qw(p filtered);
handled_once($new, 'shop', $_, "new cluster, the backlog, $_") foreach qw(p filtered at_once);
publish($new, 'shop', 40);
handled_once($new, 'shop', $_, "new cluster, $_") foreach qw(p filtered at_once);
cmp_ok(
	$new->safe_psql("shop", q{SELECT min(position) FROM
		(SELECT position FROM cqrs.outbox ORDER BY position DESC LIMIT 40) AS o}),
	'>', $position, 'positions go on');
poll_ok($new, 'postgres', "SELECT count(DISTINCT datname) = 2 FROM pg_stat_activity
		WHERE backend_type = 'cqrs_views worker'", 'both databases have workers');
my ($status, $output, $errors) = $new->psql('shop', "INSERT INTO p_log (position, key) VALUES (0, 'a')");
like($errors, qr/cannot write to read table "p_log"/, 'the write guard is there');
($status, $output, $errors) = $new->psql('shop', 'SET session_replication_role = replica; DROP TABLE p_log');
like($errors, qr/cannot drop read table "p_log"/, 'and so is the drop guard');

$new->stop;
done_testing();
