# The example in examples/scale-out, as its script checks it, and afterwards nothing is left of it.

use strict;
use warnings FATAL => 'all';

use FindBin;
use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my ($pg_config) = grep { -x } map { "$_/pg_config" } split /:/, $ENV{PATH};
my ($nothing, $said) = ('', '');

# a socket's path has little room, hence no folder of the test's own
my $place = "$ENV{TMPDIR}/so.$$";
mkdir $place or die "cannot make $place: $!";
{
	local $ENV{PG_CONFIG} = $pg_config;
	local $ENV{TMPDIR} = $place;
	my $running = IPC::Run::start([ "$FindBin::RealBin/../examples/scale-out/run", '--check' ],
		'<', \$nothing, '>', \$said, '2>&1', IPC::Run::timeout(2 * $PostgreSQL::Test::Utils::timeout_default));

	ok($running->finish, 'it runs') or diag($said);
}
foreach my $line (split /\n/, $said)
{
	ok(!$1, $2) if $line =~ /^(not )?ok - (.*)/;
}
is(scalar(() = $said =~ /^ok - /mg), 5, 'all is checked');
ok(rmdir $place, 'nothing is left') or diag(`ls -lR $place | head -50`);
done_testing();
