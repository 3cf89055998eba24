# Positions are drawn long before they become visible, and transaction ids long before that, so whoever reads
# the outbox in either order loses events or turns causes and effects around. Here many writers do whatever
# makes that likely, workers are killed and the server crashes meanwhile, and then it is counted what each
# projection lost, repeated, or handled out of the order of its key or of causes and effects: nothing.
#
# Writers lock the aggregate that they publish for, and number its events under that lock (aggregate_version):
# that is the order per key. They note which transaction published an event, and what was visible when its
# position was drawn (table drawn): that makes the causal order.
#
# Two controls say whether there was anything to get wrong. A reader of "position > last" must lose events in
# the same run, and the order of transaction ids must contradict the causal order; otherwise the test fails.
#
# environment:
#   CQRS_TORTURE_SECONDS  how long the writers write altogether (default 45)
#   CQRS_TORTURE_SEED     makes the same scripts again (the schedule is the machine's, though)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $writers = 15;
my $aggregates = 100;
my $seconds = $ENV{CQRS_TORTURE_SECONDS} || 45;
my $seed = $ENV{CQRS_TORTURE_SEED} || int(rand(1_000_000)) + 1;
my @levels = ('read committed', 'repeatable read', 'serializable');
my @phases = qw(crash restart end);

# read table, kind, arguments, the events that it wants
my @projections = (
	[ 'each', 'event', '', 'true' ],
	[ 'each_small', 'event', 'batch_size => 3', 'true' ],
	[ 'batch', 'batch', '', 'true' ],
	[ 'batch_small', 'batch', 'batch_size => 7', 'true' ],
	[ 'odd', 'batch', "event_types => '{Odd}', batch_size => 20", q{event_type = 'Odd'} ],
	[ 'at_once', 'event', "mode => 'inline'", 'true' ],
	[ 'switched', 'event', 'batch_size => 50', 'true' ],
	[ 'paused', 'batch', '', 'true' ],
);

srand($seed);
diag("CQRS_TORTURE_SEED=$seed CQRS_TORTURE_SECONDS=$seconds");

my $node = new_server(
	'writers',
	wal_level => 'replica',
	restart_after_crash => 'on',
	max_connections => 60,
	max_prepared_transactions => 100,
	autovacuum_naptime => '1s',
	deadlock_timeout => '100ms',
	log_statement => 'none',
	log_min_messages => 'warning',
	log_min_error_statement => 'panic',
	log_connections => 'off',
	log_disconnections => 'off');
my $directory = PostgreSQL::Test::Utils::tempdir();
my $prepared = 0;

# A transaction of another database that has an id and stays open through everything, crashes included.
$node->safe_psql('postgres', "BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'stranger'");
torture("level$_", $levels[$_]) foreach 0 .. $#levels;
is($node->safe_psql('postgres', "SELECT gid FROM pg_prepared_xacts"),
	'stranger', 'the transaction of another database has been open the whole time');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'stranger'");
$node->stop;
done_testing();

# The whole test in one database, whose sessions have this isolation level unless they say otherwise.
sub torture
{
	my ($database, $level) = @_;

	prepare($database, $level);
	foreach my $phase (@phases)
	{
		run_phase($database, $phase, $seconds / @levels / @phases);
		resolve_prepared($database, $phase eq 'end');
	}
	check($database, $level);
	return;
}

