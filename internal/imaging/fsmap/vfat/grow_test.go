package vfat

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
)

// ram is a volume in memory, which fails after so many writes where that is not 0.
type ram struct {
	*bytes.Reader
	b      []byte
	writes int
	fails  int
}

var errPower = errors.New("power fails")

func newRAM(b []byte) *ram { return &ram{Reader: bytes.NewReader(b), b: b} }

func (r *ram) WriteAt(b []byte, off int64) (int, error) {
	if r.writes++; r.writes == r.fails {
		copy(r.b[off:], b[:len(b)/2])
		return 0, errPower
	}
	return copy(r.b[off:], b), nil
}

func (r *ram) Sync() error { return nil }

// TestGrow lets filesystems of all kinds grow, and asks fsck.vfat, mtools and our own map.
func TestGrow(t *testing.T) {
	for _, tc := range []struct {
		args     string
		kib, to  int64
		budget   int64 // KiB of files
		kept     string
		clusters cluster // afterwards; 0 means as many as there is room for
	}{
		{"-F 12", 1440, 1600, 800, "", 0},
		{"-F 12 -s 4", 3000, 12 << 10, 2000, "", minFAT16 - 1 - spare},
		{"-F 12 -s 1 -f 1", 1000, 1500, 500, "", 0},
		{"-F 16 -s 4", 20 << 10, 30 << 10, 4 << 10, "", 0},
		{"-F 16 -s 1 -r 2048 -h 2048", 9000, 20 << 10, 4000, "", 0},
		{"-F 16 -s 2 -S 4096", 36 << 10, 60 << 10, 4 << 10, "", 0},
		{"-F 16 -s 1", 16 << 10, 40 << 10, 2 << 10, "", minFAT32 - 1 - spare},
		{"-F 32 -s 1", 36 << 10, 60 << 10, 4 << 10, "", 0},
		{"-F 32 -s 1 -R 40 -b 8", 36 << 10, 37 << 10, 2 << 10, "", 0},
		{"-F 16 -s 8", 40 << 10, 40 << 10, 1 << 10, "no room for more", 0},
	} {
		t.Run(fmt.Sprintf("%s, %d to %d KiB", tc.args, tc.kib, tc.to), func(t *testing.T) {
			t.Parallel()
			img := mkfs(t, tc.kib, append(strings.Fields(tc.args), "-i", "12345678")...)
			before, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			old := &volume{r: bytes.NewReader(before), size: int64(len(before))}
			if err := old.readBoot(); err != nil {
				t.Fatal(err)
			}
			fill(t, img, tc.budget<<10, old.clusterSize)
			if before, err = os.ReadFile(img); err != nil {
				t.Fatal(err)
			}
			was := listed(t, before)
			// What lies behind is of an older use: noise.
			after := append(bytes.Clone(before), bytes.Repeat([]byte{0xdb}, int(tc.to-tc.kib)<<10)...)
			disk := newRAM(after)
			grown, kept, err := Grow(disk, int64(len(after)))
			if err != nil {
				t.Fatal(err)
			}
			if tc.kept != "" {
				if !strings.Contains(kept, tc.kept) || disk.writes != 0 {
					t.Errorf("it says %q after %d writes", kept, disk.writes)
				}
				return
			}
			if all := int64(len(after)) / old.sector * old.sector; (kept != "" || grown != all) && tc.clusters == 0 || tc.clusters != 0 && (kept == "" || grown >= all) {
				t.Errorf("it has %d bytes of %d: %s", grown, all, kept)
			}
			v := &volume{r: disk, size: int64(len(after))}
			if _, err := v.used(); err != nil || len(v.facts.Notes) > 0 {
				t.Fatal(err, v.facts.Notes)
			}
			room := cluster((v.size - v.dataAt) / v.clusterSize)
			if want := tc.clusters; want == 0 && v.clusters != room || want != 0 && v.clusters != want {
				t.Errorf("%d clusters, there is room for %d", v.clusters, room)
			}
			if v.facts.UUID != "1234-5678" || v.facts.Label != "SOME LABEL" || v.bits != old.bits || v.clusterSize != old.clusterSize {
				t.Errorf("%+v", v.facts)
			}
			if (v.dataAt-old.dataAt)%max(v.clusterSize, moveAlign) != 0 {
				t.Errorf("clusters moved by %d bytes", v.dataAt-old.dataAt)
			}
			if is := listed(t, after); len(was) < 30 || !maps.Equal(is, was) {
				t.Errorf("%d files, %d before", len(is), len(was))
			}
			// All else of the boot sector stays.
			a, b := bytes.Clone(before[:bootLen]), bytes.Clone(after[:bootLen])
			for _, s := range [][]byte{a, b} {
				clear(s[0x13:0x15])
				clear(s[0x16:0x18])
				clear(s[0x20:0x28])
				if old.bits != 32 {
					copy(s[0x24:], before[0x24:0x28])
				}
			}
			if !bytes.Equal(a, b) {
				t.Errorf("the boot sector was\n%x\nand is\n%x", a, b)
			}
			more := "no room for more"
			if tc.clusters != 0 {
				more = "has no numbers for more"
			}
			disk.writes = 0
			if _, kept, err := Grow(disk, int64(len(after))); err != nil || !strings.Contains(kept, more) || disk.writes != 0 {
				t.Errorf("it grows again: %q, %v, %d writes", kept, err, disk.writes)
			}
			if err := os.WriteFile(img, after, 0o600); err != nil {
				t.Fatal(err)
			}
			tool(t, "fsck.vfat", "-n", img)
			// It is a filesystem as any other: there is room to write into what came.
			tool(t, "mcopy", "-i", img, "/proc/self/exe", "::MORE")
			tool(t, "fsck.vfat", "-n", img)
		})
	}
}

