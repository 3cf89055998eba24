# What README.md and docs/ show is what happens: the blocks marked "sql" of a document run in order in one psql session
# of a server of its own, and each prints what the block marked "text" after it shows. Where none follows, it raises no
# error. Documents without such blocks are passed over.

use strict;
use warnings FATAL => 'all';

use FindBin;
use PostgreSQL::Test::Utils;
use Test::More;

use lib "$FindBin::RealBin/lib";
use CqrsTest;

my $root = "$FindBin::RealBin/..";
foreach my $path ("$root/README.md", sort glob "$root/docs/*.md")
{
	my ($name) = $path =~ m{([^/]+)\.md$};
	my $text = slurp_file($path);

	subtest $name => sub { shows_what_happens($name, $text) } if $name eq 'README' || $text =~ /^```sql$/m;
}

sub shows_what_happens
{
	my ($name, $text) = @_;
	my @blocks;

	while ($text =~ /^```(sql|text)\n(.*?)^```$/msg)
	{
		if ($1 eq 'sql') { push @blocks, { sql => $2 } }
		else { $blocks[-1]{shown} = $2 }
	}
	cmp_ok(scalar @blocks, '>', $name eq 'README' ? 10 : 0, 'found the blocks');

	my $node = new_server(lc $name);
	my $script = join '', map { "$blocks[$_]{sql}\\echo \@\@ end $_\n" } 0 .. $#blocks;
	my $printed = '';
	IPC::Run::run(
		[ 'psql', '-X', '-v', 'SHOW_CONTEXT=never', '-d', $node->connstr('postgres') ],
		'<', \$script, '>', \$printed, '2>&1');
	my @printed = split /^\@\@ end \d+\n/m, $printed;

	foreach my $i (0 .. $#blocks)
	{
		my ($first) = $blocks[$i]{sql} =~ /^(.*)$/m;
		my $got = plain($printed[$i] // 'nothing: the session has ended');

		if (defined $blocks[$i]{shown}) { is($got, plain($blocks[$i]{shown}), "block $i: $first") }
		else { unlike($got, qr/ERROR|FATAL|WARNING|the session has ended/, "block $i: $first") }
	}
	$node->stop;
	return;
}

# Without what differs from run to run, or can't be seen. A notification comes when it comes: it goes to the end.
sub plain
{
	my ($text) = @_;

	$text =~ s/[ \t]+$//mg;
	$text =~ s/with PID \d+/with PID N/g;
	my @notifications = $text =~ /^(Asynchronous notification .*\n)/mg;
	$text =~ s/^Asynchronous notification .*\n//mg;
	$text = join '', $text, sort @notifications;
	$text =~ s/\n{2,}/\n/g;
	$text =~ s/\n+\z/\n/;
	return $text;
}

done_testing();
