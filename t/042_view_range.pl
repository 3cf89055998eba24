# Views with a backlog read their events from the outbox by themselves, a range of positions at a time. That
# must be the same as reading them into a batch first, but for who reads: no event more or less, in the read table and
# in the figures, with an event in the way that fails, and with one that commits late.
#
# One session processes all events, without workers, so that it is known what it reads, and how.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use Test::More;

my $node = new_server('range', 'cqrs_views.enabled' => 'off', track_functions => 'all');
my $query = q{
	SELECT aggregate_id AS account, count(*) AS events, sum((payload->>'n')::int) AS total,
		cqrs.last(payload->>'n') AS latest
	FROM events WHERE event_type IN ('Paid', 'Refunded') AND payload->>'n' <> '0' GROUP BY aggregate_id};
my $expected = $query =~ s/cqrs\.last\(payload->>'n'\)/(array_agg(payload->>'n' ORDER BY position DESC))[1]/r
	=~ s/FROM events/FROM cqrs.outbox/r;

create_database($node, 'postgres');
run("SELECT cqrs.create_view('totals', \$\$ $query \$\$, batch_size => 10)");
is(run('SELECT event_types FROM cqrs.projection'), '{Paid,Refunded}', 'the view has a filter');

# --- some events are of another type, some were rolled back, some are nothing to the view

publish_many(60, "CASE i % 5 WHEN 0 THEN 'Opened' WHEN 1 THEN 'Refunded' ELSE 'Paid' END", 'i % 7');
run("BEGIN; SELECT cqrs.publish('Account', 'never', 'Paid') FROM generate_series(1, 30); ROLLBACK");
publish_many(25, "'Paid'", '1');
is_deeply([ heard('totals') ],
	[ map({ "$_ 8" } 9, 19, 29, 39, 49, 59), '100 10', '110 10', '115 5' ],
	'each batch tells its last position and how many events it had');
is(status(), '0|73|0|115|running', 'exactly those are counted that the filter lets through');
is(read_by_ranges(), 73, 'and they were read as ranges');
same('the read table is what the query says');

# --- positions that were drawn for nothing look like a backlog, and are none

run("BEGIN; SELECT cqrs.publish('Account', 'never', 'Paid') FROM generate_series(1, 100); ROLLBACK");
is_deeply([ heard('totals') ], [], 'there is nothing to be read');
publish_many(1, "'Paid'", '1');
is_deeply([ heard('totals') ], ['216 1'], 'and what follows is');
publish_many(1, "'Paid'", '1');
is_deeply([ heard('totals') ], ['217 1'], 'as usual');

# --- few events are read into memory

my $before = read_by_ranges();
publish_many(10, "'Paid'", '1');
run('CALL cqrs.catch_up()');
is(read_by_ranges(), $before, 'few events are no range');
same('they are in the read table');

# --- an event that commits late, in the way of ranges and before them

my $late = $node->background_psql('postgres');
$late->query_safe("BEGIN; SELECT cqrs.publish('Account', 'late', 'Paid', '{\"n\": 1}')");
publish_many(5, "'Paid'", '2');
run('CALL cqrs.catch_up()');
$late->query_safe("SELECT cqrs.publish('Account', '1', 'Paid', '{\"n\": 3}')");
publish_many(15, "'Paid'", '4');
$late->query_safe("SELECT cqrs.publish('Account', '1', 'Paid', '{\"n\": 5}')");
publish_many(40, "'Paid'", '6');
commit_and_quit($late);
$before = read_by_ranges();
run('CALL cqrs.catch_up()');
same('events that commit late are not left out');
cmp_ok(read_by_ranges(), '>', $before, 'and do not keep the rest from being read as ranges');

# --- an event that fails is found, and does not take the others with it

$before = status_of('events_processed');
publish_many(40, "'Paid'", "CASE i WHEN 17 THEN 'x' ELSE '1' END");
run('CALL cqrs.catch_up()');
is(run('SELECT key, reason, sqlstate, message FROM cqrs.dead_letter ORDER BY position LIMIT 1'),
	'1|failed|22P02|invalid input syntax for type integer: "x"', 'the event that fails is put aside');
is(status_of('events_processed - ' . $before . ' + events_parked'), 40, 'each event is applied or put aside');
is(run("SELECT count(*) FROM cqrs.dead_letter WHERE key <> '1'"), 0, 'other keys go on');

