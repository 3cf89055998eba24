# Real input: a day of Wikipedia's edits must give the answers that come with the data set, byte for byte. Text
# in many scripts; keys other than the aggregate's id; read models that remember what they have seen. Kept by handlers
# and by views.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::Bin/..";
my $data = $ENV{CQRS_DATA} || "$root/../shared/data";
$data .= '/wikipedia_edits';
plan skip_all => "real data is absent: there is no folder $data" unless -d $data;

my $node = PostgreSQL::Test::Cluster->new('wikipedia');
$node->init(extra => [ '--encoding=UTF8', '--no-locale' ]);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'cqrs_views'
fsync = off
log_statement = none
CONF
$node->start;

for my $way (
	{ file => 'read_models', mode => 'async',  batch_size => 'NULL', transaction_size => 1000 },
	{ file => 'read_models', mode => 'async',  batch_size => 300,    transaction_size => 5000 },
	{ file => 'read_models', mode => 'inline', batch_size => 'NULL', transaction_size => 2000 },
	{ file => 'views',       mode => 'async',  batch_size => 'NULL', transaction_size => 1000 },
	{ file => 'views',       mode => 'async',  batch_size => 300,    transaction_size => 5000 },
	{ file => 'views',       mode => 'inline', batch_size => 'NULL', transaction_size => 2000 })
{
	my $name = "$way->{file}, $way->{mode}, batches of $way->{batch_size}";
	my $database = "$way->{file}_$way->{mode}_" . lc $way->{batch_size};

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION cqrs_views');
	$node->command_ok(
		[
			'psql', '-X', '-q', '-d', $database, '-v', "mode=$way->{mode}", '-v', "batch_size=$way->{batch_size}",
			'-f', "$root/examples/wikipedia/$way->{file}.sql"
		],
		"$name: create the read models");
	$node->command_ok(
		[
			"$root/scripts/load-events", '-q', '-d', $database, '--transaction-size', $way->{transaction_size},
			"$data/events.ndjson.gz"
		],
		"$name: publish");
	is( $node->safe_psql(
			$database, q{SELECT bool_and(cqrs.wait_for(name, '3 minutes')) FROM cqrs.projection}),
		't',
		"$name: processed");

	$node->safe_psql($database, slurp_file("$root/examples/wikipedia/answers.sql"));
	for my $answer (qw(page_summary channel_hour user_summary published_top10))
	{
		my $expected = gunzip("$data/answer_$answer.csv.gz");
		my $found = $node->safe_psql($database,
			"COPY (SELECT * FROM wikipedia.answer_$answer) TO STDOUT (FORMAT csv, HEADER)");

		ok("$found\n" eq $expected, "$name: $answer") or show_difference($found, $expected);
	}
	$node->safe_psql('postgres', "DROP DATABASE $database");
}

$node->stop;
done_testing();

# Shows the first line that differs.
sub show_difference
{
	my @found    = split /\n/, $_[0];
	my @expected = split /\n/, $_[1];

	while (@found && @expected && $found[0] eq $expected[0])
	{
		shift @found;
		shift @expected;
	}
	diag("found    ", $found[0] // 'the end', "\nexpected ", $expected[0] // 'the end');
	return;
}

# The content of a compressed file.
sub gunzip
{
	my ($file) = @_;

	open my $handle, '-|', 'gzip', '-dc', $file or die "cannot run gzip: $!";
	my $content = do { local $/; <$handle> };
	close $handle or die "gzip fails on $file";
	return $content;
}
