# A view's read table must hold what its query says of all events in the order of position, however the events came:
# committed late, in any batches, in the publisher's transaction or after it, before the view was created or
# later, with rollbacks, pauses, changes of mode and rebuilds meanwhile.
#
# In each round forty random views (t/lib/CqrsRandomView.pm) share a stream of random events, written by sessions that
# do what t/020_random_writers.pl does. A third of the views is there before the first event; others are created when
# there is a history, when writers write, and at the end. At quiet points the read tables are compared with the
# references, both ways, and their columns with those of the queries. A view that differs is made smaller, by having
# the same transactions commit again in the same order, before it is shown.
#
# Controls: events must have committed late; and a reference that is wrong must be found out, and its view made small.
#
# environment:
#   CQRS_TORTURE_SECONDS  how long rounds are begun (default 35)
#   CQRS_TORTURE_SEED     makes the same views and scripts again (the schedule is the machine's, though)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsRandomView qw(
  setup_sql random_view render shape comparison reductions
  writer_script straggler_script until_deadline nap quote_name literal chance pick);
use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{CQRS_TORTURE_SECONDS} || 35;
my $seed = $ENV{CQRS_TORTURE_SEED} || int(rand(1_000_000)) + 1;
my $views_per_round = 40;
my $writers = 8;
my $shown_at_most = 3;

# Under these settings views are created and references run, not so what publishes or catches up.
my $read_committed = "SET default_transaction_isolation = 'read committed';\n";
my @styles = (
	[ 'America/New_York', 'ISO, MDY', 'postgres' ],
	[ 'Asia/Kolkata', 'SQL, DMY', 'sql_standard' ],
	[ 'Asia/Shanghai', 'Postgres, MDY', 'postgres_verbose' ],
	[ 'Europe/Berlin', 'German, DMY', 'iso_8601' ]);
my $settings = settings(@{ $styles[0] });
my @other_settings = (
	'',
	"SET TimeZone = 'Asia/Tokyo';\nSET DateStyle = 'German, DMY';\n",
	"SET search_path = '';\nSET IntervalStyle = 'iso_8601';\n",
	"SET extra_float_digits = 0;\nSET bytea_output = 'escape';\nSET array_nulls = off;\n",
	"SET standard_conforming_strings = off;\nSET transform_null_equals = on;\nSET quote_all_identifiers = on;\n",
	"SET plan_cache_mode = force_generic_plan;\nSET session_replication_role = replica;\n");

srand($seed);
diag("CQRS_TORTURE_SEED=$seed CQRS_TORTURE_SECONDS=$seconds");

my $node = new_server(
	'views',
	fsync => 'off',
	max_connections => 60,
	max_prepared_transactions => 100,
	track_commit_timestamp => 'on',
	deadlock_timeout => '100ms',
	log_statement => 'none',
	log_min_messages => 'warning',
	log_min_error_statement => 'panic',
	log_connections => 'off',
	log_disconnections => 'off');
my $directory = PostgreSQL::Test::Utils::tempdir();
my $start = time;
my $files = 0;
my $replays = 0;
my ($rounds, $cases, $events, $late, $shown) = (0, 0, 0, 0, 0);
my %modes;

$node->safe_psql('postgres', 'CREATE ROLE publisher; CREATE ROLE modeller');
prepare_database('prepared');
control();
play(++$rounds) while $rounds < 1 || time - $start < $seconds;
diag("$rounds rounds, $cases comparisons, $events events, $late of them late; "
	  . join(', ', map { "$_ $modes{$_}" } sort keys %modes));
cmp_ok($late, '>', 0, 'control: events committed after events with later positions');
$node->stop;
done_testing();

# ---------------------------------------------------------------------------------------------------------
# A round
# ---------------------------------------------------------------------------------------------------------

