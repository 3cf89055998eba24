# A batch that is to be retried has put nothing aside: what it had put behind a dead letter comes again with it, and would
# be applied twice if the dead letter were retried in between. For every kind of handler.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server(
	'behind_retried',
	'cqrs_views.max_retries' => 0,
	'cqrs_views.retry_delay' => '5ms',
	'cqrs_views.max_retry_delay' => '20ms');
create_database($node, 'postgres');
sql(q{
	CREATE SEQUENCE gate;
	CREATE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
		IF payload->>'v' = 'waits' AND (SELECT last_value FROM gate) = 1 THEN
			RAISE 'it is nobody''s fault' USING ERRCODE = 'serialization_failure';
		END IF;
		RETURN coalesce(nullif(payload->>'v', 'waits'), '0')::int; END $$});
my @kinds = create_totals($node, 'postgres');

# a dead letter, and then a batch with one more event of its key, and one that has to wait
sql(q{SELECT cqrs.publish('T', 'k', 'E', '{"v": "bad"}')});
poll_ok($node, 'postgres', "SELECT count(*) FROM cqrs.dead_letter WHERE key = 'k' AND reason = 'failed'", 'given up', scalar @kinds);
sql(q{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
	VALUES ('T', 'k', 'E', '{"v": 1}'), ('T', 'other', 'E', '{"v": "waits"}'), ('T', 'k', 'E', '{"v": 10}')});
poll_ok($node, 'postgres', 'SELECT count(*) FROM cqrs.projection_status WHERE retries > 0', 'the batch is retried', scalar @kinds);
is(sql('SELECT string_agg(DISTINCT events_parked::text, NULL) FROM cqrs.projection_status'), '1', 'nothing more is put aside by then');

# the dead letter is mended and retried before the batch is processed
sql(q{CREATE OR REPLACE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
		IF payload->>'v' = 'waits' AND (SELECT last_value FROM gate) = 1 THEN
			RAISE 'it is nobody''s fault' USING ERRCODE = 'serialization_failure';
		END IF;
		RETURN CASE payload->>'v' WHEN 'bad' THEN 100 WHEN 'waits' THEN 1000 ELSE (payload->>'v')::int END; END $$});
is(sql("SELECT cqrs.retry_dead_letters('$_')"), 1, "$_: the dead letter alone is retried") foreach @kinds;
sql("SELECT setval('gate', 2)");
foreach my $kind (@kinds)
{
	is(sql("SELECT cqrs.wait_for('$kind', '1 minute')"), 't', "$kind: has caught up");
	is(sql("SELECT string_agg(id || ' ' || total, ', ' ORDER BY id) FROM totals WHERE kind = '$kind'"),
		'k 111, other 1000', "$kind: each event is applied once");
}
is(sql('SELECT count(*) FROM cqrs.parked'), 0, 'nothing is aside');

$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}
