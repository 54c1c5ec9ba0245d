package maptest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/uml"
	"mimeo/internal/night"
)

// fill fills, empties and tears what is mounted at its argument, in Perl, as a shell is slow in user-mode Linux. Names are
// short: that is all that some filesystems have room for.
const fill = `
use strict; use Fcntl; use IO::Handle; my ($at, $kib, $most) = @ARGV; chdir $at or die $!;
sub put { my ($name, $b, @at) = @_; sysopen(my $f, $name, O_RDWR|O_CREAT) or die "$name: $!";
	for my $o (@at ? @at : 0) { sysseek($f, $o, 0); syswrite($f, $b) == length $b or die "$name: $!" }
	$f->sync if @at; close $f }
for my $round (0..2) {
	my $left = $kib * 256;
	for (my $i = 0; $left > 0; $i++) { my $d = "d".($i%6); mkdir $d; my $n = 1 + $i*$i*137 % $most + $round;
		put("$d/f$round-$i", chr(65+$i%26) x $n); $left -= $n }
	unlink glob "d*/f$round-*[147]";
}
mkdir "many"; put("many/a$_", "$_") for 0..150; unlink glob "many/*[369]";
put("torn", "torn by holes", $_ * 9000) for map { $_*7 % 100 } 0..99;
put("shape", "x" x 300_000); truncate "shape", 123_456;
put("tail", "tail", $kib * 4000);
link "torn", "d1/hard"; symlink "../torn", "d1/soft"; symlink "/" . "long/" x 60, "d1/long";
`

const lister = `
list() { (cd "$1"; find . ! -type d -printf '%y %m %U:%G %n %s %l %P\n'; find . -type f -exec sha256sum {} +) | LC_ALL=C sort; }
`

// Volume is a filesystem that Linux fills.
type Volume struct {
	Name  string
	Img   string
	Mount string // options of mount, with the type
	KiB   int    // of files
	Most  int    // bytes of a file; 20000 where 0
	Only  bool   // it has files already; Linux is not to write, and the reader may have notes
	Keep  string // its name in testdata
	After string // what else is done in Linux; the disk is $disk
	Crash string // it is mounted when the power goes; part of what is said of it then
	Night bool   // by build/night
}

// Now returns those whose turn is now.
func Now(all []Volume) []Volume {
	return slices.DeleteFunc(all, func(v Volume) bool { return v.Night && !night.On() })
}

// Linux has Linux 6.1 fill filesystems, calls judge for each with what the reader says and with a copy on a disk that was
// full of random bytes, and holds the files of the copies against the others'. It returns what the first of the two Linux' said.
func Linux(t *testing.T, used Reader, prepare string, volumes []Volume, judge func(t testing.TB, v Volume, used extent.List, dup string)) string {
	t.Helper()
	script := "cat >fill.pl <<'END'" + fill + "END\nmkdir a\n" + lister + prepare + "\n"
	look := "mkdir a\n" + lister + prepare + "\n"
	crash := ""
	var imgs []string
	lists := 0
	for i, v := range volumes {
		dev := fmt.Sprintf("/dev/ubd%c", 'a'+i)
		imgs = append(imgs, v.Img)
		if v.Most == 0 {
			v.Most = 20_000
		}
		if v.Crash != "" {
			crash += fmt.Sprintf("mkdir crash%d; mount %s %s crash%d; echo crashed >crash%d/file; sync\n", i, v.Mount, dev, i, i)
			continue
		}
		if !v.Only {
			script += fmt.Sprintf("disk=%s; echo '.. %s'; mount %s %s a; perl fill.pl a %d %d; umount a; %s\n", dev, v.Name, v.Mount, dev, v.KiB, v.Most, v.After)
		}
		one := fmt.Sprintf("mount -o ro %s %s a; echo '== %s'; list a; echo ==; umount a\n", v.Mount, dev, v.Name)
		script, look = script+one, look+one
		lists++
	}
	said := uml.Run(t, script+crash, imgs...)
	dups := make([]string, len(volumes))
	parent := t // whose folder for files lasts longer
	t.Run("judge", func(t *testing.T) {
		for i, v := range volumes {
			t.Run(v.Name, func(t *testing.T) {
				t.Parallel()
				facts, list := Map(t, used, v.Img)
				if v.Crash != "" {
					if why := facts.Whole + strings.Join(facts.Notes, "; "); !strings.Contains(why, v.Crash) {
						t.Errorf("after a crash: %q, want %q", why, v.Crash)
					}
					dups[i] = v.Img // not looked at
					return
				}
				if facts.Whole != "" {
					t.Fatalf("whole: %s", facts.Whole)
				}
				if !v.Only {
					Good(t, used, v.Img)
				}
				dups[i] = Copy(parent, v.Img, list, facts)
				judge(t, v, list, dups[i])
			})
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	if *update {
		for _, v := range volumes {
			if v.Keep != "" {
				keep(t, v.Keep, Load(t, v.Img))
			}
		}
	}
	want, got := listsOf(said), listsOf(uml.Run(t, look, dups...))
	if len(want) != 2*lists+1 || len(got) != len(want) {
		t.Fatalf("%d lists and %d of copies:\n%s", len(want), len(got), said)
	}
	for i := 1; i < len(want); i += 2 {
		name, _, _ := strings.Cut(strings.TrimSpace(want[i]), "\n")
		if n := strings.Count(want[i], "\n"); n < 20 {
			t.Errorf("%s: only %d files:\n%s", name, n, want[i])
		}
		if want[i] != got[i] {
			t.Errorf("%s: the copy has other files:\n%s\nwant\n%s", name, got[i], want[i])
		}
	}
	return said
}

// listsOf returns the lists in what Linux said, each behind its name, without what the kernel said at that moment.
func listsOf(said string) []string {
	parts := strings.Split(said, "==")
	for i := 1; i < len(parts); i += 2 {
		name, rest, _ := strings.Cut(strings.TrimSpace(parts[i]), "\n")
		parts[i] = name + "\n" + strings.Join(listLine.FindAllString(rest, -1), "\n")
	}
	return parts
}

var listLine = regexp.MustCompile(`(?m)^([0-9a-f]{64}  |[flp] [0-7]+ \d+:\d+ ).*$`)

// Again deploys a filesystem of testdata onto a disk that was in use with the same one: what Linux has written since, such as
// newer logs, must not come back.
func Again(t *testing.T, used Reader, prepare, mount, name string) {
	t.Helper()
	before := Load(t, name)
	img := Save(t, before)
	_, list := Good(t, used, img)
	start := "mkdir a\n" + lister + prepare + "\nmount " + mount + " /dev/ubda a; "
	show := "echo == again; list a; echo ==; "
	use := `for i in $(seq 20); do echo "$i" >a/again$i; done; sync; rm -r a/d1 a/torn; sync; for i in 1 2 3 4 5; do cp a/d2/* a/many; sync; done; umount a`
	want := listsOf(uml.Run(t, start+show+use, img))
	after := Load(t, img)
	for _, e := range list {
		copy(after[e.Off:e.End()], before[e.Off:e.End()])
	}
	got := listsOf(uml.Run(t, start+show+"umount a", Save(t, after)))
	if len(want) != 3 || len(got) != 3 || want[1] != got[1] || strings.Count(want[1], "\n") < 20 {
		t.Errorf("deployed once more:\n%s\nwant\n%s", strings.Join(got, "=="), strings.Join(want, "=="))
	}
}
