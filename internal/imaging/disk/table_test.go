package disk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/manifest"
)

const mib = 1 << 20

// run runs a program and fails the test when that fails.
func run(t testing.TB, stdin string, name string, args ...string) string {
	t.Helper()
	out, err := try(stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(stdin string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// image makes a file of that size, with boot code in its first bytes.
func image(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte("boot code "), 44), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// loop attaches an image to a loop device with sectors of that size.
func loop(t testing.TB, path string, sector int) string {
	t.Helper()
	dev := strings.TrimSpace(run(t, "", "losetup", "--find", "--show", "--sector-size", strconv.Itoa(sector), path))
	t.Cleanup(func() { run(t, "", "losetup", "-d", dev) })
	return dev
}

func read(t testing.TB, path string, o Options) (*Table, *Disk) {
	t.Helper()
	d, err := Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	tab, err := ReadTable(d, d.Size(), d.SectorSize())
	if err != nil {
		t.Fatal(err)
	}
	return tab, d
}

// sfdisk returns the table as sfdisk reads it.
func sfdisk(t testing.TB, path string) manifest.Table {
	t.Helper()
	out, err := exec.Command("/sbin/sfdisk", "--json", path).Output()
	if err != nil {
		t.Fatalf("sfdisk --json %s: %v", path, err)
	}
	var j struct {
		Table struct {
			Label      string
			ID         string
			Sectorsize int64
			Partitions []struct {
				Node             string
				Start, Size      int64
				Type, UUID, Name string
				Bootable         bool
			}
		} `json:"partitiontable"`
	}
	if err := json.Unmarshal(out, &j); err != nil {
		t.Fatal(err)
	}
	tab := manifest.Table{Kind: j.Table.Label, ID: strings.ToLower(j.Table.ID)}
	if tab.Kind == "dos" {
		tab.Kind, tab.ID = "mbr", strings.TrimPrefix(tab.ID, "0x")
	}
	if j.Table.Sectorsize == 0 {
		j.Table.Sectorsize = 512
	}
	for _, p := range j.Table.Partitions {
		n, err := strconv.Atoi(regexp.MustCompile(`\d+$`).FindString(p.Node))
		if err != nil {
			t.Fatal(err)
		}
		q := manifest.Partition{Number: n, Off: p.Start * j.Table.Sectorsize, Len: p.Size * j.Table.Sectorsize, Type: strings.ToLower(p.Type),
			UUID: strings.ToLower(p.UUID), Name: p.Name, Bootable: p.Bootable}
		if tab.Kind == "mbr" {
			q.Type = fmt.Sprintf("%02s", p.Type)
			q.UUID = fmt.Sprintf("%s-%02x", tab.ID, n)
			q.Logical = n >= 5
		}
		tab.Partitions = append(tab.Partitions, q)
	}
	return tab
}

// same compares what is known to both; sfdisk gives attributes in words.
func same(t testing.TB, got, want manifest.Table) {
	t.Helper()
	got.Partitions = slices.Clone(got.Partitions)
	for i := range got.Partitions {
		got.Partitions[i].Attrs = 0
	}
	if got.Kind != want.Kind || got.ID != want.ID {
		t.Errorf("table %s %s, want %s %s", got.Kind, got.ID, want.Kind, want.ID)
	}
	if !slices.Equal(got.Partitions, want.Partitions) {
		t.Errorf("partitions:\n%+v\nwant\n%+v", got.Partitions, want.Partitions)
	}
}

const (
	gptScript = "label: gpt\nlabel-id: 6D1E0C1A-6F0B-4C55-9C1E-5F2F6F3B9AFF\n" +
		"size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name=bios\n" +
		"size=20MiB, type=uefi, name=\"EFI Größe 名前\", attrs=\"RequiredPartition LegacyBIOSBootable\"\n" +
		"start=30MiB, size=10MiB, type=swap\nsize=+, type=linux\n"
	mbrScript = "label: dos\nlabel-id: 0x1234abcd\nsize=8MiB, type=c, bootable\nsize=7MiB, type=83\nsize=8MiB, type=83\n" +
		"size=30MiB, type=f\nsize=4MiB, type=7\nsize=8MiB, type=83\nsize=4MiB, type=82\nsize=5MiB, type=83\n"
)

func TestReadWhatToolsWrite(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(t *testing.T, path string)
		notes int
	}{
		{"gpt by sfdisk", func(t *testing.T, p string) { run(t, gptScript, "sfdisk", "-q", p) }, 0},
		{"gpt by sgdisk", func(t *testing.T, p string) {
			run(t, "", "sgdisk", "-o", "-n", "1:1M:+3M", "-n", "7:10M:+3M", "-c", "7:seven", "-t", "7:8e00", "-A", "7:set:60", "-n", "128:20M:0", p)
		}, 0},
		{"gpt by parted", func(t *testing.T, p string) {
			run(t, "", "parted", "-s", p, "mklabel", "gpt", "mkpart", "one", "ext4", "1MiB", "20MiB", "mkpart", "two", "linux-swap", "20MiB", "100%")
		}, 0},
		{"gpt with 300 entries", func(t *testing.T, p string) {
			run(t, "", "sgdisk", "-o", "-S", "300", "-n", "1:1M:+3M", "-n", "300:10M:+3M", p)
		}, 0},
		{"gpt without partitions", func(t *testing.T, p string) { run(t, "label: gpt", "sfdisk", "-q", p) }, 0},
		{"gpt out of order", func(t *testing.T, p string) {
			run(t, "", "sgdisk", "-o", "-n", "1:30M:+3M", "-n", "2:20M:+3M", "-n", "3:10M:+3M", p)
		}, 0},
		{"hybrid mbr", func(t *testing.T, p string) {
			run(t, gptScript, "sfdisk", "-q", p)
			run(t, "", "sgdisk", "-h", "2:3", p)
		}, 1},
		{"mbr by sfdisk", func(t *testing.T, p string) { run(t, mbrScript, "sfdisk", "-q", p) }, 0},
		{"mbr by parted", func(t *testing.T, p string) {
			run(t, "", "parted", "-s", p, "mklabel", "msdos", "mkpart", "primary", "ext4", "1MiB", "20MiB", "mkpart", "extended", "20MiB", "100%",
				"mkpart", "logical", "linux-swap", "21MiB", "40MiB", "mkpart", "logical", "ext2", "41MiB", "100%", "set", "1", "boot", "on")
		}, 0},
		{"mbr with free entries", func(t *testing.T, p string) {
			run(t, "label: dos\n", "sfdisk", "-q", p)
			run(t, "start=2048,size=4096,type=83\n", "sfdisk", "-q", "-N", "2", p)
			run(t, "start=8192,size=4096,type=41\n", "sfdisk", "-q", "-N", "4", p)
		}, 0},
		{"mbr, logical ones deleted and made again", func(t *testing.T, p string) {
			run(t, mbrScript, "sfdisk", "-q", p)
			run(t, "", "sfdisk", "-q", "--delete", p, "5")
			run(t, "size=2MiB\n", "sfdisk", "-q", "-a", p)
			run(t, "", "sfdisk", "-q", "--delete", p, "6")
		}, 0},
		{"mbr with an empty extended partition", func(t *testing.T, p string) {
			run(t, "label: dos\nsize=8MiB, type=83\nsize=8MiB, type=5\n", "sfdisk", "-q", p)
		}, 0},
	} {
		for _, sector := range []int{512, 4096} {
			if sector != 512 && strings.Contains(c.name, "hybrid") {
				continue // sgdisk makes no hybrid MBR there
			}
			t.Run(fmt.Sprintf("%s/%d", c.name, sector), func(t *testing.T) {
				t.Parallel()
				path := image(t, 64*mib)
				dev := path
				if sector != 512 {
					dev = loop(t, path, sector)
				}
				c.write(t, dev)
				tab, d := read(t, dev, Options{})
				if tab.Whole != "" || len(tab.Notes) != c.notes && !(sector == 4096 && c.notes == 1) {
					t.Errorf("whole %q, notes %q", tab.Whole, tab.Notes)
				}
				if d.SectorSize() != sector || d.Size() != 64*mib {
					t.Errorf("%d bytes with sectors of %d", d.Size(), d.SectorSize())
				}
				same(t, tab.Table, sfdisk(t, dev))
				if sector != 512 && tab.Kind == "gpt" {
					if _, f := read(t, path, Options{}); f.SectorSize() != sector {
						t.Errorf("the image file is taken to have sectors of %d", f.SectorSize())
					}
				}
			})
		}
	}
}

// TestAttributes holds the bits of a GPT's attributes against sgdisk.
func TestAttributes(t *testing.T) {
	t.Parallel()
	path := image(t, 64*mib)
	run(t, gptScript, "sfdisk", "-q", path)
	tab, _ := read(t, path, Options{})
	m := regexp.MustCompile(`Attribute flags: ([0-9A-F]+)`).FindStringSubmatch(run(t, "", "sgdisk", "-i", "2", path))
	if want, _ := strconv.ParseUint(m[1], 16, 64); tab.Partitions[1].Attrs != want || want == 0 {
		t.Errorf("attributes %#x, sgdisk says %#x", tab.Partitions[1].Attrs, want)
	}
}

// edit changes bytes of a file, which stays sparse.
func edit(t testing.TB, path string, f func(b []byte)) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	st, _ := file.Stat()
	b, err := unix.Mmap(int(file.Fd()), 0, int(st.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	f(b)
	if err := unix.Munmap(b); err != nil {
		t.Fatal(err)
	}
}

// reseal makes the checksums of the copy whose header is at off right again.
func reseal(b []byte, off int) {
	h := b[off:]
	entries := int(le.Uint64(h[72:])) * 512
	n := int(le.Uint32(h[80:]) * le.Uint32(h[84:]))
	le.PutUint32(h[88:], crc32.ChecksumIEEE(b[entries:entries+n]))
	le.PutUint32(h[16:], 0)
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:le.Uint32(h[12:])]))
}

