# DROP EXTENSION and CREATE EXTENSION begin anew: positions, ids of projections and names are those that there were, for
# other things. No process may mix them up, whatever it keeps: plans, caches, places of rows, what is settled.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsSurvival;
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# by the time that something is created again, nobody has been restarted
my $node = new_server('recreate', 'cqrs_views.max_workers' => 2);
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $user = $node->background_psql('postgres', on_error_stop => 0);
my $drop = q{
	DROP EXTENSION cqrs_views CASCADE;
	DROP TABLE each_log, batch_log, each_inline_log, folded, folded_inline, viewed, viewed_state, viewed_inline, viewed_inline_state,
		aggregate, publishing CASCADE;
	DROP FUNCTION happen, batch_handle;
	DROP PROCEDURE publish_random};

foreach my $generation (1 .. 4)
{
	my $what = "generation $generation";

	# the order of their creation, and so their ids, differ
	create_survivors($node, 'postgres') if $generation == 1;
	if ($generation > 1)
	{
		$node->safe_psql('postgres', 'CREATE EXTENSION cqrs_views');
		$node->safe_psql('postgres', "SELECT cqrs.create_view('other$_', 'SELECT position, event_type FROM events')") foreach 2 .. $generation;
		define_survivors($node, 'postgres');
	}
	used_by($user, $what);
	my @publishers = start_publishers($node, 'postgres', 2);
	used_by($session, $what);
	is(stop_publishers($node, 'postgres', @publishers), '', "$what: publishers meet no error");
	survived($node, 'postgres', $what);
	is($node->safe_psql('postgres', 'SELECT min(position) < 10 FROM cqrs.outbox'), 't', "$what: positions begin anew");
	foreach my $other (2 .. $generation)
	{
		is($node->safe_psql('postgres', "SELECT cqrs.wait_for('other$other', '1 minute');
				SELECT count(*) FROM cqrs.outbox AS o FULL JOIN other$other AS v USING (position, event_type) WHERE o IS NULL OR v IS NULL"),
			"t\n0", "$what: so does another view");
	}

	# in another session; in one that works with it; rolled back first; while others publish and work
	@publishers = start_publishers($node, 'postgres', 2);
	if ($generation == 1)
	{
		stop_publishers($node, 'postgres', @publishers);
		$node->safe_psql('postgres', $drop);
	}
	elsif ($generation == 2)
	{
		stop_publishers($node, 'postgres', @publishers);
		$session->query("BEGIN; $drop; CREATE EXTENSION cqrs_views; SELECT count(*) FROM cqrs.outbox; ROLLBACK;");
		used_by($session, "$what, dropped in a transaction that was rolled back");
		used_by($user, "$what, for another session");
		survived($node, 'postgres', "$what, after that");
		$session->query("SET client_min_messages = error; $drop; DROP TABLE other2;");
	}
	else
	{
		my $dropped = $node->psql('postgres', "SET deadlock_timeout = '1min'; $drop; DROP TABLE other2, other3"
			  . ($generation == 4 ? ', other4' : ''));
		is($dropped, 0, "$what: dropped while others publish and work");
		my $errors = stop_publishers(undef, undef, @publishers);
		like($errors, qr/ERROR: .* (does not exist|deadlock detected)/, 'which the publishers notice');
	}
	is($node->safe_psql('postgres', "SELECT count(*) FROM pg_proc WHERE probin LIKE '%cqrs_views%'"), '0', "$what: nothing is left");
}
poll_ok($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'", 'nor any worker');
unlike(slurp_file($node->logfile), qr/terminated by signal|PANIC|TRAP|could not open relation with OID|cache lookup failed/,
	'nobody has stumbled over what was gone');

$session->quit;
$user->quit;

# --- what a session knew to be settled

# It has seen hundreds of positions come and go. An event among the first of the new outbox may still be to come.
$node->safe_psql('postgres', 'ALTER SYSTEM SET cqrs_views.enabled = off');
$node->restart;
$node->safe_psql('postgres', 'CREATE DATABASE late');
my $view = "SELECT cqrs.create_view('latest', 'SELECT aggregate_id, cqrs.last(event_type) AS what FROM events GROUP BY 1');";
$session = $node->background_psql('late');
$session->query_safe("CREATE EXTENSION cqrs_views; SET client_min_messages = error; $view
	SELECT count(cqrs.publish('Thing', 'a', 'Happened')) FROM generate_series(1, 500); CALL cqrs.catch_up(); CALL cqrs.catch_up();
	DROP EXTENSION cqrs_views CASCADE; DROP TABLE latest, latest_state; CREATE EXTENSION cqrs_views;");
my $late = $node->background_psql('late');
$late->query_safe("BEGIN; SELECT cqrs.publish('Thing', 'a', 'Earlier');");
$session->query_safe("$view SELECT 1;");
$node->safe_psql('late', "SELECT cqrs.publish('Thing', 'a', 'Later')");
$session->query_safe('CALL cqrs.catch_up();');
$late->query_safe('COMMIT;');
$session->query_safe('CALL cqrs.catch_up();');
is($node->safe_psql('late', 'SELECT what FROM latest'), 'Later', 'an event that comes late does not count as the last');
$_->quit foreach $session, $late;

$node->stop;
done_testing();

# A session that has been there all the time uses all that it may have kept something of.
sub used_by
{
	my ($opened, $what) = @_;
	my $before = $node->safe_psql('postgres', "SELECT count(*) FROM cqrs.outbox WHERE aggregate_id = 'session'");

	$opened->{stderr} = '';
	$opened->query(
		qq{INSERT INTO aggregate VALUES ('session') ON CONFLICT DO NOTHING;
		BEGIN; SELECT happen('session'); SELECT happen('session'); COMMIT;
		CALL cqrs.catch_up();
		SELECT cqrs.pause_projection('folded');
		SELECT happen('session');
		SELECT cqrs.resume_projection('folded');
		SELECT count(*) FROM cqrs.projection_status, cqrs.dead_letter;
		CALL cqrs.rebuild_projection('viewed', online => false);
		SELECT cqrs.create_view('made', 'SELECT aggregate_id, cqrs.last(event_type) AS last, count(*) AS n FROM events GROUP BY 1');
		SELECT happen('session');
		CALL cqrs.catch_up();});
	is($opened->query("SELECT cqrs.wait_for('made', '1 minute') AND cqrs.wait_for('folded', '1 minute');"), 't', "$what: a session waits");
	is( $opened->query(
			"SELECT v.n - $before, i.n - $before, m.n - $before, cardinality(f.positions) - $before,
				jsonb_array_length(to_jsonb(cqrs.fold('fold(folded,cqrs.event)', 'session'))->'positions') - $before
			FROM viewed AS v, viewed_inline AS i, made AS m, folded AS f
			WHERE v.key = 'session' AND i.key = 'session' AND f.key = 'session' AND m.aggregate_id = 'session';"),
		'4|4|4|4|4', "$what: and finds what it has published");
	$opened->query("SELECT cqrs.drop_projection('made', drop_read_tables => true);");
	is($opened->{stderr}, '', "$what: without an error");
	return;
}
