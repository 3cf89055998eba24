# Dead letters are retried while events of their keys keep arriving, and the session that retries, or a worker, is killed
# in the midst of it: in the end each key has all its events, once, in order.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{CQRS_RETRY_ROUNDS} || 6;
my @kinds = qw(batched folded singly);
my $node = new_server(
	'retry_crash',
	restart_after_crash => 'on',
	'cqrs_views.max_retries' => 1,
	'cqrs_views.retry_delay' => '5ms');
create_database($node, 'postgres');
sql(q{
	CREATE TABLE broken (yes boolean);
	INSERT INTO broken VALUES (false);
	CREATE TABLE singly (n bigint GENERATED ALWAYS AS IDENTITY, id text, position bigint);
	CREATE TABLE batched (n bigint GENERATED ALWAYS AS IDENTITY, id text, position bigint);
	CREATE TABLE folded (id text PRIMARY KEY, positions bigint[]);
	CREATE FUNCTION check_one(type text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		IF type = 'Bad' AND (SELECT yes FROM broken) THEN
			RAISE 'broken';
		ELSIF random() < 0.05 THEN
			PERFORM pg_sleep(0.002);
		END IF;
	END $$;
	CREATE FUNCTION singly(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		PERFORM check_one(e.event_type);
		INSERT INTO singly (id, position) VALUES (e.aggregate_id, e.position);
	END $$;
	CREATE FUNCTION batched() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM check_one(event_type) FROM events;
		INSERT INTO batched (id, position) SELECT aggregate_id, position FROM events ORDER BY position;
		RETURN NULL;
	END $$;
	CREATE FUNCTION folded(t folded, e cqrs.event) RETURNS folded LANGUAGE plpgsql AS $$ BEGIN
		PERFORM check_one(e.event_type);
		t.positions := t.positions || e.position;
		RETURN t;
	END $$;
	SELECT cqrs.create_projection('singly', 'singly(cqrs.event)', '{singly}');
	SELECT cqrs.create_projection('batched', 'batched()', '{batched}');
	SELECT cqrs.create_projection('folded', 'folded(folded,cqrs.event)', '{folded}')});

# a publisher of four keys that goes on for all the time, over crashes too
my $publish = $node->basedir . '/publish.sql';
append_to_file($publish, q{\set key random(1, 4)
BEGIN;
SELECT pg_advisory_xact_lock(:key);
INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) SELECT 'T', :key, CASE WHEN random() < 0.05 THEN 'Bad' ELSE 'E' END;
COMMIT;
});
foreach my $round (1 .. $rounds)
{
	my $publisher = start_publisher();

	sql('UPDATE broken SET yes = true');
	poll_ok($node, 'postgres', "SELECT count(DISTINCT projection) FROM cqrs.dead_letter WHERE reason = 'failed'",
		"round $round: dead letters of each", scalar @kinds);
	sql('UPDATE broken SET yes = false');

	# somebody retries until nothing is left, and is killed, or a worker is, at some point
	foreach my $victim (qw(retrier worker retrier))
	{
		my $retrier = $node->background_psql('postgres', on_error_stop => 0);
		my $pid = $retrier->query('SELECT pg_backend_pid()');
		my @victims = $victim eq 'retrier' ? ($pid) : worker_pids($node, 'postgres');

		$retrier->{stdin} .= join('', map { "SELECT cqrs.retry_dead_letters('$_');\n" } @kinds);
		$retrier->{run}->pump_nb;
		usleep(rand(30_000));
		kill 'KILL', $victims[ int(rand(@victims)) ] if @victims;
		usleep(50_000);
		$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
		eval { $retrier->quit };
		kill_publisher($publisher);
		$publisher = start_publisher();
	}
	kill_publisher($publisher);
	foreach my $kind (@kinds)
	{
		sql("SELECT cqrs.retry_dead_letters('$kind')");
		is(sql("SELECT cqrs.wait_for('$kind', '2 minutes'), (SELECT events_parked FROM cqrs.projection_status WHERE name = '$kind')"),
			't|0', "round $round, $kind: nothing is left");
		is(sql("SELECT count(*) FROM (" . ($kind eq 'folded' ?
				"SELECT id, positions FROM folded" :
				"SELECT id, array_agg(position ORDER BY n) AS positions FROM $kind GROUP BY 1") . ") AS found
			FULL JOIN (SELECT aggregate_id AS id, array_agg(position ORDER BY position) AS positions FROM cqrs.outbox GROUP BY 1) AS published
			USING (id) WHERE found.positions IS DISTINCT FROM published.positions"), 0, "round $round, $kind: all, once, in order");
	}
}
note(sql('SELECT count(*) FROM cqrs.outbox') . ' events');
$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub start_publisher
{
	my ($nothing, $output) = ('', '');

	return IPC::Run::start(
		[ 'pgbench', '-n', '-c', '2', '-R', '400', '-T', '600', '-f', $publish, '-h', $node->host, '-p', $node->port, 'postgres' ],
		'<', \$nothing, '>', \$output, '2>&1');
}

sub kill_publisher
{
	my ($publisher) = @_;

	$publisher->kill_kill;
	$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'");
	return;
}
