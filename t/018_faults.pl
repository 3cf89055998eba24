# Whatever goes wrong, every event is accounted for exactly once: by each projection's read table, or by its dead letters.
#
# A run publishes some random events, of which some make handlers fail: for good, now and then, for a reason that is
# nobody's fault, or by not returning. Now and then a run also cancels, terminates or kills a worker, kills the postmaster,
# shuts the server down immediately, has dead letters retried, or pauses a projection. There is a
# projection of each kind of handler in each mode. From time to time it is counted what has become of the events, and in
# the end, with handlers that are mended, all of them are to be in all read tables, in order.
#
# A disk that is full is tried by itself, where the machine lets a user mount a small tmpfs.
#
# environment:
#   CQRS_FAULT_RUNS  how many runs (default 1000)
#   CQRS_FAULT_SEED  draws the same events and faults again (the schedule is the machine's, though)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $runs = $ENV{CQRS_FAULT_RUNS} || 1000;
my $seed = $ENV{CQRS_FAULT_SEED} || int(rand(1_000_000)) + 1;
my $runs_per_check = 250;
my @kinds = qw(batched folded singly viewed);
my @modes = qw(async inline);
my @policies = qw(park skip);
my %names;    # of projections, to their kind and mode
my $node;

# what a run does besides publishing: of 1,000 runs, so many
my @faults = (
	[ 60, 'cancel', sub { on_a_worker('pg_cancel_backend') } ],
	[ 30, 'terminate', sub { on_a_worker('pg_terminate_backend') } ],
	[ 30, 'retry', sub { attempt("SELECT cqrs.retry_dead_letters('" . one_of(grep { !/inline/ } sort keys %names) . "')") } ],
	[ 15, 'pause', sub { my $name = one_of(grep { !/inline/ } sort keys %names);
			attempt("SELECT cqrs.pause_projection('$name'); SELECT cqrs.resume_projection('$name')") } ],
	[ 8, 'kill a worker', \&kill_worker ],
	[ 3, 'kill the postmaster', sub { kill_postmaster($node) } ],
	[ 4, 'immediate', sub { $node->stop('immediate'); $node->start } ],
	[ 2, 'restart', sub { $node->restart } ]);
my %done;

srand($seed);
diag("CQRS_FAULT_SEED=$seed CQRS_FAULT_RUNS=$runs");

$node = new_server(
	'faults',
	restart_after_crash => 'on',
	log_statement => 'none',
	log_min_error_statement => 'panic',
	log_connections => 'off',
	log_disconnections => 'off',
	'cqrs_views.handler_timeout' => '150ms',
	'cqrs_views.max_retries' => 2,
	'cqrs_views.retry_delay' => '5ms',
	'cqrs_views.max_retry_delay' => '50ms');
create_database($node, 'postgres');
define_projections();
foreach my $run (1 .. $runs)
{
	run($run);
	account("after $run runs") if $run % $runs_per_check == 0 || $run == $runs;
}
note(join ', ', map { "$_: $done{$_}" } sort keys %done);