func TestDamagedGPT(t *testing.T) {
	const backup = 64*mib - 512
	for _, c := range []struct {
		name   string
		damage func(b []byte)
		whole  bool
		note   string
	}{
		{"primary header", func(b []byte) { b[512+60] ^= 1 }, false, "primary GPT at sector 1 is not good: the checksum of its header"},
		{"primary entries", func(b []byte) { b[1024+40] ^= 1 }, false, "the checksum of its entries"},
		{"primary wiped", func(b []byte) { clear(b[512:1024]) }, false, "there is no header"},
		{"backup header", func(b []byte) { b[backup+60] ^= 1 }, false, "backup GPT at sector"},
		{"backup wiped", func(b []byte) { clear(b[backup:]) }, false, "backup GPT at sector"},
		{"both", func(b []byte) { b[512+60] ^= 1; b[backup+60] ^= 1 }, true, "neither copy"},
		{"copies differ", func(b []byte) { b[1024+56]++; reseal(b, 512) }, false, "differ"},
		{"first usable", func(b []byte) { le.PutUint64(b[512+40:], 1<<40); reseal(b, 512) }, false, "partitions may lie in sectors 1099511627776"},
		{"first usable 0", func(b []byte) { le.PutUint64(b[512+40:], 0); reseal(b, 512) }, false, "lie where partitions may"},
		{"last usable", func(b []byte) { le.PutUint64(b[512+48:], 1<<40); reseal(b, 512) }, false, "the backup at the end of the disk is what was read"},
		{"no entries", func(b []byte) { le.PutUint32(b[512+80:], 0); reseal(b, 512) }, false, "it has no entries"},
		{"overlap", func(b []byte) {
			le.PutUint64(b[1024+128+32:], le.Uint64(b[1024+128+32:])-1)
			reseal(b, 512)
		}, true, "partitions 1 and 2 overlap"},
		{"past the end", func(b []byte) { le.PutUint64(b[1024+3*128+40:], 64*mib/512); reseal(b, 512) }, true, "past the end"},
		{"far past the end", func(b []byte) { le.PutUint64(b[1024+3*128+40:], 1<<63); reseal(b, 512) }, true, "is said to reach"},
		{"back to front", func(b []byte) { le.PutUint64(b[1024+3*128+40:], 1); reseal(b, 512) }, true, "is said to reach"},
		{"on the table", func(b []byte) { le.PutUint64(b[1024+32:], 20); reseal(b, 512) }, true, "lies on the partition table itself"},
		{"absurd entries", func(b []byte) {
			for _, off := range []int{512, backup} {
				le.PutUint32(b[off+80:], 1<<31)
				le.PutUint32(b[off+16:], 0)
				le.PutUint32(b[off+16:], crc32.ChecksumIEEE(b[off:off+92]))
			}
		}, true, "are not supported"},
		{"no protective mbr", func(b []byte) { clear(b[446:512]) }, false, "remains of a GPT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			path := image(t, 64*mib)
			run(t, gptScript, "sfdisk", "-q", path)
			before, _ := read(t, path, Options{})
			edit(t, path, c.damage)
			tab, _ := read(t, path, Options{SectorSize: 512})
			if (tab.Whole != "") != c.whole || !strings.Contains(strings.Join(tab.Notes, "\n"), c.note) {
				t.Errorf("whole %q, notes %q", tab.Whole, tab.Notes)
			}
			if c.whole && (tab.Kind != "none" || len(tab.Partitions) > 0) {
				t.Errorf("a table that is not believed is told: %+v", tab.Table)
			}
			if !c.whole && c.name != "no protective mbr" && c.name != "copies differ" {
				same(t, tab.Table, withoutAttrs(before.Table))
			}
		})
	}
}

