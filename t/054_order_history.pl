# The example in examples/order-history as a newcomer has it: started by its script, its page used in Chromium, ended by
# Ctrl-C. Afterwards nothing is left of it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

foreach my $program (qw(node npm chromium))
{
	plan skip_all => "$program is not installed (Debian packages: nodejs npm chromium)"
	  if !grep { -x "$_/$program" } split /:/, $ENV{PATH};
}

my $example = "$FindBin::RealBin/../examples/order-history";
my ($pg_config) = grep { -x } map { "$_/pg_config" } split /:/, $ENV{PATH};
my $patience = 2 * $PostgreSQL::Test::Utils::timeout_default;

# The example makes its folder here. A socket's path has little room, hence no folder of the test's own.
my $place = "$ENV{TMPDIR}/oh.$$";
mkdir $place or die "cannot make $place: $!";

my ($nothing, $said) = ('', '');
my $running;
{
	# Who is started in the background by a script ignores it, and so would the example.
	local $SIG{INT} = 'DEFAULT';
	local $ENV{PG_CONFIG} = $pg_config;
	local $ENV{TMPDIR} = $place;
	$running = IPC::Run::start([ "$example/run", '--port', 0 ], '<', \$nothing, '>', \$said, '2>&1',
		IPC::Run::timeout($patience));
}
eval { $running->pump until $said =~ /Ctrl-C ends it all/ || !$running->pumpable; 1 } or diag($@);
if ($said !~ /Ctrl-C ends it all/)
{
	$running->signal('TERM') if $running->pumpable;
	$running->finish;
	rmdir $place;
	plan skip_all => 'npm could not fetch the module pg' if $running->result == 77;
	fail('it starts') or diag($said);
	done_testing();
	exit;
}
pass('it starts');

my ($page) = $said =~ m{^ +(http://\S+/)$}m;
my $checked = '';
IPC::Run::run([ 'node', "$example/check.js", $page, 'chromium' ], '<', \$nothing, '>', \$checked, '2>&1');
foreach my $line (split /\n/, $checked)
{
	if ($line =~ /^(not )?ok - (.*)/) { ok(!$1, $2) }
	else { diag($line) }
}
like($checked, qr/\A(?:ok - .*\n){20}\z/, 'the page does all that is asked of it');

my @pids = map { slurp_file($_) =~ /\A(\d+)$/m } glob "$place/*/*/postmaster.pid";
is(scalar(@pids), 4, 'there are four clusters');
$running->signal('INT');
$running->finish;
is($running->full_result, 130 << 8, 'Ctrl-C ends it');
ok(gone($_), "cluster $_ is gone") foreach @pids;
ok(rmdir $place, 'and its folder') or diag(`ls -lR $place | head -50`);
done_testing();

# Whether a process comes to its end. One that has ended may still wait for its parent to take notice.
sub gone
{
	my ($pid) = @_;

	foreach my $attempt (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if `ps -o stat= -p $pid` !~ /^[^Z]/;
		select undef, undef, undef, 0.1;
	}
	return 0;
}
