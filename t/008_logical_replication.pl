# A subscription's apply process fires row triggers only, and of these only the ones for replicas. What it
# brings into the outbox would carry another database's positions and transaction ids, and what it brings into
# a read table would not come from events. Both must be refused, rather than be wrong later.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $publisher = new_server('publisher', allows_streaming => 'logical');
my $subscriber = new_server('subscriber', wal_retrieve_retry_interval => '100ms');

foreach my $node ($publisher, $subscriber)
{
	create_database($node, 'postgres');
	create_log_projection($node, 'postgres', 'p');
}
my $source = $publisher->connstr . ' dbname=postgres';

# Waits for the subscriber to refuse what it is sent, then drops the subscription.
sub refused
{
	my ($message, $what, $offset) = @_;

	ok(eval { $subscriber->wait_for_log($message, $offset); 1 }, $what);
	$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
	return;
}

# --- the outbox

$publisher->safe_psql('postgres', 'CREATE PUBLICATION events FOR TABLE cqrs.outbox');
publish($publisher, 'postgres', 3);
foreach my $copy ('true', 'false')
{
	my $offset = -s $subscriber->logfile;
	$subscriber->safe_psql('postgres',
		"CREATE SUBSCRIPTION s CONNECTION '$source' PUBLICATION events WITH (copy_data = $copy)");
	publish($publisher, 'postgres', 1) if $copy eq 'false';
	refused(qr/ERROR:  cannot replicate into cqrs\.outbox/, "the outbox, copy_data = $copy", $offset);
	is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM cqrs.outbox'), '0', 'nothing of it stays');
}

# --- a read table

handled_once($publisher, 'postgres', 'p', 'at the publisher');
$publisher->safe_psql('postgres', 'CREATE PUBLICATION logs FOR TABLE p_log');
foreach my $copy ('true', 'false')
{
	my $offset = -s $subscriber->logfile;
	$subscriber->safe_psql('postgres',
		"CREATE SUBSCRIPTION s CONNECTION '$source' PUBLICATION logs WITH (copy_data = $copy)");
	publish($publisher, 'postgres', 1) if $copy eq 'false';
	refused(qr/ERROR:  cannot write to read table "p_log"/, "a read table, copy_data = $copy", $offset);
	is($subscriber->safe_psql('postgres', 'SELECT count(*) FROM p_log'), '0', 'nothing of it stays');
}

# What changes or removes rows is applied without asking a trigger, so there the projection refuses to go on.
my $status = "SELECT state, split_part(last_error, E'\\n', 1) FROM cqrs.projection_status WHERE name = 'p'";
$subscriber->safe_psql('postgres',
	"CREATE SUBSCRIPTION s CONNECTION '$source' PUBLICATION logs WITH (copy_data = false)");
publish($subscriber, 'postgres', 1);
poll_ok($subscriber, 'postgres', "SELECT state = 'stopped' FROM cqrs.projection_status WHERE name = 'p'",
	'the projection of a subscribed table stops');
is($subscriber->safe_psql('postgres', $status),
	'stopped|55006: read table "p_log" is part of a subscription', 'and says why');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');
$subscriber->safe_psql('postgres', "SELECT cqrs.resume_projection('p')");
handled_once($subscriber, 'postgres', 'p', 'without the subscription it goes on');

$publisher->safe_psql('postgres', 'CREATE TABLE free_log (LIKE p_log INCLUDING ALL); CREATE PUBLICATION free FOR TABLE free_log');
$subscriber->safe_psql('postgres', 'CREATE TABLE free_log (LIKE p_log INCLUDING ALL)');
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$source' PUBLICATION free");
my ($result, $output, $errors) = $subscriber->psql('postgres',
	"SELECT cqrs.create_projection('q', 'p_handle(cqrs.event)', '{free_log}')");
like($errors, qr/read table "free_log" is part of a subscription/, 'a subscribed table does not become a read table');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');

# --- what is meant instead

# The outbox can be published, into a table of one's own.
$publisher->safe_psql('postgres',
	'CREATE TABLE feed (id bigint PRIMARY KEY, what text); CREATE PUBLICATION feeds FOR TABLE feed');
$subscriber->safe_psql(
	'postgres', q{
	CREATE TABLE feed (id bigint PRIMARY KEY, what text);
	CREATE FUNCTION feed() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM cqrs.publish('Feed', NEW.id::text, NEW.what);
			RETURN NULL;
		END $$;
	CREATE TRIGGER feed AFTER INSERT ON feed FOR EACH ROW EXECUTE FUNCTION feed();
	ALTER TABLE feed ENABLE ALWAYS TRIGGER feed});
create_log_projection($subscriber, 'postgres', 'at_once', arguments => "mode => 'inline'");
$publisher->safe_psql('postgres', "INSERT INTO feed VALUES (1, 'Copied')");
$subscriber->safe_psql('postgres', "CREATE SUBSCRIPTION s CONNECTION '$source' PUBLICATION feeds");
$subscriber->wait_for_subscription_sync($publisher, 's');
$publisher->safe_psql('postgres', "INSERT INTO feed VALUES (2, 'Replicated'), (3, 'Replicated')");
poll_ok($subscriber, 'postgres', 'SELECT count(*) = 4 FROM cqrs.outbox', 'what a trigger publishes arrives');
handled_once($subscriber, 'postgres', 'p', 'and is processed');
handled_once($subscriber, 'postgres', 'at_once', 'and is processed inline');
$subscriber->safe_psql('postgres', 'DROP SUBSCRIPTION s');

$subscriber->stop;
$publisher->stop;
done_testing();
