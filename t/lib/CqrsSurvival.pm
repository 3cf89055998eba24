# A database whose events are counted: by projections of each kind in each mode, while random publishers go on.
#
# A publisher locks the aggregate and numbers its event under that lock (aggregate_version), without gaps. So the outbox
# itself tells what it should contain, also after commits were lost with the server that had not flushed them; and
# what projections should have made of it can be told from the outbox.

package CqrsSurvival;

use strict;
use warnings FATAL => 'all';

use CqrsTest;
use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  create_survivors define_survivors publish_events start_publishers stop_publishers survived survived_quietly
);

# name, to kind and mode
my %projections = (
	each => [ 'log', 'async' ],
	batch => [ 'log', 'async' ],
	folded => [ 'folded', 'async' ],
	viewed => [ 'viewed', 'async' ],
	each_inline => [ 'log', 'inline' ],
	folded_inline => [ 'folded', 'inline' ],
	viewed_inline => [ 'viewed', 'inline' ]);

# Makes a database with the extension, the projections, and what publishers need.
sub create_survivors
{
	my ($node, $database) = @_;

	create_database($node, $database);
	define_survivors($node, $database);
	return;
}

# The same where the extension is there.
sub define_survivors
{
	my ($node, $database) = @_;

	$node->safe_psql(
		$database, q{
		CREATE TABLE aggregate (id text PRIMARY KEY, version bigint NOT NULL DEFAULT 0) WITH (fillfactor = 50);
		INSERT INTO aggregate SELECT 'a' || n FROM generate_series(1, 20) AS n;
		CREATE TABLE publishing (stop boolean NOT NULL);
		INSERT INTO publishing VALUES (false);
		CREATE FUNCTION happen(key text) RETURNS void LANGUAGE plpgsql AS $$
			BEGIN
				WITH next AS (UPDATE aggregate SET version = version + 1 WHERE id = key RETURNING id, version)
				INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, aggregate_version, event_type, payload)
				SELECT 'Thing', id, version, 'Happened', jsonb_build_object('version', version) FROM next;
			END $$;

		-- up to so many transactions
		CREATE PROCEDURE publish_random(transactions bigint) LANGUAGE plpgsql AS $$
			DECLARE
				key text;
			BEGIN
				FOR i IN 1 .. transactions LOOP
					EXIT WHEN (SELECT stop FROM publishing);
					key := 'a' || 1 + floor(random() * 20);
					FOR j IN 1 .. 1 + floor(random() * 3) LOOP
						PERFORM happen(key);
					END LOOP;
					IF random() < 0.1 THEN
						ROLLBACK;
					ELSE
						COMMIT;
					END IF;
					IF transactions > 1000 THEN
						PERFORM pg_sleep(0.003 * random());
					END IF;
				END LOOP;
			END $$});
	create_log_projection($node, $database, 'each');
	create_log_projection($node, $database, 'batch', kind => 'batch', arguments => 'batch_size => 7');
	create_log_projection($node, $database, 'each_inline', arguments => "mode => 'inline'");
	foreach my $mode (qw(async inline))
	{
		my $suffix = $mode eq 'async' ? '' : '_inline';

		$node->safe_psql(
			$database, qq{
			CREATE TABLE folded$suffix (key text PRIMARY KEY, positions bigint[] NOT NULL);
			CREATE FUNCTION fold(state folded$suffix, e cqrs.event) RETURNS folded$suffix LANGUAGE plpgsql AS \$\$
				BEGIN
					state.positions := state.positions || e.position;
					RETURN state;
				END \$\$;
			SELECT cqrs.create_projection('folded$suffix', 'fold(folded$suffix,cqrs.event)', '{folded$suffix}', mode => '$mode');
			SELECT cqrs.create_view('viewed$suffix', 'SELECT aggregate_id AS key, count(*) AS n, sum(position) AS positions,
				cqrs.last((payload->>''version'')::bigint) AS latest FROM events GROUP BY aggregate_id', mode => '$mode')});
	}
	return;
}

# Publishes in so many transactions.
sub publish_events
{
	my ($node, $database, $transactions) = @_;

	$node->safe_psql($database, "CALL publish_random($transactions)");
	return;
}

# Starts sessions that publish until they are stopped, or the server is. Returns once they do. What they run before is a
# setting.
sub start_publishers
{
	my ($node, $database, $sessions, $setting) = @_;
	my $before = $node->safe_psql($database, 'SELECT count(*) FROM cqrs.outbox');
	my @started;

	foreach (1 .. $sessions)
	{
		my %session = (output => '', errors => '');

		$session{run} = IPC::Run::start(
			[
				$node->installed_command('psql'), '-XAtq', '-d', $node->connstr($database),
				'-c', $setting // 'SET synchronous_commit = on', '-c', 'CALL publish_random(1000000000)'
			],
			'<', \undef, '>', \$session{output}, '2>', \$session{errors});
		push @started, \%session;
	}
	$node->poll_query_until($database, "SELECT count(*) > $before + 50 FROM cqrs.outbox")
	  or die 'publishers do not publish: ' . join '', map { $_->{errors} } @started;
	return @started;
}

# Waits for their end, which they are asked for unless the server is gone ($node is undef). Returns the errors that they met.
sub stop_publishers
{
	my ($node, $database, @sessions) = @_;

	$node->safe_psql($database, 'UPDATE publishing SET stop = true') if defined $node;
	$_->{run}->finish foreach @sessions;
	$node->safe_psql($database, 'UPDATE publishing SET stop = false') if defined $node;
	return join '', map { $_->{errors} } @sessions;
}

# Tests that each projection comes to have handled all events that are there now, each once, in the order of its key, and
# that none is missing of those that publishers have numbered. They have stopped.
sub survived
{
	my ($node, $database, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wrong = survived_quietly($node, $database);

	return is(join('; ', @wrong), '', "$what: each event handled once, in order")
	  || diag($node->safe_psql($database, 'SELECT s FROM cqrs.projection_status AS s'));
}

# The same without a test. Returns what is wrong.
sub survived_quietly
{
	my ($node, $database) = @_;
	my @wrong;
	my $events = $node->safe_psql(
		$database, q{
		SELECT format('%s: %s events up to version %s, at version %s', id, count(position), max(aggregate_version), version)
		FROM aggregate LEFT JOIN cqrs.outbox ON aggregate_id = id GROUP BY id, version
		HAVING count(position) <> version OR coalesce(max(aggregate_version), 0) <> version});

	push @wrong, "outbox: $events" if $events ne '';
	foreach my $name (sort keys %projections)
	{
		my ($kind, $mode) = @{ $projections{$name} };
		my $waited = $node->safe_psql($database, "SELECT cqrs.wait_for('$name', '2 minutes')");
		my $found = $node->safe_psql($database, differences($name, $kind));

		push @wrong, "$name: wait_for returns $waited" if $waited ne 't';
		push @wrong, "$name: $found" if $found ne '';
	}
	return @wrong;
}

# A query that tells, in no row or one, how a read table differs from the events.
sub differences
{
	my ($name, $kind) = @_;

	return qq{
		SELECT * FROM (SELECT
				(SELECT count(*) FROM cqrs.outbox AS o WHERE NOT EXISTS
					(SELECT FROM ${name}_log AS l WHERE l.position = o.position)) AS lost,
				(SELECT count(*) - count(DISTINCT o.position) FROM ${name}_log AS l
					LEFT JOIN cqrs.outbox AS o USING (position)) AS repeated,
				(SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY key ORDER BY seq) AS before
					FROM ${name}_log) AS l WHERE version <= before) AS disordered) AS d
		WHERE (lost, repeated, disordered) <> (0, 0, 0)}
	  if $kind eq 'log';
	return qq{
		SELECT string_agg(key, ', ') FROM $name FULL JOIN
			(SELECT aggregate_id AS key, array_agg(position ORDER BY aggregate_version) AS expected
				FROM cqrs.outbox GROUP BY 1) AS o USING (key)
		WHERE positions IS DISTINCT FROM expected}
	  if $kind eq 'folded';
	return qq{
		SELECT string_agg(key, ', ') FROM $name AS v FULL JOIN
			(SELECT aggregate_id AS key, count(*) AS n, sum(position) AS positions, max(aggregate_version) AS latest
				FROM cqrs.outbox GROUP BY 1) AS o USING (key)
		WHERE (v.n, v.positions, v.latest) IS DISTINCT FROM (o.n, o.positions, o.latest)};
}

1;
