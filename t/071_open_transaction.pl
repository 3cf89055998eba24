# While somebody's transaction stays open that has written something, a look for new events costs what these are, however
# large the outbox is. It is counted in index entries read, since time is noisy.

use strict;
use warnings FATAL => 'all';

use FindBin;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $many = 200_000;
my $node = new_server('open_transaction', 'cqrs_views.enabled' => 'off', autovacuum => 'off');
create_database($node, 'postgres');
create_log_projection($node, 'postgres', 'p');

# as from bulk loads: any transaction id is taken for one of many events
$node->safe_psql('postgres', qq{DO 'BEGIN
	FOR i IN 1 .. $many / 1000 LOOP
		INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT ''T'', j::text, ''E'', jsonb_build_object(''text'', repeat(''t'', 200)) FROM generate_series(1, 1000) AS j;
		COMMIT;
	END LOOP;
END'});
$node->safe_psql('postgres', 'VACUUM (ANALYZE, FREEZE) cqrs.outbox');
$node->safe_psql('postgres', q{CALL cqrs.catch_up('p')});
look('no transaction being open');

my $holder = $node->background_psql('postgres');
$holder->query_safe('BEGIN');
$holder->query_safe('SELECT pg_current_xact_id()');
look("somebody's transaction being open");
look('and being known to be');
$holder->query_safe(q{SELECT cqrs.publish('T', 'late', 'E')});
look('and having published');
$holder->query_safe('COMMIT');
look('and having ended');

# what it has published by then, followed by more than a batch may have of bytes
$holder->query_safe('BEGIN');
$holder->query_safe(q{SELECT cqrs.publish('T', 'early', 'E') FROM generate_series(1, 3000)});
publish($node, 'postgres', 20);
$node->safe_psql('postgres', q{CALL cqrs.catch_up('p')});
$holder->query_safe('COMMIT');
$node->safe_psql('postgres', q{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
	SELECT 'T', i::text, 'E', jsonb_build_object('text', repeat('t', 1750)) FROM generate_series(1, 30000) AS i});
my $batches = $node->safe_psql('postgres', 'SELECT batches FROM cqrs.projection_status');
$node->safe_psql('postgres', q{CALL cqrs.catch_up('p')});
cmp_ok($node->safe_psql('postgres', 'SELECT batches FROM cqrs.projection_status') - $batches, '<', 30,
	'what it has published does not come one by one');
$holder->quit;
handled_once($node, 'postgres', 'p', 'everything');
$node->stop;
done_testing();

# Publishes a few events, has the projection process them, and counts the entries that were read.
sub look
{
	my ($what) = @_;
	my $before = entries();

	publish($node, 'postgres', 20);
	$node->safe_psql('postgres', q{CALL cqrs.catch_up('p')});
	cmp_ok(entries() - $before, '<', $many / 100, "$what: few entries are read for 20 events");
	is($node->safe_psql('postgres', unhandled('p')), 0, "$what: and all are processed");
	return;
}

# The entries that were read so far from the outbox's indexes; each session tells when it ends.
sub entries
{
	return $node->safe_psql('postgres', q{
		SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relid = 'cqrs.outbox'::regclass});
}