// TestHybridMBR makes sure that a partition that only a hybrid MBR has is not lost.
func TestHybridMBR(t *testing.T) {
	t.Parallel()
	path := image(t, 64*mib)
	run(t, gptScript, "sfdisk", "-q", path)
	run(t, "", "sgdisk", "-h", "2:3", path)
	if tab, _ := read(t, path, Options{}); tab.Whole != "" || len(tab.Partitions) != 4 {
		t.Fatalf("whole %q, partitions %+v", tab.Whole, tab.Partitions)
	}
	run(t, "", "sgdisk", "-d", "4", path)
	edit(t, path, func(b []byte) {
		copy(b[446+3*16:], []byte{0, 0, 0, 0, 0x83, 0, 0, 0})
		le.PutUint32(b[446+3*16+8:], 48<<11)
		le.PutUint32(b[446+3*16+12:], 8<<11)
	})
	if tab, _ := read(t, path, Options{}); !strings.Contains(tab.Whole, "is none of the GPT's") {
		t.Errorf("whole %q, notes %q", tab.Whole, tab.Notes)
	}
}

func withoutAttrs(t manifest.Table) manifest.Table {
	t.Partitions = slices.Clone(t.Partitions)
	for i := range t.Partitions {
		t.Partitions[i].Attrs = 0
	}
	return t
}

