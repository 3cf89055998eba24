# Publishers in flight have decided under the old mode: each switch between async and inline, each pause, resume and
# rebuild, in the midst of publishing, is a chance to lose an event, to handle it twice, or out of order. The handler
# reads, computes and writes, and publishes now and then.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $seconds = $ENV{CQRS_TORTURE_SECONDS} // 12;
my $seed = $ENV{CQRS_TORTURE_SEED} // int(rand 1_000_000);
my $node = new_server('mode_flips');
my $directory = $node->basedir;

srand $seed;
diag("seed $seed, $seconds seconds");
create_database($node, 'postgres');
$node->safe_psql('postgres', q{
	CREATE TABLE log (n int GENERATED ALWAYS AS IDENTITY, key text, position bigint);
	CREATE TABLE counter (key text PRIMARY KEY, events int NOT NULL);
	CREATE FUNCTION on_event(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
	DECLARE
		before int := (SELECT events FROM counter WHERE key = e.aggregate_id);
	BEGIN
		INSERT INTO log (key, position) VALUES (e.aggregate_id, e.position);
		IF before IS NULL THEN
			INSERT INTO counter VALUES (e.aggregate_id, 1);
		ELSE
			UPDATE counter SET events = before + 1 WHERE key = e.aggregate_id;
		END IF;
		IF e.event_type = 'Cause' THEN
			PERFORM cqrs.publish('Test', 'effect ' || e.position % 5, 'Effect');
		END IF;
	END $$;
	SELECT cqrs.create_projection('flips', 'on_event(cqrs.event)', '{log, counter}', mode => 'inline', batch_size => 50);
	CREATE TABLE aggregate (key text PRIMARY KEY);
	INSERT INTO aggregate SELECT 'k' || i FROM generate_series(0, 9) AS i;
});
append_to_file("$directory/publish.sql", q{
\set key random(0, 9)
\set many random(1, 60)
\set type random(1, 10)
BEGIN;
SELECT 1 FROM aggregate WHERE key = 'k' || :key FOR UPDATE;
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
	SELECT 'Test', 'k' || :key, CASE :type WHEN 1 THEN 'Cause' ELSE 'Plain' END
	FROM generate_series(1, CASE :many WHEN 1 THEN 120 ELSE 1 END);
SAVEPOINT s;
SELECT cqrs.publish('Test', 'k' || :key, 'Plain');
ROLLBACK TO s;
COMMIT;
});

# The causes' handlers meet on the effects' keys, in any order: across statements a deadlock is possible.
my $output = '';
my $publishers = IPC::Run::start(
	[ $node->installed_command('pgbench'), '-n', '-c', 4, '-T', $seconds, '--max-tries=20',
		'-f', "$directory/publish.sql", $node->connstr('postgres') ],
	'<', \undef, '>', \$output, '2>&1');
my @flips = map { "SELECT cqrs.$_" } (
	q{alter_projection('flips', mode => 'async')}, q{alter_projection('flips', mode => 'inline')},
	q{pause_projection('flips')}, q{resume_projection('flips')});
push @flips, q{CALL cqrs.catch_up('flips')}, q{CALL cqrs.rebuild_projection('flips')};
my $flips = 0;
my %errors;
while (time - $^T < $seconds + 1)
{
	my ($code, undef, $error) = $node->psql('postgres', '\set VERBOSITY sqlstate' . "\n" . $flips[ rand @flips ]);
	$errors{$1}++ if $error =~ /ERROR:\s+(\w+)/;
	$flips++;
	last if !$publishers->pumpable;
}
$publishers->finish;
diag("$flips flips; errors: " . join(', ', map { "$_ $errors{$_}" } sort keys %errors));
like($output, qr/number of transactions actually processed: [1-9]/, 'the publishers published');
cmp_ok($flips, '>', 5, 'there were flips');

# A flip may find the publishers busy (55P03), or the projection paused (55000), or be a deadlock's victim.
is_deeply([ grep { !/^(55P03|55000|40P01)$/ } keys %errors ], [], 'flips met no other errors');

$node->safe_psql('postgres', "SELECT cqrs.resume_projection('flips')");
$node->safe_psql('postgres', "SELECT cqrs.alter_projection('flips', mode => 'async')");
$node->safe_psql('postgres', "CALL cqrs.catch_up('flips')");
is($node->safe_psql('postgres', 'SELECT state, mode, events_pending FROM cqrs.projection_status'), 'running|async|0',
	'it has caught up');
is($node->safe_psql('postgres', 'SELECT count(*) - count(DISTINCT position) FROM log'), '0', 'nothing is handled twice');
is($node->safe_psql('postgres',
		'SELECT count(*) FROM cqrs.outbox o WHERE NOT EXISTS (SELECT FROM log l WHERE l.position = o.position)'),
	'0', 'nothing is skipped');
is($node->safe_psql('postgres', q{SELECT count(*) FROM (SELECT position, lag(position) OVER (PARTITION BY key ORDER BY n)
		AS previous FROM log WHERE key LIKE 'k%') AS l WHERE previous > position}),
	'0', 'the order is right per key');
is($node->safe_psql('postgres', 'SELECT count(*) FROM counter FULL JOIN (SELECT aggregate_id AS key, count(*) AS published
		FROM cqrs.outbox GROUP BY 1) AS o USING (key) WHERE events IS DISTINCT FROM published'),
	'0', 'no update is lost');

$node->stop;
done_testing();
