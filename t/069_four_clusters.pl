# Three services, the view database that follows them, and whatever can end a process: the clusters of the example
# order-history, with its own files, while each service is used at random, clusters die or restart, and subscriptions are
# switched off, or lose their processes on either side. In the end the joined view shows what the join of the services'
# own tables says, every order is decided, once, and every event has arrived, once. Orders are cancelled, too, so the order of
# their events matters.
#
# environment:
#   CQRS_CLUSTERS_ROUNDS  how many rounds (default 12; each uses all services, and does something evil)
#   CQRS_CLUSTERS_SEED    draws the same rounds again (the schedule is the machine's, though)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{CQRS_CLUSTERS_ROUNDS} || 12;
my $seed = $ENV{CQRS_CLUSTERS_SEED} || int(rand(1_000_000)) + 1;
my $example = "$FindBin::RealBin/../examples/order-history";
my @services = qw(customers orders payments);

# who follows whom
my @subscriptions = map { [ split /:/ ] } qw(customers:orders orders:customers view:customers view:orders view:payments);
my %node;
my %off;     # subscriptions that are switched off
my %done;

# what a round does to them; of 100 rounds, so many
my @evils = (
	[ 20, 'kill the postmaster', sub { kill_postmaster($node{ any_cluster() }) } ],
	[ 20, 'immediate', sub { my $victim = $node{ any_cluster() }; $victim->stop('immediate'); $victim->start } ],
	[ 5, 'restart', sub { $node{ any_cluster() }->restart } ],
	[ 15, 'switch a subscription', \&switch_subscription ],
	[ 10, 'make a subscription again', \&make_again ],
	[ 10, 'end an apply worker', sub { end_process('TERM', 'logical replication worker', map { $_->[0] } @subscriptions) } ],
	[ 5, 'kill an apply worker', sub { end_process('KILL', 'logical replication worker', map { $_->[0] } @subscriptions) } ],
	[ 10, 'end a sender', sub { end_process('TERM', 'walsender', @services) } ],
	[ 5, 'kill a worker', sub { end_process('KILL', 'cqrs_views worker', qw(customers orders view)) } ]);

srand($seed);
diag("CQRS_CLUSTERS_SEED=$seed CQRS_CLUSTERS_ROUNDS=$rounds");
start_clusters();

# The subscriptions come when there is something to copy, and more is being published.
use_services(20);
my @users = start_using(40);
follow(@$_) foreach @subscriptions;
$_->{run}->finish foreach @users;
foreach my $round (1 .. $rounds)
{
	my $draw = rand(100);

	@users = start_using(10 + int(rand(20)));
	usleep(rand(300_000));
	foreach my $evil (@evils)
	{
		my ($share, $name, $action) = @$evil;

		if ($draw >= 0 && $draw < $share)
		{
			note("round $round: $name");
			$done{$name}++;
			$action->();
		}
		$draw -= $share;
	}
	$_->{run}->finish foreach @users;
}
diag(join ', ', map { "$_: $done{$_}" } sort keys %done);
switch_subscription($_) foreach keys %off;
use_services(5);

# --- what has become of it

poll_ok($node{orders}, 'orders', "SELECT count(*) = 0 FROM orders.purchase WHERE state = 'PENDING'", 'every order is decided');
my $expected = expected_history();
my $history = q{SELECT coalesce(string_agg(h::text, E'\n' ORDER BY customer_id::bigint, order_id::bigint), '') FROM order_history AS h};
ok($node{view}->poll_query_until('view', "SELECT md5(($history)) = md5('" . $expected =~ s/'/''/gr . "')"),
	'the joined view shows the join of the services\' own tables')
  or show_difference($expected, sql('view', $history));
cmp_ok(scalar(split /\n/, $expected), '>', 20 + $rounds * 5, 'which is something');
cmp_ok(sql('view', "SELECT count(*) FROM order_summary WHERE state = '$_'"), '>', 0, "of it $_") foreach qw(APPROVED REJECTED CANCELLED);

foreach my $case (
	[ 'view', 'customers', 'customers.message' ],
	[ 'view', 'orders', 'order_events' ],
	[ 'view', 'payments', 'payments.outbox' ],
	[ 'customers', 'orders', 'order_events' ],
	[ 'orders', 'customers', 'customers.message' ])
{
	my ($subscriber, $publisher, $outbox) = @$case;

	is( sql($subscriber, "SELECT count(*) FROM cqrs.outbox WHERE source = '$publisher'"),
		sql($publisher, "SELECT count(*) FROM $outbox" =~ s/order_events/orders.order_events/r),
		"$subscriber has each event of $publisher once");
}
is( sql('customers', 'SELECT count(*), count(DISTINCT order_id) FROM customers.reservation'),
	sql('orders', 'SELECT count(*), count(*) FROM orders.purchase'), 'each order was answered once');
