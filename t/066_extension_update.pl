# ALTER EXTENSION UPDATE changes the schema under whoever works with it; the library that goes with the new schema comes
# with a restart before that. Events, projections and checkpoints stay, publishers and workers go on.
#
# There is one version only, so the next one is made up here: a script that does what such scripts do, and a library with
# one function more. Both go into a copy of the server, which is made of links but for the files that matter.

use strict;
use warnings FATAL => 'all';

use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use FindBin;
use lib "$FindBin::RealBin/lib";

use CqrsSurvival;
use CqrsTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my @objects = glob "$ENV{TESTDIR}/src/*.o";
plan skip_all => 'the objects that the library was linked from are not here' unless @objects;
my $pg_config = $ENV{PG_CONFIG} // 'pg_config';
my %folder = map { my $path = `$pg_config --$_`; chomp $path; ($_ => $path) } qw(bindir sharedir pkglibdir includedir-server);
plan skip_all => "programs in $folder{bindir} do not find their files by the way there"
  unless basename($folder{bindir}) eq 'bin';
my %copy = copy_server();
my $next = 'next';
my $current = slurp_file("$copy{sharedir}/extension/cqrs_views.control") =~ s/.*default_version = '([^']+)'.*/$1/sr;

my $node = new_server('update', install_path => dirname($copy{bindir}));
create_survivors($node, 'postgres');
my @publishers = start_publishers($node, 'postgres', 2);
my $session = $node->background_psql('postgres', on_error_stop => 0);
is($session->query("SELECT extversion FROM pg_extension WHERE extname = 'cqrs_views';"), $current, 'the current version');
used_by_session('before');
release_next();

# --- the new files are there, the running server has the old library

my ($status, $output, $errors) = $node->psql('postgres', 'ALTER EXTENSION cqrs_views UPDATE');
like($errors, qr/could not find function "cqrs_sql_news" in file/, 'the old library has not what the new schema needs');
is(version(), $current, 'and so nothing has changed');
used_by_session('after an update in vain');
is(stop_publishers($node, 'postgres', @publishers), '', 'publishers notice nothing');
survived($node, 'postgres', 'old library, old schema, an update in vain');

# --- the new library, and the old schema

$session->quit;
$node->restart;
$session = $node->background_psql('postgres', on_error_stop => 0);
@publishers = start_publishers($node, 'postgres', 2);
used_by_session('after the restart');
is(stop_publishers($node, 'postgres', @publishers), '', 'publishers notice nothing');
survived($node, 'postgres', 'new library, old schema');

# --- the update, while all go on

$node->safe_psql('postgres', "SELECT cqrs.pause_projection('batch')");
@publishers = start_publishers($node, 'postgres', 3);
my $before = $node->safe_psql('postgres', 'SELECT array_agg(id ORDER BY id) FROM cqrs.registry');
$node->safe_psql('postgres', 'ALTER EXTENSION cqrs_views UPDATE');
is(version(), $next, 'updated');
used_by_session('after the update');
publish_events($node, 'postgres', 50);
is(stop_publishers($node, 'postgres', @publishers), '', 'publishers notice nothing');
is($node->safe_psql('postgres', 'SELECT array_agg(id ORDER BY id) FROM cqrs.registry'), $before, 'the projections are those that there were');
is($node->safe_psql('postgres', "SELECT state FROM cqrs.projection_status WHERE name = 'batch'"), 'paused', 'one stays paused');
$node->safe_psql('postgres', "SELECT cqrs.resume_projection('batch')");
survived($node, 'postgres', 'new library, new schema');
is($node->safe_psql('postgres', 'SELECT cqrs.news()'), '42', 'what is new is there');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_extension, unnest(extconfig) AS t WHERE t = 'cqrs.novelty'::regclass"),
	'1', 'and will be dumped');

# --- whatever comes afterwards

$node->restart;
publish_events($node, 'postgres', 20);
survived($node, 'postgres', 'after a restart');
$node->safe_psql('postgres', "CALL cqrs.rebuild_projection('$_', online => false)") foreach qw(each viewed);
$node->safe_psql('postgres', "SELECT cqrs.alter_projection('each_inline', mode => 'async')");
publish_events($node, 'postgres', 20);
survived($node, 'postgres', 'rebuilt, and of another mode');
create_survivors($node, 'fresh');
is($node->safe_psql('fresh', "SELECT extversion FROM pg_extension WHERE extname = 'cqrs_views'"), $next, 'new databases get the new version');
publish_events($node, 'fresh', 20);
survived($node, 'fresh', 'a new database');

$session->quit;
$node->stop;
done_testing();

sub version
{
	return $node->safe_psql('postgres', "SELECT extversion FROM pg_extension WHERE extname = 'cqrs_views'");
}