$before = read_by_ranges();
publish_many(30, "'Paid'", '1');
run('CALL cqrs.catch_up()');
is(read_by_ranges(), $before, 'with a key put aside, events are looked at one by one');

# --- or its projection stops at it, with what came before it in the read table

run("SELECT cqrs.discard_dead_letters('totals', '1'); SELECT cqrs.alter_projection('totals', on_error => 'stop')");
$before = status_of('events_processed');
publish_many(40, "'Paid'", "CASE i WHEN 35 THEN 'x' ELSE '1' END");
my ($status, $output, $errors) = $node->psql('postgres', 'CALL cqrs.catch_up()');
like($errors, qr/projection "totals" stopped: invalid input syntax for type integer: "x"/, 'it says why it stops');
is(status_of('state'), 'stopped', 'it is stopped');
cmp_ok(status_of("events_processed - $before"), '<=', 34, 'before the event that fails');
run(q{SELECT cqrs.drop_projection('totals', drop_read_tables => true)});

# --- appended rows, and a query without groups

run(q{SELECT cqrs.create_view('opened', $$ SELECT position, payload->>'n' AS n FROM events WHERE event_type = 'Opened' $$,
	batch_size => 10)});
run(q{SELECT cqrs.create_view('all_events', 'SELECT count(*) AS events, max(position) AS latest FROM events',
	batch_size => 10)});
run("CALL cqrs.rebuild_projection('$_', online => false)") for qw(opened all_events);
is(run('SELECT * FROM opened ORDER BY position'),
	run(q{SELECT position, payload->>'n' FROM cqrs.outbox WHERE event_type = 'Opened' ORDER BY position}),
	'rows are appended');
is(run('TABLE all_events'), run('SELECT count(*), max(position) FROM cqrs.outbox'), 'one row counts all');

# --- where all events count, groups are counted, and the last position is known all the same

run(q{SELECT cqrs.drop_projection('opened', drop_read_tables => true)});
run(q{SELECT cqrs.create_view('by_type', 'SELECT event_type, count(*) AS events FROM events GROUP BY 1',
	start_at => 'now', batch_size => 10)});
$before = run('SELECT max(position) FROM cqrs.outbox');
my $processed = run("SELECT events_processed FROM cqrs.projection_status WHERE name = 'all_events'");
my $one_by_one = calls('count_event');
publish_many(27, "CASE i % 2 WHEN 0 THEN 'Paid' ELSE 'Opened' END", '1');
run("BEGIN; SELECT cqrs.publish('Account', 'never', 'Paid') FROM generate_series(1, 30); ROLLBACK");
publish_many(12, "'Paid'", '1');
is_deeply([ heard('by_type') ], [ map { $before + $_->[0] . " $_->[1]" } [ 10, 10 ], [ 20, 10 ], [ 27, 7 ], [ 67, 10 ], [ 69, 2 ] ],
	'each range tells its last event, also with positions behind it that nothing came of');
is(run("SELECT event_type, events FROM by_type ORDER BY 1"), "Opened|14\nPaid|25", 'each event is in its group');
is(run("SELECT events_processed FROM cqrs.projection_status WHERE name = 'by_type'"), 39, 'and counted');
is(run("SELECT events_processed - $processed FROM cqrs.projection_status WHERE name = 'all_events'"), 39, 'with one row for all, too');
is(calls('count_event'), $one_by_one, 'none of them by itself');

$late = $node->background_psql('postgres');
$late->query_safe("BEGIN; SELECT cqrs.publish('Account', 'late', 'Paid')");
publish_many(20, "'Paid'", '1');
run('CALL cqrs.catch_up()');
cmp_ok(calls('count_event'), '>', $one_by_one, 'beside events that nobody sees yet they are looked at one by one');
commit_and_quit($late);
run('CALL cqrs.catch_up()');
is(run("SELECT event_type, events FROM by_type ORDER BY 1"), "Opened|14\nPaid|46", 'and none is left out');

# --- a handler's batches are read from the same places: where all rows are new ones, and where some are not

