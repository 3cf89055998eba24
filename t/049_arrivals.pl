# Counters of what arrives in attached tables: as few rows as transactions were at it at a time, however many there
# were one after the other, and nothing is counted twice or lost.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('arrivals', max_prepared_transactions => 0, synchronous_commit => 'off');
create_database($node, 'postgres');
$node->safe_psql('postgres', q{
	CREATE TABLE arrived (id uuid, who text);
	SELECT cqrs.attach_outbox('arrived', 'others', 'mapping',
		'{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "who", "event_type": "''E''"}')});

publish_at_once('read committed');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.arrival'), '<=', 8, 'in 8 rows at most');
publish_at_once('repeatable read');

$node->stop;
done_testing();

# Has 8 sessions publish at a time. What fails to serialize they try again.
sub publish_at_once
{
	my ($level) = @_;
	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM cqrs.outbox');

	$node->safe_psql('postgres', "ALTER SYSTEM SET default_transaction_isolation = '$level'");
	$node->reload;
	$node->pgbench(
		'--no-vacuum --client=8 --transactions=500 --max-tries=1000', 0,
		[qr/processed: 4000\/4000/], [qr/^$/],
		"8 sessions at a time, $level",
		{ '049_' . $level =~ tr/ /_/r => 'INSERT INTO arrived VALUES (gen_random_uuid(), :client_id)' });
	is($node->safe_psql('postgres', "SELECT count(*) - $before FROM cqrs.outbox"), 4000, "$level: all are events");
	is($node->safe_psql('postgres', "SELECT sum(events) - $before FROM cqrs.arrival"), 4000, "$level: all are counted");
	return;
}
