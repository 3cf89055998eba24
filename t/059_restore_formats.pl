# The ways to restore a dump: from an archive, in parallel, in one transaction, from a script, by sections, data only.
# Workers are awake all the while and find projections with events to process before the read tables are loaded: they
# must wait. Roles, schemas and names need quoting; the owner's rights come last.

use strict;
use warnings FATAL => 'all';

use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $folder = $PostgreSQL::Test::Utils::tmp_check;
my $roles = q{CREATE ROLE "The ""owner"""};

my $old = new_server('old');
create_database($old, 'shop');
$old->safe_psql('shop', $roles);
$old->safe_psql('shop', q{
	GRANT SELECT, TRIGGER ON cqrs.outbox TO "The ""owner""";
	CREATE SCHEMA "My ""schema""" AUTHORIZATION "The ""owner""";
	SET ROLE "The ""owner""";
	SET search_path = "My ""schema""";
	CREATE TABLE "A, log" (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, position bigint NOT NULL UNIQUE);
	CREATE TABLE known (position bigint PRIMARY KEY);
	CREATE FUNCTION "On event"(e cqrs.event) RETURNS void LANGUAGE sql AS $$
		INSERT INTO "A, log" (position) VALUES (e.position)
		ON CONFLICT (position) DO UPDATE SET position = NULL;
		INSERT INTO known VALUES (e.position) $$;
	SELECT cqrs.create_projection('It''s "a" log', '"On event"(cqrs.event)', '{"\\"A, log\\"", known}',
		on_error => 'stop');
	CREATE TABLE inline (position bigint PRIMARY KEY);
	CREATE FUNCTION "On event"() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO inline SELECT e.position FROM events e; RETURN NULL; END $$;
	SELECT cqrs.create_projection('Inline', '"On event"()', '{inline}', mode => 'inline', on_error => 'stop');
	CREATE FUNCTION twice(i int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * i';
	SELECT cqrs.create_view('A "view"', $$
		SELECT aggregate_id, sum(twice(1)) AS n, cqrs.last(position) AS latest FROM events GROUP BY 1 $$);
	RESET ROLE;
	CREATE TABLE public."The outbox" (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload jsonb);
	SELECT cqrs.attach_outbox('public."The outbox"', 'a service', 'debezium');
});
publish($old, 'shop', 18);
receive($old, 'shop', 1, 2, 'NULL');

# What it should come to, as one row.
my $state = q{
	SELECT (SELECT count(*) FROM cqrs.outbox),
		(SELECT count(*) || ' ' || count(DISTINCT position) FROM "My ""schema"""."A, log"),
		(SELECT count(*) FROM "My ""schema""".known), (SELECT count(*) FROM "My ""schema""".inline),
		(SELECT (n, latest) FROM "My ""schema"""."A ""view""" WHERE aggregate_id = 'a'),
		(SELECT string_agg(name || ' ' || mode || ' ' || state, ', ' ORDER BY name) FROM cqrs.projection_status)};
my $well = q{A "view" async running, Inline inline running, It's "a" log async running};
poll_ok($old, 'shop', $state, 'old cluster', "20|20 20|20|20|(40,20)|$well");

# A backlog that no worker takes before the dump.
$old->append_conf('postgresql.conf', 'cqrs_views.enabled = off');
$old->reload;
poll_ok($old, 'postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'cqrs_views worker'", 'no worker');
publish($old, 'shop', 10);
my $backlog = "30|20 20|20|30|(40,20)|$well";
is($old->safe_psql('shop', $state), $backlog, 'a backlog');
$old->command_ok([ 'pg_dump', '-Fc', '-f', "$folder/shop.dump", 'shop' ], 'pg_dump');
$old->command_ok([ 'pg_dump', '-f', "$folder/shop.sql", 'shop' ], 'pg_dump of a script');
$old->command_ok([ 'pg_dump', '--inserts', '-f', "$folder/inserts.sql", 'shop' ], 'pg_dump --inserts');
$old->command_ok([ 'pg_dump', '--data-only', '--disable-triggers', '-f', "$folder/data.sql", 'shop' ], 'pg_dump --data-only');
$old->stop;

my $new = new_server('new');
$new->safe_psql('postgres', $roles);

# Has rows arrive from another service: events of these numbers, or one without an aggregate's id (NULL).
sub receive
{
	my ($node, $database, @numbers) = @_;

	foreach my $number (@numbers)
	{
		my $id = sprintf('00000000-0000-0000-0000-%012d', $number eq 'NULL' ? 0 : $number);
		my $aggregate = $number eq 'NULL' ? 'NULL' : q('a');

		$node->safe_psql($database, qq{INSERT INTO "The outbox" VALUES ('$id', 'Thing', $aggregate, 'Happened')});
	}
	return;
}

# Waits until a worker has looked at all projections of a database since now.
sub wait_for_look
{
	my ($database) = @_;
	my $now = $new->safe_psql('postgres', 'SELECT clock_timestamp()');

	for (1 .. 2)
	{
		$new->poll_query_until('postgres', "SELECT count(*) > 0 FROM pg_stat_activity
			WHERE backend_type = 'cqrs_views worker' AND datname = '$database' AND state_change > '$now'")
		  or die "no worker looks at $database";
		$now = $new->safe_psql('postgres', 'SELECT clock_timestamp()');
	}
	return;
}

# Tests that a restored database has processed its backlog once, goes on, and is protected as before.
sub check
{
	my ($database, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	poll_ok($new, $database, $state, "$what: the backlog is processed", "30|30 30|30|30|(60,30)|$well");
	$new->safe_psql($database, 'TRUNCATE "The outbox"');
	receive($new, $database, 3);
	publish($new, $database, 4);
	receive($new, $database, 1, 'NULL');
	poll_ok($new, $database, $state, "$what: new events are", "35|35 35|35|35|(70,35)|$well");
	is($new->safe_psql($database, 'SELECT source, format, events, duplicates, rows_parked FROM cqrs.source_status'),
		'a service|debezium|3|2|1', "$what: and those of another service, once");
	is($new->safe_psql($database, q{
			SELECT string_agg(DISTINCT format('%s %s', tgname, tgenabled), ', ' ORDER BY format('%s %s', tgname, tgenabled))
			FROM pg_trigger WHERE tgname ~ '^cqrs_'}),
		'cqrs_attachment_changed A, cqrs_immutable A, cqrs_inline A, cqrs_no_replication R, cqrs_receive A, '
		  . 'cqrs_receive_replica R, cqrs_registry_changed A, cqrs_write_guard A, cqrs_write_guard_replica R', "$what: triggers fire as they should");
	is($new->safe_psql($database, q{
			SELECT string_agg(DISTINCT objid::regclass || ' on ' || CASE refclassid WHEN 'pg_proc'::regclass
				THEN refobjid::regproc::text ELSE refobjid::regclass::text END, ', ')
			FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid::regclass::text ~ 'view'
			AND (refclassid = 'pg_proc'::regclass OR refobjid::regclass::text ~ 'view')
			AND refobjsubid = 0 AND objid::regclass::text !~ 'key'}),
		q{"My ""schema"""."A ""view""" on "My ""schema""".twice, "My ""schema"""."A ""view""_state" on "My ""schema"""."A ""view"""},
		"$what: so do dependencies");
	my ($status, $output, $errors) = $new->psql($database, 'DELETE FROM "My ""schema"""."A, log"');
	like($errors, qr/cannot write to read table "A, log"/, "$what: the write guard stands");
	$new->safe_psql('postgres', "DROP DATABASE $database");
	return;
}

my %ways = (
	archive => [ 'pg_restore', '--exit-on-error', "$folder/shop.dump" ],
	parallel => [ 'pg_restore', '--exit-on-error', '-j2', "$folder/shop.dump" ],
	at_once => [ 'pg_restore', '-1', "$folder/shop.dump" ],
	script => [ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/shop.sql" ],
	inserts => [ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/inserts.sql" ]);
foreach my $way (sort keys %ways)
{
	$new->safe_psql('postgres', "CREATE DATABASE $way");
	$new->command_ok([ @{ $ways{$way} }, '-d', $way ], $way);
	check($way, $way);
}

# Section by section: what was processed before the read tables were loaded would be processed again, or be lost.
$new->safe_psql('postgres', 'CREATE DATABASE sections');
foreach my $section (qw(pre-data data))
{
	$new->command_ok([ 'pg_restore', '--exit-on-error', "--section=$section", '-d', 'sections', "$folder/shop.dump" ], $section);
	wait_for_look('sections');
}
is($new->safe_psql('sections', $state), $backlog =~ s/Inline inline running/Inline inline switching/r,
	'workers wait for the write guards');
my ($status, $output, $errors) = $new->psql('sections', 'CALL cqrs.catch_up()');
like($errors, qr/projection ".*" is not completely restored\nDETAIL:  Read table ".*" has no write guard/, 'catch_up says so');
$new->command_ok([ 'pg_restore', '--exit-on-error', '--section=post-data', '-d', 'sections', "$folder/shop.dump" ], 'post-data');
check('sections', 'sections');

# Data only, into a database that has the tables: the write guards stand before the rows are there.
$new->safe_psql('postgres', 'CREATE DATABASE data_only');
$new->command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', '-d', 'data_only', "$folder/shop.dump" ], 'schema only');
foreach my $part ([qw(registry)], [qw(checkpoint era outbox parked attachment received arrival parked_row
	registry_id_seq parked_row_number_seq outbox_position_seq)])
{
	$new->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-n', 'cqrs',
		(map { ('-t', $_) } @$part), '-d', 'data_only', "$folder/shop.dump" ], "data only: @$part");
	wait_for_look('data_only');
}
is($new->safe_psql('data_only', 'SELECT count(*) FROM "My ""schema"""."A, log"'), '0', 'workers wait for the rows');
($status, $output, $errors) = $new->psql('data_only', 'CALL cqrs.catch_up()');
like($errors, qr/DETAIL:  The rows of read table ".*" are not loaded/, 'catch_up says so');
$new->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-n', 'My "schema"', '-d',
	'data_only', "$folder/shop.dump" ], 'data only, the rest');
check('data_only', 'data only');

$new->safe_psql('postgres', 'CREATE DATABASE data_script');
$new->command_ok([ 'pg_restore', '--exit-on-error', '--schema-only', '-d', 'data_script', "$folder/shop.dump" ], 'schema only');
$new->command_ok([ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$folder/data.sql", '-d', 'data_script' ], 'a script of data');
check('data_script', 'data script');

# Events alone: a projection made afterwards handles all of them.
create_database($new, 'events');
$new->command_ok([ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-n', 'cqrs', '-t', 'outbox',
	'-t', 'outbox_position_seq', '-t', 'era', '-d', 'events', "$folder/shop.dump" ], 'events alone');
create_log_projection($new, 'events', 'log');
publish($new, 'events', 5);
handled_once($new, 'events', 'log', 'events alone');

$new->stop;
done_testing();
