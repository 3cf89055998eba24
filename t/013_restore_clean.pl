# pg_restore --clean drops every table before it drops the extension: the drop guard must let it, and be back
# afterwards. It must not be in the dump itself, where it would be made twice.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('clean');
create_database($node, 'shop');
create_log_projection($node, 'shop', 'p');
create_log_projection($node, 'shop', 'at_once', arguments => "mode => 'inline'");
$node->safe_psql('shop',
	"SELECT cqrs.create_view('ends', 'SELECT aggregate_id, cqrs.last(event_type) FROM events GROUP BY 1')");
$node->safe_psql('shop', q{
	CREATE TABLE arrived (event_id int PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text);
	SELECT cqrs.attach_outbox('arrived', 'elsewhere');
	INSERT INTO arrived VALUES (1, 'T', 'a', 'E'), (2, 'T', 'b', NULL), (3, 'T', 'b', 'E')});
$node->safe_psql('shop', q{
	CREATE ROLE service;
	CREATE SCHEMA helpers;
	CREATE FUNCTION helpers.kind(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN upper($1); END';
	GRANT USAGE ON SCHEMA helpers TO service;
	CREATE TABLE serviced (id int PRIMARY KEY, kind text);
	ALTER TABLE serviced OWNER TO service;
	SELECT cqrs.attach_outbox('serviced', 'service', 'mapping',
		'{"event_id": "id", "aggregate_type": "''T''", "aggregate_id": "''a''", "event_type": "helpers.kind(kind)"}')});
publish($node, 'shop', 20);
handled_once($node, 'shop', $_, "before, $_") foreach qw(p at_once);

my $dump = "$PostgreSQL::Test::Utils::tmp_check/shop.dump";
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, 'shop' ], 'pg_dump');
my $rows = 'SELECT array_agg(position ORDER BY seq) FROM p_log';
my $before = $node->safe_psql('shop', $rows);

# one table alone is what the guard is for
$node->command_fails_like(
	[ 'pg_restore', '--clean', '-t', 'p_log', '-d', 'shop', $dump ],
	qr/cannot drop read table "p_log" because projection "p" maintains it/,
	'a read table alone can not be replaced');
is($node->safe_psql('shop', $rows), $before, 'and is as it was');

$node->command_ok([ 'pg_restore', '--clean', '--exit-on-error', '-d', 'shop', $dump ], 'pg_restore --clean');
is($node->safe_psql('shop', $rows), $before, 'the read table is there again');
is($node->safe_psql('shop', 'SELECT evtname, evtenabled FROM pg_event_trigger ORDER BY evtname'),
	"cqrs_alter_guard|A\ncqrs_drop_guard|A\ncqrs_names_after|A\ncqrs_names_before|A", 'and so are its guards');
$node->safe_psql('shop', q{DELETE FROM arrived; INSERT INTO arrived VALUES (1, 'T', 'a', 'E'), (2, 'T', 'b', NULL), (4, 'T', 'b', 'E')});
is($node->safe_psql('shop', q{SELECT (SELECT count(*) FROM cqrs.outbox WHERE source = 'elsewhere'), events, duplicates, rows_parked FROM cqrs.source_status WHERE source = 'elsewhere'}),
	'1|1|2|3', 'an attached table is attached again, and knows what it brought');
foreach my $table (qw(arrived serviced))
{
	is($node->safe_psql('shop', "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = '$table'::regclass ORDER BY 1"),
		"cqrs_receive|A\ncqrs_receive_replica|R", "the triggers of $table fire as before");
}
$node->safe_psql('shop', q{INSERT INTO serviced VALUES (1, 'e')});
is($node->safe_psql('shop', q{SELECT event_type FROM cqrs.outbox WHERE source = 'service'}), 'E',
	'a mapping whose owner was granted what it needs later is well');
my (undef, undef, $refused) = $node->psql('shop', 'DROP TABLE arrived');
like($refused, qr/cannot drop table "arrived" because it is attached/, 'and it is guarded');
foreach my $table (qw(p_log at_once_log ends ends_state))
{
	my ($status, $output, $errors) = $node->psql('shop', "DROP TABLE $table");
	like($errors, qr/cannot drop read table "$table"/, "which works for $table");
}

$node->stop;
done_testing();
