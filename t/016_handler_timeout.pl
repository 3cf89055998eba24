# A handler that does not return is cancelled after cqrs_views.handler_timeout. The event that it hangs at is put aside,
# whatever the kind of handler; what is slow only because it is much is applied in parts; nobody else's timeout, lock or
# cancellation is taken for it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server(
	'handler_timeout',
	'cqrs_views.handler_timeout' => '300ms',
	'cqrs_views.max_retries' => 1,
	'cqrs_views.retry_delay' => '20ms');
create_database($node, 'postgres');
sql(q{
	CREATE FUNCTION value_of(payload jsonb) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
		CASE payload->>'v'
			WHEN 'loop' THEN LOOP NULL; END LOOP;
			WHEN 'sleep' THEN PERFORM pg_sleep(3600);
			WHEN 'busy' THEN PERFORM pg_sleep(0.015); RETURN 1;
			ELSE NULL;
		END CASE;
		RETURN payload->>'v';
	END $$;
	ALTER FUNCTION value_of IMMUTABLE});
my @kinds = create_totals($node, 'postgres');

# --- two culprits among 200

publish_values("CASE i WHEN 13 THEN 'loop' WHEN 127 THEN 'sleep' ELSE i::text END", 200);
caught_up($_) foreach @kinds;
poll_ok($node, 'postgres', "SELECT count(*) FROM cqrs.dead_letter WHERE reason = 'failed' AND attempts = 2", 'given up after a retry', 8);
foreach my $kind (@kinds)
{
	is(sql("SELECT string_agg(position || ' ' || sqlstate || ' ' || message, ', ' ORDER BY position) FROM cqrs.dead_letter
			WHERE projection = '$kind' AND reason = 'failed'"),
		join(', ', map { qq(@$_ 54T01 canceling projection "$kind" due to handler timeout) } ([13], [127])), "$kind: the two are found");
	is(sql("SELECT count(*) FROM cqrs.dead_letter WHERE projection = '$kind' AND key NOT IN ('k2', 'k3')"), 0, "$kind: no others");
	is(sql("SELECT string_agg(id || ' ' || total, ', ' ORDER BY id) FROM totals WHERE kind = '$kind'"),
		sql("SELECT string_agg(id || ' ' || total, ', ' ORDER BY id) FROM (SELECT aggregate_id AS id, sum((payload->>'v')::int) AS total
			FROM cqrs.outbox WHERE position NOT IN (13, 127) AND NOT (aggregate_id = 'k3' AND position > 13)
			AND NOT (aggregate_id = 'k2' AND position > 127) GROUP BY 1) AS expected"), "$kind: all that is not behind them is applied");
}
like(sql("SELECT context FROM cqrs.dead_letter WHERE projection = 'singly' AND position = 13"),
	qr/value_of.*projection "singly", event at position 13/s, 'the context says where it hung');
sql("SELECT cqrs.drop_projection(name) FROM cqrs.projection");

# --- slow because it is much: applied in parts, by any policy

foreach my $policy (qw(park stop skip))
{
	foreach my $kind (qw(singly batched viewed))
	{
		define("${kind}_$policy", $kind, "on_error => '$policy', start_at => 'now'");
	}
}
publish_values("'busy'", 60);
foreach my $policy (qw(park stop skip))
{
	foreach my $kind (qw(singly batched viewed))
	{
		caught_up("${kind}_$policy");
		is(sql("SELECT count(*) FROM cqrs.dead_letter WHERE projection = '${kind}_$policy'"), 0, "$kind, $policy: nothing is put aside");
		is(sql("SELECT sum(total) FROM ${kind}_${policy}_totals"), 60, "$kind, $policy: all is applied");
	}
}

# --- skip records at once, stop stops before the batch

publish_values("CASE i WHEN 13 THEN 'loop' ELSE i::text END", 40);
caught_up("${_}_skip") foreach qw(singly batched viewed);
is(sql("SELECT string_agg(attempts || ' ' || sqlstate, ', ') FROM cqrs.dead_letter WHERE projection LIKE '%skip'"),
	'1 54T01, 1 54T01, 1 54T01', 'skip: once');
is(sql("SELECT sum(total) FROM ${_}_skip_totals"), 60 + 820 - 13, "skip, $_: the others") foreach qw(singly batched viewed);
foreach my $kind (qw(singly batched viewed))
{
	poll_ok($node, 'postgres', "SELECT state = 'stopped' AND last_error LIKE '54T01: canceling % due to handler timeout%'
		FROM cqrs.projection_status WHERE name = '${kind}_stop'", "stop, $kind: stopped");
	is(sql("SELECT sum(total) FROM ${kind}_stop_totals"), 60, "stop, $kind: before the batch");
}
sql("SELECT cqrs.drop_projection(name) FROM cqrs.projection");

# --- it hangs at every event: stopped, in bounded time, with a hint

define('hopeless', 'batched', "start_at => 'now', key => 'position::text'");
publish_values("'sleep'", 100);
poll_ok($node, 'postgres', "SELECT state = 'stopped' AND last_error LIKE '%again and again%batch_size%' FROM cqrs.projection_status", 'hopeless: stopped');
is(sql('SELECT count(*) FROM cqrs.dead_letter'), 0, 'hopeless: with nothing put aside');
sql("SELECT cqrs.drop_projection('hopeless')");

# --- a key that hangs

define('keyed', 'singly', "start_at => 'now', key => 'value_of(payload)::text'");
publish_values("CASE i WHEN 13 THEN 'loop' ELSE i::text END", 40);
caught_up('keyed');
is(sql("SELECT sum(total) FROM keyed_totals"), 820 - 13, 'a key that hangs: the others');
poll_ok($node, 'postgres', 'SELECT sqlstate, key IS NULL FROM cqrs.dead_letter', 'a key that hangs: put aside without one', '54T01|t');
sql("SELECT cqrs.drop_projection('keyed')");

# --- what is somebody else's: without workers

$node->append_conf('postgresql.conf', 'cqrs_views.enabled = off');
$node->reload;
poll_ok($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'", 'no workers', 0);
define('calm', 'singly', "start_at => 'now'");
publish_values("'sleep'", 1);
fails_ok($node, 'postgres', "SET statement_timeout = '100ms'; CALL cqrs.catch_up('calm')", qr/canceling statement due to statement timeout/, 'a statement timeout');
is(status('calm'), 'running|1|0', 'leaves all as it is');
my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_until(qr/started/, "SET cqrs_views.handler_timeout = 0;\n\\echo started\nCALL cqrs.catch_up('calm');\n");
poll_ok($node, 'postgres', "SELECT count(*) = 1 AND bool_and(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'",
	'without a timeout it goes on, until it is cancelled');
$session->quit;
is(status('calm'), 'running|1|0', 'which leaves all as it is, too');
sql("SELECT cqrs.alter_projection('calm', on_error => 'stop')");
fails_ok($node, 'postgres', "CALL cqrs.catch_up('calm')", qr/due to handler timeout/, 'the timeout in a session');
is(status('calm'), 'stopped|1|0', 'stops it');
sql("SELECT cqrs.drop_projection('calm')");

define('locked', 'singly', "start_at => 'now'");
publish_values("'1'", 1);
my $locker = $node->background_psql('postgres');
$locker->query_safe('BEGIN; LOCK locked_table IN SHARE MODE');
fails_ok($node, 'postgres', "CALL cqrs.catch_up('locked')", qr/due to handler timeout while it waits for a lock/, 'who waits for a lock is not to blame');
is(status('locked'), 'running|1|0', 'and is tried again');
$locker->query_safe('COMMIT');
$locker->quit;
sql("CALL cqrs.catch_up('locked')");
is(sql('SELECT sum(total) FROM locked_totals'), 1, 'with success');

# --- inline: the publisher's own timeouts

sql("SELECT cqrs.drop_projection('locked')");
define('inlined', 'singly', "start_at => 'now', mode => 'inline'");
publish_values("'busy'", 40);
is(sql('SELECT sum(total) FROM inlined_totals'), 40, 'inline, the publisher may take its time');
fails_ok($node, 'postgres', "SET statement_timeout = '100ms'; SELECT cqrs.publish('T', 'k', 'E', '{\"v\": \"loop\"}')",
	qr/canceling statement due to statement timeout/, 'inline, statement_timeout is the limit');

# --- one that catches what cancels it: the next cancellation ends it, or in the end the worker

$node->append_conf('postgresql.conf', 'cqrs_views.enabled = on');
$node->reload;
sql(q{SELECT cqrs.drop_projection(name) FROM cqrs.projection;
	CREATE FUNCTION sleep_on() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		PERFORM pg_sleep(3600);
	EXCEPTION WHEN query_canceled THEN NULL;
	END $$;
	CREATE TABLE slept (id text);
	CREATE TABLE awake (id text);
	CREATE FUNCTION sleep_once(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM sleep_on(); PERFORM pg_sleep(3600); END $$;
	CREATE FUNCTION sleep_for_ever(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN LOOP PERFORM sleep_on(); END LOOP; END $$;
	CREATE FUNCTION stay_awake(e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO awake VALUES (e.aggregate_id); END $$;
	SELECT cqrs.create_projection('sleeper', 'sleep_once(cqrs.event)', '{slept}', start_at => 'now')});
publish_values("'1'", 1);
caught_up('sleeper');
poll_ok($node, 'postgres', "SELECT sqlstate FROM cqrs.dead_letter WHERE projection = 'sleeper'", 'it catches one cancellation, and not the next', '54T01');
sql(q{SELECT cqrs.drop_projection('sleeper');
	SELECT cqrs.create_projection('sleeper', 'sleep_for_ever(cqrs.event)', '{slept}', start_at => 'now');
	SELECT cqrs.create_projection('awake', 'stay_awake(cqrs.event)', '{awake}', start_at => 'now')});
my $logged = -s $node->logfile;
publish_values("'1'", 1);
$node->wait_for_log(qr/terminating background worker "cqrs_views worker" due to administrator command/, $logged);
caught_up('awake');
sql("SELECT cqrs.drop_projection('sleeper')");

$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

# Publishes n events with the value of an SQL expression over i, for keys k0 to k4.
sub publish_values
{
	my ($value, $n) = @_;

	sql("SELECT cqrs.publish('T', 'k' || i % 5, 'E', jsonb_build_object('v', $value)) FROM generate_series(1, $n) AS i");
	return;
}

# Makes a projection NAME of a kind, with a view NAME_totals on what it has.
sub define
{
	my ($name, $kind, $arguments) = @_;

	if ($kind eq 'viewed')
	{
		sql("SELECT cqrs.create_view('$name', 'SELECT aggregate_id AS id, sum(value_of(payload)) AS total
			FROM events GROUP BY 1', $arguments)");
		sql("CREATE FUNCTION ${name}_total() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum(total) FROM $name); END';
			CREATE VIEW ${name}_totals AS SELECT ${name}_total() AS total");
		return;
	}
	sql("CREATE TABLE ${name}_table (id text, v int)");
	sql($kind eq 'singly' ?
		"CREATE FUNCTION ${name}_handle(e cqrs.event) RETURNS void LANGUAGE plpgsql AS
			'BEGIN INSERT INTO ${name}_table VALUES (e.aggregate_id, value_of(e.payload)); END';
		SELECT cqrs.create_projection('$name', '${name}_handle(cqrs.event)', '{${name}_table}', $arguments)" :
		"CREATE FUNCTION ${name}_handle() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN INSERT INTO ${name}_table SELECT aggregate_id, value_of(payload) FROM events; RETURN NULL; END';
		SELECT cqrs.create_projection('$name', '${name}_handle()', '{${name}_table}', $arguments)");
	sql("CREATE FUNCTION ${name}_total() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT sum(v) FROM ${name}_table); END';
		CREATE VIEW ${name}_totals AS SELECT ${name}_total() AS total");
	return;
}

sub caught_up
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok(sql("SELECT cqrs.wait_for('$name', '2 minutes')") eq 't', "$name has caught up");
}

sub status
{
	return sql("SELECT state, events_pending, events_parked FROM cqrs.projection_status WHERE name = '$_[0]'");
}
