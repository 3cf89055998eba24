# A view forgets the positions behind its last values once no event can come any more that was published before. Whoever
# has drawn a position and not yet committed, whichever way he goes on, must keep it from doing so.
#
# One session processes all events, without workers, so that it is known what it looks at and when.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use Test::More;

my $node = new_server('horizon', 'cqrs_views.enabled' => 'off');

# Each scenario: who is to be last, and the steps, of sessions a, b and c; "process" is catch_up.
scenario(
	'somebody is in flight', 'late',
	[ a => 'BEGIN' ], [ a => publish_value('early') ], [ b => publish_value('late') ],
	'process', [ a => 'COMMIT' ], 'process');
scenario(
	'nobody of those who were in flight is left, but others are', 'late',
	[ c => 'BEGIN' ], [ c => publish_value('first') ], 'process',
	[ a => 'BEGIN' ], [ a => publish_value('early') ], [ b => publish_value('late') ], [ c => 'COMMIT' ],
	'process', [ a => 'COMMIT' ], 'process');
scenario(
	'somebody has prepared his transaction', 'late',
	[ a => 'BEGIN' ], [ a => publish_value('early') ], [ b => 'BEGIN' ], [ b => publish_value('late') ],
	'process', [ a => "PREPARE TRANSACTION 'early'" ], [ b => 'COMMIT' ],
	'process', [ a => "COMMIT PREPARED 'early'" ], 'process');
scenario(
	'somebody has published in a subtransaction', 'late',
	[ a => 'BEGIN' ], [ a => 'SAVEPOINT s' ], [ a => publish_value('early') ], [ a => 'RELEASE s' ],
	'process', [ b => publish_value('late') ], 'process', [ a => 'COMMIT' ], 'process');
scenario(
	'somebody has taken back a part', 'late',
	[ a => 'BEGIN' ], [ a => publish_value('early') ], [ a => 'SAVEPOINT s' ], [ a => publish_value('never') ],
	[ a => 'ROLLBACK TO s' ], [ b => publish_value('late') ], 'process', [ a => 'COMMIT' ], 'process');
scenario(
	'the view is created meanwhile', 'late',
	[ a => 'BEGIN' ], [ a => publish_value('early') ], [ b => publish_value('late') ],
	'create', [ a => 'COMMIT' ], 'process');
scenario(
	'the view is created under a snapshot that is older than a commit', 'late',
	[ a => 'BEGIN' ], [ a => publish_value('early') ], [ b => publish_value('late') ],
	[ c => 'BEGIN ISOLATION LEVEL REPEATABLE READ' ], [ c => 'TABLE cqrs.incarnation' ], [ a => 'COMMIT' ],
	[ c => create_view() ], [ c => 'COMMIT' ], 'process');
scenario(
	'all is settled', 'late',
	[ a => publish_value('early') ], [ b => publish_value('late') ], 'process', 'forgotten');

$node->stop;
done_testing();

# A statement that publishes an event of the one group.
sub publish_value
{
	my ($value) = @_;

	return "SELECT cqrs.publish('Test', 'x', 'Happened', '{\"value\": \"$value\"}')";
}

sub create_view
{
	return q{SELECT cqrs.create_view('v', $$ SELECT aggregate_id, count(*) AS n, cqrs.last(payload->>'value') AS value
		FROM events GROUP BY aggregate_id $$)};
}

# Runs a scenario in a database of its own, and tests that the view has all events, and which value.
sub scenario
{
	my ($name, $last, @steps) = @_;
	my $database = 'scenario_' . (Test::More->builder->current_test + 1);
	my %session;

	create_database($node, $database);
	$session{$_} = $node->background_psql($database) foreach qw(a b c processor);
	$session{processor}->query_safe(create_view())
	  if !grep { $_ eq 'create' || (ref $_ && $_->[1] eq create_view()) } @steps;
	foreach my $step (@steps)
	{
		my ($who, $sql) =
		    ref $step ? @$step
		  : $step eq 'process' ? (processor => 'CALL cqrs.catch_up()')
		  : $step eq 'create' ? (processor => create_view())
		  : (processor => q{SELECT 1 / (count(*) = 0)::int FROM v_state});

		$session{$who}->query_safe($sql);
	}
	is( $node->safe_psql(
			$database,
			'SELECT n = (SELECT count(*) FROM cqrs.outbox), value FROM v'),
		"t|$last", $name);
	$_->quit foreach values %session;
	return;
}
