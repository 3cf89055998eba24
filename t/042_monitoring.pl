# Debian's prometheus-postgres-exporter with monitoring/queries.yaml, as a role with pg_monitor: what it exports is what
# the status views show, and the dashboard asks for nothing that it does not export.

use strict;
use warnings FATAL => 'all';

use FindBin;
use HTTP::Tiny;
use IPC::Run;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $exporter = 'prometheus-postgres-exporter';
plan skip_all => "$exporter is not installed (a Debian package)" if !grep { -x "$_/$exporter" } split /:/, $ENV{PATH};

my $folder = "$FindBin::RealBin/../monitoring";
my $node = new_server(
	'monitoring',
	'cqrs_views.max_retries' => 0,
	'cqrs_views.retry_delay' => '1h',
	'cqrs_views.max_retry_delay' => '1h');
create_database($node, 'postgres');

# one projection in each state that lasts, one with dead letters, one that is being retried
my %throws = (
	stopped => q{RAISE EXCEPTION 'never'},
	parking => q{RAISE EXCEPTION 'never'},
	retrying => q{RAISE EXCEPTION 'not now' USING ERRCODE = '40001'});
my %on_error = (stopped => 'stop');
$node->safe_psql('postgres', 'CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher');
foreach my $name (qw(running paused stopped parking retrying))
{
	my $throw = $throws{$name} // 'NULL';
	my $on_error = $on_error{$name} // 'park';

	$node->safe_psql('postgres', qq{
		CREATE TABLE $name (id text);
		CREATE FUNCTION $name(e cqrs.event) RETURNS void LANGUAGE plpgsql AS \$\$
		BEGIN
			IF e.aggregate_id = 'bad' THEN $throw; END IF;
			INSERT INTO $name VALUES (e.aggregate_id);
		END \$\$;
		SELECT cqrs.create_projection('$name', '$name(cqrs.event)', '{$name}', on_error => '$on_error')});
}
$node->safe_psql('postgres', q{
	SELECT cqrs.pause_projection('paused');
	SELECT cqrs.publish('T', id, 'E') FROM unnest('{good,bad,bad,good}'::text[]) AS id});
poll_ok($node, 'postgres', q{SELECT bool_and(CASE name WHEN 'running' THEN events_pending = 0
		WHEN 'stopped' THEN state = 'stopped' WHEN 'retrying' THEN next_retry_at > now()
		WHEN 'parking' THEN events_parked = 2 ELSE state = 'paused' END)
	FROM cqrs.projection_status}, 'each projection is as it should be');
poll_ok($node, 'postgres', "SELECT count(*) FROM cqrs.dead_letter", 'there are dead letters', 2);
$node->safe_psql('postgres', 'ANALYZE cqrs.outbox');
$node->safe_psql('postgres', q{
	CREATE TABLE arrived (event_id int, aggregate_type text, aggregate_id text, event_type text, occurred_at timestamptz);
	SELECT cqrs.attach_outbox('arrived', 'elsewhere');
	INSERT INTO arrived VALUES (1, 'T', 'a', 'E', clock_timestamp() - interval '1 hour'), (1, 'T', 'a', 'E', NULL), (2, 'T', 'b', NULL, NULL)});

# --- what is exported is what the views show

my $port = PostgreSQL::Test::Cluster::get_free_port();
my ($nothing, $log) = ('', '');
my $running = do
{
	my $host = $node->host;

	local $ENV{DATA_SOURCE_NAME} =
	  "host=$host port=" . $node->port . " user=watcher dbname=postgres sslmode=disable";
	IPC::Run::start(
		[ $exporter, "--web.listen-address=127.0.0.1:$port", "--extend.query-path=$folder/queries.yaml" ],
		'<', \$nothing, '>', \$log, '2>&1');
};
my $page;
foreach my $attempt (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$page = HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/metrics");
	last if $page->{success};
	$running->pump_nb;
	select undef, undef, undef, 0.1;
}
ok($page->{success}, 'the exporter answers') or diag("$page->{reason}\n$log");

# "name{label="value",...} figure": the labels that the exporter adds by itself don't matter
my %exported;
while ($page->{content} =~ /^(cqrs_\w+)\{([^}]*)\} (\S+)$/mg)
{
	my ($metric, $labels, $figure) = ($1, $2, $3);
	my %label = $labels =~ /(\w+)="([^"]*)"/g;

	is($label{datname}, 'postgres', "$metric tells the database") if !exists $exported{$metric};
	$exported{$metric}{ join '/', grep { defined } @label{qw(projection reason source)} } = $figure;
}
like($page->{content}, qr/^pg_exporter_last_scrape_error 0$/m, 'no query failed') or diag($log);