// TestEntrySize reads entries of 256 bytes, which UEFI allows.
func TestEntrySize(t *testing.T) {
	t.Parallel()
	path := image(t, 64*mib)
	run(t, gptScript, "sfdisk", "-q", path)
	want, _ := read(t, path, Options{})
	edit(t, path, func(b []byte) {
		old := slices.Clone(b[1024 : 1024+16<<10])
		for _, off := range []int{512, 64*mib - 512} {
			to := b[int(le.Uint64(b[off+72:]))*512:][:16<<10]
			clear(to)
			for i := range 64 {
				copy(to[i*256:], old[i*128:][:128])
			}
			le.PutUint32(b[off+80:], 64)
			le.PutUint32(b[off+84:], 256)
			reseal(b, off)
		}
	})
	tab, _ := read(t, path, Options{})
	if len(tab.Notes) > 0 {
		t.Errorf("notes %q", tab.Notes)
	}
	same(t, tab.Table, withoutAttrs(want.Table))
}

func TestDamagedMBR(t *testing.T) {
	t.Parallel()
	// Where the tables of the logical partitions are, in sectors: taken from what sfdisk made.
	path := image(t, 64*mib)
	run(t, mbrScript, "sfdisk", "-q", path)
	good, _ := read(t, path, Options{})
	var ebrs []int64
	for _, r := range good.Regions[1:] {
		ebrs = append(ebrs, r.Off)
	}
	if len(ebrs) != 4 {
		t.Fatalf("%d tables of logical partitions", len(ebrs))
	}
	link := func(b []byte, ebr int64) []byte { return b[ebr+446+16+8:] }
	ext := ebrs[0] / 512
	for _, c := range []struct {
		name   string
		damage func(b []byte)
		whole  bool
		note   string
	}{
		{"loop to the start", func(b []byte) { le.PutUint32(link(b, ebrs[2]), 0) }, true, "comes back to sector"},
		{"loop to itself", func(b []byte) { le.PutUint32(link(b, ebrs[1]), uint32(ebrs[1]/512-ext)) }, true, "comes back to sector"},
		{"chain out of the extended", func(b []byte) { le.PutUint32(link(b, ebrs[1]), 1<<24) }, true, "outside of the extended partition"},
		{"chain to nothing", func(b []byte) { le.PutUint32(link(b, ebrs[1]), uint32(ebrs[1]/512-ext)+3) }, true, "where there is no table"},
		{"logical too long", func(b []byte) { le.PutUint32(b[ebrs[3]+446+12:], 1<<20) }, true, "does not lie in the extended partition"},
		{"logical overlaps", func(b []byte) { le.PutUint32(b[ebrs[0]+446+12:], 9<<11) }, true, "partition"},
		{"primary past the end", func(b []byte) { le.PutUint32(b[446+16+12:], 1<<30) }, true, "past the end"},
		{"primary overlaps", func(b []byte) { le.PutUint32(b[446+12:], 9<<11) }, true, "overlap"},
		{"primary in the extended", func(b []byte) { le.PutUint32(b[446+16+12:], 20<<11) }, true, "overlap"},
		{"no table of logical ones", func(b []byte) { b[ebrs[0]+510] = 0 }, false, "holds no table"},
		{"no signature", func(b []byte) { b[510] = 0 }, false, ""},
		{"bad flag", func(b []byte) { b[446] = 0x7f }, false, ""},
		{"a first partition without a type", func(b []byte) { b[446+4] = 0 }, true, "has no type"},
		{"a first partition from sector 0 on", func(b []byte) { le.PutUint32(b[446+8:], 0) }, true, "begins with the table itself"},
		{"the same without a type", func(b []byte) { b[446+4] = 0; le.PutUint32(b[446+8:], 0) }, true, "begins with the table itself"},
		{"all lies in one from sector 0 on", func(b []byte) { le.PutUint32(b[446+8:], 0); le.PutUint32(b[446+12:], 64*mib/512) }, false, ""},
		{"boot sector of fat", func(b []byte) { copy(b[54:], "FAT16   ") }, true, "FAT filesystem and a partition table"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := image(t, 64*mib)
			run(t, mbrScript, "sfdisk", "-q", p)
			edit(t, p, c.damage)
			tab, _ := read(t, p, Options{})
			if (tab.Whole != "") != c.whole || !strings.Contains(strings.Join(tab.Notes, "\n"), c.note) {
				t.Errorf("whole %q, notes %q", tab.Whole, tab.Notes)
			}
		})
	}
}