sub prepare
{
	my ($database, $level) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql('postgres', "ALTER DATABASE $database SET default_transaction_isolation = '$level'");

	# becoming inline needs a snapshot that is newer than its locks
	local $ENV{PGOPTIONS} = '-c default_transaction_isolation=read\ committed';
	$node->safe_psql(
		$database, qq{
		CREATE EXTENSION cqrs_views;
		CREATE TABLE aggregate (id text PRIMARY KEY, version bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
		INSERT INTO aggregate SELECT 'a' || n FROM generate_series(1, $aggregates) AS n UNION SELECT 'late';
		CREATE TABLE drawn (position bigint PRIMARY KEY, xid xid8 NOT NULL, visible pg_snapshot NOT NULL);
		CREATE TABLE naive_log (position bigint NOT NULL);

		-- publishes an event for each key, having locked its aggregate
		CREATE PROCEDURE write(keys text[], type text) LANGUAGE plpgsql AS \$\$
			DECLARE
				k text;
				visible pg_snapshot;
			BEGIN
				FOREACH k IN ARRAY keys LOOP
					UPDATE aggregate SET version = version + 1 WHERE id = k;
				END LOOP;
				visible := pg_current_snapshot();
				WITH published AS (
					INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, aggregate_version, event_type)
					SELECT 'Aggregate', id, version, type FROM aggregate WHERE id = ANY (keys)
					RETURNING position)
				INSERT INTO drawn SELECT position, pg_current_xact_id(), visible FROM published;
			END \$\$;

		-- the control: what everybody writes first
		CREATE PROCEDURE read_naively(until timestamptz) LANGUAGE plpgsql AS \$\$
			DECLARE
				last bigint := coalesce(max(position), 0) FROM naive_log;
			BEGIN
				LOOP
					WITH new AS (
						INSERT INTO naive_log SELECT position FROM cqrs.outbox WHERE position > last
						RETURNING position)
					SELECT coalesce(max(position), last) INTO last FROM new;
					COMMIT;
					EXIT WHEN clock_timestamp() > until;
					PERFORM pg_sleep(0.01);
				END LOOP;
			END \$\$;
	});
	$node->safe_psql($database, join '', map { "CREATE TABLE early$_ ();" } 1 .. $writers);
	foreach my $projection (@projections)
	{
		my ($name, $kind, $arguments) = @$projection;
		create_log_projection($node, $database, $name, kind => $kind, arguments => $arguments);
	}
	poll_ok($node, $database, "SELECT bool_and(state = 'running') FROM cqrs.projection_status",
		"$level: all projections run");
	return;
}

# Lets the writers write for some time, ending workers now and then; ends as the phase's name says.
sub run_phase
{
	my ($database, $phase, $duration) = @_;
	my $deadline = time + $duration;
	my $read_committed = "SET default_transaction_isolation = 'read committed';\n";
	my @sessions;
	my $switch;
	my $stranger;
	my $late = '';

	push @sessions, start_session($database, "${phase}_$_", writer_script($_, $deadline, $duration))
	  foreach 1 .. $writers;

	# one that is always late, and fails for nothing that the others do, so that the controls can rely on it
	push @sessions,
	  start_session(
		$database,
		"${phase}_late",
		$read_committed . until_deadline($deadline,
			("BEGIN;\nSELECT pg_current_xact_id();\nSELECT pg_sleep(0.3);\nCALL write('{late}', 'Odd');\n"
				  . "SELECT pg_sleep(0.5);\nCOMMIT;\n") x 1000));
	push @sessions,
	  start_session($database, "${phase}_naive",
		"${read_committed}CALL read_naively(to_timestamp($deadline + 0.5));\n");
	push @sessions,
	  start_session($database, "${phase}_vacuum",
		"SET lock_timeout = '1s';\n" . until_deadline($deadline,
			("VACUUM;\nSELECT pg_sleep(0.2);\nANALYZE;\nSELECT pg_sleep(0.2);\n") x 1000));
	$switch = start_session(
		$database,
		"${phase}_switch",
		$read_committed . until_deadline($deadline,
			map { "SELECT cqrs.$_;\nSELECT pg_sleep(0.6);\n" } (
				"alter_projection('switched', mode => 'inline')", "pause_projection('paused')",
				"alter_projection('switched', mode => 'async')", "resume_projection('paused')") x 1000));
	$stranger = $node->background_psql('postgres', on_error_stop => 0);
	$stranger->query('BEGIN; SELECT pg_current_xact_id()');

	# these moments are a part of the scenario, not a wait for anything
	while (time < $deadline)
	{
		usleep(1000 * (300 + int(rand(700))));
		my @workers = worker_pids($node, $database);
		kill 'TERM', $workers[ rand @workers ] if @workers && rand() < 0.5;
		$late = $node->safe_psql($database, $read_committed . waiting_for('each')) if $late eq '' && rand() < 0.3;
	}

	# Whatever the strangers hold open, what is committed by now is soon handled.
	if ($phase eq 'end')
	{
		$switch->finish;
		$node->safe_psql($database, "${read_committed}SELECT cqrs.resume_projection('paused')");
		$late = $node->safe_psql($database, $read_committed . join '', map { waiting_for($_->[0]) } @projections)
		  if $late eq '';
		$stranger->query_safe('COMMIT');
	}
	elsif ($phase eq 'crash')
	{
		kill_a_worker($database);
	}
	else
	{
		$node->stop('immediate');
	}
	$stranger->quit;
	$_->finish foreach @sessions, $phase eq 'end' ? () : $switch;
	$node->start if $phase eq 'restart';
	is($late, '', "$database, $phase: the projections keep up while other transactions stay open");
	return;
}

