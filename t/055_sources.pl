# Services in another cluster, whose outbox tables have the layouts of Eventuate Tram, Debezium and cqrs_views, and a
# database that follows them by logical replication. Whatever happens to the subscription and to the two servers, each
# event arrives once, and those of a key in their order.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my %settings = (wal_retrieve_retry_interval => '100ms', max_replication_slots => 20, max_worker_processes => 20);
my $publisher = new_server('publisher', %settings, allows_streaming => 'logical', logical_decoding_work_mem => '64kB');
my $subscriber = new_server('subscriber', %settings);
create_database($_, 'postgres') foreach $publisher, $subscriber;

# --- what the services are like

my $tables = q{
	CREATE TABLE message (id varchar(1000) PRIMARY KEY, destination text NOT NULL, headers text NOT NULL, payload text NOT NULL,
		published smallint DEFAULT 0, message_partition smallint, creation_time bigint);
	CREATE TABLE pay (id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
		type varchar(255) NOT NULL, payload jsonb, "timestamp" timestamptz NOT NULL);};
$publisher->safe_psql('postgres', qq{
	$tables
	CREATE SEQUENCE published;
	SELECT cqrs.create_view('thing_events', \$\$SELECT position, event_id, aggregate_type, aggregate_id, aggregate_version,
		event_type, payload, metadata, occurred_at FROM events\$\$);
	CREATE PUBLICATION services FOR TABLE message, pay, thing_events;
	-- one event of each service, the n-th of the key; and a command, which is no event
	CREATE FUNCTION publish(n bigint) RETURNS void LANGUAGE plpgsql AS \$\$
	DECLARE
		key text := n % 3;
		at bigint := extract(epoch FROM clock_timestamp()) * 1000;
		message text := lpad(to_hex(at), 16, '0') || '-' || lpad(to_hex(n), 16, '0');
	BEGIN
		INSERT INTO message (id, destination, headers, payload, creation_time) VALUES
			(message, 'example.Customer', format('{"PARTITION_ID":"%s","event-aggregate-type":"example.Customer","DATE":"Tue, 11 Oct 2022 16:03:17 GMT","event-aggregate-id":"%s","event-type":"example.Happened","DESTINATION":"example.Customer","ID":"%s"}', key, key, message), format('{"n":%s}', n), at),
			(message || '-command', 'service', '{"command_type":"example.Reserve","command_reply_to":"reply"}', '{}', at);
		INSERT INTO pay VALUES (gen_random_uuid(), 'Payment', key, 'Happened', jsonb_build_object('n', n), clock_timestamp());
		PERFORM cqrs.publish('Thing', key, 'Happened', jsonb_build_object('n', n));
	END \$\$});
$subscriber->safe_psql('postgres', qq{
	$tables
	CREATE TABLE thing_events ("position" bigint PRIMARY KEY, event_id uuid, aggregate_type text, aggregate_id text, aggregate_version bigint,
		event_type text, payload jsonb, metadata jsonb, occurred_at timestamptz);
	CREATE ROLE keeper;
	ALTER TABLE pay OWNER TO keeper;
	CREATE TABLE ran_as (source text, who text, UNIQUE (source, who));
	GRANT INSERT ON ran_as TO keeper;
	CREATE FUNCTION note_who() RETURNS trigger LANGUAGE plpgsql AS \$\$
		BEGIN INSERT INTO public.ran_as VALUES (new.source, current_user) ON CONFLICT DO NOTHING; RETURN NULL; END \$\$;
	CREATE TRIGGER note_who AFTER INSERT ON cqrs.outbox FOR EACH ROW EXECUTE FUNCTION note_who();
	ALTER TABLE cqrs.outbox ENABLE ALWAYS TRIGGER note_who;
	SELECT cqrs.attach_outbox('message', 'customers', 'eventuate');
	SELECT cqrs.attach_outbox('pay', 'payments', 'debezium');
	SELECT cqrs.attach_outbox('thing_events', 'things')});
create_log_projection($subscriber, 'postgres', 'p');
create_log_projection($subscriber, 'postgres', 'at_once', arguments => "mode => 'inline'");

my $published = 0;

