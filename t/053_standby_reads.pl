# Who reads from a standby waits there, too: until what had been received is replayed, and what the primary's
# workers made of it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', allows_streaming => 1, hot_standby_feedback => 'on');
create_database($primary, 'postgres');
create_log_projection($primary, 'postgres', 'p', kind => 'batch');
create_log_projection($primary, 'postgres', 'at_once', arguments => "mode => 'inline'");

my $standby = PostgreSQL::Test::Cluster->new('standby');
$primary->backup('base');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# --- what one has published oneself

my $missing = 0;
foreach (1 .. 50)
{
	my $position = $primary->safe_psql('postgres', "SELECT cqrs.publish('Thing', 'a', 'Happened')");

	foreach my $name (qw(p at_once))
	{
		my $over = on_standby("SELECT cqrs.wait_for('$name', '1 minute', $position)");
		my $there = on_standby("SELECT count(*) FROM ${name}_log WHERE position = $position");
		$missing++ unless $over eq 't' && $there eq '1';
	}
}
is($missing, 0, 'what wait_for waited for by its position is there');

# --- what had been received

on_standby('SELECT pg_wal_replay_pause()');
poll_ok($standby, 'postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'", 'the standby replays no more');
$primary->safe_psql('postgres', "SELECT cqrs.publish('Thing', 'b', 'Happened')");
handled_once($primary, 'postgres', 'p', 'on the primary');
my $lsn = $primary->lsn('flush');
poll_ok($standby, 'postgres', "SELECT pg_last_wal_receive_lsn() >= '$lsn'", 'and has received more');
is(on_standby("SELECT cqrs.wait_for('$_', '100 ms')"), 'f', "$_: what has been received and not replayed is waited for")
  foreach qw(p at_once);
is(on_standby("SELECT count(*) FROM p_log WHERE key = 'b'"), '0', 'it is not there yet');

my $waiting = $standby->background_psql('postgres', on_error_stop => 1);
$waiting->query_until(qr/begun/, "\\echo begun\nSELECT cqrs.wait_for('p', NULL) AS waited;\n\\echo over\n");
poll_ok($standby, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'SELECT cqrs.wait_for%'
	AND state = 'active' AND pid <> pg_backend_pid()", 'somebody waits');
on_standby('SELECT pg_wal_replay_resume()');
like($waiting->query("SELECT count(*) FROM p_log WHERE key = 'b';"), qr/\b1$/, 'and finds it when it has been replayed');
$waiting->quit;

# --- strangers

my $open = $primary->background_psql('postgres', on_error_stop => 1);
$open->query("BEGIN; CREATE TABLE of_a_stranger ();");
my $unpublished = $primary->background_psql('postgres', on_error_stop => 1);
$unpublished->query("BEGIN; SELECT cqrs.publish('Thing', 'c', 'Happened');");
publish($primary, 'postgres', 3);
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
is(on_standby("SELECT cqrs.wait_for('p', '1 minute')"), 't', 'it does not wait for transactions that are open on the primary');
is(on_standby("SELECT count(*) > 0 FROM p_log WHERE key = 'c'"), 'f', 'whose events nobody sees');
is(on_standby("SELECT events_pending FROM cqrs.projection_status WHERE name = 'p'"), '0', 'nor does the status count them');
$unpublished->query('COMMIT;');
$open->query('ROLLBACK;');
$_->quit foreach $open, $unpublished;
handled_once($primary, 'postgres', 'p', 'on the primary');
my $last = $primary->safe_psql('postgres', 'SELECT max(position) FROM cqrs.outbox');
is(on_standby("SELECT cqrs.wait_for('p', '1 minute', $last)"), 't', 'in the end all is there');

# --- waits that would be in vain

is(on_standby("SELECT cqrs.wait_for('p', '100 ms', 1000000)"), 'f', 'a position that nobody has drawn');
$primary->safe_psql('postgres', "SELECT cqrs.pause_projection('p')");
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('flush'));
my ($status, $output, $errors) = $standby->psql('postgres', "SELECT cqrs.wait_for('p')");
like($errors, qr/cannot wait for projection "p": it is paused/, 'a paused projection');

$standby->stop;
$primary->stop;
done_testing();

sub on_standby
{
	my ($sql) = @_;

	return $standby->safe_psql('postgres', $sql);
}
