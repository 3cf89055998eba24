# A server that was not restarted after installing has no workers. What works without them must work, and
# what does not must say what is missing instead of waiting in silence.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('bare', shared_preload_libraries => undef,
	'cqrs_views.retry_delay' => undef, 'cqrs_views.max_retry_delay' => undef);
my ($status, $output, $errors);

create_database($node, 'postgres');
create_log_projection($node, 'postgres', 'p');
publish($node, 'postgres', 10);

# --- what is missing, is said

my $hint = qr/HINT:  .*shared_preload_libraries.*restart/;

$node->safe_psql('postgres', 'CREATE TABLE q_log (LIKE p_log INCLUDING ALL)');
($status, $output, $errors) = $node->psql('postgres',
	"SELECT cqrs.create_projection('q', 'p_handle(cqrs.event)', '{q_log}');
	SELECT cqrs.drop_projection('q', drop_read_tables => true)");
is($status, 0, 'create_projection works');
like($errors, qr/NOTICE:|WARNING:/, 'create_projection says that there are no workers');
like($errors, $hint, 'and what to do');

($status, $output, $errors) = $node->psql('postgres', "SELECT cqrs.wait_for('p', '200 ms')");
is($output, 'f', 'wait_for gives up');
like($errors, qr/WARNING:.*no background worker/, 'and says why');
like($errors, $hint, 'and what to do');

($status, $output, $errors) = $node->psql('postgres',
	"\\set VERBOSITY verbose\nSELECT * FROM cqrs.worker_status");
isnt($status, 0, 'worker_status fails');
like($errors, qr/ERROR:  55000: .*not preloaded/, 'and says why');
like($errors, $hint, 'and what to do');

# --- what works, works

is($node->safe_psql('postgres', "SELECT state, events_pending FROM cqrs.projection_status WHERE name = 'p'"),
	'running|10', 'projection_status works');
$node->safe_psql('postgres', 'CALL cqrs.catch_up()');
is($node->safe_psql('postgres', unhandled('p')), '0', 'catch_up works');
publish($node, 'postgres', 3);
$node->safe_psql('postgres', "CALL cqrs.catch_up('p')");
handled_once($node, 'postgres', 'p', 'catch_up twice');
($status, $output, $errors) = $node->psql('postgres', 'DROP TABLE p_log');
like($errors, qr/cannot drop read table "p_log"/, 'the drop guard works in a session that did not load the library');

create_log_projection($node, 'postgres', 'i', arguments => "mode => 'inline', start_at => 'now'");
my $listener = $node->background_psql('postgres');
$listener->query_safe('LISTEN i');
my $publisher = $node->background_psql('postgres');
my $publisher_pid = $publisher->query_safe('SELECT pg_backend_pid()');
$publisher->query_safe("SELECT cqrs.publish('Thing', 'b', 'Happened')");
is($node->safe_psql('postgres', 'SELECT count(*) FROM i_log'), '1', 'inline mode works');
my $heard = $listener->query_safe('SELECT 1');
like($heard, qr/"i" with payload .*"keys": \["b"\].* from server process with PID $publisher_pid\./,
	'and the publisher tells the listeners');

# also of views, by the events' keys: of one that does not show it, and of one whose groups are equal under other texts
$node->safe_psql('postgres', $_) foreach
  q{SELECT cqrs.create_view('types', 'SELECT event_type FROM events', mode => 'inline')},
  q{SELECT cqrs.create_view('prices', $$SELECT (payload->>'p')::numeric AS p, count(*) AS n FROM events
	WHERE payload ? 'p' GROUP BY 1$$, mode => 'inline')};
$listener->query_safe("LISTEN $_") foreach qw(types prices);
my $position = $publisher->query_safe(q{SELECT cqrs.publish('Thing', 'c', 'Priced', '{"p": 1.5}')});
$publisher->query_safe(q{INSERT INTO cqrs.outbox (aggregate_type, aggregate_id, event_type, payload)
	VALUES ('Thing', 'c', 'Priced', '{"p": 1.50}'), ('Thing', 'c', 'Priced', '{"p": 2}')});
$heard = $listener->query_safe('SELECT 1');
like($heard, qr/"types" with payload .*"keys": \["$position"\]/, 'a view that does not show its key');
like($heard, qr/"prices" with payload .*"keys": \["1.50", "2"\]/, 'a view whose keys are equal under other texts');
$listener->quit;
$publisher->quit;

# --- an inline projection over history

$node->safe_psql('postgres', "SELECT cqrs.alter_projection('p', mode => 'inline')");
$node->safe_psql('postgres', "CALL cqrs.catch_up()");
is($node->safe_psql('postgres', "SELECT state FROM cqrs.projection_status WHERE name = 'p'"),
	'running', 'catch_up lets a projection become inline');
publish($node, 'postgres', 4);
handled_once($node, 'postgres', 'p', 'after becoming inline');

# --- preloaded at last

# The events of before are done, and the inline projection's checkpoint follows without handling any again.
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cqrs_views'");
$node->restart;
publish($node, 'postgres', 4);
handled_once($node, 'postgres', 'p', 'inline, preloaded');
$node->safe_psql('postgres', "SELECT cqrs.alter_projection('p', mode => 'async')");
publish($node, 'postgres', 4);
handled_once($node, 'postgres', 'p', 'async again, preloaded');

$node->stop;
done_testing();