sub play
{
	my ($number) = @_;
	my %round = (
		name => "round $number",
		database => "round$number",
		workers => chance(0.7),
		inline => pick(0, 0.15, 0.4),
		isolation => pick('read committed', 'read committed', 'repeatable read', 'serializable'),
		owner => pick('postgres', 'modeller'));
	my @views = map { random_case(\%round, $number * 1000 + $_) } 1 .. $views_per_round;

	$settings = settings(@{ pick(@styles) });
	set_workers($round{workers});
	prepare_database($round{database});
	$node->safe_psql('postgres',
		"ALTER DATABASE $round{database} SET default_transaction_isolation = '$round{isolation}'");
	$round{views} = \@views;
	create_views(\%round, grep { $_->{when} eq 'before' } @views);
	compare(\%round, 'before any event');

	write_events(\%round, grep { $_->{when} eq 'during' } @views);
	compare(\%round, 'after some events');

	$_->{start_at} = 'now' foreach grep { chance(0.15) } grep { $_->{when} eq 'middle' } @views;
	create_views(\%round, grep { $_->{when} eq 'middle' } @views);
	write_events(\%round);
	compare(\%round, 'after more events');

	create_views(\%round, grep { $_->{when} eq 'after' } @views);
	compare(\%round, 'from history');
	rebuild_views(\%round);
	compare(\%round, 'after rebuilds');
	count_events($round{database});
	drop_views(\%round);
	$node->safe_psql('postgres', "DROP DATABASE $round{database} WITH (FORCE)");
	return;
}

sub settings
{
	my ($zone, $dates, $intervals) = @_;

	return "${read_committed}SET search_path = app, public;\nSET TimeZone = '$zone';\nSET DateStyle = '$dates';\n"
	  . "SET IntervalStyle = '$intervals';\n";
}

# A random view, with how it is to be kept.
sub random_case
{
	my ($round, $number) = @_;
	my $name = chance(0.2) ? "View $number \"ä\"" : "view_$number";
	my %case = (
		name => $name,
		table => 'app.' . quote_name($name),
		view => random_view(),
		when => pick(qw(before before before during during middle middle after)),
		mode => chance($round->{inline}) ? 'inline' : 'async',
		batch_size => pick('NULL', 'NULL', 1, 2, 3, 7, 50, 1000),
		notify => pick(qw(keys batch none)),
		start_at => 'beginning');

	$case{event_types} = pick('{A}', '{A,B}', "{It's,Ä}", '{}', '{none}') if chance(0.1);
	$case{aggregate_types} = pick('{order}', '{order,customer}') if chance(0.1);
	$case{sources} = pick('{shop}', '{shop,publisher}') if chance(0.1);
	return \%case;
}

sub set_workers
{
	my ($on) = @_;

	$node->append_conf('postgresql.conf', 'cqrs_views.enabled = ' . ($on ? 'on' : 'off'));
	$node->reload;
	return;
}

