# A worker is a session, and a session is in the way of who drops, renames or copies its database. Workers
# must step aside for that, come back when it is over, and not disturb the copy's events or the original's.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('databases');

# A statement that needs a database to itself waits 5 seconds for others to leave it, and then fails.
sub runs
{
	my ($statement) = @_;

	is($node->psql('postgres', $statement), 0, $statement);
	return;
}

create_database($node, 'shop');
create_log_projection($node, 'shop', 'p');
publish($node, 'shop', 10);
handled_once($node, 'shop', 'p', 'at first');

# --- copy

# The backlog is copied, too: the copy's own worker handles it, from the copied checkpoint.
$node->safe_psql('shop', "SELECT cqrs.pause_projection('p')");
publish($node, 'shop', 20);
wait_until_idle($node, 'shop');
runs('CREATE DATABASE copy TEMPLATE shop');
is($node->safe_psql('copy', unhandled('p')), '20', 'the copy has the same backlog');
foreach my $database (qw(copy shop))
{
	$node->safe_psql($database, "SELECT cqrs.resume_projection('p')");
	handled_once($node, $database, 'p', "the backlog in $database");
}
publish($node, 'copy', 5);
handled_once($node, 'copy', 'p', 'published in the copy');
publish($node, 'shop', 7);
handled_once($node, 'shop', 'p', 'published in the original');
is($node->safe_psql('copy', 'SELECT count(*) FROM p_log'), '35', 'the copy lives a life of its own');

# --- rename

wait_until_idle($node, 'copy');
runs('ALTER DATABASE copy RENAME TO twin');
publish($node, 'twin', 5);
handled_once($node, 'twin', 'p', 'after renaming');
poll_ok($node, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'cqrs_views worker' AND datname = 'twin'", 'the worker is under the new name');

# --- drop

wait_until_idle($node, 'twin');
runs('DROP DATABASE twin');
publish($node, 'shop', 5);
handled_once($node, 'shop', 'p', 'beside a dropped database');
wait_until_idle($node, 'shop');
runs('DROP DATABASE shop WITH (FORCE)');
poll_ok($node, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'",
	'no database, no worker');

# --- a template that has the extension

# Nobody serves a template, but what is made from it is served like any other database.
create_database($node, 'pattern');
create_log_projection($node, 'pattern', 'p');
runs('ALTER DATABASE pattern IS_TEMPLATE true');
runs('CREATE DATABASE made TEMPLATE pattern');
publish($node, 'made', 5);
handled_once($node, 'made', 'p', 'a database made from a template');

# --- drop and create the extension

my $workers_of_made = "SELECT count(*) FROM pg_stat_activity
	WHERE backend_type = 'cqrs_views worker' AND datname = 'made'";
poll_ok($node, 'postgres', $workers_of_made, 'it has a worker', 1);
$node->safe_psql('made', 'DROP EXTENSION cqrs_views CASCADE');
poll_ok($node, 'postgres', $workers_of_made, 'DROP EXTENSION stops the worker', 0);
is($node->safe_psql('made', 'SELECT count(*) FROM p_log'), '5', 'what was a read table stays');
$node->safe_psql('made', "INSERT INTO p_log (position, key) VALUES (0, 'free')");
$node->safe_psql('made', 'DROP TABLE p_log');
$node->safe_psql('made', 'DROP FUNCTION IF EXISTS p_handle');
create_database_again();
publish($node, 'made', 5);
handled_once($node, 'made', 'p', 'CREATE EXTENSION brings the worker back');

# In one transaction, so that the worker never finds the extension missing. The worker comes in the midst of it, so
# several times; a new projection has the number of an old one.
foreach my $round (1 .. 10)
{
	$node->safe_psql(
		'made', q{
		BEGIN;
		DROP EXTENSION cqrs_views CASCADE;
		DROP TABLE p_log;
		CREATE EXTENSION cqrs_views;
		COMMIT});
	$node->safe_psql('made', 'DROP FUNCTION IF EXISTS p_handle');
	create_log_projection($node, 'made', 'p');
	publish($node, 'made', 5);
	handled_once($node, 'made', 'p', "replaced in one transaction, $round");
}

$node->stop;
done_testing();

sub create_database_again
{
	$node->safe_psql('made', 'CREATE EXTENSION cqrs_views');
	create_log_projection($node, 'made', 'p');
	return;
}
