# To find a failing event among 10,000 takes about 2 log n calls of the handler, over 4 n events in all at most, whatever
# kind of handler it is and wherever the event is; over 5 n for a view, which reads them by itself before. Calls are counted by sequences, which no rollback undoes.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $n = 10_000;

# one level for each halving, the attempt at the whole, and what a slice or a rewritten view adds
my $max_calls = 2 * (log($n) / log(2) + 1) + 2;
my $node = new_server(
	'culprit_cost',
	'cqrs_views.enabled' => 'off',
	'cqrs_views.max_retries' => 0);
create_database($node, 'postgres');
sql(q{
	CREATE SEQUENCE calls;
	CREATE SEQUENCE uses;
	CREATE FUNCTION use(payload jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
		'BEGIN PERFORM nextval(''uses''); RETURN (payload->>''v'')::int; END';
	CREATE TABLE batched (v int);
	CREATE TABLE folded (id text PRIMARY KEY, total int);
	CREATE TABLE singly (v int);
	CREATE FUNCTION singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO singly VALUES (use(e.payload)); END';
	CREATE FUNCTION batched() RETURNS trigger LANGUAGE plpgsql AS
		'BEGIN PERFORM nextval(''calls''); INSERT INTO batched SELECT use(payload) FROM events; RETURN NULL; END';
	CREATE FUNCTION folded(state folded, e cqrs.event) RETURNS folded LANGUAGE plpgsql AS
		'BEGIN state.total := coalesce(state.total, 0) + use(e.payload); RETURN state; END'});
foreach my $culprits ([1], [ $n / 2 ], [7777], [$n], [ 2, 3, 9000 ])
{
	my $list = join ',', @$culprits;

	sql("SELECT cqrs.create_projection('singly', 'singly(cqrs.event)', '{singly}', start_at => 'now');
		SELECT cqrs.create_projection('batched', 'batched()', '{batched}', start_at => 'now');
		SELECT cqrs.create_projection('folded', 'folded(folded, cqrs.event)', '{folded}', start_at => 'now');
		SELECT cqrs.create_view('viewed', 'SELECT aggregate_id AS id, sum(use(payload)) AS total FROM events GROUP BY 1', start_at => 'now')");
	sql("SELECT count(cqrs.publish('T', 'k' || i, 'E', jsonb_build_object('v', CASE WHEN i IN ($list) THEN 'bad' ELSE '1' END)))
		FROM generate_series(1, $n) AS i");
	foreach my $kind (qw(batched folded singly viewed))
	{
		sql("SELECT setval('calls', 1, false), setval('uses', 1, false)");
		sql("CALL cqrs.catch_up('$kind')");
		my ($calls, $uses) = split /\|/, sql('SELECT (SELECT last_value FROM calls), (SELECT last_value FROM uses)');

		is(sql("SELECT events_processed, events_parked FROM cqrs.projection_status WHERE name = '$kind'"),
			($n - @$culprits) . '|' . @$culprits, "$kind, $list: found");
		cmp_ok($uses, '<=', ($kind eq 'viewed' ? 5 : 4) * $n + $max_calls, "$kind, $list: events are handled few times");
		cmp_ok($uses, '>=', $n - 1, "$kind, $list: and counted");
		cmp_ok($calls, '<=', @$culprits * $max_calls, "$kind, $list: in few calls") if $kind eq 'batched';
		note("$kind, $list: $uses events, $calls calls");
	}
	sql('SELECT cqrs.drop_projection(name) FROM cqrs.projection; TRUNCATE batched, folded, singly; DROP TABLE viewed');
}
$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}
