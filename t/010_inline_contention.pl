# Inline handlers run in many publishers' transactions at once. Who reads a row, computes and writes it back
# loses what another one wrote in between, and who writes several rows, in an order of its own, deadlocks with
# another one. Publishers of one key must exclude each other, and one statement's events must never deadlock.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = new_server('inline', log_statement => 'none', deadlock_timeout => '20ms', max_connections => 40);
my $clients = 12;
my $aggregates = 6;
my $runs = 0;

create_database($node, 'postgres');
$node->safe_psql(
	'postgres', q{
	CREATE TABLE account (id text PRIMARY KEY, total bigint NOT NULL, events bigint NOT NULL);
	CREATE TABLE region (id text PRIMARY KEY, total bigint NOT NULL, events bigint NOT NULL);
	CREATE TABLE summary (id text PRIMARY KEY, total bigint NOT NULL, events bigint NOT NULL);

	-- reads, computes and writes, without a lock of its own
	CREATE FUNCTION account_handle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
		DECLARE
			old account;
		BEGIN
			SELECT * INTO old FROM account WHERE id = e.aggregate_id;
			IF old.id IS NULL THEN
				INSERT INTO account VALUES (e.aggregate_id, (e.payload->>'amount')::bigint, 1);
			ELSE
				UPDATE account SET total = old.total + (e.payload->>'amount')::bigint, events = old.events + 1
				WHERE id = e.aggregate_id;
			END IF;
		END $$;

	-- the same, all at once, and not in the order of the keys
	CREATE FUNCTION region_handle() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			WITH batch AS (
				SELECT payload->>'region' AS id, sum((payload->>'amount')::bigint) AS total, count(*) AS events
				FROM events GROUP BY 1),
			changed AS (
				UPDATE region r SET total = b.total + batch.total, events = b.events + batch.events
				FROM batch JOIN region b USING (id) WHERE r.id = batch.id RETURNING r.id)
			INSERT INTO region SELECT * FROM batch WHERE id NOT IN (SELECT id FROM changed) ORDER BY random();
			RETURN NULL;
		END $$;

	-- the way it is usually written
	CREATE FUNCTION summary_handle() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO summary AS s
			SELECT aggregate_id, sum((payload->>'amount')::bigint), count(*)
			FROM events GROUP BY aggregate_id ORDER BY random()
			ON CONFLICT (id) DO UPDATE SET total = s.total + excluded.total, events = s.events + excluded.events;
			RETURN NULL;
		END $$;

	SELECT cqrs.create_projection('account', 'account_handle(cqrs.event)', '{account}', mode => 'inline');
	SELECT cqrs.create_projection('region', 'region_handle()', '{region}', mode => 'inline',
		key => $$payload->>'region'$$);
	SELECT cqrs.create_projection('summary', 'summary_handle()', '{summary}', mode => 'inline');
});

# A statement that publishes for so many different aggregates, in random order, of a number of them.
sub statement
{
	my ($events, $of) = @_;

	return "INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'Account', 'a' || n, 'Paid', jsonb_build_object('amount', n + (random() * 10)::int,
			'region', 'r' || (n * 7919 % 5))
		FROM (SELECT n FROM generate_series(1, $of) AS n ORDER BY random() LIMIT $events) AS chosen;\n";
}

