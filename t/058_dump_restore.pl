# pg_dump and restore into another cluster, where transaction ids start anew, so that those in checkpoints and events
# mean nothing: lower than before, higher, and the same ones once more. No event may be lost or processed again, be it
# published before, between the restore and the first look at it, or later; nor out of order.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = $PostgreSQL::Test::Utils::tmp_check;
my @kinds = qw(event_wise batch_wise at_once late asleep asleep_inline frozen);

# Publishes events of a few aggregates, each in a transaction of its own.
sub publish_apart
{
	my ($node, $database, $events) = @_;

	$node->safe_psql($database, "DO \$\$ BEGIN
		FOR n IN 1 .. $events LOOP
			INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
			VALUES ('Thing', 'k' || n % 7, 'Happened', jsonb_build_object('n', n));
			COMMIT;
		END LOOP;
	END \$\$");
	return;
}

# How far each log had got when the dump was taken, so that what follows can be told from it.
sub note_progress
{
	my ($node, $database) = @_;

	$node->safe_psql($database, "DROP TABLE IF EXISTS progress; CREATE TABLE progress AS "
		  . join(' UNION ALL ', map { "SELECT '$_' AS name, coalesce(max(seq), 0) AS seq FROM ${_}_log" } @kinds));
	return;
}

# Tests that logs have every event once, and what was handled since note_progress in order, but for events that were
# to commit late; that the view is its query, and the reducer's rows are right.
sub check
{
	my ($node, $database, $what, @names) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $missing = join ' + ', map { '(' . unhandled($_) . ')' } @names;
	my $faults = join ' UNION ALL ', map { qq{
		SELECT '$_ repeated: ' || n FROM (} . repeated($_) . qq{) AS r (n) WHERE n <> 0
		UNION ALL SELECT '$_ out of order: ' || string_agg(position::text, ' ') FROM (
			SELECT position, position < lag(position) OVER (ORDER BY seq) AS back FROM ${_}_log
			WHERE seq > (SELECT seq FROM progress WHERE name = '$_')
			AND position NOT IN (SELECT position FROM cqrs.outbox WHERE event_type = 'Late')) AS l
		WHERE back HAVING count(*) > 0} } @names;

	ok($node->poll_query_until($database, "SELECT $missing", 0), "$what: every event is handled by @names")
	  or diag($node->safe_psql($database, 'SELECT s FROM cqrs.projection_status s'));
	is($node->safe_psql($database, $faults), '', "$what: once, and in order");
	poll_ok($node, $database, q{
		SELECT NOT EXISTS ((TABLE sums EXCEPT TABLE expected) UNION ALL (TABLE expected EXCEPT TABLE sums))
		AND (SELECT count(*) = sum((r.n = o.n)::int) FROM reduced r
			JOIN (SELECT aggregate_id AS key, count(*) AS n FROM cqrs.outbox GROUP BY 1) o USING (key))},
		"$what: the view and the reducer's rows are right");
	return;
}

# ---------------------------------------------------------------------------------------------------------
# The cluster that is dumped. Its ids are some way ahead of a new cluster's.
# ---------------------------------------------------------------------------------------------------------

my $old = new_server('old');
create_database($old, 'shop');
$old->safe_psql('shop', 'DO $$ BEGIN FOR n IN 1 .. 300 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
create_log_projection($old, 'shop', $_) foreach qw(event_wise late asleep);
create_log_projection($old, 'shop', 'batch_wise', kind => 'batch', arguments => 'batch_size => 7');
create_log_projection($old, 'shop', $_, arguments => "mode => 'inline'") foreach qw(at_once asleep_inline);
$old->safe_psql('shop', q{
	SELECT cqrs.create_view('sums', $$
		SELECT aggregate_id, count(*) AS n, sum((payload->>'n')::int) AS total, cqrs.last(payload->>'n') AS latest
		FROM events GROUP BY 1 $$);
	CREATE VIEW expected AS
	SELECT aggregate_id, count(*) AS n, sum((payload->>'n')::int) AS total,
		(array_agg(payload->>'n' ORDER BY position DESC))[1] AS latest FROM cqrs.outbox GROUP BY 1;
	CREATE TABLE reduced (key text PRIMARY KEY, n bigint);
	CREATE FUNCTION reduce(state reduced, e cqrs.event) RETURNS reduced LANGUAGE plpgsql AS
		$$ BEGIN state.n := coalesce(state.n, 0) + 1; RETURN state; END $$;
	SELECT cqrs.create_projection('reduced', 'reduce(reduced,cqrs.event)', '{reduced}');

	-- an event that some handlers can not take, so that later ones of its key wait for it
	CREATE TABLE parking_log (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, position bigint);
	CREATE TABLE bad (event_type text);
	INSERT INTO bad VALUES ('Bad');
	CREATE FUNCTION parking_handle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		IF e.event_type IN (SELECT event_type FROM public.bad) THEN RAISE 'bad event'; END IF;
		INSERT INTO public.parking_log (position) VALUES (e.position);
	END $$;
	SELECT cqrs.create_projection('parking', 'parking_handle(cqrs.event)', '{parking_log}');

	-- one that stops in the midst of a frozen interval
	CREATE TABLE frozen_log (LIKE parking_log INCLUDING ALL);
	CREATE FUNCTION frozen_handle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		IF e.event_type IN (SELECT event_type FROM public.bad) THEN RAISE 'bad event'; END IF;
		INSERT INTO public.frozen_log (position) VALUES (e.position);
	END $$;
	SELECT cqrs.create_projection('frozen', 'frozen_handle(cqrs.event)', '{frozen_log}', on_error => 'stop',
		batch_size => 2);
	SELECT cqrs.pause_projection('frozen');
});
publish_apart($old, 'shop', 50);

# A transaction that is in flight when the checkpoints are made, and commits before the dump.
my $session = $old->background_psql('shop');
$session->query_safe("BEGIN; SELECT cqrs.publish('Thing', 'x', 'Happened', '{\"n\": 1000}')");
publish_apart($old, 'shop', 30);
handled_once($old, 'shop', $_, "old cluster, beside an open transaction, $_") foreach qw(batch_wise at_once);
poll_ok($old, 'shop', "SELECT events_pending = 0 FROM cqrs.projection_status WHERE name = 'late'", 'late has caught up');
$old->safe_psql('shop', "SELECT cqrs.pause_projection('$_')") foreach qw(late asleep);
$session->query_safe('COMMIT');
$session->quit;
$old->safe_psql('shop', "SELECT cqrs.pause_projection('asleep_inline')");
publish_apart($old, 'shop', 40);

# frozen: walks from the first event on, stops at the bad one, and does not know of what follows.
$old->safe_psql('shop', "SELECT cqrs.publish('Thing', 'k2', 'Bad', '{\"n\": 2000}')");
$old->safe_psql('shop', "SELECT cqrs.resume_projection('frozen')");
poll_ok($old, 'shop', "SELECT state = 'stopped' FROM cqrs.projection_status WHERE name = 'frozen'", 'frozen has stopped');
publish_apart($old, 'shop', 60);
note_progress($old, 'shop');
check($old, 'shop', 'old cluster', qw(event_wise batch_wise at_once));
poll_ok($old, 'shop', "SELECT count(*) > 1 FROM cqrs.dead_letter WHERE projection = 'parking'", 'there are dead letters');
note_progress($old, 'shop');
$old->safe_psql('shop', 'ANALYZE');
$old->command_ok([ 'pg_dump', '-Fc', '-f', "$folder/shop.dump", 'shop' ], 'pg_dump');
my $parked = $old->safe_psql('shop', 'SELECT count(*) FROM cqrs.dead_letter');

# ---------------------------------------------------------------------------------------------------------
# A new cluster whose ids are lower, and become the same; one whose ids are higher.
# ---------------------------------------------------------------------------------------------------------

sub try_restored
{
	my ($node, $what) = @_;
	my $name = $node->name;
	my $higher = $node->safe_psql('shop', 'SELECT pg_current_xact_id() > max(xid) FROM cqrs.outbox');

	is($higher, $name eq 'higher' ? 't' : 'f', "$what: ids are $name");
	poll_ok($node, 'shop', "SELECT bool_and(state = 'running') FROM cqrs.projection_status
		WHERE name NOT IN ('late', 'asleep', 'asleep_inline', 'frozen')", "$what: projections run, the inline one too");
	check($node, 'shop', "$what, at once", qw(event_wise batch_wise at_once));
	is($node->safe_psql('shop', 'SELECT count(*) FROM cqrs.dead_letter'), $parked, "$what: the dead letters are there");
	is($node->safe_psql('shop', "SELECT string_agg(name || ' ' || state, ', ' ORDER BY name)
			FROM cqrs.projection_status WHERE name IN ('late', 'frozen')"),
		'frozen stopped, late paused', "$what: who was stopped still is");

	# through all the ids that restored events have, where those are to come
	publish_apart($node, 'shop', 350);
	check($node, 'shop', "$what, new events", qw(event_wise batch_wise at_once));
	is($node->safe_psql('shop', 'SELECT count(*) > 50 FROM (SELECT FROM cqrs.outbox GROUP BY xid HAVING count(*) > 1) AS x'),
		$name eq 'higher' ? 'f' : 't', "$what: ids came again, or not");
	is($node->safe_psql('shop', "SELECT cqrs.wait_for('event_wise', up_to_position => 10),
			cqrs.wait_for('event_wise', up_to_position => (SELECT max(position) FROM cqrs.outbox))"),
		't|t', "$what: waiting for restored and for new events");

	$node->safe_psql('shop', "SELECT cqrs.resume_projection('late')");
	check($node, 'shop', "$what, resumed", 'late');
	is($node->safe_psql('shop', "SELECT min(position) FROM late_log WHERE seq > (SELECT seq FROM progress
			WHERE name = 'late')"), $node->safe_psql('shop', "SELECT position FROM cqrs.outbox WHERE payload->>'n' = '1000'"),
		"$what: an event that was in flight at the checkpoint is not forgotten");

	$node->safe_psql('shop', "DELETE FROM bad");
	$node->safe_psql('shop', "SELECT cqrs.resume_projection('frozen')");
	$node->safe_psql('shop', "SELECT cqrs.retry_dead_letters('parking')");
	check($node, 'shop', $what, qw(frozen));
	handled_once($node, 'shop', 'parking', "$what, parking");

	# a projection made now sees all of it; so does a rebuild
	create_log_projection($node, 'shop', "new_$_", arguments => "mode => '$_'") foreach qw(async inline);
	$node->safe_psql('shop', q{CALL cqrs.rebuild_projection('sums', online => false);
		SELECT cqrs.create_view('sums_again', cqrs.view_definition('sums'))});
	publish_apart($node, 'shop', 20);
	handled_once($node, 'shop', "new_$_", "$what, a new one, $_") foreach qw(async inline);
	check($node, 'shop', "$what, rebuilt", qw(event_wise batch_wise at_once));
	is($node->safe_psql('shop', 'SELECT count(*) FROM (TABLE sums_again EXCEPT TABLE expected) AS d'), '0',
		"$what: a new view of restored events");
	return;
}

# The workers are there before the dump is.
foreach my $name (qw(lower higher))
{
	my $node = new_server($name);
	if ($name eq 'higher')
	{
		$node->stop;
		$node->command_ok([ 'pg_resetwal', '-e', '3', '-D', $node->data_dir ], 'ids begin far ahead');
		$node->start;
	}
	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'shop', "$folder/shop.dump" ], 'pg_restore');
	try_restored($node, "$name ids");

	# and once more, from there
	note_progress($node, 'shop');
	$node->command_ok([ 'pg_dump', '-Fc', '-f', "$folder/$name.dump", 'shop' ], 'pg_dump again');
	$node->stop;
}

# ---------------------------------------------------------------------------------------------------------
# A third cluster: projections that slept through two restores. Publishers are faster than workers.
# ---------------------------------------------------------------------------------------------------------

foreach my $name (qw(lower higher))
{
	my $node = new_server("after_$name", 'cqrs_views.enabled' => 'off');
	my $what = "the second restore, $name ids";

	$node->safe_psql('postgres', 'CREATE DATABASE shop');
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', 'shop', "$folder/$name.dump" ], 'pg_restore');

	# the first ones: rolled back, in part, prepared, side by side, in the past of what is visible
	my @sessions = map { $node->background_psql('shop') } 1 .. 3;
	$sessions[0]->query_safe("BEGIN; SELECT cqrs.publish('Thing', 'x', 'Late', '{\"n\": 1}')");
	$sessions[1]->query_safe("BEGIN; SAVEPOINT s; SELECT cqrs.publish('Thing', 'k1', 'Happened', '{\"n\": 2}');
		ROLLBACK TO s; SELECT cqrs.publish('Thing', 'k1', 'Happened', '{\"n\": 3}')");
	$sessions[2]->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM cqrs.outbox");
	$node->safe_psql('shop', "BEGIN; SELECT cqrs.publish('Thing', 'k1', 'Happened', '{\"n\": 4}'); ROLLBACK");
	$node->safe_psql('shop', "BEGIN; SELECT cqrs.publish('Thing', 'x', 'Late', '{\"n\": 5}');
		PREPARE TRANSACTION 'p'");
	publish_apart($node, 'shop', 30);
	$sessions[2]->query_safe("SELECT cqrs.publish('Thing', 'k1', 'Happened', '{\"n\": 6}'); COMMIT");
	$sessions[1]->query_safe('COMMIT');
	is($node->safe_psql('shop', 'SELECT count(DISTINCT first_position) FROM cqrs.era
			WHERE incarnation = (SELECT id FROM cqrs.incarnation)'), '1', "$what: first publishers agree");
	is($node->safe_psql('shop', "SELECT count(*) FROM at_once_log l WHERE seq > (SELECT seq FROM progress
			WHERE name = 'at_once')"), '0', "$what: they don't apply what will be applied");

	$node->append_conf('postgresql.conf', 'cqrs_views.enabled = on');
	$node->reload;
	check($node, 'shop', "$what, beside publishers in flight", qw(event_wise batch_wise late));
	$sessions[0]->query_safe('COMMIT');
	$node->safe_psql('shop', "COMMIT PREPARED 'p'");
	$_->quit foreach @sessions;
	check($node, 'shop', $what, qw(event_wise batch_wise at_once late));
	poll_ok($node, 'shop', "SELECT state = 'running' FROM cqrs.projection_status WHERE name = 'at_once'", "$what: inline");
	$node->safe_psql('shop', "SELECT cqrs.resume_projection('asleep'), cqrs.resume_projection('asleep_inline')");
	check($node, 'shop', "$what, asleep", qw(asleep asleep_inline));
	publish_apart($node, 'shop', 100);
	check($node, 'shop', "$what, new events", @kinds);
	handled_once($node, 'shop', $_, "$what, $_") foreach qw(parking new_async new_inline);
	is($node->safe_psql('shop', 'SELECT count(DISTINCT incarnation), count(DISTINCT number) FROM cqrs.era'), '3|3',
		"$what: there are three eras");
	$node->stop;
}

$old->stop;
done_testing();