sql(q{CREATE OR REPLACE FUNCTION value_of(payload jsonb, mode text) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'});
isnt(sql("SELECT count(*) FROM cqrs.parked WHERE projection IN (SELECT id FROM cqrs.registry)"), 0, 'there was something to put aside');
sql("SELECT cqrs.retry_dead_letters(name) FROM cqrs.projection");
is(sql('SELECT count(*) FROM cqrs.parked'), 0, 'mended, nothing is aside');
account('mended');

# it would be seen if an event were lost or repeated
sql(q{SET cqrs_views.allow_writes = on;
	DELETE FROM singly_async WHERE n = (SELECT min(n) FROM singly_async);
	INSERT INTO batched_async (id, position, v) SELECT id, position, v FROM batched_async LIMIT 1;
	UPDATE folded_async SET positions = positions[2:] WHERE id = (SELECT min(id) FROM folded_async);
	UPDATE viewed_async SET n = n + 1 WHERE id = (SELECT min(id) FROM viewed_async)});
is(wrong("${_}_async"), 1, "$_: a mistake would be seen") foreach @kinds;
$node->stop;

disk_full();
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Runs what may fail.
sub attempt
{
	$node->psql('postgres', $_[0], on_error_stop => 0);
	return;
}

sub one_of
{
	return $_[ int(rand(@_)) ];
}

sub define_projections
{
	sql(q{
		CREATE FUNCTION value_of(payload jsonb, mode text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
		DECLARE
			fault text := payload->>'fault';
		BEGIN
			IF fault = 'none' THEN
				NULL;
			ELSIF fault = 'nobody' THEN
				IF random() < 0.3 THEN
					RAISE 'nobody''s fault' USING ERRCODE = ('{40001,40P01,53100,53200,57014,08006}'::text[])[1 + floor(random() * 6)::int];
				END IF;
			ELSIF fault = 'flaky' THEN
				IF random() < 0.5 THEN
					RAISE 'flaky';
				END IF;
			ELSIF fault = 'hang' THEN
				IF mode = 'async' THEN
					PERFORM pg_sleep(3600);
				END IF;
			ELSIF fault = mode THEN
				RAISE 'bad';
			END IF;
			RETURN 1;
		END $$});
	foreach my $policy (@policies)
	{
		foreach my $mode (@modes)
		{
			next if $policy eq 'skip' && $mode eq 'inline';
			foreach my $kind (@kinds)
			{
				my $name = "${kind}_${mode}" . ($policy eq 'park' ? '' : "_$policy");

				define($name, $kind, $mode, $policy);
				$names{$name} = [ $kind, $mode ];
			}
		}
	}
	return;
}

# Each keeps the positions that it has applied: rows in order, an array per key, or a count and a sum per key.
sub define
{
	my ($name, $kind, $mode, $policy) = @_;
	my $arguments = "mode => '$mode', on_error => '$policy'";

	if ($kind eq 'viewed')
	{
		sql("SELECT cqrs.create_view('$name', 'SELECT aggregate_id AS id, count(*) AS n, sum(position) AS positions,
			sum(value_of(payload, ''$mode'')) AS total FROM events GROUP BY 1', $arguments)");
		return;
	}
	sql($kind eq 'folded' ? "CREATE TABLE $name (id text PRIMARY KEY, positions bigint[] NOT NULL)" :
		"CREATE TABLE $name (n bigint GENERATED ALWAYS AS IDENTITY, id text, position bigint, v int)");
	my %handlers = (
		batched => ['', '', 'trigger', "INSERT INTO $name (id, position, v) SELECT aggregate_id, position, value_of(payload, '$mode')
			FROM events ORDER BY position; RETURN NULL"],
		folded => ["state $name, e cqrs.event", "$name, cqrs.event", $name,
			"PERFORM value_of(e.payload, '$mode'); state.positions := state.positions || e.position; RETURN state"],
		singly => ['e cqrs.event', 'cqrs.event', 'void', "INSERT INTO $name (id, position, v)
			VALUES (e.aggregate_id, e.position, value_of(e.payload, '$mode'))"]);
	my ($parameters, $types, $result, $body) = @{ $handlers{$kind} };
	sql("CREATE FUNCTION handle_$name($parameters) RETURNS $result LANGUAGE plpgsql AS \$\$ BEGIN $body; END \$\$;
		SELECT cqrs.create_projection('$name', 'handle_$name($types)', '{$name}', $arguments)");
	return;
}

# One run: random events in up to three transactions, then perhaps a fault.
sub run
{
	my ($run) = @_;
	my @statements;

	foreach (1 .. 1 + int(rand(3)))
	{
		my @events = map { sprintf "('T', 'k%d_%d', 'E', '{\"fault\": \"%s\"}')", $run / 20, rand(6), random_fault() } 1 .. 1 + int(rand(12));
		push @statements, 'INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload) VALUES ' . join(', ', @events) . ';';
	}
	attempt(rand() < 0.2 ? "BEGIN; @statements COMMIT;" : "@statements");

	my $draw = rand(1000);
	foreach my $fault (@faults)
	{
		my ($share, $name, $action) = @$fault;

		if ($draw >= 0 && $draw < $share)
		{
			$done{$name}++;
			$action->();
		}
		$draw -= $share;
	}
	return;
}

sub random_fault
{
	my $draw = rand(1000);

	return $draw < 12 ? 'async' : $draw < 16 ? 'inline' : $draw < 30 ? 'nobody' : $draw < 42 ? 'flaky' : $draw < 42.4 ? 'hang' : 'none';
}

sub on_a_worker
{
	my ($function) = @_;

	usleep(rand(20_000));
	attempt("SELECT $function(pid) FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker' ORDER BY random() LIMIT 1");
	return;
}

sub kill_worker
{
	my @pids = worker_pids($node, 'postgres');

	return if !@pids;
	kill 'KILL', one_of(@pids);
	wait_for_server();
	return;
}

# Between the crash of a process and the recovery, connections fail.
sub wait_for_server
{
	usleep(50_000);
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	return;
}

# Each projection has each event applied or put aside, once, and the order of each key is right.
sub account
{
	my ($when) = @_;

	foreach my $name (sort keys %names)
	{
		my ($kind) = @{ $names{$name} };

		is(sql("SELECT cqrs.wait_for('$name', '2 minutes')") . ', ' . wrong($name), 't, 0', "$name, $when: every event is accounted for")
		  or diag(sql("SELECT s FROM cqrs.projection_status AS s WHERE name = '$name'"));
		next if $kind eq 'viewed' || $name =~ /skip/;
		is(sql($kind eq 'folded' ? "SELECT count(*) FROM $name WHERE positions <> ARRAY(SELECT unnest(positions) ORDER BY 1)" :
				"SELECT count(*) FROM (SELECT position < lag(position) OVER (PARTITION BY id ORDER BY n) AS wrong FROM $name) AS l WHERE wrong"),
			0, "$name, $when: in order");
	}
	return;
}

# How many events (of a view: keys) are lost, repeated, or not what they should be? In one snapshot, since workers try
# parked events again meanwhile.
sub wrong
{
	my ($name) = @_;
	my $kind = $names{$name}->[0];
	my $parked = "(SELECT position, key FROM cqrs.parked WHERE projection = (SELECT id FROM cqrs.registry WHERE name = '$name'))";
	my $found = $kind eq 'folded' ? "(SELECT id, unnest(positions) AS position FROM $name)" : "(SELECT id, position FROM $name)";

	return sql("WITH expected AS (SELECT aggregate_id AS id, count(*) AS n, sum(position) AS positions FROM cqrs.outbox
			WHERE position NOT IN (SELECT position FROM $parked AS p) GROUP BY 1)
		SELECT count(*) FROM (SELECT id, n, positions FROM $name) AS v FULL JOIN expected AS e USING (id)
		WHERE (v.n, v.positions) IS DISTINCT FROM (e.n, e.positions)")
	  if $kind eq 'viewed';
	return sql("SELECT count(*) FROM (SELECT aggregate_id AS id, position FROM cqrs.outbox) AS o
		FULL JOIN (SELECT id, position, count(*) FROM (SELECT id, position FROM $found AS f
				UNION ALL SELECT key, position FROM $parked AS p) AS x GROUP BY 1, 2) AS x USING (id, position)
		WHERE o IS NULL OR x IS NULL OR x.count <> 1");
}

# Read tables on a disk that fills up: retried until there is room again.
sub disk_full
{
	my $directory = PostgreSQL::Test::Utils::tempdir();
	my $uid = $<;
	my $gid = (split / /, $()[0];
	my @small = ('unshare', '--user', '--map-root-user', '--mount', 'sh', '-c', "mount -t tmpfs -o size=24M,mode=700 tmpfs $directory &&
		exec unshare --user --map-user=$uid --map-group=$gid \"\$@\"", 'small');

  SKIP:
	{
		skip 'no tmpfs can be mounted by a user here', 5
		  if system("@small[0 .. 5] '$small[6]' small true >/dev/null 2>&1") != 0;
		my $full = PostgreSQL::Test::Cluster->new('full');

		$full->init;
		$full->append_conf('postgresql.conf', "shared_preload_libraries = 'cqrs_views'\ncqrs_views.max_retries = 1
			cqrs_views.retry_delay = '20ms'\ncqrs_views.max_retry_delay = '100ms'");
		system_or_bail(@small, 'pg_ctl', '-w', '-D', $full->data_dir, '-l', $full->logfile, '-o', '--cluster-name=full', 'start');
		$full->_update_pid(1);
		create_database($full, 'postgres');
		$full->safe_psql('postgres', "CREATE TABLESPACE small LOCATION '$directory'");
		$full->safe_psql('postgres', q{
			CREATE TABLE ballast TABLESPACE small AS SELECT repeat(md5(i::text), 200) AS t FROM generate_series(1, 1500) AS i;
			ALTER TABLE ballast ALTER t SET STORAGE EXTERNAL;
			CREATE TABLE singly (position bigint, filler text) TABLESPACE small;
			CREATE TABLE batched (position bigint, filler text) TABLESPACE small;
			ALTER TABLE singly ALTER filler SET STORAGE PLAIN;
			ALTER TABLE batched ALTER filler SET STORAGE PLAIN;
			CREATE FUNCTION singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
				'BEGIN INSERT INTO singly VALUES (e.position, repeat(''x'', 4000)); END';
			CREATE FUNCTION batched() RETURNS trigger LANGUAGE plpgsql AS
				'BEGIN INSERT INTO batched SELECT position, repeat(''x'', 4000) FROM events; RETURN NULL; END';
			CREATE TABLE fill (t text) TABLESPACE small;
			ALTER TABLE fill ALTER t SET STORAGE PLAIN;
			SELECT cqrs.create_projection('singly', 'singly(cqrs.event)', '{singly}');
			SELECT cqrs.create_projection('batched', 'batched()', '{batched}')});
		my $from = -s $full->logfile;

		# leave less room than the read tables need
		foreach (1 .. 100)
		{
			last if $full->psql('postgres', "INSERT INTO fill SELECT repeat('x', 8000) FROM generate_series(1, 50)") != 0;
		}
		$full->safe_psql('postgres', "SELECT count(cqrs.publish('T', 'k' || i % 7, 'E')) FROM generate_series(1, 400) AS i");
		ok($full->wait_for_log(qr/projection "$_" will be retried: could not extend file .*No space left on device/, $from), "disk full: $_ is retried")
		  foreach qw(singly batched);
		is($full->safe_psql('postgres', 'SELECT count(*) FROM cqrs.parked'), 0, 'disk full: nothing is put aside');
		$full->safe_psql('postgres', 'DROP TABLE ballast, fill');
		foreach my $name (qw(singly batched))
		{
			is($full->safe_psql('postgres', "SELECT cqrs.wait_for('$name', '1 minute'); SELECT count(*), count(DISTINCT position) FROM $name"),
				"t\n400|400", "disk full: with room again, $name has each event once");
		}
		$full->stop;
	}
	return;
}