// TestLogicalInGap reads a logical partition that was made in the place of a deleted one: the first table of the chain
// stays at the start of the extended partition, and leads to a partition behind it.
func TestLogicalInGap(t *testing.T) {
	t.Parallel()
	path := image(t, 100*mib)
	run(t, "o\nn\ne\n1\n\n\nn\nl\n\n+2\nn\nl\n\n+3\nn\nl\n\n+1\nd\n5\nn\nl\n\n+1\nw\n", "fdisk", "-c=dos", "-u=cylinders", path)
	tab, _ := read(t, path, Options{})
	if tab.Whole != "" || len(tab.Partitions) != 4 || tab.Partitions[3].Off != 126*512 {
		t.Fatalf("whole %q, partitions %+v", tab.Whole, tab.Partitions)
	}
	same(t, tab.Table, sfdisk(t, path))
}

// TestSunLabel makes sure that a filesystem at the start of a disk with a disklabel of Sun is not taken for all of it.
func TestSunLabel(t *testing.T) {
	t.Parallel()
	path := image(t, 64*mib)
	run(t, "label: sun\nsize=20MiB\nsize=+\n", "sfdisk", "-q", path)
	if tab, _ := read(t, path, Options{}); !strings.Contains(tab.Whole, "Sun") {
		t.Errorf("whole %q, notes %q", tab.Whole, tab.Notes)
	}
}

// TestNoTable makes sure that filesystems on a bare disk are not taken for tables: many have the MBR's signature.
func TestNoTable(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"mkfs.vfat", "-F", "32", "-I"}, {"mkfs.vfat", "-F", "16", "-I"}, {"mke2fs", "-q", "-F"}, {"mkfs.xfs", "-q", "-f"}, {"mkswap", "-q"}} {
		path := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 320*mib); err != nil {
			t.Fatal(err)
		}
		run(t, "", args[0], append(args[1:], path)...)
		tab, _ := read(t, path, Options{})
		if tab.Kind != "none" || tab.Whole != "" || len(tab.Notes) > 0 || len(tab.Regions) > 0 {
			t.Errorf("%v: %+v", args, tab)
		}
	}
}