// TestGrowCut ends a growth after each of its writes: what is there then is no filesystem, or has all files.
func TestGrowCut(t *testing.T) {
	for args, kib := range map[string]int64{"-F 12 -s 4": 3000, "-F 16 -s 1": 5000, "-F 32 -s 1": 36 << 10} {
		img := mkfs(t, kib, strings.Fields(args)...)
		fill(t, img, 1<<20, 1024)
		before, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		before = append(before, make([]byte, 1<<20)...)
		was := listed(t, before)
		n := 1
		for ; ; n++ {
			disk := newRAM(bytes.Clone(before))
			disk.fails = n
			_, kept, err := Grow(disk, int64(len(before)))
			if kept != "" && !strings.Contains(kept, "numbers") {
				t.Fatal(kept)
			}
			if err == nil {
				break
			}
			if !errors.Is(err, errPower) {
				t.Fatal(err)
			}
			facts, _, err := Used(disk, int64(len(before)))
			if err != nil {
				t.Fatal(err)
			}
			if facts.Whole == "" && !maps.Equal(listed(t, disk.b), was) {
				t.Errorf("%s: after %d writes it passes for good, and files differ", args, n)
			}
		}
		if n < 6 {
			t.Errorf("%s: %d writes", args, n)
		}
	}
}

// TestGrowStarts keeps what boot loaders know by place.
func TestGrowStarts(t *testing.T) {
	img := mkfs(t, 40<<10, "-F", "32")
	tool(t, "mcopy", "-i", img, "/etc/hostname", "::LDLINUX.SYS")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, make([]byte, 8<<20)...)
	disk := newRAM(b)
	if _, kept, err := Grow(disk, int64(len(b))); err != nil || !strings.Contains(kept, "SYSLINUX") || disk.writes != 0 {
		t.Errorf("%q, %v, %d writes", kept, err, disk.writes)
	}
	copy(b[0x180:], "GRUB ")
	if _, kept, err := Grow(disk, int64(len(b))); err != nil || !strings.Contains(kept, "GRUB") || disk.writes != 0 {
		t.Errorf("%q, %v, %d writes", kept, err, disk.writes)
	}
	clear(b[:bootLen])
	if _, kept, err := Grow(disk, int64(len(b))); err != nil || !strings.Contains(kept, "no boot sector") || disk.writes != 0 {
		t.Errorf("%q, %v, %d writes", kept, err, disk.writes)
	}
}