run('CREATE TABLE log (position bigint PRIMARY KEY);
	CREATE TABLE failing (position bigint);
	CREATE FUNCTION keep_log() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF EXISTS (SELECT FROM events JOIN failing USING (position)) THEN
			RAISE EXCEPTION USING MESSAGE = $m$not yet$m$;
		END IF;
		INSERT INTO log SELECT position FROM events;
		RETURN NULL;
	END $$');
run("SELECT cqrs.create_projection('log', 'keep_log()', '{log}', batch_size => 10, on_error => 'stop')");
run("CALL cqrs.catch_up('log')");

my @late = map { $node->background_psql('postgres') } 1 .. 2;
$_->query_safe("BEGIN; SELECT cqrs.publish('Account', 'late', 'Paid')") for @late;
publish_many(15, "'Paid'", '1');
run("CALL cqrs.catch_up('log')");
publish_many(25, "'Paid'", '1');
run("INSERT INTO failing SELECT max(position) FROM cqrs.outbox");
$_->query_safe("SELECT cqrs.publish('Account', 'late', 'Paid')") for @late;
publish_many(25, "'Paid'", '1');
commit_and_quit($late[0]);
$node->psql('postgres', "CALL cqrs.catch_up('log')");
is(run("SELECT state FROM cqrs.projection_status WHERE name = 'log'"), 'stopped', 'a backlog is half read');
commit_and_quit($late[1]);
run("TRUNCATE failing; SELECT cqrs.resume_projection('log')");
run("CALL cqrs.catch_up('log')");
is(run('SELECT count(*) FROM log'), run('SELECT count(*) FROM cqrs.outbox'), 'each event once, however late it comes');

# --- an event whose position was drawn before others', and its transaction id after they had been processed

my $slow = run("SELECT nextval('cqrs.outbox_position_seq')");
publish_many(30, "'Paid'", '1');
run("CALL cqrs.catch_up('log')");
run('CREATE TABLE new_log (LIKE log INCLUDING ALL);
	CREATE FUNCTION keep_new_log() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN INSERT INTO new_log SELECT position FROM events; RETURN NULL; END $$');
run("SELECT cqrs.create_projection('new_log', 'keep_new_log()', '{new_log}', start_at => 'now', batch_size => 10)");
run("INSERT INTO cqrs.outbox (position, aggregate_type, aggregate_id, event_type) OVERRIDING SYSTEM VALUE
	VALUES ($slow, 'Account', 'slow', 'Paid')");
publish_many(30, "'Paid'", '1');
run('CALL cqrs.catch_up()');
is(run('SELECT count(*) FROM log'), run('SELECT count(*) FROM cqrs.outbox'), 'those between are not processed again');
is(run('SELECT count(*), min(position) FROM new_log'), "31|$slow", 'nor by who began behind them');

# --- a session follows when filters come and go

run(q{SELECT cqrs.drop_projection(name, drop_read_tables => true) FROM cqrs.projection});
run(q{SELECT cqrs.create_view('paid', 'SELECT event_type, count(*) AS events FROM events GROUP BY 1',
	event_types => '{Paid}', start_at => 'now', batch_size => 10)});
my $publish = q{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type)
	SELECT 'Account', i, CASE i % 2 WHEN 0 THEN 'Paid' ELSE 'Opened' END FROM generate_series(1, 20) AS i};
is(run("$publish; CALL cqrs.catch_up(); SELECT cqrs.alter_projection('paid', event_types => '{}');
		$publish; CALL cqrs.catch_up(); SELECT cqrs.alter_projection('paid', event_types => '{Opened}');
		$publish; CALL cqrs.catch_up(); SELECT * FROM paid ORDER BY 1") =~ s/^\n+//r,
	"Opened|20\nPaid|20", 'and counts what each lets through');

# --- several views read by themselves, also beside a handler that is given batches; one that fails is given one, too

run(q{SELECT cqrs.drop_projection(name, drop_read_tables => true) FROM cqrs.projection});
run(q{
	CREATE TABLE handled (position bigint PRIMARY KEY);
	CREATE FUNCTION handle() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		INSERT INTO handled SELECT position FROM events;
		RETURN NULL;
	END $$;
	BEGIN;
	SELECT cqrs.create_view('counts', 'SELECT aggregate_id AS account, count(*) AS events FROM events GROUP BY 1',
		start_at => 'now', batch_size => 10);
	SELECT cqrs.create_view('sums', $$ SELECT aggregate_id AS account, sum((payload->>'n')::int) AS total
		FROM events GROUP BY 1 $$, start_at => 'now', batch_size => 20);
	SELECT cqrs.create_projection('handled', 'handle()', '{handled}', start_at => 'now', batch_size => 15);
	COMMIT;
});
is(run('SELECT count(DISTINCT done::text) FROM cqrs.checkpoint'), 1, 'they stand at one checkpoint');
my $first = run('SELECT max(position) + 1 FROM cqrs.outbox');
my $groups_before = calls('count_events');
publish_many(50, "'Paid'", '1');
run('CALL cqrs.catch_up()');
my $groups = calls('count_events') - $groups_before;
is($groups, 2 * 5 * 4, 'each view reads by itself, a range of the smallest batch at a time');
same_for_all('and all have what is theirs');

publish_many(5, "'Paid'", '1');
run('CALL cqrs.catch_up()');
is(calls('count_events') - $groups_before, $groups, 'few events they have read for them');
is(run('SELECT count(DISTINCT done::text) FROM cqrs.checkpoint'), 1, 'and stand at one checkpoint again');
same_for_all('they are in all tables');

publish_many(50, "'Paid'", "CASE i WHEN 33 THEN 'x' ELSE '1' END");
run('CALL cqrs.catch_up()');
is(run('SELECT DISTINCT projection FROM cqrs.dead_letter'), 'sums', 'an event that fails for one is put aside for that');
run(q{SELECT cqrs.discard_dead_letters('sums', key) FROM (SELECT DISTINCT key FROM cqrs.dead_letter) AS d});
is(run(q{SELECT sum(events_processed) || ' of ' || sum(events_processed + events_parked) FROM cqrs.projection_status
	WHERE name <> 'sums'}), '210 of 210', 'the others process it');
is(run("SELECT count(*) FROM handled WHERE position >= $first"), 105, 'each once');
is(run('SELECT sum(events) FROM counts'), 105, 'be it counted or kept');

is(run('SELECT cqrs.count_event(1, pg_current_xact_id()) AND cqrs.count_event(1) AND cqrs.count_events(1)'), 't', 'anywhere else the functions that count do nothing');

$node->stop;
done_testing();

sub run
{
	my ($sql) = @_;

	return $node->safe_psql('postgres', $sql);
}

sub commit_and_quit
{
	my ($session) = @_;

	$session->query_safe('COMMIT');
	$session->quit;
	return;
}

# Publishes n events of four accounts; type and value are SQL expressions over i.
sub publish_many
{
	my ($n, $type, $value) = @_;

	run("INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
		SELECT 'Account', i % 4, $type, jsonb_build_object('n', ($value)::text) FROM generate_series(1, $n) AS i");
	return;
}

# Catches up, and returns position and number of events of each notification of a projection.
sub heard
{
	my ($projection) = @_;
	my $heard = run("SET statement_timeout = '20s'; LISTEN $projection; CALL cqrs.catch_up()");

	return map { /"position": (\d+), "events": (\d+)/ ? "$1 $2" : () } split(/\n/, $heard);
}

# How many events statements have counted one by one so far, over all sessions.
sub read_by_ranges
{
	return calls('count_event');
}

# How often functions of the extension of that name were called.
sub calls
{
	my ($name) = @_;

	return run("SELECT sum(coalesce(pg_stat_get_function_calls(oid), 0)) FROM pg_proc
		WHERE pronamespace = 'cqrs'::regnamespace AND proname = '$name'");
}

sub status
{
	return status_of('events_pending, events_processed, events_parked, last_position, state');
}

sub status_of
{
	my ($columns) = @_;

	return run("SELECT $columns FROM cqrs.projection_status");
}

sub same_for_all
{
	my ($name) = @_;
	my $events = "FROM cqrs.outbox WHERE position >= $first GROUP BY 1 ORDER BY 1";

	is(run('SELECT * FROM counts ORDER BY account; SELECT * FROM sums ORDER BY account; SELECT * FROM handled ORDER BY 1'),
		run("SELECT aggregate_id, count(*) $events; SELECT aggregate_id, sum((payload->>'n')::int) $events;
			SELECT position FROM cqrs.outbox WHERE position >= $first ORDER BY 1"),
		$name);
	return;
}

sub same
{
	my ($name) = @_;

	is(run('SELECT * FROM totals ORDER BY account'), run("$expected ORDER BY aggregate_id"), $name);
	return;
}
