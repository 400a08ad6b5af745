# SPDX-License-Identifier: MIT
# Perl at work: sorting, regular expressions, big numbers, packing, closures, objects, digests,
# processes and a small compiler, each with a result that is known or found in another way.
use strict;
use warnings;
use Digest::MD5 qw(md5_hex);
use Digest::SHA qw(sha256_hex sha512_hex);
use Encode qw(encode decode);
use List::Util qw(sum max reduce shuffle first);
use Math::BigInt;
use Math::BigFloat;
use POSIX qw(floor fmod strftime :sys_wait_h);
use Scalar::Util qw(weaken blessed);
use Storable qw(freeze thaw dclone);
use Time::Local;
use Data::Dumper;

my ($passed, $failed) = (0, 0);

sub is
{
	my ($got, $want, $what) = @_;
	if (defined $got && $got eq $want) {
		$passed++;
	} else {
		$failed++;
		print "failed: $what: '" . ($got // 'undef') . "', not '$want'\n";
	}
}

# The same numbers everywhere.
my $seed = 12345;
sub rnd { $seed = ($seed * 1103515245 + 12345) % 2147483648; return ($seed >> 8) % $_[0]; }

sub sorting
{
	my @v = map { rnd(1_000_000) } 1 .. 20000;
	my @s = sort { $a <=> $b } @v;
	my $order = 1;
	$order &&= $s[$_ - 1] <= $s[$_] for 1 .. $#s;
	is($order, 1, 'sort');
	is(sum(@s), sum(@v), 'sum');
	is(join(',', (sort { $b cmp $a } qw(pear fig apple kiwi))), 'pear,kiwi,fig,apple', 'sort by name');
	my @heap;
	for my $x (@v[0 .. 2999]) {
		push @heap, $x;
		my $i = $#heap;
		while ($i && $heap[($i - 1) >> 1] > $heap[$i]) {
			@heap[$i, ($i - 1) >> 1] = @heap[($i - 1) >> 1, $i];
			$i = ($i - 1) >> 1;
		}
	}
	my @out;
	while (@heap) {
		push @out, $heap[0];
		my $last = pop @heap;
		last unless @heap;
		$heap[0] = $last;
		my $i = 0;
		while ((my $c = 2 * $i + 1) < @heap) {
			$c++ if $c + 1 < @heap && $heap[$c + 1] < $heap[$c];
			last if $heap[$i] <= $heap[$c];
			@heap[$i, $c] = @heap[$c, $i];
			$i = $c;
		}
	}
	is("@out", join(' ', sort { $a <=> $b } @v[0 .. 2999]), 'heap');
	my %count;
	$count{$_ % 97}++ for @v;
	is(sum(values %count), 20000, 'hash');
	is(scalar(keys %count), 97, 'keys');
}

sub regexes
{
	my $text = join ' ', map { sprintf 'item%d=%s;', $_, 'x' x ($_ % 7) } 1 .. 2000;
	my $n = () = $text =~ /item(\d+)=(x{3,5});/g;
	is($n, 2 * 858, 'matches');
	(my $t = $text) =~ s/item(\d+)=(x*);/$1 * 2 . ':' . length $2/ge;
	is(md5_hex($t), md5_hex(join ' ', map { $_ * 2 . ':' . $_ % 7 } 1 .. 2000), 's///ge');
	is(join('|', '2026-11-21T10:20:30' =~ /^(?<y>\d{4})-(\d\d)-(\d\d)T(.*)$/), '2026|11|21|10:20:30', 'groups');
	is($+{y}, '2026', 'named group');
	is('aaa' =~ /^(a+)+$/ ? 1 : 0, 1, 'nested quantifier');
	is('((a)(b(c)))' =~ /^(\((?:[^()]++|(?1))*\))$/ ? 1 : 0, 1, 'recursion');
	is('((a)(b(c))' =~ /^(\((?:[^()]++|(?1))*\))$/ ? 1 : 0, 0, 'recursion, unbalanced');
	is(join(',', 'fooBarBaz' =~ /(?<=[a-z])(?=[A-Z])/ ? split(/(?<=[a-z])(?=[A-Z])/, 'fooBarBaz') : ()), 'foo,Bar,Baz', 'look around');
	my $word = "stra\x{df}e \x{3b1}\x{3b2}\x{3b3}";
	is(uc($word), "STRASSE \x{391}\x{392}\x{393}", 'unicode case');
	is(length(encode('UTF-8', $word)), 14, 'UTF-8');
	is(decode('UTF-8', encode('UTF-8', $word)), $word, 'UTF-8 and back');
	(my $u = 'hello') =~ tr/a-y/b-z/;
	is($u, 'ifmmp', 'tr');
	# Primes by the regular expression that everybody knows.
	is(join(' ', grep { ('1' x $_) !~ /^1?$|^(11+?)\1+$/ } 1 .. 60), '2 3 5 7 11 13 17 19 23 29 31 37 41 43 47 53 59', 'primes');
}

sub numbers
{
	my $f = Math::BigInt->new(1);
	$f *= $_ for 1 .. 60;
	is("$f", '8320987112741390144276341183223364380754172606361245952449277696409600000000000000', '60!');
	is(Math::BigInt->new(2)->bpow(521)->bsub(1)->bmod(1000003)->bstr, '' . modpow(2, 521, 1000003) - 1, '2^521-1');
	is(Math::BigInt->new('123456789012345678901234567890')->bgcd('987654321098765432109876543210')->bstr, '9000000000900000000090', 'gcd');
	is(Math::BigInt->new(3)->bmodpow('1000000006', '1000000007')->bstr, 1, 'Fermat');
	is(Math::BigFloat->new(2)->bsqrt(50)->bstr, '1.4142135623730950488016887242096980785696718753769', 'sqrt 2');
	is(Math::BigFloat->bpi(40)->bstr, '3.141592653589793238462643383279502884197', 'pi');
	my ($a, $b) = (0, 1);
	($a, $b) = ($b, $a + $b) for 1 .. 90;
	is($a, 2880067194370816120, 'fib(90)');
	is(sprintf('%.15g %.3e %x %b %o', 0.1 + 0.2, 12345.678, 255, 10, 8), '0.3 1.235e+04 ff 1010 10', 'sprintf');
	is(0.1 + 0.2 == 0.3 ? 1 : 0, 0, 'binary fractions');
	is(int(-7 / 2) . ' ' . -7 % 3 . ' ' . fmod(-7, 3) . ' ' . floor(-3.5), '-3 2 -1 -4', 'division');
	is(18446744073709551615 & 18374966859414961920, 18374966859414961920, '64 bits');
	my $pi = 0;
	$pi += (-1) ** $_ / (2 * $_ + 1) for 0 .. 20000;
	is(sprintf('%.9f', 4 * $pi), '3.141642651', 'Leibniz');
	my @sieve = (1) x 20001;
	for (my $i = 2; $i * $i <= 20000; $i++) {
		next unless $sieve[$i];
		for (my $j = $i * $i; $j <= 20000; $j += $i) { $sieve[$j] = 0; }
	}
	is(scalar(grep { $sieve[$_] } 2 .. 20000), 2262, 'sieve');
}

sub modpow
{
	my ($b, $e, $m) = @_;
	my $r = 1;
	for (; $e; $e >>= 1) {
		$r = $r * $b % $m if $e & 1;
		$b = $b * $b % $m;
	}
	return $r;
}

sub data
{
	is(unpack('H*', pack('NnCvVa4Z5w', 1, 2, 3, 4, 5, 'ab', 'hello', 300)), '000000010002030400050000006162000068656c6c00822c', 'pack');
	is(join(',', unpack('(A2)*', 'aabbcc')), 'aa,bb,cc', 'unpack');
	is(unpack('%32b*', "\xff\x0f"), 12, 'bits');
	is(join(' ', map { sprintf '%.3g', $_ } unpack 'd<f<', pack 'd<f<', 3.25, -0.5), '3.25 -0.5', 'floats');
	my $deep = {list => [1 .. 500], map => {map { $_ => $_ ** 2 } 1 .. 500}, text => 'x' x 1000};
	is(sum(values %{thaw(freeze($deep))->{map}}), 41791750, 'Storable');
	my $copy = dclone($deep);
	$copy->{list}[0] = 'changed';
	is($deep->{list}[0], 1, 'dclone');
	local $Data::Dumper::Sortkeys = 1;
	local $Data::Dumper::Indent = 0;
	is(Dumper({b => [1, 'two'], a => undef}), q($VAR1 = {'a' => undef,'b' => [1,'two']};), 'Dumper');
	is(sha256_hex('abc'), 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad', 'SHA-256');
	is(md5_hex('a' x 1_000_000), '7707d6ae4e027c70eea2a935c2296f21', 'MD5');
	is(substr(sha512_hex('a' x 100_000), 0, 16), substr(sha512_hex(join '', ('a' x 1000) x 100), 0, 16), 'SHA-512');
	is(strftime('%Y-%m-%d %H:%M:%S', gmtime(1_000_000_000)), '2001-09-09 01:46:40', 'strftime');
	is(timegm(40, 46, 1, 9, 8, 2001), 1_000_000_000, 'timegm');
	my $text = join "\n", map { "line $_" } 1 .. 3000;
	open(my $fh, '+>', '/tmp/perl.tmp') or die "open: $!";
	print $fh $text;
	seek $fh, 0, 0;
	my @lines = <$fh>;
	is(scalar @lines, 3000, 'lines');
	is(join('', @lines), $text, 'a file and back');
	close $fh;
	unlink '/tmp/perl.tmp';
	# LZ77, there and back.
	my $in = join '', map { 'abc' . rnd(3) . 'defg' x rnd(4) } 1 .. 300;
	my @tokens;
	for (my $i = 0; $i < length $in;) {
		my ($best, $at) = (0, 0);
		my $from = $i > 255 ? $i - 255 : 0;
		for my $j ($from .. $i - 1) {
			my $n = 0;
			$n++ while $n < 30 && $i + $n < length $in && substr($in, $j + $n, 1) eq substr($in, $i + $n, 1);
			($best, $at) = ($n, $i - $j) if $n > $best;
		}
		if ($best > 3) {
			push @tokens, [$at, $best];
			$i += $best;
		} else {
			push @tokens, substr $in, $i++, 1;
		}
	}
	my $out = '';
	for my $t (@tokens) {
		if (ref $t) {
			$out .= substr($out, length($out) - $t->[0], 1) for 1 .. $t->[1];
		} else {
			$out .= $t;
		}
	}
	is($out, $in, 'LZ77');
	is(@tokens < length($in) / 4 ? 1 : 0, 1, 'LZ77 is shorter');
}

{
	package Shape;
	my $alive = 0;
	sub new { my ($c, %a) = @_; $alive++; return bless {%a}, $c; }
	sub area { 0 }
	sub alive { $alive }
	sub DESTROY { $alive-- }
	package Square;
	our @ISA = ('Shape');
	sub area { $_[0]{a} ** 2 }
	package Number;
	use overload '+' => sub { Number->new($_[0]{n} + (ref $_[1] ? $_[1]{n} : $_[1])) }, '""' => sub { "<$_[0]{n}>" };
	sub new { bless {n => $_[1]}, $_[0] }
}

sub objects
{
	{
		my @s = map { $_ % 2 ? Square->new(a => $_) : Shape->new } 1 .. 1000;
		is(sum(map { $_->area } @s), 166666500 , 'methods');
		is(Shape::alive(), 1000, 'alive');
		is(blessed($s[0]), 'Square', 'blessed');
	}
	is(Shape::alive(), 0, 'destroyed');
	is('' . (Number->new(2) + Number->new(3) + 4), '<9>', 'overloading');
	my @counters = map { my $n = $_; sub { return $n += shift } } 1 .. 10;
	$counters[$_]->(10) for 0 .. 9;
	is(join(',', map { $_->(0) } @counters), join(',', 11 .. 20), 'closures');
	my $got = eval { die {code => 42} ; 1 } ? '' : $@->{code};
	is($got, 42, 'die');
	is(eval 'my $x = 6; $x * 7', 42, 'eval');
	my $ring = {};
	$ring->{self} = $ring;
	weaken($ring->{self});
	undef $ring;
	my $ack;
	$ack = sub { my ($m, $n) = @_; no warnings 'recursion'; $m == 0 ? $n + 1 : $n == 0 ? $ack->($m - 1, 1) : $ack->($m - 1, $ack->($m, $n - 1)) };
	is($ack->(2, 40), 83, 'Ackermann');
	my $subs = 0;
	for my $i (1 .. 300) {
		my $f = eval "sub { my \$x = shift; return \$x * $i + " . ($i % 13) . '; }';
		$subs += $f->(2);
	}
	is($subs, 2 * 300 * 301 / 2 + sum(map { $_ % 13 } 1 .. 300), 'compiled at run time');
	is(queens(7, 0, {}, {}, {}), 40, 'queens');
}

sub queens
{
	my ($n, $row, $c, $d, $e) = @_;
	return 1 if $row == $n;
	my $found = 0;
	for my $col (0 .. $n - 1) {
		next if $c->{$col} || $d->{$row + $col} || $e->{$row - $col};
		local ($c->{$col}, $d->{$row + $col}, $e->{$row - $col}) = (1, 1, 1);
		$found += queens($n, $row + 1, $c, $d, $e);
	}
	return $found;
}

sub processes
{
	is(`echo hello | tr a-z A-Z`, "HELLO\n", 'backticks');
	pipe(my $r, my $w) or die "pipe: $!";
	my @kids;
	for my $i (1 .. 8) {
		my $pid = fork() // die "fork: $!";
		if (!$pid) {
			syswrite $w, sprintf("%03d\n", $i * $i);
			POSIX::_exit($i);
		}
		push @kids, $pid;
	}
	close $w;
	is(sum(<$r>), 204, 'pipe');
	my $codes = 0;
	for my $pid (@kids) {
		waitpid $pid, 0;
		$codes += $? >> 8;
	}
	is($codes, 36, 'exit codes');
	my $alarms = 0;
	local $SIG{ALRM} = sub { $alarms++; die "late\n" };
	eval { alarm 1; select undef, undef, undef, 60; };
	is("$alarms $@", "1 late\n", 'alarm');
	local $SIG{USR1} = sub { $alarms++ };
	kill USR1 => $$ for 1 .. 50;
	is($alarms, 51, 'signals');
}

sorting();
regexes();
numbers();
data();
objects();
processes();
print "$passed passed, $failed failed\n";
exit($failed ? 1 : 0);
