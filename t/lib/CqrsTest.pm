# Common set-up of the TAP tests.
#
# A "log projection" appends what it handles to its read table, in the order in which it handles it. So what
# was lost, repeated or reordered can be counted by a query.

package CqrsTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  new_server create_database create_log_projection create_totals
  publish unhandled repeated handled_once
  worker_pids launcher_pid poll_ok fails_ok wait_until_idle kill_postmaster
);

# Makes and starts a server with the extension preloaded. Settings are given as name => value and replace
# the ones from here; one of undef leaves it out. Not settings are allows_streaming and has_archiving (of init), and
# install_path (of new).
sub new_server
{
	my ($name, %settings) = @_;
	my $install_path = delete $settings{install_path};
	my $node = PostgreSQL::Test::Cluster->new($name, defined $install_path ? (install_path => $install_path) : ());
	my %all = (
		shared_preload_libraries => 'cqrs_views',
		max_prepared_transactions => 20,
		'cqrs_views.retry_delay' => '50ms',
		'cqrs_views.max_retry_delay' => '500ms',
		%settings);

	$node->init(map { $_ => delete $all{$_} // 0 } qw(allows_streaming has_archiving));
	foreach my $setting (sort keys %all)
	{
		$node->append_conf('postgresql.conf', "$setting = '$all{$setting}'")
		  if defined $all{$setting};
	}
	$node->start;
	return $node;
}

# Makes a database that has the extension; "postgres" is there already.
sub create_database
{
	my ($node, $database) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $database")
	  if $database ne 'postgres';
	$node->safe_psql($database, 'CREATE EXTENSION cqrs_views');
	return;
}

# Makes a projection of each kind of handler: batched, folded, singly and viewed. Each sums up by aggregate what the function
# value_of, an int of the payload which is there already, makes of its events; the view totals (kind, id, total) shows
# it, and the column n of singly's read table the order in which it handled them. Returns their names.
sub create_totals
{
	my ($node, $database) = @_;

	$node->safe_psql(
		$database, q{
		CREATE TABLE singly (n int GENERATED ALWAYS AS IDENTITY, id text, v int);
		CREATE TABLE batched (id text, v int);
		CREATE TABLE folded (id text PRIMARY KEY, total int);
		CREATE FUNCTION singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
			'BEGIN INSERT INTO singly (id, v) VALUES (e.aggregate_id, value_of(e.payload)); END';
		CREATE FUNCTION batched() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN INSERT INTO batched SELECT aggregate_id, value_of(payload) FROM events; RETURN NULL; END';
		CREATE FUNCTION folded(state folded, e cqrs.event) RETURNS folded LANGUAGE plpgsql AS
			'BEGIN state.total := coalesce(state.total, 0) + value_of(e.payload); RETURN state; END';
		SELECT cqrs.create_projection('singly', 'singly(cqrs.event)', '{singly}');
		SELECT cqrs.create_projection('batched', 'batched()', '{batched}');
		SELECT cqrs.create_projection('folded', 'folded(folded, cqrs.event)', '{folded}');
		SELECT cqrs.create_view('viewed', 'SELECT aggregate_id AS id, sum(value_of(payload)) AS total FROM events GROUP BY 1');
		CREATE VIEW totals AS
			SELECT 'singly' AS kind, id, sum(v) AS total FROM singly GROUP BY id
			UNION ALL SELECT 'batched', id, sum(v) FROM batched GROUP BY id
			UNION ALL SELECT 'folded', id, total FROM folded
			UNION ALL SELECT 'viewed', id, total FROM viewed});
	return qw(batched folded singly viewed);
}

# Makes a log projection with the read table NAME_log. Options: kind (event or batch), setup (SQL to run
# before, in plpgsql, for each event or batch), arguments (of cqrs.create_projection, as SQL).
sub create_log_projection
{
	my ($node, $database, $name, %options) = @_;
	my $kind = $options{kind} // 'event';
	my $first = $options{first} // '';
	my $arguments = $options{arguments} ? ", $options{arguments}" : '';
	my %handler = (
		event => "${name}_handle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS \$\$
			BEGIN
				$first
				INSERT INTO ${name}_log (position, key, version)
				VALUES (e.position, e.aggregate_id, e.aggregate_version);
			END \$\$",
		batch => "${name}_handle() RETURNS trigger LANGUAGE plpgsql AS \$\$
			BEGIN
				$first
				INSERT INTO ${name}_log (position, key, version)
				SELECT e.position, e.aggregate_id, e.aggregate_version FROM events e;
				RETURN NULL;
			END \$\$");
	my $signature = $kind eq 'event' ? 'cqrs.event' : '';

	$node->safe_psql(
		$database, qq{
		CREATE TABLE ${name}_log (
			seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
			position bigint NOT NULL, key text NOT NULL, version bigint);
		CREATE FUNCTION $handler{$kind};
		SELECT cqrs.create_projection('$name', '${name}_handle($signature)', '{${name}_log}'$arguments);
	});
	return;
}

# Publishes events of one aggregate, in one transaction.
sub publish
{
	my ($node, $database, $events) = @_;

	$node->safe_psql($database,
		"SELECT cqrs.publish('Thing', 'a', 'Happened') FROM generate_series(1, $events)");
	return;
}

# A query for the number of events that a log projection has not handled.
sub unhandled
{
	my ($name) = @_;

	return "SELECT count(*) FROM cqrs.outbox o
		WHERE NOT EXISTS (SELECT FROM ${name}_log l WHERE l.position = o.position)";
}

# A query for the number of events that it has handled again, or that there are not.
sub repeated
{
	my ($name) = @_;

	return "SELECT count(*) - count(DISTINCT o.position)
		FROM ${name}_log l LEFT JOIN cqrs.outbox o ON o.position = l.position";
}

# Tests that a log projection handles all events that are there now, each of them once.
sub handled_once
{
	my ($node, $database, $name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $handled = $node->poll_query_until($database, unhandled($name), 0);
	my $again = $node->safe_psql($database, repeated($name));
	return ok($handled && $again eq '0', "$what: each event handled once")
	  || diag("repeated: $again; status: "
		  . $node->safe_psql($database, 'SELECT s FROM cqrs.projection_status s'));
}

# The process ids of a database's workers.
sub worker_pids
{
	my ($node, $database) = @_;

	return split /\n/,
	  $node->safe_psql(
		'postgres', "SELECT pid FROM pg_stat_activity
			WHERE backend_type = 'cqrs_views worker' AND datname = '$database' ORDER BY pid");
}

# The process id of the launcher, once there is one.
sub launcher_pid
{
	my ($node) = @_;
	my $query = "FROM pg_stat_activity WHERE backend_type = 'cqrs_views launcher'";

	$node->poll_query_until('postgres', "SELECT count(*) = 1 $query")
	  or die 'there is no launcher';
	return $node->safe_psql('postgres', "SELECT pid $query");
}

# Tests that a query comes to return a value, t if none is given.
sub poll_ok
{
	my ($node, $database, $query, $what, $expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok($node->poll_query_until($database, $query, $expected // 't'), $what);
}

# Passes where a query fails with a message that matches.
sub fails_ok
{
	my ($node, $database, $query, $message, $what) = @_;
	my ($status, $output, $errors) = $node->psql($database, $query);
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return like($errors, $message, $what);
}

# Waits until a database has a worker that has nothing to do.
sub wait_until_idle
{
	my ($node, $database) = @_;

	$node->poll_query_until(
		'postgres', "SELECT count(*) > 0 FROM pg_stat_activity
			WHERE backend_type = 'cqrs_views worker' AND datname = '$database'
			AND state = 'idle'")
	  or die "database $database has no idle worker";
	return;
}

# Kills the postmaster, and with it the processes given, and starts the server again.
sub kill_postmaster
{
	my ($node, @pids) = @_;
	my ($pid) = split /\n/, slurp_file($node->data_dir . '/postmaster.pid');

	$node->kill9;
	kill 'KILL', @pids;

	# its children may need a moment to notice, and init to bury it
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		usleep(100_000);
		next if kill(0, $pid);
		last if $node->start(fail_ok => 1);
		$node->{_pid} = undef;
	}
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	return;
}

1;
