# The read table of a view is one that other servers can follow: logical replication from it carries every change,
# also where it has no primary key (NULL is a group) or no key at all (one row), and a standby shows it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my %queries = (
	by_id => 'SELECT aggregate_id AS id, count(*) AS n, cqrs.last(event_type) AS l FROM events GROUP BY 1',
	by_value => "SELECT payload->>'v' AS v, count(*) AS n FROM events GROUP BY 1",
	single => 'SELECT count(*) AS n, max(position) AS p FROM events',
	rows_of_it => "SELECT position, event_type FROM events WHERE payload ? 'v'",
	without_key => 'SELECT event_type FROM events');
my %columns = (
	by_id => 'id text PRIMARY KEY, n bigint, l text',
	by_value => 'v text, n bigint',
	single => 'n bigint, p bigint',
	rows_of_it => 'position bigint PRIMARY KEY, event_type text',
	without_key => 'event_type text');

my $node = new_server('views', allows_streaming => 'logical');
my $follower = PostgreSQL::Test::Cluster->new('follower');
$follower->init(allows_streaming => 'logical');
$follower->start;

create_database($node, 'postgres');
foreach my $view (sort keys %queries)
{
	my $mode = $view eq 'by_value' ? 'inline' : 'async';
	(my $query = $queries{$view}) =~ s/'/''/g;
	$node->safe_psql('postgres', "SELECT cqrs.create_view('$view', '$query', mode => '$mode')");
	$follower->safe_psql('postgres', "CREATE TABLE $view ($columns{$view})");
}
publish_some();
$node->safe_psql('postgres', 'CREATE PUBLICATION views FOR TABLE ' . join ', ', sort keys %queries);
$follower->safe_psql('postgres',
	"CREATE SUBSCRIPTION views CONNECTION '" . $node->connstr . " dbname=postgres' PUBLICATION views");
$follower->wait_for_subscription_sync($node, 'views');
publish_some() foreach 1 .. 3;

my $backup = $node->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'standby', has_streaming => 1);
$standby->start;
publish_some();

# All that there is, seen by the publisher, its follower, and its standby.
$node->safe_psql('postgres', "SELECT cqrs.wait_for('$_', '3 minutes')") foreach sort keys %queries;
# workers commit asynchronously: a commit that does not has what they did written
$node->safe_psql('postgres', "SELECT pg_logical_emit_message(true, 'written', '')");
$node->wait_for_catchup('views');
$node->wait_for_catchup('standby', 'replay');
foreach my $view (sort keys %queries)
{
	my $rows = "SELECT count(*), md5(string_agg(t::text, ' ' ORDER BY t::text)) FROM $view AS t";
	my $expected = $node->safe_psql('postgres', $rows);

	unlike($expected, qr/^0/, "there are rows in $view");
	is($follower->safe_psql('postgres', $rows), $expected, "$view is replicated");
	is($standby->safe_psql('postgres', $rows), $expected, "$view is on the standby");
}
is($node->safe_psql('postgres', 'SELECT n = (SELECT count(*) FROM cqrs.outbox) FROM single'), 't', 'and it is right');

$follower->safe_psql('postgres', 'DROP SUBSCRIPTION views');
$_->stop foreach $standby, $follower, $node;
done_testing();

# Events of new and of known groups, with and without a value.
sub publish_some
{
	$node->safe_psql('postgres', "SELECT cqrs.publish('T', 'a' || i % 7, 'E' || i,
			CASE WHEN i % 3 = 0 THEN '{}' ELSE jsonb_build_object('v', i % 4) END) FROM generate_series(1, 20) AS i");
	return;
}
