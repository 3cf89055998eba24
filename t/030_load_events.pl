# scripts/load-events must load all lines in their order, or name the first bad one and leave nothing of its
# transaction behind. What a line says must never be run as SQL.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use IO::Compress::Gzip qw(gzip);
use IPC::Run qw(run);
use PostgreSQL::Test::Utils;
use Test::More;

my $script = "$FindBin::RealBin/../scripts/load-events";
my $folder = PostgreSQL::Test::Utils::tempdir();
my $node   = new_server('load');
create_database($node, 'postgres');

# Writes a file of lines, and returns its name.
sub file
{
	my ($name, @lines) = @_;

	open my $out, '>:raw', "$folder/$name" or die "$folder/$name: $!";
	print $out map { "$_\n" } @lines;
	close $out;
	return "$folder/$name";
}

# One line: a good event whose payload says which one it is, unless it is told otherwise.
sub event
{
	my ($number, $more) = @_;

	$more = defined $more ? ",$more" : '';
	return qq({"aggregate_type":"T","aggregate_id":"a","event_type":"E","payload":{"n":$number}$more});
}

# Runs the script. Returns its exit status, and what it said.
sub load
{
	my (@arguments) = @_;
	my $said;

	local @ENV{qw(PGHOST PGPORT PGDATABASE)} = ($node->host, $node->port, 'postgres');
	run [ $^X, $script, @arguments ], '<', \undef, '>&', \$said;
	return ($? >> 8, $said);
}

# Which events were loaded, in order of position; forgets them.
sub loaded
{
	my $numbers = $node->safe_psql('postgres',
		q(SELECT string_agg(payload->>'n', ' ' ORDER BY position) FROM cqrs.outbox));

	$node->safe_psql('postgres', 'DROP EXTENSION cqrs_views CASCADE; CREATE EXTENSION cqrs_views');
	return $numbers;
}

# Loads five lines, of which the fourth is bad, in transactions of two.
sub refused
{
	my ($line, $reason, $name) = @_;
	my $file = file('bad', (map { event($_) } 1 .. 3), $line, event(5));
	my ($status, $said) = load('--quiet', '--transaction-size', 2, $file);

	subtest $name => sub {
		is($status, 1, 'exit status');
		like($said, qr/^\Q$file\E:4: $reason/, 'names the line');
		like($said, qr/Events loaded: 2\. To go on: --from-line 3 /, 'says how to go on');
		is(loaded(), '1 2', 'keeps the transactions before, and nothing of its own');
	};
	return;
}

# --- good lines

my ($status, $said) = load(file('good', map { event($_) } 1 .. 25), '--transaction-size', 10);
is($status, 0, 'loads') or diag $said;
like($said, qr/^25 events in /m, 'says how many');
is(loaded(), join(' ', 1 .. 25), 'in order');

gzip(file('plain', map { event($_) } 1 .. 5) => "$folder/packed") or die 'gzip';
is((load("$folder/packed"))[0], 0, 'loads a gzipped file');
is(loaded(), '1 2 3 4 5', 'the same lines');

load('--from-line', 3, file('first', map { event($_) } 1 .. 4), file('second', map { event($_) } 5 .. 6));
is(loaded(), '3 4 5 6', '--from-line counts for the first file only');

my $uuid = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11';
load(file('ids', event(1, qq("event_id":"$uuid","source":"here","occurred_at":"2014-01-01T00:00:00.000Z")),
	event(2, '"event_id":"x","metadata":{"k":[1]},"aggregate_version":7'), '', "  \t", event(3)));
is($node->safe_psql('postgres', q(
	SELECT event_id = 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11' OR event_id = md5('x')::uuid,
		source, metadata, aggregate_version, occurred_at = '2014-01-01 00:00:00+00'
	FROM cqrs.outbox ORDER BY position LIMIT 2)),
	"t|here|{}||t\nt|" . $node->safe_psql('postgres', 'SELECT current_user') . '|{"k": [1]}|7|f',
	'every key arrives where it belongs');
is(loaded(), '1 2 3', 'blank lines are nothing');

# --- bad lines

