# Real input: a week of flights, published by six services, must give the answers that come with the data set,
# byte for byte, whichever way the read models of examples/flights are kept.
#
# Each way gets a database of its own. Some read models are created before there are events, the others when
# half of them is there, and more events follow at once. Views are all created before, or all at half.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::Bin/..";
my $data = $ENV{CQRS_DATA} || "$root/../shared/data";
$data .= '/pnw_flights14_week1';
plan skip_all => "real data is absent: there is no folder $data" unless -d $data;

my @answers = qw(flight_status carrier_month origin_day_weather plane_summary);
my $half = 6_000;    # of 11,959: amid the second day's flights

# The ways: how read models are kept, and in transactions of what size each half is published.
my @ways = (
	{ mode => 'async',  per => 'event', batch_size => 'NULL', first => 1000, second => 500 },
	{ mode => 'async',  per => 'batch', batch_size => 'NULL', first => 6000, second => 10 },
	{ mode => 'inline', per => 'event', batch_size => 'NULL', first => 1000, second => 100 },
	{ mode => 'inline', per => 'batch', batch_size => 'NULL', first => 6000, second => 250 },

	# small batches; the inline ones have a backlog of many when they are created
	{ mode => 'async',  per => 'event', batch_size => 7,   first => 3000, second => 4 },
	{ mode => 'async',  per => 'batch', batch_size => 100, first => 333,  second => 5959 },
	{ mode => 'inline', per => 'event', batch_size => 500, first => 50,   second => 777 },
	{ mode => 'inline', per => 'batch', batch_size => 100, first => 800,  second => 20 },

	# views
	{ mode => 'async',  per => 'view', batch_size => 'NULL', first => 1000, second => 500 },
	{ mode => 'inline', per => 'view', batch_size => 'NULL', first => 6000, second => 10 },
	{ mode => 'async',  per => 'view', batch_size => 7,   first => 3000, second => 4,   at_half => 1 },
	{ mode => 'inline', per => 'view', batch_size => 100, first => 333,  second => 777, at_half => 1 },

	# the same with a reducer
	{ mode => 'async',  per => 'reducer', batch_size => 'NULL', first => 1000, second => 20, at_half => 1 },
	{ mode => 'inline', per => 'reducer', batch_size => 'NULL', first => 6000, second => 250 });

my $node = PostgreSQL::Test::Cluster->new('flights');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'cqrs_views'\nfsync = off");
$node->start;

my @lines = gunzip("$data/events.ndjson.gz");
is(scalar @lines, 11_959, 'the file has the events that its README tells of');

my $first_half = write_lines('first_half', @lines[ 0 .. $half - 1 ]);
my $ways = 0;

for my $way (@ways)
{
	my $name = "$way->{mode} per $way->{per}"
	  . ($way->{batch_size} eq 'NULL' ? '' : ", batches of $way->{batch_size}");
	my $database = create_database();
	my $handlers = $way->{per} =~ /event|batch/;
	my @early = $handlers ? qw(flight_board plane_summary) : $way->{at_half} ? () : 'views';
	my @late = $handlers ? qw(carrier_month origin_day) : $way->{at_half} ? 'views' : ();

	create_read_models($database, $way, @early) if @early;
	load($database, $way->{first}, $first_half);
	create_read_models($database, $way, @late) if @late;
	load($database, $way->{second}, '--from-line', $half + 1, "$data/events.ndjson.gz");
	await($database, $way->{mode});
	compare($database, $name);
	$node->safe_psql('postgres', "DROP DATABASE $database");
}

# Nothing orders one aggregate's events by another's: planes, airlines and airports may become known last. Here
# without workers.
$node->append_conf('postgresql.conf', 'cqrs_views.enabled = off');
$node->reload;
my $registered = grep { !/"event_type":"\w+Registered"/ } @lines[ 0 .. 2_709 ];
is($registered, 0, 'the file begins with all that is registered');
my $late = write_lines('late', @lines[ 2_710 .. $#lines ], @lines[ 0 .. 2_709 ]);
for my $per (qw(event batch view))
{
	my $database = create_database();

	load($database, 1000, $late);
	create_read_models($database, { mode => 'async', per => $per, batch_size => 2000 },
		$per eq 'view' ? 'views' : qw(flight_board plane_summary carrier_month origin_day));
	$node->safe_psql($database, 'CALL cqrs.catch_up()');
	compare($database, "catch_up per $per, registered last");
}

$node->stop;
done_testing();

# Makes a database with the extension, and returns its name.
sub create_database
{
	my $database = 'way_' . ++$ways;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION cqrs_views');
	return $database;
}

# Runs the files of examples/flights that create the named read models.
sub create_read_models
{
	my ($database, $way, @read_models) = @_;

	$node->command_ok(
		[
			'psql', '-X', '-q', '-d', $database, (map { ('-v', "$_=$way->{$_}") } qw(mode per batch_size)),
			map { ('-f', "$root/examples/flights/$_.sql") } @read_models
		],
		"$database: create @read_models");
	return;
}

sub load
{
	my ($database, $transaction_size, @arguments) = @_;

	$node->command_ok(
		[ "$root/scripts/load-events", '-q', '-d', $database, '--transaction-size', $transaction_size, @arguments ],
		"$database: publish in transactions of $transaction_size");
	return;
}

# Waits until all is processed. What is inline needs no waiting, except that it had to catch up first.
sub await
{
	my ($database, $mode) = @_;

	$node->poll_query_until($database,
		q{SELECT bool_and(state = 'running' AND mode = '} . $mode . q{') FROM cqrs.projection_status})
	  or die "a projection does not run";
	return if $mode eq 'inline';
	is( $node->safe_psql(
			$database, q{SELECT bool_and(cqrs.wait_for(name, '3 minutes')) FROM cqrs.projection}),
		't',
		"$database: processed");
	return;
}

# Compares the answers that the read tables give with those of the data set.
sub compare
{
	my ($database, $name) = @_;

	$node->safe_psql($database, slurp_file("$root/examples/flights/answers.sql"));
	for my $answer (@answers)
	{
		my @expected = gunzip("$data/answer_$answer.csv.gz");
		my @found = map { "$_\n" } split /\n/, $node->safe_psql($database,
			"COPY (SELECT * FROM flights.answer_$answer) TO STDOUT (FORMAT csv, HEADER)");

		if (!ok(join('', @found) eq join('', @expected), "$name: $answer"))
		{
			my $line = 0;

			$line++ while $line < @found && $line < @expected && $found[$line] eq $expected[$line];
			diag("line ", $line + 1, "\n found    ", $found[$line] // "the end\n", " expected ",
				$expected[$line] // "the end\n");
		}
	}
	return;
}

# The lines of a compressed file.
sub gunzip
{
	my ($file) = @_;

	open my $handle, '-|', 'gzip', '-dc', $file or die "cannot run gzip: $!";
	my @content = <$handle>;
	close $handle or die "gzip fails on $file";
	return @content;
}

# Writes lines into a file, and returns its path.
sub write_lines
{
	my ($name, @content) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir() . "/$name.ndjson";

	append_to_file($file, join '', @content);
	return $file;
}
