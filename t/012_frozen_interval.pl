# A backlog larger than a batch is frozen, and walked to its end. What was published since it was frozen is not in
# it: whoever catches up must look again behind the end. Without workers, so that nobody else does.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $node = new_server('frozen_interval', shared_preload_libraries => undef,
	'cqrs_views.retry_delay' => undef, 'cqrs_views.max_retry_delay' => undef);
my $pending = "SELECT state, events_pending FROM cqrs.projection_status";
my $differences = 'SELECT count(*) FROM log FULL JOIN cqrs.outbox o USING (position) WHERE log IS NULL OR o IS NULL';

create_database($node, 'postgres');
$node->safe_psql('postgres', q{
	CREATE TABLE log (position bigint PRIMARY KEY);
	CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN
		IF e.event_type = current_setting('test.bad', true) THEN RAISE 'bad event'; END IF;
		INSERT INTO log VALUES (e.position);
	END $$;
	SELECT cqrs.create_projection('log', 'on_event(cqrs.event)', '{log}', batch_size => 2, on_error => 'stop');
	SELECT cqrs.publish('Test', 'a', CASE n WHEN 5 THEN 'Bad' ELSE 'Good' END) FROM generate_series(1, 6) AS n;
});

# It stops in the midst of the walk.
my ($code, undef, $error) = $node->psql('postgres', q{SET test.bad = 'Bad'; CALL cqrs.catch_up('log');});
like($error, qr/projection "log" stopped: bad event/, 'a batch of the walk fails');
is($node->safe_psql('postgres', $pending), 'stopped|2', 'two batches of the walk are done');

publish($node, 'postgres', 1);
$node->safe_psql('postgres', "SELECT cqrs.resume_projection('log')");
$node->safe_psql('postgres', "CALL cqrs.catch_up('log')");
is($node->safe_psql('postgres', $pending), 'running|0', 'one call goes beyond the end of the walk');
is($node->safe_psql('postgres', $differences), '0', 'every event is handled once');

# The same when it becomes inline: nothing that was published meanwhile is left behind.
$node->safe_psql('postgres', "SELECT cqrs.publish('Test', 'a', CASE n WHEN 5 THEN 'Bad' ELSE 'Good' END)
	FROM generate_series(1, 6) AS n");
$node->psql('postgres', q{SET test.bad = 'Bad'; CALL cqrs.catch_up('log');});
publish($node, 'postgres', 1);
$node->safe_psql('postgres', "SELECT cqrs.resume_projection('log')");
$node->safe_psql('postgres', "SELECT cqrs.alter_projection('log', mode => 'inline')");
$node->safe_psql('postgres', "CALL cqrs.catch_up('log')");
publish($node, 'postgres', 1);
is($node->safe_psql('postgres', $pending), 'running|0', 'it is inline');
is($node->safe_psql('postgres', $differences), '0', 'every event is handled once by then');

$node->stop;
done_testing();