refused('{"a":', 'invalid input syntax for type json', 'not JSON');
refused('[1, 2]', 'not a JSON object', 'not an object');
refused('{"aggregate_type":"T","event_type":"E"}', '"aggregate_id" is missing', 'a key that is missing');
refused(event(4, '"event_type":null'), '"event_type" is missing', 'a key that is null');
refused(event(4, '"aggregate_id":5'), '"aggregate_id" must be a string, not 5', 'a value of a wrong type');
refused(event(4, '"aggregate_version":"5"'), '"aggregate_version" must be a number', 'a number as text');
refused(event(4, '"aggregate_version":1.5'), 'invalid input syntax for type bigint', 'a fraction');
refused(event(4, '"occurred_at":"soon"'), 'invalid input syntax for type timestamp', 'not a time');
refused(event(4, '"position":7'), 'unknown key "position"', 'a key that is not known');
refused(event(4, '"metadata":"\u0000"'), 'unsupported Unicode escape sequence', 'an escaped NUL');
refused("{\"a\0\":1}", 'a NUL byte', 'a NUL');
refused(event(4, "\"metadata\":\"\xff\""), 'not valid UTF-8', 'bytes that are no text');
refused(event(4, "\"metadata\":\"\xed\xa0\x80\""), 'not valid UTF-8', 'a surrogate');
refused('\\.', 'invalid input syntax for type json', 'the end sign of COPY');
refused("\\! touch $folder/harm", 'invalid input syntax for type json', 'a command of psql');

my $two = file('two', event(1), '{}', "\xff");
($status, $said) = load('--quiet', $two);
like($said, qr/^\Q$two\E:2: /, 'of two bad lines the first is named');
is(loaded(), '', 'and nothing stays');

file('long', map { event($_, '"metadata":"' . int(rand 1e9) . '"') } 1 .. 3000);
gzip("$folder/long" => "$folder/whole") or die 'gzip';
open my $whole, '<:raw', "$folder/whole" or die $!;
read $whole, my $part, 5000;
open my $cut, '>:raw', "$folder/cut" or die $!;
print $cut $part;
close $cut;
($status, $said) = load('--quiet', "$folder/cut");
is($status, 1, 'a gzipped file that was cut short is noticed');
like($said, qr/damaged or cut short/, 'and said to be');
is(loaded(), '', 'and its last transaction is not loaded');

# --- injection

my $evil = q[{"a":"'); DROP TABLE precious; --"}];
$node->safe_psql('postgres', 'CREATE TABLE precious ()');
load('--quiet', file('evil', $evil, "\\\\! touch $folder/harm", '; DROP TABLE precious;'));
is($node->safe_psql('postgres', q(SELECT to_regclass('precious') IS NOT NULL)), 't', 'data is not run as SQL');
ok(!-e "$folder/harm", 'nor as a command');
loaded();

# --- rights

$node->safe_psql('postgres', q(CREATE ROLE plain LOGIN; SELECT cqrs.grant_publish('plain')));
my $good = file('good', event(1));
my $posing = file('posing', event(1), event(2, '"source":"somebody"'));
is((load('--quiet', '--username', 'plain', $good))[0], 0, 'a plain publisher may load');
is($node->safe_psql('postgres', 'SELECT DISTINCT source FROM cqrs.outbox'), 'plain', 'under its own name');
($status, $said) = load('--quiet', '--username', 'plain', $posing);
like($said, qr/^\Q$posing\E:2: "source" may not be named by role plain/, 'and under no other');
is(loaded(), '1', 'so nothing of that stays');

# --- inline projections

$node->safe_psql('postgres', q(
	CREATE TABLE picky (id text PRIMARY KEY);
	CREATE FUNCTION be_picky(cqrs.event) RETURNS void LANGUAGE plpgsql AS $$
	BEGIN IF $1.payload->>'n' = '3' THEN RAISE 'not this one'; END IF; END $$;
	SELECT cqrs.create_projection('picky', 'be_picky(cqrs.event)', '{picky}', mode => 'inline')));
my $file = file('inline', map { event($_) } 1 .. 5);
($status, $said) = load('--quiet', $file);
like($said, qr/^\Q$file\E:3: not this one/, 'the line that an inline projection refuses is named');

# --- misuse

is((load())[0], 2, 'no file');
is((load('--transaction-size', 0, $good))[0], 2, 'no transaction size');
is((load("$folder/absent"))[0], 2, 'a file that is not there');
($status, $said) = load('--from-line', 9, $good);
like($said, qr/has fewer than 9 lines/, 'a line that is not there');
($status, $said) = load('--database', 'template1', $good);
like($said, qr/there is no cqrs.outbox in this database; run: CREATE EXTENSION/, 'no extension');
($status, $said) = load('--database', 'absent', $good);
like($said, qr/database "absent" does not exist/, 'no database');

done_testing();
