# A session that listens and does not end its transaction lets PostgreSQL's queue of notifications fill up, and then
# whoever notifies fails. Projections go on without notifying, and notify again when there is room. Before version 17
# the queue has 8 GB, which is too much to fill here.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $node = new_server('notify_queue');
if ($node->safe_psql('postgres', 'SHOW server_version_num') < 170000)
{
	$node->stop;
	plan skip_all => "the queue's size is a setting since PostgreSQL 17";
}
$node->append_conf('postgresql.conf', 'max_notify_queue_pages = 64');
$node->restart;
create_database($node, 'postgres');
create_log_projection($node, 'postgres', 'p');
publish($node, 'postgres', 1);
handled_once($node, 'postgres', 'p', 'with an empty queue');

my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN p');
$listener->query_safe('BEGIN');
$listener->query_safe('SELECT 1');

my $logged = -s $node->logfile;
fill();
cmp_ok($node->safe_psql('postgres', 'SELECT pg_notification_queue_usage()'), '>', 0.9, 'the queue is full');
publish($node, 'postgres', 1);
is($node->safe_psql('postgres', q{SELECT cqrs.wait_for('p', '1 minute')}), 't', 'projections go on');
$node->wait_for_log(qr/projections do not notify/, $logged);
publish($node, 'postgres', 5);
handled_once($node, 'postgres', 'p', 'with a full queue');
is($node->safe_psql('postgres', "SELECT state, retries FROM cqrs.projection_status"), 'running|0', 'and nothing is wrong');

$listener->query_safe('COMMIT');
poll_ok($node, 'postgres', 'SELECT pg_notification_queue_usage() < 0.5', 'there is room again');
my $heard = '';
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	publish($node, 'postgres', 1);
	$heard .= $listener->query_safe('SELECT') // '';
	last if $heard =~ /"events"/;
	usleep(100_000);
}
like($heard, qr/"projection": "p"/, 'and it is told again');
$listener->quit;
$node->stop;
done_testing();

# Fills the queue, in smaller and smaller pieces.
sub fill
{
	foreach my $length (7000, 1000, 10)
	{
		1 while $node->psql('postgres', "SELECT pg_notify('other', repeat('x', $length))") == 0;
	}
	return;
}
