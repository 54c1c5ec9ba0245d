package xfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strings"
	"testing"

	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/uml"
	"mimeo/internal/night"
)

// fillScript fills and empties what is mounted at its argument, in Perl, as a shell is slow in user-mode Linux.
const fillScript = `
use strict; use Fcntl; use IO::Handle; my $at = shift; my $small = shift; chdir $at or die $!;
sub put { my ($name, $b, @at) = @_; sysopen(my $f, $name, O_RDWR|O_CREAT) or die "$name: $!";
	for my $o (@at ? @at : 0) { sysseek($f, $o, 0); syswrite($f, $b) == length $b or die "$name: $!" }
	$f->sync if @at; close $f }
for my $round (0..2) {
	for my $i (0..90) { my $d = "d".($i%6); mkdir $d; put("$d/file$round-$i", chr(65+$i%26) x (1+$i*$i*137%20000+$round)) }
	unlink glob "d*/file$round-*[147]";
}
mkdir "many"; put("many/a-file-with-a-rather-long-name-$_", "$_") for 0..700; unlink glob "many/*[369]";
put("torn", "torn by holes", $_ * 9000) for map { $_*7 % 300 } 0..299;
put("shape", "x" x 700_000); truncate "shape", 123_456;
link "torn", "d1/hard"; symlink "../torn", "d1/soft"; symlink "/" . "long/" x 190, "d1/long";
chown 70000, 80000, "shape"; chmod 04711, "shape"; utime 1_000_000_000, 1_200_000_000, "d1/hard";
system("mkfifo", "d2/pipe") == 0 or die;
put("block$_", "z" x $small) for 0..300; unlink "block".2*$_ for 0..150;
`

// umlList prints what the kernel finds on a disk.
const umlList = `
list() { echo "== $1"; (cd "$2"; find . ! -type d -printf '%y %m %U:%G %n %s %T@ %l %P\n'; find . -type f -exec sha256sum {} +); }
`

// treeList returns the same lines of what Tree finds.
func treeList(t testing.TB, img string) map[string]bool {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := OpenTree(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	root, err := tr.File(tr.Root())
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[uint32]string{tree.Regular: "f", tree.Link: "l", tree.Pipe: "p"}
	out := map[string]bool{}
	if err := tree.Walk(tr, "", root, func(name string, f tree.File, err error) error {
		if err != nil || f.Type() == tree.Dir {
			return err
		}
		out[fmt.Sprintf("%s %o %d:%d %d %d %d.%09d0 %s %s", kinds[f.Type()], f.Mode&0o7777, f.UID, f.GID, f.Links, f.Size,
			f.Modified.Unix(), f.Modified.Nanosecond(), f.Target, name)] = true
		if f.Type() == tree.Regular {
			r, err := tr.Open(f.Inode)
			if err != nil {
				return err
			}
			h := sha256.New()
			if _, err := io.Copy(h, io.NewSectionReader(r, 0, f.Size)); err != nil {
				return err
			}
			out[fmt.Sprintf("%x  ./%s", h.Sum(nil), path.Clean(name))] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestOldLinux has Linux 6.1 fill filesystems of version 4, and one of version 5 whose log began anew, and read the copies.
func TestOldLinux(t *testing.T) {
	night.Only(t)
	t.Parallel()
	all := []string{
		"-m crc=0", "-m crc=0 -b size=512 -d agcount=2 -n ftype=0,size=4096", "-m crc=0 -b size=1024 -l version=1,lazy-count=0 -i attr=1,projid32bit=0",
		"-m crc=0 -s size=4096 -i size=2048 -n size=16384 -l su=64k,size=8m", "-m rmapbt=1",
	}
	var imgs, dups []string
	fill := "cat >fill.pl <<'END'" + fillScript + "END\nmkdir a; fill() { mount -t xfs -o noatime /dev/$1 a; perl fill.pl a $2; umount a; }\n"
	list := "mkdir a\n" + umlList
	for i, args := range all {
		img := mkfs(t, 64*mib, args)
		imgs = append(imgs, img)
		if f, err := os.OpenFile(img, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		} else if err := errors.Join(renew(f, 64*mib, 200_000_000), f.Close()); err != nil { // nothing happens to version 4
			t.Fatal(err)
		}
		fill += fmt.Sprintf("fill ubd%c %d\n", 'a'+i, []int{4096, 512, 1024, 4096, 4096}[i])
		list += fmt.Sprintf("mount -t xfs -o ro,norecovery /dev/ubd%c a; list %d a; umount a\n", 'a'+i, i)
	}
	uml.Run(t, fill, imgs...)
	for _, img := range imgs {
		dups = append(dups, judge(t, img))
		checkPieces(t, img, false)
	}
	found := strings.Split(uml.Run(t, list, dups...), "== ")
	if len(found) != len(all)+1 {
		t.Fatalf("%d lists", len(found)-1)
	}
	for i, text := range found[1:] {
		want := map[string]bool{}
		for _, line := range strings.Split(text, "\n")[1:] {
			if line != "" && !strings.HasPrefix(line, "[exit ") && !strings.Contains(line, "reboot: ") && !strings.Contains(line, "sysrq: ") {
				want[line] = true
			}
		}
		got := treeList(t, imgs[i])
		if len(got) < 1500 || !maps.Equal(got, want) {
			t.Errorf("%s: %d lines, want %d", all[i], len(got), len(want))
			n := 0
			for line := range want {
				if !got[line] && n < 5 {
					t.Errorf("not found: %q", line)
					n++
				}
			}
		}
	}
}
