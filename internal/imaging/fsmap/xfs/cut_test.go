package xfs

import (
	"fmt"
	"os"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/uml"
)

// cutScript works on what is mounted at its first argument until it is killed, as anything that runs may do. The second argument is a
// seed, the third the size of a piece.
const cutScript = `
use strict; use Fcntl; use IO::Handle; my ($at, $seed, $unit) = @ARGV; srand $seed; chdir $at or die $!;
my @names; my $n = 0;
sub fresh { my $d = "d".int(rand 7); mkdir $d; $n++; return "$d/".("n" x (1 + int rand 90))."-$seed-$n" }
sub put { my ($name, $b, @at) = @_; sysopen(my $f, $name, O_RDWR|O_CREAT) or return;
	for my $o (@at ? @at : 0) { sysseek($f, $o, 0); syswrite($f, $b) }
	$f->sync if rand() < 0.05; close $f }
while (1) {
	my $what = rand; my $k = int rand(@names || 1); my $name = $names[$k];
	if (@names < 20 || $what < 0.35) { push @names, fresh(); put($names[-1], chr(65 + int rand 26) x (1 + int rand(1 << (8 + int rand 9)))) }
	elsif ($what < 0.6) { unlink $name; splice @names, $k, 1 }
	elsif ($what < 0.7) { truncate $name, int rand 200_000 }
	elsif ($what < 0.8) { my $to = fresh(); rename $name, $to; $names[$k] = $to }
	elsif ($what < 0.82) { symlink "link/" x (1 + int rand 150), fresh() }
	elsif ($what < 0.83) { put("many-$seed/".("m" x 100).$n++, "") for mkdir("many-$seed"), 1..100 }
	elsif ($what < 0.835) { unlink glob "many-$seed/*[13579]" }
	else { put($name, "piece" x ($unit / 5), map { int(rand 100) * 2 * $unit } 0..rand 20) }
}
`

// cutOffAt has Linux 6.1 work on all images, and vanish after some time.
func cutOffAt(t testing.TB, seconds float64, seed int, imgs ...string) {
	script := "cat >work.pl <<'END'" + cutScript + "END\n"
	for i := range imgs {
		script += fmt.Sprintf("mkdir m%d; mount -t xfs /dev/ubd%c m%d; perl work.pl m%d %d 4096 & perl work.pl m%d %d 1024 &\n", i, 'a'+i, i, i, seed*100+i*2, i, seed*100+i*2+1)
	}
	script += fmt.Sprintf("sleep %f; echo '[exit 0]'; echo o >/proc/sysrq-trigger; sleep 60\n", seconds)
	uml.Run(t, script, imgs...)
}

// TestCutOff has Linux vanish in the middle of work, which may be in the middle of a write to the log. Version 4 is mounted by no
// later Linux. With MIMEO_TEST_CRASHES it does so more often, and to more kinds of filesystems.
func TestCutOff(t *testing.T) {
	t.Parallel()
	rounds, first := 1, 1
	variants := []string{"-m crc=0 -b size=1024 -l size=5m -d agcount=2", "-b size=1024 -l size=4m -d agcount=2"}
	if many := os.Getenv("MIMEO_TEST_CRASHES"); many != "" {
		fmt.Sscan(many, &rounds, &first)
		variants = append(variants, "-m crc=0", "-m rmapbt=1 -l su=64k,size=16m")
	}
	for round := range rounds {
		var imgs []string
		for _, args := range variants {
			imgs = append(imgs, mkfs(t, 96*mib, args))
		}
		seed := round + first
		cutOffAt(t, 2.5+float64(seed%7)/2, seed, imgs...)
		var names, disks []string
		var lists []extent.List
		for i, img := range imgs {
			facts, used := mapImage(t, img)
			t.Logf("seed %d, %s: %d used, whole %q, notes %q", seed, variants[i], used.Bytes(), facts.Whole, facts.Notes)
			if facts.Whole == "" {
				names, lists, disks = append(names, variants[i]), append(lists, used), append(disks, img, copyUsed(t, img, used))
			}
		}
		script := "mkdir a b\n"
		for i := range names {
			script += fmt.Sprintf("mount -t xfs /dev/ubd%c a; mount -t xfs -o nouuid /dev/ubd%c b; diff -r --no-dereference a b; umount a b\n", 'a'+2*i, 'b'+2*i)
		}
		uml.Run(t, script, disks...)
		for i, name := range names {
			img := disks[2*i]
			check(t, img)
			check(t, disks[2*i+1])
			fs := open(t, img)
			need := extent.Subtract(extent.List{{Len: int64(fs.blocks) * fs.blockSize}}, freesp(t, img, fs))
			if lost := extent.Subtract(need, lists[i]); len(lost) > 0 {
				t.Errorf("%s: used after the replay and not by us: %v", name, lost)
			}
		}
		if t.Failed() {
			return
		}
		for _, img := range append(disks, imgs...) {
			os.Remove(img)
		}
	}
}
