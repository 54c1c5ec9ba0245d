package browse

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/store/mem"
)

func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", script, args, err, out)
	}
	return string(out)
}

// image captures a disk of three partitions, the second of which holds dir as an operating system's root, with blocks of
// the given size.
func image(t *testing.T, st *mem.Store, dir string, block int) *Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	sh(t, `truncate -s 100M "$1"
		sfdisk -q "$1" <<-END
			label: gpt
			start=2048, size=20480
			size=120000
			type=swap
		END
		mke2fs -q -F -t ext4 -b "$3" -d "$2" -E offset=$((22528*512)) "$1" 60000k
		mke2fs -q -F -t ext2 -E offset=$((2048*512)) "$1" 10m`, path, dir, fmt.Sprint(block))
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := layout.Plan(d)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := capture.NewPlan(d, l, leaveout.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := capture.Run(t.Context(), capture.Source{ReaderAt: d, Disk: d.Info()}, plan, st, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	i, err := Open(t.Context(), st, res.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// system makes the files of an operating system.
func system(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range 60 {
		b := make([]byte, rng.IntN(1+rng.IntN(900_000)))
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		name := filepath.Join(dir, "usr", fmt.Sprintf("d%d", i%4), fmt.Sprintf("f%d", i))
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	sh(t, `cd "$1"; mkdir -p etc usr/lib; echo 'ID=debian' >usr/lib/os-release; ln -s ../usr/lib/os-release etc/os-release
		truncate -s 3M sparse; printf end >>sparse; mkdir dev; mknod dev/null c 1 3; mknod dev/zero c 1 3`, dir)
	return dir
}

func volume(t *testing.T, i *Image) *Volume {
	t.Helper()
	v, err := i.Volume(0)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func content(t *testing.T, v *Volume, name string) []byte {
	t.Helper()
	f, err := tree.Lookup(v, name, true)
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.Open(f.Inode)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(r, 0, f.Size))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFilesOfAnImage(t *testing.T) {
	dir, st := system(t), mem.New()
	i := image(t, st, dir, 4096)
	v := volume(t, i)
	if v.Partition != 2 {
		t.Errorf("the system is said to be on partition %d", v.Partition)
	}
	if got := string(content(t, v, "/etc/os-release")); got != "ID=debian\n" {
		t.Errorf("os-release: %q", got)
	}
	want, err := os.ReadFile(filepath.Join(dir, "sparse"))
	if err != nil || !bytes.Equal(content(t, v, "sparse"), want) {
		t.Error("sparse differs", err)
	}
	for _, p := range []string{"/etc/none", "/etc/os-release/x", "/usr/d0/f0/../.."} {
		if _, err := tree.Lookup(v, p, true); err == nil || !strings.HasPrefix(err.Error(), "/") {
			t.Errorf("%s: %v", p, err)
		}
	}
	if f, err := tree.Lookup(v, "../../etc/../etc/os-release", false); err != nil || f.Target != "../usr/lib/os-release" {
		t.Errorf("%+v, %v", f, err)
	}
	if v1, err := i.Volume(1); err != nil || v1.Type != "ext2" {
		t.Errorf("partition 1: %v", err)
	}
	var ve *VolumeError
	if _, err := i.Volume(3); !errors.As(err, &ve) || !strings.Contains(err.Error(), "2 (ext4)") {
		t.Errorf("partition 3: %v", err)
	}
}

func TestDiff(t *testing.T) {
	dir, st := system(t), mem.New()
	before := volume(t, image(t, st, dir, 4096))
	sh(t, `cd "$1"
		echo new >etc/new; mkdir -p opt/deep; echo x >opt/deep/x
		rm usr/d0/f0
		printf changed | dd of=usr/d1/f1 bs=1 seek=5000 conv=notrunc status=none
		chmod 600 usr/d2/f2
		ln -sfn nowhere etc/os-release
		printf more >>usr/d3/f3
		rm usr/d0/f4 dev/zero; mkdir usr/d0/f4; mknod dev/zero c 1 5
		touch usr/d1/f5`, dir)
	after := volume(t, image(t, st, dir, 1024)) // another filesystem, with the files elsewhere
	var got []string
	reads := map[string]int64{}
	if err := Diff(before, after, func(c Change) error {
		got = append(got, c.Kind+" "+c.Path)
		reads[c.Path] = c.Bytes
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"modified /dev/zero", "added /etc/new", "modified /etc/os-release", "added /opt", "added /opt/deep", "added /opt/deep/x", "removed /usr/d0/f0",
		"removed /usr/d0/f4", "added /usr/d0/f4", "modified /usr/d1/f1", "changed /usr/d2/f2", "modified /usr/d3/f3",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if reads["/usr/d1/f1"] != 4096 || reads["/opt/deep/x"] != 2 || reads["/usr/d3/f3"] < 4 || reads["/usr/d3/f3"] > 4096 {
		t.Errorf("%v", reads)
	}
}