# A query that returns the name of a projection that does not keep up.
sub waiting_for { my ($name) = @_; return "SELECT '$name' WHERE NOT cqrs.wait_for('$name', '15 seconds');\n" }

# A query for the number of events that a projection wants and has not handled.
sub lost
{
	my ($name, undef, undef, $wanted) = @{ $_[0] };

	return "SELECT count(*) FROM cqrs.outbox o WHERE $wanted
		AND NOT EXISTS (SELECT FROM ${name}_log l WHERE l.position = o.position)";
}

# Starts a psql that runs a script, and goes when the server does.
sub start_session
{
	my ($database, $name, $script) = @_;
	my $file = "$directory/${database}_$name";

	append_to_file("$file.sql", $script);
	return IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr($database), '-f', "$file.sql" ],
		'<', \undef, '>', "$file.out", '2>', "$file.err");
}

# Lets a script end at a time: before each of its parts it looks at the clock.
sub until_deadline
{
	my ($deadline, @parts) = @_;

	return join '',
	  map { "SELECT clock_timestamp() > to_timestamp($deadline) AS done \\gset\n\\if :done\n\\q\n\\endif\n$_" } @parts;
}

# A script of random transactions, more of them than there is time for.
sub writer_script
{
	my ($writer, $deadline, $duration) = @_;

	# without scans of tables, which make any two serializable transactions conflict
	return "SET lock_timeout = '1s';\nSET synchronous_commit = off;\nSET enable_seqscan = off;\n"
	  . until_deadline($deadline, map { transaction($writer) } 1 .. 50 + 30 * $duration);
}

