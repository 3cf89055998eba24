# Where no worker runs, CALL cqrs.catch_up does it all: one projection's error, of whatever kind, holds up no other and comes
# out as it is; what fails to be retried stops nothing that publishers have gone on with; nobody's projection is rebuilt for
# another's; and events are found although the outbox was rewritten.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('by_hand', 'cqrs_views.enabled' => 'off', 'cqrs_views.retry_delay' => '20ms');
create_database($node, 'postgres');

# What a handler does that counts events by their keys, into a table of its name.
sql(q{
	CREATE FUNCTION count_into(counts regclass, e cqrs.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
		CASE e.event_type
			WHEN 'Bad' THEN RAISE 'bad';
			WHEN 'Busy' THEN RAISE serialization_failure;
			WHEN 'Hang' THEN PERFORM pg_sleep(3600);
			WHEN 'Tell' THEN PERFORM cqrs.publish('T', 'told', 'E'); PERFORM pg_sleep(3600);
			WHEN 'Wait' THEN PERFORM pg_advisory_xact_lock(e.payload::int);
			ELSE NULL;
		END CASE;
		EXECUTE format('INSERT INTO %s AS c VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = c.n + 1', counts) USING e.aggregate_id;
	END $$});

# --- an error that ends a batch of many outlives the batch

define('hangs', "on_error => 'stop'");
define('follows', "event_types => '{E}'");
sql("INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
	SELECT 'T', i::text, 'E', jsonb_build_object('x', repeat('x', 200)) FROM generate_series(1, 5000) AS i");
sql("CALL cqrs.catch_up('hangs')");
event('a', 'E');
event('b', 'Hang');
event('c', 'E');
fails_ok($node, 'postgres', "SET cqrs_views.handler_timeout = '100ms'; CALL cqrs.catch_up()",
	qr/ERROR:  projection "hangs" stopped: canceling projection "hangs" due to handler timeout\nDETAIL:  Its handler has not returned within 100 ms\.\nHINT:  Mend the handler, .*\nCONTEXT: .*pg_sleep.*projection "hangs", event at position 5002/s,
	'the error is told as it was');
is(sql('SELECT count(*), sum(n) FROM follows'), '5002|5002', 'the other projection has gone on');
drop_all();

# --- what is nobody's fault is told, and holds up nobody else

define('busy', '');
define('calm', "event_types => '{E}'");
event('k', 'Busy');
event('k', 'E');
fails_ok($node, 'postgres', 'CALL cqrs.catch_up()', qr/ERROR:  serialization_failure\nCONTEXT: .*projection "busy"/s, 'nobody\'s fault');
is(status('busy'), 'running|2|0', 'it is for another time');
is(status('calm'), 'running|0|0', 'the other projection has gone on');
fails_ok($node, 'postgres', "CALL cqrs.catch_up('busy')", qr/ERROR:  serialization_failure\n/, 'alone, it is told, too');
drop_all();

# --- but rather that something has stopped, which is not met again

define('busy', "event_types => '{Busy}'");
define('stopping', "event_types => '{Bad}', on_error => 'stop'");
event('k', 'Busy');
event('k', 'Bad');
fails_ok($node, 'postgres', 'CALL cqrs.catch_up()', qr/ERROR:  projection "stopping" stopped: bad\n/, 'a stop, beside what is nobody\'s fault');
drop_all();

# --- a cancellation ends it all

define('cancelled', "event_types => '{Hang}'");
define('rest', "event_types => '{E}'");
event('k', 'Hang');
event('k', 'E');
fails_ok($node, 'postgres', "SET cqrs_views.handler_timeout = 0; SET statement_timeout = '100ms'; CALL cqrs.catch_up()",
	qr/ERROR:  canceling statement due to statement timeout\n/, 'a statement timeout');
is(status('rest'), 'running|2|0', 'after which nothing goes on');
drop_all();

# --- a stop while publishers are waited for

my $publisher = background();
$publisher->query_safe("BEGIN; SELECT cqrs.publish('T', 'k', 'Bad')");
define('switching', "on_error => 'stop', mode => 'inline'");
my $caller = background();
$caller->query_until(qr/called/, "\\echo called\nCALL cqrs.catch_up('switching');\n\\echo done\n");
poll_ok($node, 'postgres', "SELECT count(*) FROM pg_locks WHERE relation = 'cqrs.outbox'::regclass AND NOT granted", 'the switch waits for a publisher', 1);
$publisher->query_safe('COMMIT');
$caller->query_until(qr/done/, "\n");
like($caller->{stderr}, qr/projection "switching" stopped: bad/, 'and says that it has stopped');
is(status('switching'), 'stopped|1|0', 'as it has');
drop_all();

# --- and nobody's fault meanwhile

$publisher->query_safe("BEGIN; SELECT cqrs.publish('T', 'k', 'Busy')");
define('switching', "mode => 'inline'");
define('rest', "event_types => '{E}', batch_size => 1");
event($_, 'E') foreach 1 .. 3;
$caller->query_until(qr/called/, "\\echo called\nCALL cqrs.catch_up();\n\\echo done\n");
poll_ok($node, 'postgres', "SELECT count(*) FROM pg_locks WHERE relation = 'cqrs.outbox'::regclass AND NOT granted", 'the switch waits for a publisher', 1);
$publisher->query_safe('COMMIT');
$caller->query_until(qr/done/, "\n");
like($caller->{stderr}, qr/ERROR:  serialization_failure/, 'what is nobody\'s fault is told');
is(status('switching'), 'switching|1|0', 'the switch is for another time');
is(status('rest'), 'running|0|0', 'the other projection has gone on');
$_->quit foreach $publisher, $caller;
drop_all();

# --- a rule is seen also where there was one before

define('ruled', '');
event('k', 'E');
fails_ok($node, 'postgres', q{
	SET cqrs_views.allow_writes = on;
	CREATE RULE r AS ON INSERT TO ruled DO INSTEAD NOTHING;
	DROP RULE r ON ruled;
	SET cqrs_views.allow_writes = off;
	CALL cqrs.catch_up();
	SELECT cqrs.publish('T', 'k', 'E');
	SET cqrs_views.allow_writes = on;
	CREATE RULE r AS ON INSERT TO ruled DO INSTEAD NOTHING;
	SET cqrs_views.allow_writes = off;
	CALL cqrs.catch_up()}, qr/ERROR:  projection "ruled" stopped: "ruled" can't be a read table/, 'a rule on a read table');
drop_all();

# --- a retry that fails stops no inline projection, whatever is asked for by now

define('inline', '');
event('k', 'Bad');
event('k', 'Bad');
sql("CALL cqrs.catch_up('inline')");
sql("SELECT cqrs.alter_projection('inline', mode => 'inline')");
sql("SELECT cqrs.alter_projection('inline', on_error => 'stop')");
event('good', 'E');
sql("SELECT cqrs.discard_dead_letters('inline', 'k', (SELECT min(position) FROM cqrs.dead_letter))");
sql("CALL cqrs.catch_up('inline')");
is(status('inline'), 'running|0|1', 'the event stays aside');
poll_ok($node, 'postgres', 'SELECT next_retry_at <= now() FROM cqrs.parked', 'until its time comes');
my $log = -s $node->logfile;
sql('SET cqrs_views.allow_writes = on; DROP FUNCTION handle_inline');
sql("CALL cqrs.catch_up('inline')");
like(slurp_file($node->logfile, $log), qr/projection "inline" could not retry dead letters: handler .* does not exist/, 'a handler that is gone is told of');
is(status('inline'), 'running|0|1', 'and stops nothing either');
is(sql("SELECT n FROM inline WHERE id = 'good'"), 1, 'what was published meanwhile was applied once');
drop_all();

# --- a handler's time is its own, also where what it publishes is looked at in the time of another's

define('aside', "event_types => '{Bad, E}'");
event('k', 'Bad');
sql("CALL cqrs.catch_up('aside')");
sql("SELECT cqrs.alter_projection('aside', mode => 'inline')");
define('tells', "event_types => '{Tell}'");
event('x', 'Tell');
sql("SET cqrs_views.handler_timeout = '200ms'; CALL cqrs.catch_up('tells')");
is(sql("SELECT sqlstate FROM cqrs.dead_letter WHERE projection = 'tells'"), '54T01', 'a handler that publishes and hangs is cancelled');
drop_all();

# --- what was asked for is there, though a longer batch is under way

define('waits', 'batch_size => 1');
my $holder = background();
$holder->query_safe("SELECT pg_advisory_lock(1), pg_advisory_lock(2)");
sql(q{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
	VALUES ('T', '1', 'E', '{}'), ('T', '2', 'Wait', '1')});
my $driver = background();
$driver->query_until(qr/called/, "\\echo called\nCALL cqrs.catch_up('waits');\n");
my $in_lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = ";
poll_ok($node, 'postgres', "$in_lock 1", 'the second event is under way', 1);
my $waiter = background();
$waiter->query_until(qr/waiting/, "\\echo waiting\nSELECT 'over: ' || cqrs.wait_for('waits', '3 minutes');\n");
poll_ok($node, 'postgres', "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT ''over%' AND state = 'active'", 'somebody waits', 1);
sql(q{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
	VALUES ('T', '3', 'E', '{}'), ('T', '4', 'Wait', '2'), ('T', '5', 'E', '{}')});
$holder->query_safe('SELECT pg_advisory_unlock(1)');
poll_ok($node, 'postgres', "$in_lock 2", 'later ones are', 1);
like($waiter->query_until(qr/over/, "\n"), qr/over: true/, 'and what was asked for is over');
$holder->query_safe('SELECT pg_advisory_unlock(2)');
$_->quit foreach $holder, $driver, $waiter;
drop_all();

# --- the outbox is rewritten while a batch waits for it

define('rewritten', 'batch_size => 2');
sql("INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type) SELECT 'T', i::text, CASE i WHEN 3 THEN 'Hold' ELSE 'E' END FROM generate_series(1, 6) AS i");
sql(q{CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE serialization_failure; END';
	CREATE TRIGGER hold BEFORE INSERT ON rewritten FOR EACH ROW WHEN (NEW.id = '3') EXECUTE FUNCTION hold()});
fails_ok($node, 'postgres', "CALL cqrs.catch_up('rewritten')", qr/serialization_failure/, 'a part is applied');
is(sql('SELECT count(*) FROM rewritten'), 2, 'of two events');
sql('DROP TRIGGER hold ON rewritten');
my $altering = background();
$altering->query_safe('BEGIN; ALTER TABLE cqrs.outbox ADD COLUMN extra timestamptz DEFAULT clock_timestamp()');
my $reader = background();
$reader->query_until(qr/called/, "\\echo called\nCALL cqrs.catch_up('rewritten');\n\\echo done\n");
poll_ok($node, 'postgres', "SELECT count(*) FROM pg_locks WHERE relation = 'cqrs.outbox'::regclass AND NOT granted", 'the rest waits', 1);
$altering->query_safe('COMMIT');
$reader->query_until(qr/done/, "\n");
is(sql('SELECT count(*) FROM rewritten'), 6, 'and is found');
$_->quit foreach $altering, $reader;
drop_all();

# --- another projection has the name by the time that its lock is had

sql('CREATE ROLE alice; CREATE ROLE bob; GRANT SELECT ON cqrs.outbox TO alice, bob; GRANT ALL ON SCHEMA public TO alice, bob');
foreach my $owner (qw(alice bob))
{
	sql("SET ROLE $owner; CREATE TABLE of_$owner (id text);
		CREATE FUNCTION by_$owner(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO of_$owner VALUES (e.aggregate_id); END';
		SELECT cqrs.create_projection('$owner', 'by_$owner(cqrs.event)', '{of_$owner}')");
}
my $renaming = background();
$renaming->query_safe("BEGIN; SELECT cqrs.alter_projection('alice', new_name => 'old'), cqrs.alter_projection('bob', new_name => 'alice')");
my $rebuilding = background();
$rebuilding->query_until(qr/called/, "SET ROLE alice;\n\\echo called\nCALL cqrs.rebuild_projection('alice', online => false);\n\\echo done\n");
poll_ok($node, 'postgres', "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = 'postgres')", 'the rebuild waits', 1);
$renaming->query_safe('COMMIT');
$rebuilding->query_until(qr/done/, "\n");
like($rebuilding->{stderr}, qr/must be owner of projection "alice"/, 'and is refused');
$_->quit foreach $renaming, $rebuilding;

$node->stop;
done_testing();

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub background
{
	return $node->background_psql('postgres', on_error_stop => 0);
}

# Makes a projection NAME of count_into, with the table NAME.
sub define
{
	my ($name, $arguments) = @_;

	$arguments = ", $arguments" if $arguments;
	sql("CREATE TABLE $name (id text PRIMARY KEY, n int);
		CREATE OR REPLACE FUNCTION handle_$name(e cqrs.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN PERFORM count_into(''$name'', e); END';
		SELECT cqrs.create_projection('$name', 'handle_$name(cqrs.event)', '{$name}', start_at => 'now'$arguments)");
	return;
}

sub event
{
	my ($key, $type) = @_;

	return sql("SELECT cqrs.publish('T', '$key', '$type')");
}

sub drop_all
{
	return sql('SELECT count(cqrs.drop_projection(name, true)) FROM cqrs.projection');
}

sub status
{
	return sql("SELECT state, events_pending, events_parked FROM cqrs.projection_status WHERE name = '$_[0]'");
}