# Publishes so many more events of each service, each in a transaction of its own; or all in one, which does something
# else first.
sub publish_more
{
	my ($events, $first) = @_;
	my @statements = map { my $n = $published + $_; "SELECT publish($n)" } 1 .. $events;

	@statements = ('BEGIN', $first, @statements, 'COMMIT') if defined $first;
	$publisher->safe_psql('postgres', join ';', @statements);
	$published += $events;
	return;
}

# Tests that all that was published has arrived, once and in order, and is processed.
sub arrived
{
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$publisher->safe_psql('postgres', "SELECT cqrs.wait_for('thing_events', '3 minutes')");
	my $expected = 3 * $published;
	my $all = $subscriber->poll_query_until('postgres', "SELECT count(*) >= $expected FROM cqrs.outbox");
	my $result = $subscriber->safe_psql('postgres', q{
		SELECT count(*), count(DISTINCT (source, payload)), count(*) FILTER (WHERE (payload->>'n')::int < before), min(per_source), max(per_source)
		FROM (SELECT source, payload, lag((payload->>'n')::int) OVER (PARTITION BY source, aggregate_id ORDER BY position) AS before,
				count(*) OVER (PARTITION BY source) AS per_source FROM cqrs.outbox) AS o});

	ok($all, "$what: all events arrive")
	  or diag($subscriber->safe_psql('postgres', 'SELECT * FROM cqrs.source_status'));
	is($result, "$expected|$expected|0|$published|$published", "$what: each once, in order");
	handled_once($subscriber, 'postgres', 'p', "$what, async");
	handled_once($subscriber, 'postgres', 'at_once', "$what, inline");
	return;
}

# The subscription, made anew: what is left of the old one's rows goes, so that they can be copied again.
sub subscribe
{
	my ($slot, $options) = @_;
	my $source = $publisher->connstr . ' dbname=postgres';

	$subscriber->safe_psql('postgres', 'TRUNCATE message, pay, thing_events');
	$subscriber->safe_psql('postgres',
		"CREATE SUBSCRIPTION services CONNECTION '$source' PUBLICATION services WITH (slot_name = '$slot', copy_data = true$options)");
	$subscriber->poll_query_until('postgres',
		"SELECT count(*) = 3 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel")
	  or die 'the subscription is not ready';
	return;
}

# --- the copy, from tables whose rows lie in another order than they were written in; then row by row

publish_more(200);
$publisher->safe_psql('postgres', "SELECT cqrs.wait_for('thing_events')");
$publisher->safe_psql('postgres', q{
	DO $$ DECLARE m text; BEGIN
		FOR m IN SELECT id FROM message ORDER BY md5(id) LOOP UPDATE message SET published = 1 WHERE id = m; END LOOP;
		FOR m IN SELECT id FROM pay ORDER BY id LOOP UPDATE pay SET payload = payload || '{}' WHERE id = m::uuid; END LOOP;
	END $$});
subscribe('first', '');
arrived('a copy');
publish_more(50);
arrived('streamed');
is($subscriber->safe_psql('postgres', q{SELECT source, events, duplicates, rows_parked, subscriptions, subscription_state, apply_errors,
		lag BETWEEN '-1 second' AND '3 minutes' FROM cqrs.source_status ORDER BY source}),
	join("\n", map { "$_|250|0|0|{services}|streaming|0|t" } qw(customers payments things)), 'source_status tells');

is($subscriber->safe_psql('postgres', "SELECT who FROM ran_as WHERE source = 'payments'"), 'keeper',
	"somebody's trigger on the outbox runs as the owner of the attached table");

# --- the subscription is restarted, the apply process killed, either server crashes

$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION services DISABLE');
is($subscriber->safe_psql('postgres', "SELECT DISTINCT subscription_state FROM cqrs.source_status"), 'disabled', 'its state is told');
publish_more(20);
$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION services ENABLE');
publish_more(20);
arrived('a restart');

$subscriber->append_conf('postgresql.conf', 'restart_after_crash = on');
$subscriber->reload;
publish_more(20);
my $apply = $subscriber->safe_psql('postgres', 'SELECT pid FROM pg_stat_subscription');
kill 'KILL', $apply or die "cannot kill $apply: $!";
publish_more(20);
$subscriber->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_subscription WHERE pid <> $apply")
  or die 'no apply process came back';
arrived('an apply process killed');

publish_more(20);
$publisher->stop('immediate');
$publisher->start;
publish_more(20);
arrived('a crash of the publisher');

