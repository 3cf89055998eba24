# A database's or a role's defaults are made for its users, not for workers. Under repeatable read a batch
# would miss what was committed since its transaction began, and under read only it could not be written.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('defaults');
my %databases = (
	'repeatable' => [ "default_transaction_isolation = 'repeatable read'" ],
	'serial' => [ "default_transaction_isolation = 'serializable'", "default_transaction_deferrable = on" ],
	'readonly' => ["default_transaction_read_only = on"],
	'timeouts' => [
		"statement_timeout = '1ms'", "lock_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'" ],
	'others' => [
		"search_path = ''", "session_replication_role = 'replica'", "DateStyle = 'SQL, DMY'",
		"TimeZone = 'Pacific/Chatham'", "row_security = off", "enable_indexscan = off",
		"synchronous_commit = off", "plan_cache_mode = 'force_generic_plan'",
		"default_toast_compression = 'pglz'", "bytea_output = 'escape'", "extra_float_digits = -15" ]);

# Sessions of the test use these, to set things up under PostgreSQL's own defaults.
my $plain = '-c default_transaction_isolation=read\ committed -c default_transaction_read_only=off'
  . ' -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0'
  . ' -c search_path=public -c session_replication_role=origin -c enable_indexscan=on';

foreach my $database (sort keys %databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql('postgres', "ALTER DATABASE $database SET $_") foreach @{ $databases{$database} };
	$ENV{PGOPTIONS} = $plain;
	$node->safe_psql($database, 'CREATE EXTENSION cqrs_views');
	create_log_projection($node, $database, 'p', arguments => 'batch_size => 2');
	create_log_projection($node, $database, 'b', kind => 'batch');
	create_log_projection($node, $database, 'at_once', arguments => "mode => 'inline'");

	# a transaction that is open while the workers look at other events
	my $session = $node->background_psql($database);
	$session->query_safe("BEGIN; SELECT cqrs.publish('Thing', 'b', 'Happened')");
	foreach my $round (1 .. 3)
	{
		publish($node, $database, 3);
		handled_once($node, $database, $_, "$database, round $round, $_") foreach qw(p b);
	}
	$session->query_safe('COMMIT');
	$session->quit;
	handled_once($node, $database, $_, "$database, committed late, $_") foreach qw(p b at_once);

	# with the database's defaults, where they allow to publish at all
	delete $ENV{PGOPTIONS};
	if ($database ne 'readonly' && $database ne 'timeouts')
	{
		publish($node, $database, 5);
		$node->safe_psql($database, 'CALL cqrs.catch_up()');
	}
	$ENV{PGOPTIONS} = $plain;
	handled_once($node, $database, $_, "$database, published under its defaults, $_") foreach qw(p b at_once);
	is($node->safe_psql($database, "SELECT string_agg(DISTINCT state, ' ') FROM cqrs.projection_status"),
		'running', "$database: all projections run");

	# A projection becomes inline and leaves it again: the workers' part of that, too.
	$node->safe_psql($database, "SELECT cqrs.alter_projection('p', mode => 'inline')");
	poll_ok($node, $database, "SELECT state = 'running' FROM cqrs.projection_status WHERE name = 'p'",
		"$database: a projection becomes inline");
	publish($node, $database, 3);
	$node->safe_psql($database, "SELECT cqrs.alter_projection('p', mode => 'async')");
	publish($node, $database, 3);
	handled_once($node, $database, 'p', "$database, after changing the mode, p");
	delete $ENV{PGOPTIONS};
}

$node->stop;
done_testing();