is(sql('orders', 'SELECT count(*), count(DISTINCT order_id) FROM orders.decision'),
	sql('orders', 'SELECT count(*), count(*) FROM orders.purchase'), 'and decided once');
is(sql('customers', q{
		SELECT count(*) FROM customers.customer AS c WHERE credit_limit < (SELECT sum(amount) FROM customers.reservation AS r
			WHERE r.customer_id = c.customer_id::text AND answer = 'CustomerCreditReserved')}),
	0, 'nobody has more credit than there is');
foreach my $cluster (qw(customers orders view))
{
	is(sql($cluster, "SELECT string_agg(DISTINCT state, ' '), sum(events_parked) FROM cqrs.projection_status"),
		'running|0', "$cluster: all projections run, nothing is aside");
}

$_->stop foreach $node{view}, map { $node{$_} } @services;
done_testing();

sub sql
{
	my ($cluster, $sql) = @_;

	return $node{$cluster}->safe_psql($cluster, $sql);
}

sub any_cluster
{
	return (@services, 'view')[ int(rand(4)) ];
}

# The clusters with a database each, set up by the example's files.
sub start_clusters
{
	foreach my $cluster (@services, 'view')
	{
		$node{$cluster} = new_server(
			$cluster,
			allows_streaming => 'logical',
			max_worker_processes => 16,
			restart_after_crash => 'on',
			wal_retrieve_retry_interval => '100ms',
			log_statement => 'none');
		$node{$cluster}->safe_psql('postgres', "CREATE DATABASE $cluster");
		sql($cluster, 'CREATE EXTENSION cqrs_views');
	}
	run_file($_, "services/$_.sql") foreach @services;
	run_file('view', 'view.sql');

	# random use: orders come of customers that are not there yet, or never will be, and payments of no order
	sql('customers', q{
		CREATE PROCEDURE use(times integer) LANGUAGE plpgsql AS $$
			BEGIN
				FOR i IN 1 .. times LOOP
					PERFORM customers.create_customer('customer ' || i, (random() * 500)::numeric(12, 2));
					COMMIT;
				END LOOP;
			END $$});
	sql('orders', q{
		CREATE PROCEDURE use(times integer) LANGUAGE plpgsql AS $$
			BEGIN
				FOR i IN 1 .. times LOOP
					PERFORM orders.create_order((1 + floor(random() * 200))::bigint::text, (1 + random() * 100)::numeric(12, 2));
					IF random() < 0.2 THEN
						PERFORM orders.cancel_order(order_id) FROM (SELECT order_id FROM orders.purchase WHERE state = 'APPROVED'
							ORDER BY random() LIMIT 1 FOR UPDATE) AS p;
					END IF;
					IF random() < 0.1 THEN
						ROLLBACK;
					ELSE
						COMMIT;
					END IF;
				END LOOP;
			END $$});
	sql('payments', q{
		CREATE PROCEDURE use(times integer) LANGUAGE plpgsql AS $$
			BEGIN
				FOR i IN 1 .. times LOOP
					PERFORM payments.receive_payment((1 + floor(random() * 300))::bigint::text, (1 + random() * 20)::numeric(12, 2));
					COMMIT;
				END LOOP;
			END $$});
	return;
}

# Runs a file of the example in a cluster's database, with variables for psql.
sub run_file
{
	my ($cluster, $file, %variables) = @_;

	$node{$cluster}->command_ok(
		[
			'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', (map { ('-v', "$_=$variables{$_}") } sort keys %variables),
			'-d', $node{$cluster}->connstr($cluster), '-f', "$example/$file"
		],
		"$cluster: $file");
	return;
}

# Has one follow the other's events.
sub follow
{
	my ($subscriber, $publisher) = @_;

	run_file($subscriber, 'subscribe.sql',
		name => "${subscriber}_$publisher", publisher => $publisher, connection => $node{$publisher}->connstr($publisher));
	return;
}

# Starts a session for each service that uses it so many times, unless the cluster ends before.
sub start_using
{
	my ($times) = @_;
	my @started;

	foreach my $cluster (@services)
	{
		my %session = (output => '');

		$session{run} = IPC::Run::start(
			[ $node{$cluster}->installed_command('psql'), '-XAtq', '-d', $node{$cluster}->connstr($cluster), '-c', "CALL use($times)" ],
			'<', \undef, '>', \$session{output}, '2>&1');
		push @started, \%session;
	}
	return @started;
}

