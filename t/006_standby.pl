# A standby replays what the primary's workers did. Its own must not start before it is promoted, and must
# then go on where the primary's stopped: that is in the replayed checkpoints and nowhere else.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', allows_streaming => 1);
create_database($primary, 'postgres');
create_log_projection($primary, 'postgres', 'p', kind => 'batch', arguments => 'batch_size => 5');
create_log_projection($primary, 'postgres', 'at_once', arguments => "mode => 'inline'");
publish($primary, 'postgres', 30);
handled_once($primary, 'postgres', 'p', 'on the primary');

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# --- in recovery

# A paused projection has a backlog that the standby gets to see. Another backlog comes with a transaction that
# is prepared at the time of the failover.
$primary->safe_psql('postgres', "SELECT cqrs.pause_projection('p')");
publish($primary, 'postgres', 200);
$primary->safe_psql('postgres',
	"BEGIN; SELECT cqrs.publish('Thing', 'b', 'Prepared'); PREPARE TRANSACTION 'late'");
$primary->safe_psql('postgres', "SELECT cqrs.resume_projection('p')");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('write'));

is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'cqrs_views%'"),
	'0', 'no launcher and no worker on a standby');
is($standby->safe_psql('postgres', 'SELECT count(*) FROM cqrs.worker_status'),
	'0', 'worker_status shows none');
is($standby->safe_psql('postgres', "SELECT string_agg(state, ' ') FROM cqrs.projection_status"),
	'running running', 'projection_status can be looked at');
my ($status, $output, $errors) = $standby->psql('postgres', "SELECT cqrs.publish('Thing', 'a', 'Happened')");
isnt($status, 0, 'nothing can be published there');
($status, $output, $errors) = $standby->psql('postgres', "CALL cqrs.catch_up()");
isnt($status, 0, 'nor processed');
like($errors, qr/ERROR: .*(recovery|read-only)/, 'and the error says why');

# --- promoted

# The primary dies in the middle of its batches.
$primary->stop('immediate');
$standby->promote;
poll_ok($standby, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'cqrs_views launcher'", 'after promotion there is a launcher');
handled_once($standby, 'postgres', 'p', 'after promotion, the backlog');
publish($standby, 'postgres', 30);
handled_once($standby, 'postgres', 'p', 'after promotion');
$standby->safe_psql('postgres', "COMMIT PREPARED 'late'");
handled_once($standby, 'postgres', 'p', 'after promotion, what was prepared before');
handled_once($standby, 'postgres', 'at_once', 'after promotion, inline');

$standby->stop;
done_testing();
