# The status costs the same however large the outbox and the backlog are, and needs no more than pg_monitor. It is
# counted in pages visited, since time is noisy; and told in milliseconds.
#
# environment:
#   CQRS_STATUS_EVENTS  how many events at the most (default 60,000)

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $many = $ENV{CQRS_STATUS_EVENTS} || 60_000;
my $node = new_server('status_cost', 'cqrs_views.enabled' => 'off', autovacuum => 'off');
create_database($node, 'postgres');
$node->safe_psql('postgres', 'CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher');

# done: caught up. little: a backlog that is counted. behind: all is pending. halfway: stopped within a large interval.
foreach my $name (qw(done little behind halfway))
{
	$node->safe_psql('postgres', qq{
		CREATE TABLE $name (n bigint);
		CREATE FUNCTION $name() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN
			IF '$name' = 'halfway' AND EXISTS (SELECT FROM events WHERE event_type = 'Bad') THEN
				RAISE EXCEPTION 'never';
			END IF;
			INSERT INTO $name SELECT count(*) FROM events;
			RETURN NULL;
		END \$\$;
		SELECT cqrs.create_projection('$name', '$name()', '{$name}', on_error => 'stop',
			batch_size => CASE '$name' WHEN 'halfway' THEN 500 END)});
}
$node->safe_psql('postgres', q{SELECT cqrs.pause_projection('behind')});

publish_many(6000);
my %small = look('6,000 events');
publish_many($many);
my %large = look('many more events');
cmp_ok($large{pages}, '<', $small{pages} + 60, 'ten times the events, and no more pages than an index may be deeper by');
cmp_ok($large{pages}, '<', $large{outbox} / 4, 'which are few of what there are');

# what is known exactly, is exact
publish_many(0, 7);
is($node->safe_psql('postgres', q{SELECT events_pending FROM cqrs.projection_status WHERE name = 'done'}), 7,
	'a few more events are counted');

# Publishes events, one in the middle bad, and has projections catch up; then some more that only "done" takes.
sub publish_many
{
	my ($n, $more) = @_;

	if ($n > 0)
	{
		$node->safe_psql('postgres', qq{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
			SELECT 'T', (i % 100)::text, CASE i WHEN $n / 2 THEN 'Bad' ELSE 'E' END FROM generate_series(1, $n) AS i});
		$node->safe_psql('postgres', q{CALL cqrs.catch_up('little')});
		# it may be stopped already
		$node->psql('postgres', q{CALL cqrs.catch_up('halfway')});
		$node->safe_psql('postgres', q{SELECT cqrs.publish('T', i::text, 'E') FROM generate_series(1, 50) AS i});
		$node->safe_psql('postgres', q{CALL cqrs.catch_up('done')});
	}
	$node->safe_psql('postgres', qq{SELECT cqrs.publish('T', i::text, 'E') FROM generate_series(1, $more) AS i}) if $more;
	$node->safe_psql('postgres', 'VACUUM ANALYZE cqrs.outbox; VACUUM cqrs.checkpoint, cqrs.registry');
	return;
}

# Looks at the status as a monitor, twice in a session, since the first look also reads the catalogs. Returns the pages
# that the second visited, and those that the outbox has.
sub look
{
	my ($what) = @_;
	my $status = 'SELECT * FROM cqrs.projection_status';
	my ($code, $plan, $errors) = $node->psql('postgres',
		"$status; $status; EXPLAIN (ANALYZE, BUFFERS, TIMING off) $status; EXPLAIN (ANALYZE) SELECT * FROM cqrs.dead_letter",
		extra_params => [ '-U', 'watcher' ]);
	my ($hit) = $plan =~ /^ *Buffers: shared hit=(\d+)/m;
	my ($read) = $plan =~ /^ *Buffers: shared (?:hit=\d+ )?read=(\d+)/m;
	my ($ms) = $plan =~ /^Execution Time: ([\d.]+) ms/m;
	my $pages = ($hit // 0) + ($read // 0);
	my %pending = map { split /\|/ }
	  split /\n/, $node->safe_psql('postgres', 'SELECT name, events_pending FROM cqrs.projection_status');

	is($code, 0, "$what: a monitor can look") or diag($errors);
	cmp_ok($pages, '>', 0, "$what: $pages pages");
	note("$what: $ms ms");
	is($pending{done}, 0, "$what: one has nothing to do");
	is($pending{little}, 50, "$what: one has a little");
	cmp_ok($pending{behind}, '>', 6000, "$what: one has all");
	cmp_ok($pending{halfway}, '>', 1000, "$what: one is halfway");
	return (
		pages => $pages,
		outbox => $node->safe_psql('postgres', "SELECT pg_relation_size('cqrs.outbox') / 8192"));
}

$node->stop;
done_testing();
