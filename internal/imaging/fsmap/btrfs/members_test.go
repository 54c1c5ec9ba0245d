package btrfs

import (
	"maps"
	"os"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// members makes a filesystem on many images, and fills it.
func members(t *testing.T, n int, size int64, args string) (imgs []string) {
	t.Helper()
	for range n {
		imgs = append(imgs, sparse(t, size*mib))
	}
	tool(t, "mkfs.btrfs", append(strings.Fields("-q "+args), imgs...)...)
	mounted(t, imgs, "rw", func(dir string, _ []string) { change(t, dir, 10*mib) })
	return imgs
}

// checkAll asks btrfs check of a filesystem of many images. It looks for the others among loop devices.
func checkAll(t *testing.T, imgs []string) {
	t.Helper()
	var loops []string
	for _, img := range imgs {
		loop := strings.TrimSpace(string(tool(t, "losetup", "--find", "--show", img)))
		defer tool(t, "losetup", "-d", loop)
		loops = append(loops, loop)
	}
	args := []string{"check", "--readonly", "--check-data-csum"}
	out, err := command("btrfs", append(args, loops[0])...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "no error found") {
		t.Errorf("btrfs check: %v\n%s", err, out)
	}
}

// TestMembers captures each device of a filesystem by itself, and puts them together again.
func TestMembers(t *testing.T) {
	for _, v := range []struct {
		args string
		n    int
	}{
		{"-m raid1 -d raid0", 2},
		{"-m raid1 -d single", 2},
		{"-m raid1c3 -d raid5", 3},
		{"-m raid1c4 -d raid10", 4},
		{"-m raid1c4 -d raid6", 4},
		{"-m raid1c3 -d raid0 -n 4096", 3},
	} {
		t.Run(v.args, func(t *testing.T) {
			t.Parallel()
			imgs := members(t, v.n, 170, v.args)
			want := scrub(t, imgs...)
			var dups []string
			for _, img := range imgs {
				facts, used := mapImage(t, img)
				if facts.Whole != "" {
					t.Fatal(facts.Whole)
				}
				if used.Bytes() > 150*mib {
					t.Errorf("%d bytes are in use", used.Bytes())
				}
				dups = append(dups, copyUsed(t, img, used))
			}
			for _, img := range imgs {
				os.Remove(img)
			}
			got := scrub(t, dups...)
			if len(got) < 50 || !maps.Equal(got, want) {
				t.Errorf("%d files, the copy has %d, and they are not the same", len(want), len(got))
			}
			checkAll(t, dups)
		})
	}
}

// TestMetadataElsewhere has devices on which not all trees are.
func TestMetadataElsewhere(t *testing.T) {
	t.Parallel()
	imgs := members(t, 2, 170, "-m raid0 -d raid0")
	for _, img := range imgs {
		if facts, _ := mapImage(t, img); !strings.Contains(facts.Whole, "not on this device") || facts.UUID == "" {
			t.Errorf("%+v", facts)
		}
	}
	imgs = members(t, 2, 170, "-m dup -d single")
	whole := 0
	for _, img := range imgs {
		if facts, _ := mapImage(t, img); facts.Whole != "" {
			whole++
		}
	}
	if whole != 1 {
		t.Errorf("%d of two devices are captured whole", whole)
	}
}

// TestLeftover is one half of a mirror whose other half is gone: first missing, then removed.
func TestLeftover(t *testing.T) {
	t.Parallel()
	imgs := members(t, 2, 320, "-m raid1 -d raid1")
	one := snapshot(t, imgs[0])
	mounted(t, []string{one}, "degraded", func(dir string, _ []string) { change(t, dir, 4*mib) })
	facts, used := mapImage(t, one)
	if facts.Whole != "" {
		t.Fatal(facts.Whole)
	}
	want, _ := dumpTree(t, one)
	if lost := extent.Subtract(want, used); len(lost) > 0 {
		t.Errorf("used by dump-tree and not by us: %v", lost)
	}
	mounted(t, []string{one}, "degraded", func(dir string, _ []string) {
		tool(t, "btrfs", "balance", "start", "-f", "-mconvert=dup", "-dconvert=single", dir)
		tool(t, "btrfs", "device", "remove", "missing", dir)
	})
	scrub(t, judge(t, one))
}

// TestSeed has a filesystem that others grow from, and one that grew.
func TestSeed(t *testing.T) {
	t.Parallel()
	seed, sprout := mkfs(t, 112, ""), sparse(t, 300*mib)
	tool(t, "btrfstune", "-S", "1", seed)
	mounted(t, []string{seed}, "ro", func(dir string, _ []string) {
		loop := strings.TrimSpace(string(tool(t, "losetup", "--find", "--show", sprout)))
		defer tool(t, "losetup", "-d", loop)
		tool(t, "btrfs", "device", "add", "-f", loop, dir)
		tool(t, "mount", "-o", "remount,rw", dir)
		sampleTree(t, dir, 8*mib, 5)
		tool(t, "btrfs", "filesystem", "sync", dir)
	})
	judge(t, seed)
	if facts, _ := mapImage(t, sprout); facts.Whole != "" && !strings.Contains(facts.Whole, "not on this device") {
		t.Errorf("%+v", facts)
	}
	mounted(t, []string{sprout, seed}, "rw", func(dir string, loops []string) {
		tool(t, "btrfs", "device", "remove", loops[1], dir)
	})
	scrub(t, judge(t, sprout))
}