sub use_services
{
	my ($times) = @_;

	sql($_, "CALL use($times)") foreach @services;
	return;
}

# Switches a subscription on or off: the one named, or any.
sub switch_subscription
{
	my ($name) = @_;

	$name //= join '_', @{ $subscriptions[ int(rand(@subscriptions)) ] };
	my ($subscriber) = split /_/, $name;
	sql($subscriber, "ALTER SUBSCRIPTION $name " . ($off{$name} ? 'ENABLE' : 'DISABLE'));
	if ($off{$name}) { delete $off{$name} }
	else { $off{$name} = 1 }
	return;
}

# Drops a subscription and makes it again, so that it copies what had come already. The rows that have arrived make room;
# that they were taken is not forgotten.
sub make_again
{
	my ($subscriber, $publisher) = @{ $subscriptions[ int(rand(@subscriptions)) ] };
	my $name = "${subscriber}_$publisher";
	my %outbox = (customers => 'customers.message', orders => 'orders.order_events', payments => 'payments.outbox');
	my $connection = quoted($node{$publisher}->connstr($publisher));

	# the slot may still be in use for a moment
	$node{$subscriber}->poll_query_until($subscriber, "SET client_min_messages = error; DROP SUBSCRIPTION IF EXISTS $name",
		"SET\nDROP SUBSCRIPTION")
	  or die "cannot drop subscription $name";
	sql($subscriber, "TRUNCATE $outbox{$publisher}");

	# otherwise a subscriber that is killed asks for ever for a slot that has gone with the end of the copy
	sql($subscriber, "CREATE SUBSCRIPTION $name CONNECTION $connection PUBLICATION $publisher WITH (synchronous_commit = on)");
	delete $off{$name};
	return;
}

# Sends a signal to a process of a kind, in one of some clusters, if there is one.
sub end_process
{
	my ($signal, $kind, @clusters) = @_;
	my $cluster = $clusters[ int(rand(@clusters)) ];
	my ($pid) = split /\n/, $node{$cluster}->safe_psql('postgres', "SELECT pid FROM pg_stat_activity WHERE backend_type = '$kind' ORDER BY random()");

	return unless defined $pid;
	kill $signal, $pid;
	if ($signal eq 'KILL')
	{
		usleep(50_000);
		$node{$cluster}->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	}
	return;
}

# The join of the services' own tables, as text like the view's rows.
sub expected_history
{
	my %tables = (
		customer => [ 'customers', 'SELECT customer_id, name, credit_limit FROM customers.customer' ],
		purchase => [ 'orders', 'SELECT order_id, customer_id, total, state, rejection_reason FROM orders.purchase' ],
		payment => [ 'payments', 'SELECT order_id, amount FROM payments.payment' ]);
	my $with = join ', ', map {
		my ($cluster, $query) = @{ $tables{$_} };
		my $rows = sql($cluster, "SELECT coalesce(jsonb_agg(t), '[]') FROM ($query) AS t");
		"$_ AS (SELECT * FROM jsonb_populate_recordset(NULL::expected.$_, " . quoted($rows) . '))'
	} sort keys %tables;

	sql('view', q{
		CREATE SCHEMA IF NOT EXISTS expected;
		CREATE TABLE expected.customer (customer_id text, name text, credit_limit numeric(12, 2));
		CREATE TABLE expected.purchase (order_id text, customer_id text, total numeric(12, 2), state text, rejection_reason text);
		CREATE TABLE expected.payment (order_id text, amount numeric(12, 2))});
	return sql('view', qq{
		WITH $with
		SELECT coalesce(string_agg(h::text, E'\\n' ORDER BY customer_id::bigint, order_id::bigint), '') FROM (
			SELECT customer_id, name, credit_limit, order_id, total, state, rejection_reason,
				coalesce((SELECT sum(amount) FROM payment AS p WHERE p.order_id = o.order_id), 0) AS paid
			FROM customer LEFT JOIN purchase AS o USING (customer_id)) AS h});
}

sub quoted
{
	my ($text) = @_;

	return "'" . $text =~ s/'/''/gr . "'";
}

sub show_difference
{
	my ($expected, $got) = @_;
	my %expected = map { $_ => 1 } split /\n/, $expected;
	my %got = map { $_ => 1 } split /\n/, $got;

	diag("missing: $_") foreach grep { !$got{$_} } sort keys %expected;
	diag("too much: $_") foreach grep { !$expected{$_} } sort keys %got;
	return;
}