sub prepare_database
{
	my ($database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION cqrs_views');
	$node->safe_psql($database, setup_sql());
	$node->safe_psql(
		$database, q{
		SELECT cqrs.grant_publish('publisher');
		GRANT SELECT, TRIGGER ON cqrs.outbox TO modeller;
		GRANT CREATE ON SCHEMA app TO modeller});
	return;
}

# Creates views, each in a transaction of its own.
sub create_views
{
	my ($round, @views) = @_;

	foreach my $case (@views)
	{
		$case->{from} = $case->{start_at} eq 'now'
		  ? $node->safe_psql($round->{database}, 'SELECT coalesce(max(position), 0) FROM cqrs.outbox') : 0;
	}
	return if !@views;
	run_script($round->{database}, creation_script($round->{owner}, @views));
	my %there = map { $_ => 1 } split /\n/, $node->safe_psql($round->{database}, 'SELECT name FROM cqrs.projection');
	foreach my $case (grep { !$there{ $_->{name} } } @views)
	{
		$case->{failed} = 1;
		fail("$round->{name}: all views are created");
		diag('not created: ' . create_call($case));
	}
	return;
}

sub creation_script
{
	my ($owner, @views) = @_;

	return "\\set VERBOSITY verbose\nSET SESSION AUTHORIZATION $owner;\n$settings"
	  . join '', map { 'SELECT ' . create_call($_) . ";\n" } @views;
}

sub create_call
{
	my ($case) = @_;
	my @arguments = (literal($case->{name}), literal(render($case->{view})));

	push @arguments, "$_ => " . literal($case->{$_})
	  foreach grep { defined $case->{$_} } qw(mode event_types aggregate_types sources start_at notify);
	push @arguments, "batch_size => $case->{batch_size}";
	return 'cqrs.create_view(' . join(', ', @arguments) . ')';
}

# The condition of events that a view is about, beyond what its query says.
sub bound
{
	my ($case) = @_;
	my %column = (event_types => 'event_type', aggregate_types => 'aggregate_type', sources => 'source');
	my @conditions = 'position > ' . ($case->{from} // 0);

	foreach my $filter (sort keys %column)
	{
		push @conditions, "$column{$filter} = ANY (" . literal($case->{$filter}) . ')'
		  if defined $case->{$filter} && $case->{$filter} ne '{}';
	}
	return join ' AND ', @conditions;
}

# ---------------------------------------------------------------------------------------------------------
# Sessions
# ---------------------------------------------------------------------------------------------------------

# Has writers write and others meddle, for some time; creates the given views meanwhile. Returns when all is done
# and processed.
sub write_events
{
	my ($round, @during) = @_;
	my $database = $round->{database};
	my $deadline = time + 0.8 + rand 1.2;
	my @sessions = map { start_script($database, writer_script($deadline, pick(@other_settings))) } 1 .. $writers;
	my @there = grep { exists $_->{from} && !$_->{failed} } @{ $round->{views} };

	push @sessions, start_script($database, straggler_script($deadline)) for 1 .. 5;
	push @sessions, start_script($database, meddler_script($deadline, @there)) for 1 .. 2;
	push @sessions, start_script($database, catch_up_script($deadline)) if !$round->{workers} || chance(0.3);
	create_views($round, splice @during, @during / 2);

	# these moments are a part of the scenario, not a wait for anything
	while (time < $deadline)
	{
		usleep(100_000 + rand 500_000);
		my @workers = worker_pids($node, $database);
		kill 'TERM', $workers[ rand @workers ] if @workers && chance(0.4);
	}
	create_views($round, @during);
	$_->finish foreach @sessions;
	$node->safe_psql($database, (chance(0.7) ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_'")
	  foreach split /\n/,
	  $node->safe_psql($database, 'SELECT gid FROM pg_prepared_xacts WHERE database = current_database()');
	settle($round);
	return;
}

# Rebuilds half of the views, but for those that leave history out.
sub rebuild_views
{
	my ($round) = @_;
	my @views = grep { exists $_->{from} && $_->{start_at} ne 'now' && chance(0.5) } @{ $round->{views} };

	run_script($round->{database}, $read_committed
		  . join '', map { 'CALL cqrs.rebuild_projection(' . literal($_->{name}) . ");\n" } @views);
	settle($round);
	return;
}

# Resumes what is paused, and waits until all is processed.
sub settle
{
	my ($round) = @_;
	my $database = $round->{database};
	my $busy = "SELECT count(*) FROM cqrs.projection_status WHERE events_pending > 0 OR state <> 'running'";

	run_script($database, "${read_committed}SELECT format('SELECT cqrs.resume_projection(%L)', name)
		FROM cqrs.projection_status WHERE state = 'paused' \\gexec\n");
	if ($round->{workers})
	{
		$node->poll_query_until($database, "SELECT ($busy AND state <> 'stopped') = 0 OR EXISTS
			(SELECT FROM cqrs.projection_status WHERE state = 'stopped')") or diag('the workers do not come to rest');
	}
	else
	{
		run_script($database, $read_committed . "CALL cqrs.catch_up();\n" x 2);
	}
	is($node->safe_psql($database, $busy =~ s/count\(\*\)/format(E'%s %s: %s\\n', name, state, last_error)/r), '',
		"$round->{name}: all views run");
	return;
}

# Starts a psql that runs a script.
sub start_script
{
	my ($database, $script) = @_;
	my $file = "$directory/script" . ++$files;

	append_to_file("$file.sql", $script);
	return IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr($database), '-f', "$file.sql" ],
		'<', \undef, '>', "$file.out", '2>', "$file.err");
}

# Runs a script in psql, and tests that there was no error in it.
sub run_script
{
	my ($database, $script) = @_;
	my $file = 'script' . ($files + 1);

	start_script($database, $script)->finish;
	my $said = slurp_file("$directory/$file.err");
	fail("a script has no errors") || diag($said) if $said =~ /ERROR|FATAL|server closed/;
	return;
}

# Whatever an owner may do to his views and their read tables while others publish.
sub meddler_script
{
	my ($deadline, @views) = @_;

	return "SELECT pg_sleep(0.1);\n" if !@views;
	my @parts = map {
		my $case = pick(@views);
		my $name = literal($case->{name});
		my $mode = $case->{mode} eq 'inline' ? pick(qw(inline async)) : 'async';

		# a rebuild also processes the events before "now"
		pick(
			$case->{start_at} eq 'now' ? '' : "CALL cqrs.rebuild_projection($name);\n",
			"SELECT cqrs.pause_projection($name);\n" . nap(0.3),
			"SELECT cqrs.resume_projection($name);\n",
			"SELECT cqrs.alter_projection($name, mode => '$mode');\n",
			"SELECT cqrs.alter_projection($name, batch_size => " . pick(0, 1, 5, 100) . ");\n",
			"VACUUM FULL $case->{table};\n",
			"VACUUM $case->{table};\nANALYZE $case->{table};\n",
			"ALTER TABLE $case->{table} SET (fillfactor = " . pick(50, 100) . ");\n",
			"CALL cqrs.catch_up($name);\n") . nap(0.2)
	} 1 .. 100;
	return $read_committed . "SET lock_timeout = '1s';\n" . until_deadline($deadline, @parts);
}

sub catch_up_script
{
	my ($deadline) = @_;

	return $read_committed . pick(@other_settings)
	  . until_deadline($deadline, map { "CALL cqrs.catch_up();\n" . nap(0.1) } 1 .. 1000);
}

# ---------------------------------------------------------------------------------------------------------
# Comparing
# ---------------------------------------------------------------------------------------------------------

# Compares all views that there are with their references.
sub compare
{
	my ($round, $when) = @_;
	my @bad;

	my @there = grep { exists $_->{from} && !$_->{failed} } @{ $round->{views} };
	my $found = differences($round->{database}, @there);

	foreach my $case (@there)
	{
		$cases++;
		$modes{ $case->{mode} }++;
		push @bad, $case if $found->{ $case->{name} } ne '';
	}
	ok(!@bad, "$round->{name}, $when: " . @there . ' views are as their queries say')
	  or diag(scalar(@bad) . " differ; CQRS_TORTURE_SEED=$seed, "
		  . join(', ', map { "$_=$round->{$_}" } qw(workers inline isolation owner)));
	foreach my $case (@bad)
	{
		show($round, $case, $found->{ $case->{name} });
		$case->{failed} = 1;
	}
	return;
}

# Returns for each view, by name, the rows that differ, as text.
sub differences
{
	my ($database, @views) = @_;
	my $mark = 'RESULT OF';
	my $script = "${settings}SET client_min_messages = error;\n";
	my %result = map { $_->{name} => 'there was no result' } @views;
	my $columns = q{array_agg(format('%s %s %s', attname, format_type(atttypid, atttypmod), attcollation::regcollation)
		ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid};

	foreach my $case (@views)
	{
		my $shape = quote_name("shape $case->{name}");
		my $found = "(SELECT $columns = " . literal($case->{table}) . '::regclass)';
		my $expected = "(SELECT $columns = " . literal("pg_temp.$shape") . '::regclass)';

		$script .= "CREATE TEMP TABLE $shape AS " . shape($case->{view}) =~ s/;\s*\z//r . "\nWITH NO DATA;\n"
		  . "SELECT 'columns', found, expected FROM $found AS f (found), $expected AS e (expected)\n"
		  . "WHERE found IS DISTINCT FROM expected;\n"
		  . "SELECT side, left(difference, 400) FROM ("
		  . comparison($case->{view}, $case->{table}, bound($case)) . ") AS d ORDER BY difference, side LIMIT 8;\n"
		  . "DROP TABLE $shape;\n\\echo $mark $case->{name}\n";
	}
	my $file = "$directory/compare" . ++$files;
	append_to_file("$file.sql", $script);
	IPC::Run::run([ $node->installed_command('psql'), '-XAtq', '-d', $node->connstr($database), '-f', "$file.sql" ],
		'<', \undef, '>', "$file.out", '2>&1');
	my $said = '';
	foreach my $line (split /\n/, slurp_file("$file.out"))
	{
		if ($line =~ /^$mark (.*)$/)
		{
			$result{$1} = $said;
			$said = '';
		}
		else
		{
			$said .= "$line\n";
		}
	}
	return \%result;
}

# Counts the events of a round, and those that were committed after one with a later position.
sub count_events
{
	my ($database) = @_;
	my ($all, $after) = split /\|/, $node->safe_psql($database, q{
		SELECT count(*), count(*) FILTER (WHERE position < highest) FROM (
			SELECT position, max(position) OVER (ORDER BY pg_xact_commit_timestamp(xid::xid)
				RANGE BETWEEN UNBOUNDED PRECEDING AND '1 microsecond' PRECEDING) AS highest
			FROM cqrs.outbox) AS o});

	$events += $all;
	$late += $after;
	return;
}

# Drops all views: nothing may be left of them.
sub drop_views
{
	my ($round) = @_;

	run_script($round->{database}, "${read_committed}SELECT format('SELECT cqrs.drop_projection(%L, true)', name)
		FROM cqrs.projection \\gexec\n");
	is( $node->safe_psql(
			$round->{database}, q{
			SELECT oid::regclass FROM pg_class WHERE relnamespace = 'app'::regnamespace AND relkind <> 'c'}),
		'', "$round->{name}: nothing is left of dropped views");
	return;
}

# ---------------------------------------------------------------------------------------------------------
# Making what failed smaller
# ---------------------------------------------------------------------------------------------------------

# Shows a view that differs, and the least that still does.
sub show
{
	my ($round, $case, $rows) = @_;

	diag("$round->{name}: " . create_call($case) . "\ndiffers:\n$rows");
	return if $shown++ >= $shown_at_most;
	set_workers(0);
	my ($small, $events) = shrink(history($round->{database}), $case);
	set_workers($round->{workers});
	diag($small ? description($small, $events)
		: 'It does not when the same events commit one transaction after the other.');
	return;
}

sub description
{
	my ($case, $events) = @_;
	my $call = create_call($case);
	my %fields = map { $_ => 1 } $call =~ /payload"?\s*(?:->>?|\?)\s*''(\w+)''/gi;
	my $xid = '';
	my $text = "Still differs, when " . @$events . " events commit so, in batches of $case->{batch_size}: $call\n"
	  . "by:\n$case->{rows}";
	my $field = qr/"\w+": (?:"(?:[^"\\]|\\.)*"|\{[^}]*\}|\[[^\]]*\]|[^,}]+)/;

	foreach my $event (@$events > 30 ? () : @$events)
	{
		my ($now, $json) = @$event;
		my ($payload) = $json =~ /"payload":(\{.*\}),"metadata"/;
		my @shown = grep { /^"(\w+)"/ && $fields{$1} } ($payload // '') =~ /($field)/g;

		$text .= $now eq $xid ? '' : "  transaction\n";
		$text .= '    ' . ($json =~ /^(.*?),"payload"/)[0] . ', ' . join(', ', @shown) . "}\n";
		$xid = $now;
	}
	return $text;
}

# The events of a database, transaction after transaction in the order of their commits: a list of [xid, event].
sub history
{
	my ($database) = @_;

	return [
		map { [/^(\d+) (.*)$/] } split /\n/,
		$node->safe_psql($database, q{SELECT xid || ' ' || to_json(o)::text FROM cqrs.outbox o
			ORDER BY pg_xact_commit_timestamp(xid::xid), xid, position}) ];
}

# Takes away parts of the view, and events, as long as it differs. Returns what remains, or nothing if the view does
# not differ at all.
sub shrink
{
	my ($events, $case) = @_;
	my $small = (replay($events, $case))[0] or return;
	my $parts = 2;

	for (;;)
	{
		my ($next) = replay($events, map { { %$small, view => $_ } } reductions($small->{view}));

		last if !$next;
		$small = $next;
	}
	while (@$events > 1)
	{
		my $size = int((@$events + $parts - 1) / $parts);
		my $found = 0;

		for (my $from = 0; $from < @$events && !$found; $from += $size)
		{
			my @rest = @$events[ grep { $_ < $from || $_ >= $from + $size } 0 .. $#$events ];
			my ($next) = @rest ? replay(\@rest, $small) : ();

			($small, $events, $found) = ($next, \@rest, 1) if $next;
		}
		last if !$found && $size == 1;
		$parts = !$found ? $parts * 2 : $parts > 2 ? $parts - 1 : 2;
	}
	return ($small, $events);
}

# Has the events commit again, in a database of its own, with these views. Returns those that differ, with the rows.
sub replay
{
	my ($events, @views) = @_;
	my $database = 'replay' . ++$replays;
	my $columns = 'position, event_id, source, aggregate_type, aggregate_id, aggregate_version, event_type, '
	  . 'payload, metadata, occurred_at';
	my ($xid, @transactions) = ('');
	my ($n, @created) = (0);
	my $script;

	return if !@views;
	foreach my $event (@$events)
	{
		push @transactions, [] if $event->[0] ne $xid;
		push @{ $transactions[-1] }, $event->[1];
		$xid = $event->[0];
	}
	foreach my $case (@views)
	{
		my $name = 'candidate_' . $n++;

		push @created,
		  { %$case, name => $name, table => "app.$name", start_at => 'beginning', from => 0, notify => 'none' };
	}
	$script = creation_script('postgres', @created) . "RESET ALL;\n";
	foreach my $transaction (@transactions)
	{
		$script .= "INSERT INTO cqrs.outbox ($columns) OVERRIDING SYSTEM VALUE SELECT $columns\n"
		  . 'FROM jsonb_populate_recordset(NULL::cqrs.event, ' . literal('[' . join(',', @$transaction) . ']')
		  . ");\nCALL cqrs.catch_up();\n";
	}
	$node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE prepared STRATEGY file_copy");
	start_script($database, $script)->finish;
	my $found = differences($database, @created);
	$node->safe_psql('postgres', "DROP DATABASE $database WITH (FORCE)");
	return map { $found->{"candidate_$_"} eq '' ? () : { %{ $views[$_] }, rows => $found->{"candidate_$_"} } }
	  0 .. $#views;
}

# A wrong reference must be found out, and its view made as small as it can be.
sub control
{
	my $view = random_view();

	$view = random_view() until $view->{shape} eq 'grouped' && grep { @{ $view->{columns} } == $_ } 4, 5;
	$view->{where} = '{position} > 0';
	$view->{columns}[-1] =
	  { role => 'aggregate', function => 'count', argument => '*', wrong => 1, compare => 'plain', name => 'wrong' };
	my %case = (view => $view, mode => 'async', batch_size => 'NULL');

	set_workers(0);
	$node->safe_psql('postgres', 'CREATE DATABASE control TEMPLATE prepared');
	$node->safe_psql('control', "INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT aggregate_type, aggregate_id, event_type, payload FROM app.random_events(1)") for 1 .. 5;
	my ($small, $events) = shrink(history('control'), \%case);
	ok($small, 'control: a wrong reference is found out')
	  && is(render($small->{view}) =~ s/\s+/ /gr,
		'SELECT count(*) AS "wrong" FROM events ', 'control: what differs is made small')
	  && is(scalar @$events, 1, 'control: and its history too');
	$node->safe_psql('postgres', 'DROP DATABASE control');
	return;
}