sub transaction
{
	my ($writer) = @_;
	my $quick = chance(0.5);
	my $sql = "BEGIN;\n";

	# Takes its transaction id long before it publishes. LOCK does that without a snapshot, which matters
	# where the transaction will have only one; sleeping must be done outside of the server then.
	$sql .= pick("SELECT pg_current_xact_id();\n" . nap(0.3),
		sprintf "LOCK early$writer;\n\\! sleep %.3f\n", rand 0.3)
	  if !$quick && chance(0.5);
	foreach (1 .. 1 + rand 3)
	{
		if (chance(0.3))
		{
			$sql .= "SAVEPOINT one;\n" . events();
			$sql .= "SAVEPOINT two;\n" . events() . pick("ROLLBACK TO two;\n", "RELEASE two;\n") if chance(0.4);
			$sql .= pick("ROLLBACK TO one;\n", "RELEASE one;\n");
		}
		else
		{
			$sql .= events();
		}
		$sql .= nap(0.05) if !$quick && chance(0.5);
	}

	# stays open long after it has published
	$sql .= nap(1.2) if !$quick && chance(0.15);
	return $sql . "ROLLBACK;\n" if chance(0.1);
	return $sql . "COMMIT;\n" if !chance(0.1);

	my $name = 'p' . ++$prepared;
	$sql .= "PREPARE TRANSACTION '$name';\n" . nap(0.6);
	return $sql . (chance(0.7) ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name';\n";
}

# Events of one aggregate, or of several in a random order.
sub events
{
	my %keys = map { ('a' . (1 + int(rand $aggregates))) => 1 } 1 .. (chance(0.8) ? 1 : 3);
	return "CALL write('{" . join(',', keys %keys) . "}', '" . pick('Odd', 'Even') . "');\n";
}

sub nap { my ($longest) = @_; return sprintf "SELECT pg_sleep(%.3f);\n", rand $longest }
sub chance { my ($probability) = @_; return rand() < $probability }
sub pick { return $_[ rand @_ ] }

# Commits or rolls back what a crash has left prepared: some of it, or all.
sub resolve_prepared
{
	my ($database, $all) = @_;

	foreach my $name (split /\n/,
		$node->safe_psql($database, 'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()'))
	{
		next if !$all && chance(0.3);
		$node->safe_psql($database, (chance(0.7) ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$name'");
	}
	return;
}

# Kills a worker, so that the server crashes, and waits until it is back.
sub kill_a_worker
{
	my ($database) = @_;
	my $offset = -s $node->logfile;

	# one that was terminated a moment ago may be gone before it is killed
	until ($node->log_contains(qr/terminated by signal 9/, $offset))
	{
		my ($worker) = worker_pids($node, $database);
		kill 'KILL', $worker if defined $worker;
		usleep(200_000);
	}
	$node->wait_for_log(qr/terminated by signal 9.*ready to accept connections/s, $offset);
	return;
}

# Counts what went wrong, and what could have.
sub check
{
	my ($database, $level) = @_;
	my ($events, $skipped, $pairs, $contrary) = split /\|/,
	  $node->safe_psql(
		$database, q{
		SET default_transaction_isolation = 'read committed';
		CALL read_naively(now());

		-- pairs of events of which one was visible when the other one's position was drawn; of millions, a part
		CREATE TABLE causal AS
		SELECT a.position AS cause, b.position AS effect, a.xid > b.xid AS contrary
		FROM (SELECT drawn.* FROM drawn JOIN cqrs.outbox USING (position)
				ORDER BY random() LIMIT 1000) AS b
			JOIN (SELECT drawn.* FROM drawn JOIN cqrs.outbox USING (position)) AS a
				ON a.position < b.position AND a.position > b.position - 3000
				AND pg_visible_in_snapshot(a.xid, b.visible);
		ANALYZE causal;
		SELECT (SELECT count(*) FROM cqrs.outbox),
			(SELECT count(*) FROM cqrs.outbox o WHERE NOT EXISTS
				(SELECT FROM naive_log n WHERE n.position = o.position)),
			count(*), count(*) FILTER (WHERE contrary)
		FROM causal});
	diag("$level: $events events; position > last loses $skipped; "
		  . "transaction ids contradict the causal order in $contrary of $pairs pairs");
	cmp_ok($skipped, '>', 0, "$level, control: reading \"position > last\" loses events");
	cmp_ok($contrary, '>', 0, "$level, control: the order of transaction ids is not causal");

	# one wait for all: where events are lost, it takes its time
	$node->poll_query_until($database, join(' UNION ', map { lost($_) } @projections), '0')
	  or diag($node->safe_psql($database, 'SELECT s FROM cqrs.projection_status s'));
	foreach my $projection (@projections)
	{
		my ($name, undef, undef, $wanted) = @$projection;
		my $lost = lost($projection);

		is( $node->safe_psql(
				$database, qq{
				SELECT format('lost %s, repeated %s, out of key order %s, out of causal order %s',
					($lost),
					(SELECT count(*) - count(DISTINCT o.position) FROM ${name}_log l
						LEFT JOIN cqrs.outbox o ON o.position = l.position AND $wanted),
					(SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY key ORDER BY seq)
						AS before FROM ${name}_log) AS v WHERE version <= before),
					(SELECT count(*) FROM causal JOIN ${name}_log a ON a.position = cause
						JOIN ${name}_log b ON b.position = effect WHERE a.seq > b.seq))}),
			'lost 0, repeated 0, out of key order 0, out of causal order 0',
			"$level, $name");
	}
	poll_ok($node, $database, "SELECT bool_and(state = 'running') FROM cqrs.projection_status",
		"$level: all projections still run");
	return;
}