# an apply process that is started anew confirms what the one before has applied, be it on disk or not: that is
# PostgreSQL's, and synchronous_commit in the subscription prevents it
$subscriber->safe_psql('postgres', "SELECT pg_logical_emit_message(true, '', 'to disk')");
publish_more(20);
$subscriber->stop('immediate');
publish_more(20);
$subscriber->start;
arrived('a crash of the subscriber');

# --- an error that is not a row's, until it is mended

$subscriber->safe_psql('postgres', "ALTER TABLE pay ADD CONSTRAINT c CHECK (payload->>'n' IS NULL) NOT VALID");
publish_more(1);
poll_ok($subscriber, 'postgres', "SELECT apply_errors > 0 FROM cqrs.source_status WHERE source = 'payments'", 'errors of the subscription are told');
$subscriber->safe_psql('postgres', 'ALTER TABLE pay DROP CONSTRAINT c');
arrived('an error');

# --- rows that are no events stop nothing

$publisher->safe_psql('postgres', q{
	INSERT INTO message VALUES ('bad', 'D', '{"event-aggregate-type":"D","event-aggregate-id":"0","event-type":"E"}', 'not JSON');
	INSERT INTO message VALUES ('worse', 'D', 'not JSON', '{}')});
publish_more(3);
poll_ok($subscriber, 'postgres', "SELECT rows_parked = 3 FROM cqrs.source_status WHERE source = 'customers'", 'rows are put aside');
is($subscriber->safe_psql('postgres', "SELECT key, reason, row->>'id' IN ('bad', 'worse') FROM cqrs.source_dead_letter ORDER BY number"),
	"0|failed|t\n|failed|t\n0|behind|f", 'and what is behind them');
$subscriber->safe_psql('postgres', q{SELECT cqrs.discard_source_dead_letters('message', '0', (SELECT min(number) FROM cqrs.source_dead_letter));
	SELECT cqrs.discard_source_dead_letters('message', NULL); SELECT cqrs.retry_source_dead_letters('message')});
arrived('bad rows discarded');

# --- the subscription is made anew

$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION services');
publish_more(20);
$publisher->safe_psql('postgres', q{UPDATE message SET published = 2 WHERE id LIKE '%1'});
subscribe('second', ', streaming = on, two_phase = on');
arrived('a subscription made anew');
cmp_ok($subscriber->safe_psql('postgres', "SELECT duplicates FROM cqrs.source_status WHERE source = 'things'"), '>', 300, 'what was there was seen again');
is($subscriber->safe_psql('postgres', "SELECT rows_parked FROM cqrs.source_status WHERE source = 'customers'"), '0', 'what was discarded stays so');

# large transactions that arrive before they end, of which one is rolled back; and prepared ones
publish_more(400, 'SAVEPOINT s; SELECT publish(n) FROM generate_series(1000000, 1000400) AS n; ROLLBACK TO s');
$publisher->safe_psql('postgres', 'BEGIN; SELECT publish(n) FROM generate_series(2000000, 2000400) AS n; ROLLBACK');
arrived('large transactions');
$publisher->safe_psql('postgres', sprintf q{BEGIN; SELECT publish(n) FROM generate_series(%d, %d) AS n; PREPARE TRANSACTION 'late'}, $published + 1, $published + 3);
poll_ok($subscriber, 'postgres', 'SELECT count(*) = 1 FROM pg_prepared_xacts', 'a transaction is prepared here, too');
$publisher->safe_psql('postgres', "COMMIT PREPARED 'late'");
$published += 3;
arrived('a prepared transaction');

# --- the publisher fails over to a standby, which has no slot

my $standby = PostgreSQL::Test::Cluster->new('standby');
$publisher->backup('base');
$standby->init_from_backup($publisher, 'base', has_streaming => 1);
$standby->start;
publish_more(20);
$publisher->safe_psql('postgres', "SELECT cqrs.wait_for('thing_events')");
$publisher->wait_for_catchup($standby, 'replay', $publisher->lsn('write'));
$publisher->stop('immediate');
$standby->promote;
$publisher = $standby;
$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION services DISABLE');
$subscriber->safe_psql('postgres', 'ALTER SUBSCRIPTION services SET (slot_name = NONE)');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION services');
publish_more(20);
subscribe('third', '');
publish_more(20);
arrived('a failover of the publisher');

$subscriber->stop;
$publisher->stop;
done_testing();