foreach my $metric (qw(events_pending last_position events_parked retries))
{
	is_deeply($exported{"cqrs_projection_$metric"}, shown("SELECT name, $metric FROM cqrs.projection_status"), $metric);
}
foreach my $counter (qw(events_processed batches))
{
	is_deeply($exported{"cqrs_projection_${counter}_total"},
		shown("SELECT name, $counter FROM cqrs.projection_status"), $counter);
}
foreach my $state (qw(running paused stopped rebuilding switching))
{
	is_deeply($exported{"cqrs_projection_$state"},
		shown("SELECT name, (state = '$state')::int FROM cqrs.projection_status"), $state);
}
is_deeply($exported{cqrs_dead_letter_events}, shown(q{
	SELECT name || '/' || reason, (SELECT count(*) FROM cqrs.dead_letter d WHERE projection = name AND d.reason = r.reason)
	FROM cqrs.projection, (VALUES ('failed'), ('behind')) AS r (reason)}), 'dead letters');
is($exported{cqrs_dead_letter_events}{'parking/failed'} + $exported{cqrs_dead_letter_events}{'parking/behind'}, 2,
	'none of them missing');

my %source = map { $_ => $exported{"cqrs_source_$_"}{elsewhere} } qw(events_total duplicates_total rows_parked subscribed apply_errors_total);
is_deeply(\%source, { events_total => 1, duplicates_total => 1, rows_parked => 1, subscribed => 0, apply_errors_total => 0 }, 'a source');
cmp_ok(abs($exported{cqrs_source_lag_seconds}{elsewhere} - 3600), '<', 60, 'and its lag');

my $lag = shown('SELECT name, extract(epoch FROM lag) FROM cqrs.projection_status');
foreach my $name (sort keys %$lag)
{
	my $earlier = $exported{cqrs_projection_lag_seconds}{$name};

	if ($lag->{$name} == 0) { is($earlier, 0, "no lag of $name") }
	else { ok($earlier > 0 && $earlier <= $lag->{$name}, "lag of $name") or diag("$earlier, then $lag->{$name}") }
}
cmp_ok($exported{cqrs_projection_next_retry_timestamp_seconds}{retrying}, '>', time - 5, 'the time of the next retry');
is($exported{cqrs_worker_preloaded}{''}, 1, 'the library is preloaded');
cmp_ok($exported{cqrs_worker_running}{''}, '>=', 1, 'there is a worker');
is($exported{cqrs_worker_max}{''}, $node->safe_psql('postgres', 'SHOW cqrs_views.max_workers'), 'and how many there may be');
is($exported{cqrs_outbox_events_estimate}{''}, 4, 'events in the outbox');
cmp_ok($exported{cqrs_outbox_inserts_total}{''}, '>=', 4, 'events published');
is($exported{cqrs_outbox_bytes}{''}, $node->safe_psql('postgres', "SELECT pg_total_relation_size('cqrs.outbox')"),
	'size of the outbox');

# --- the dashboard asks for what there is

# A rebuild has rows only while it lasts: that its query names the columns, the last lines of this test show.
my $queries = slurp_file("$folder/queries.yaml");
my $dashboard = decode_json(slurp_file("$folder/dashboard.json"));
my $asked = 0;
foreach my $panel (@{ $dashboard->{panels} })
{
	foreach my $target (@{ $panel->{targets} })
	{
		foreach my $metric ($target->{expr} =~ /\b(cqrs_\w+)\{/g)
		{
			$asked++;
			if ($metric =~ /^cqrs_rebuild_(\w+)$/) { like($queries, qr/^    - $1: /m, "panel $panel->{title}: $metric") }
			else { ok($exported{$metric}, "panel $panel->{title}: $metric") }
		}
	}
}
cmp_ok($asked, '>=', 20, 'the dashboard asks for something');
foreach my $variable (@{ $dashboard->{templating}{list} })
{
	ok($exported{$1}, "variable $variable->{name}") if ($variable->{definition} // '') =~ /label_values\((\w+),/;
}
$running->signal('TERM');
$running->finish;

# Each metric is a column of its query, for a role with pg_monitor, rows or none.
while ($queries =~ /^(cqrs_\w+):\n  query: \|\n((?:    .*\n)+)  metrics:\n((?:    - .*\n)+)/mg)
{
	my ($name, $query, $metrics) = ($1, $2, $3);
	my @columns = $metrics =~ /^    - (\w+):/mg;

	is($node->psql('postgres', 'SELECT ' . join(', ', map { qq{q."$_"} } @columns) . " FROM ($query) AS q",
			extra_params => [ '-U', 'watcher' ]), 0, "$name: " . scalar(@columns) . ' columns');
}

# Rows of two columns, as a hash.
sub shown
{
	my ($query) = @_;

	return { map { split /\|/ } split /\n/, $node->safe_psql('postgres', $query) };
}

$node->stop;
done_testing();
