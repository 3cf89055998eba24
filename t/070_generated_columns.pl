# Generated columns of an attached table are columns like others: to a mapping and its order, to a format's metadata, and in
# a row that was put aside. So are those that are not stored, which PostgreSQL has since 18: in a row that a trigger gets, they
# are not.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('generated');
create_database($node, 'postgres');

# Tests what becomes of rows with generated columns of a kind.
sub generated
{
	my ($kind) = @_;

	$node->safe_psql('postgres', qq{
		CREATE TABLE mapped (id int, kind text, type text GENERATED ALWAYS AS (upper(kind)) $kind,
			place int GENERATED ALWAYS AS (-id) $kind);
		CREATE TABLE debezium (id int, aggregatetype text, aggregateid text, type text,
			twice int GENERATED ALWAYS AS (2 * id) $kind);
		SELECT cqrs.attach_outbox('mapped', 'mapped $kind', 'mapping', '{"event_id": "id", "aggregate_type": "''T''",
			"aggregate_id": "id % 2", "event_type": "type", "order_by": "place"}');
		SELECT cqrs.attach_outbox('debezium', 'debezium $kind', 'debezium');
		INSERT INTO mapped (id, kind) VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, NULL);
		INSERT INTO debezium (id, aggregatetype, aggregateid, type) VALUES (1, 'T', 'a', 'E')});
	is($node->safe_psql('postgres', "SELECT event_type FROM cqrs.outbox WHERE source = 'mapped $kind' ORDER BY position"),
		"THREE\nONE", "$kind: in a mapping, and in its order");
	is($node->safe_psql('postgres', "SELECT metadata FROM cqrs.outbox WHERE source = 'debezium $kind'"),
		'{"twice": 2}', "$kind: in metadata");
	$node->safe_psql('postgres', q{
		SELECT cqrs.detach_outbox('mapped');
		SELECT cqrs.attach_outbox('mapped', 'mapped } . $kind . q{', 'mapping', '{"event_id": "id", "aggregate_type": "''T''",
			"aggregate_id": "id % 2", "event_type": "coalesce(type, place::text)"}', 'leave');
		SELECT cqrs.retry_source_dead_letters('mapped')});
	is($node->safe_psql('postgres', "SELECT event_type FROM cqrs.outbox WHERE source = 'mapped $kind' ORDER BY position OFFSET 2"),
		"-4\nTWO", "$kind: in a row that was put aside");
	$node->safe_psql('postgres', q{
		SELECT cqrs.detach_outbox('mapped'), cqrs.detach_outbox('debezium');
		DROP TABLE mapped, debezium});
	return;
}

generated('STORED');
SKIP:
{
	skip 'all generated columns are stored', 3 if $node->pg_version < 18;
	generated('VIRTUAL');
}

$node->stop;
done_testing();