# Runs transactions of these scripts in all clients, and tests that none of them fails.
sub run_publishers
{
	my ($what, $transactions, $tries, %scripts) = @_;

	# a run's files may not have the names of another one's
	my $run = ++$runs;
	%scripts = map { ("${run}_$_" => $scripts{$_}) } keys %scripts;

	# pgbench's exit status is 0 also if transactions failed because of deadlocks
	$node->pgbench(
		"--no-vacuum --client=$clients --jobs=2 --transactions=$transactions --max-tries=$tries",
		0, [ qr{number of failed transactions: 0 \(}, qr{processed: (\d+)/\1\b} ], [qr{^$}], $what, \%scripts);
	return;
}

# Tests that the read tables are what the events make of them.
sub compare
{
	my ($what) = @_;
	my %keys = (account => 'aggregate_id', region => q{payload->>'region'}, summary => 'aggregate_id');

	foreach my $table (sort keys %keys)
	{
		my $computed = "SELECT $keys{$table} AS id, sum((payload->>'amount')::bigint)::bigint AS total, count(*) AS events
			FROM cqrs.outbox GROUP BY 1";
		is($node->safe_psql('postgres', "SELECT count(*) FROM (TABLE $table EXCEPT $computed) AS x"),
			'0', "$what: nothing wrong in $table");
		is($node->safe_psql('postgres', "SELECT count(*) FROM ($computed EXCEPT TABLE $table) AS x"),
			'0', "$what: nothing missing in $table");
	}
	return;
}

# --- one statement a transaction

my $offset = -s $node->logfile;
run_publishers(
	'single statements',
	150, 1,
	'one_row@6' => statement(1, $aggregates),
	'some_rows@4' => statement(3, $aggregates),
	'all_rows@2' => statement($aggregates, $aggregates),
	'function@4' => "\\set key random(1, $aggregates)\n"
	  . "SELECT cqrs.publish('Account', 'a' || :key, 'Paid', '{\"amount\": 1, \"region\": \"r1\"}');\n");
compare('single statements');

# So many keys that they are not locked one by one, beside few.
run_publishers(
	'single statements with many keys',
	20, 1,
	'many_rows@1' => statement(200, 300),
	'some_rows@4' => statement(5, 300));
compare('many keys');
ok(!$node->log_contains(qr/deadlock detected/, $offset), 'no deadlock');

# --- several statements a transaction

# These may deadlock, as any transactions may that lock in different orders; then one is rolled back.
run_publishers(
	'several statements',
	25, 1000,
	'two@2' => 'BEGIN;' . statement(1, 30) . statement(2, 30) . 'COMMIT;',
	'savepoint@2' => 'BEGIN;'
	  . statement(1, 30)
	  . 'SAVEPOINT s;'
	  . statement(2, 30)
	  . "ROLLBACK TO s;\n"
	  . statement(1, 30)
	  . 'COMMIT;',
	'rollback@1' => 'BEGIN;' . statement(3, 30) . 'ROLLBACK;');
compare('several statements');

# --- stricter isolation levels

# A snapshot that is older than the lock would show old rows: then the publisher must fail, to try again.
foreach my $level ('repeatable read', 'serializable')
{
	local $ENV{PGOPTIONS} = "-c default_transaction_isolation=" . ($level =~ s/ /\\ /r);
	run_publishers(
		$level, 20, 1000,
		'one_row@2' => statement(1, $aggregates),
		'some_rows@1' => statement(3, $aggregates),
		'two@1' => 'BEGIN;' . statement(1, $aggregates) . statement(1, $aggregates) . 'COMMIT;');
	compare($level);
}

# --- notifications

# A worker sends them, after commit: a publisher would take a lock that all notifying commits share.
my $listener = $node->background_psql('postgres');
ok($node->safe_psql('postgres', "SELECT cqrs.wait_for('account')"), 'caught up');
poll_ok($node, 'postgres',
	"SELECT events_processed = (SELECT count(*) FROM cqrs.outbox) FROM cqrs.projection_status WHERE name = 'account'",
	'the workers have counted all events');
$listener->query_safe('LISTEN account');
my $publisher = $node->safe_psql('postgres',
	"SELECT cqrs.publish('Account', 'a1', 'Paid', '{\"amount\": 1, \"region\": \"r1\"}'); SELECT pg_backend_pid()");
my $heard = '';
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$heard = $listener->query_safe('SELECT 1');
	last if $heard =~ /payload/;
	usleep(100_000);
}
like($heard, qr/"account" with payload .*"events": 1, "keys": \["a1"\]/, 'a listener hears of an inline projection');
my ($sender) = $heard =~ /process with PID (\d+)/;
ok((grep { $_ == $sender } worker_pids($node, 'postgres')), 'from a worker');
$listener->quit;

# Nobody waits for the worker but listeners, so under a stream of events it rests 10 ms after each batch.
my $batches = "SELECT batches FROM cqrs.projection_status WHERE name = 'account'";
my $before = $node->safe_psql('postgres', $batches);
my $started = time;
$node->safe_psql('postgres', join(";\n", ("SELECT cqrs.publish('Account', 'a1', 'Paid', '{\"amount\": 1, \"region\": \"r1\"}')") x 2000));
my $passed = 1000 * (time - $started);
cmp_ok($node->safe_psql('postgres', $batches) - $before, '<', $passed / 10 + 5, 'events that follow each other are told together');

$node->stop;
done_testing();