# A session that was there before publishes, inline handlers included, waits and looks: its plans and caches are old.
sub used_by_session
{
	my ($when) = @_;
	my $before = $node->safe_psql('postgres', "SELECT version FROM aggregate WHERE id = 'session'") || 0;

	$session->{stderr} = '';
	$session->query("INSERT INTO aggregate VALUES ('session') ON CONFLICT DO NOTHING; SELECT happen('session');");
	is($session->query("SELECT cqrs.wait_for('viewed', '1 minute');"), 't', "$when: a session waits");
	is($session->query("SELECT v.n = $before + 1 AND i.n = v.n FROM viewed v JOIN viewed_inline i USING (key) WHERE key = 'session';"),
		't', 'and reads what it has published');
	$session->query("SELECT count(*) FROM cqrs.projection_status; SELECT cqrs.fold('fold(folded,cqrs.event)', 'session');");
	is($session->{stderr}, '', 'without an error');
	return;
}

# Copies the server by links, so that the extension's files can be replaced. Returns where its folders are then.
sub copy_server
{
	my $top = PostgreSQL::Test::Utils::tempdir();
	my %result = map { $_ => "$top$folder{$_}" } qw(bindir sharedir pkglibdir);

	make_path($result{$_}) foreach qw(bindir sharedir pkglibdir);
	make_path("$result{sharedir}/extension");
	link_all($folder{pkglibdir}, $result{pkglibdir}, qr/^cqrs_views\./);
	link_all($folder{sharedir}, $result{sharedir}, qr/^extension$/);
	link_all("$folder{sharedir}/extension", "$result{sharedir}/extension", qr/^cqrs_views/);
	copy_file($_, "$result{sharedir}/extension") foreach glob "$folder{sharedir}/extension/cqrs_views*";
	copy_file($_, $result{pkglibdir}) foreach glob "$folder{pkglibdir}/cqrs_views.*";

	# programs find their files by the way that leads there from where they really are
	copy_file("$folder{bindir}/$_", $result{bindir}) foreach qw(postgres initdb pg_ctl pg_config psql pg_isready);
	return %result;
}

sub link_all
{
	my ($from, $to, $except) = @_;

	foreach my $path (glob "$from/*")
	{
		my $name = basename($path);

		next if $name =~ $except;
		symlink($path, "$to/$name") or die "cannot link $to/$name: $!";
	}
	return;
}

# As "make install" does, it replaces the file, not its content.
sub copy_file
{
	my ($from, $to) = @_;
	my $file = "$to/" . basename($from);

	copy($from, "$file.new") or die "cannot copy $from: $!";
	chmod((stat $from)[2] & 07777, "$file.new");
	rename("$file.new", $file) or die "cannot rename $file.new: $!";
	return;
}

# Installs the next version.
sub release_next
{
	my $made = PostgreSQL::Test::Utils::tempdir();

	append_to_file("$made/news.c", <<'C');
#include "postgres.h"
#include "fmgr.h"

PG_FUNCTION_INFO_V1(cqrs_sql_news);

Datum
cqrs_sql_news(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(42);
}
C
	system_or_bail('cc', '-shared', '-fPIC', "-I$folder{'includedir-server'}", '-o', "$made/cqrs_views.so", "$made/news.c", @objects);
	copy_file("$made/cqrs_views.so", $copy{pkglibdir});

	my $control = slurp_file("$copy{sharedir}/extension/cqrs_views.control");
	$control =~ s/default_version = '[^']+'/default_version = '$next'/ or die 'the control file has no version';
	append_to_file("$made/cqrs_views.control", $control);
	copy_file("$made/cqrs_views.control", "$copy{sharedir}/extension");

	# it begins like any such script: docs/upgrading.md says why
	append_to_file("$copy{sharedir}/extension/cqrs_views--$current--$next.sql", <<'SQL');
\echo Use "ALTER EXTENSION cqrs_views UPDATE" to load this file. \quit
CREATE FUNCTION cqrs.news() RETURNS integer LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'cqrs_sql_news';
SET LOCAL deadlock_timeout = '10min';
LOCK TABLE cqrs.outbox, cqrs.registry, cqrs.checkpoint, cqrs.parked IN ACCESS EXCLUSIVE MODE;
ALTER TABLE cqrs.outbox ADD COLUMN trace text;
ALTER TABLE cqrs.registry ADD COLUMN remark text NOT NULL DEFAULT '';
ALTER TABLE cqrs.checkpoint ADD COLUMN skipped bigint NOT NULL DEFAULT 0;
ALTER TABLE cqrs.parked ADD COLUMN remark text;
CREATE TABLE cqrs.novelty (id integer PRIMARY KEY);
SELECT pg_catalog.pg_extension_config_dump('cqrs.novelty', '');
SQL
	return;
}
