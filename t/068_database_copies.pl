# A copied database has the transaction ids, checkpoints and everything else of its original, and then a life of its own:
# with projections of all kinds, in the middle of a backlog, copied again, renamed, moved, rewritten, and with the
# original gone.
# (t/004_databases.pl is about workers, which must step aside for that.)

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsSurvival;
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('copies', 'cqrs_views.max_workers' => 4, max_worker_processes => 12);
create_survivors($node, 'shop');
stop_publishers($node, 'shop', start_publishers($node, 'shop', 3));

# --- with a backlog, and something of everything

$node->safe_psql('shop', "SELECT cqrs.pause_projection('$_')") foreach qw(batch viewed);
$node->safe_psql('shop', "SELECT cqrs.alter_projection('viewed_inline', mode => 'async')");
publish_events($node, 'shop', 100);
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE shop');
foreach my $database (qw(shop copy))
{
	$node->safe_psql($database, "SELECT cqrs.resume_projection('$_')") foreach qw(batch viewed);
	survived($node, $database, "$database, what was there");
}
is(sql('copy', 'SELECT id FROM cqrs.incarnation'), sql('shop', 'SELECT id FROM cqrs.incarnation'), 'they share their transaction ids');

# --- both at once

my %publishers = map { $_ => [ start_publishers($node, $_, 2) ] } qw(shop copy);
is(stop_publishers($node, $_, @{ $publishers{$_} }), '', "$_: publishers meet no error") foreach qw(shop copy);
survived($node, $_, "$_, by itself") foreach qw(shop copy);
cmp_ok(sql('shop', 'SELECT string_agg(xid::text, $$ $$ ORDER BY position) FROM cqrs.outbox'),
	'ne', sql('copy', 'SELECT string_agg(xid::text, $$ $$ ORDER BY position) FROM cqrs.outbox'), 'they are different by now');

# --- a copy of the copy, under another name, while the original goes

$node->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO first');
$node->safe_psql('postgres', 'CREATE DATABASE second TEMPLATE first');
%publishers = map { $_ => [ start_publishers($node, $_, 2) ] } qw(first second);
$node->safe_psql('postgres', 'DROP DATABASE shop');
is(stop_publishers($node, $_, @{ $publishers{$_} }), '', "$_: publishers meet no error") foreach qw(first second);
survived($node, $_, "$_, without the original") foreach qw(first second);

# --- moved to another tablespace, and its tables rewritten while all work

$node->safe_psql('postgres', "SET allow_in_place_tablespaces = on; CREATE TABLESPACE elsewhere LOCATION ''");
$node->safe_psql('postgres', 'ALTER DATABASE second SET TABLESPACE elsewhere');
my @publishers = start_publishers($node, 'second', 2);
foreach my $command ('VACUUM FULL %s', 'REINDEX TABLE %s', 'ALTER TABLE %s SET TABLESPACE pg_default', 'VACUUM (FREEZE, ANALYZE) %s')
{
	$node->safe_psql('second', sprintf $command, $_) foreach qw(cqrs.checkpoint cqrs.registry cqrs.parked cqrs.outbox);
}
is(stop_publishers($node, 'second', @publishers), '', 'publishers meet no error');
survived($node, 'second', 'moved and rewritten');

# --- and after a crash

%publishers = map { $_ => [ start_publishers($node, $_, 2) ] } qw(first second);
$node->stop('immediate');
stop_publishers(undef, undef, map { @$_ } values %publishers);
$node->start;
survived($node, $_, "$_, after a crash") foreach qw(first second);

$node->stop;
done_testing();

sub sql
{
	my ($database, $sql) = @_;

	return $node->safe_psql($database, $sql);
}
