package layout

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
)

const mib = 1 << 20

func TestMain(m *testing.M) {
	var st unix.Statfs_t
	if unix.Statfs("/dev/shm", &st) == nil && st.Bavail*uint64(st.Bsize) > 2<<30 {
		os.Setenv("TMPDIR", "/dev/shm")
	}
	os.Exit(m.Run())
}

func run(t testing.TB, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// content makes what lies in a partition: a program that makes a filesystem in a file, or bytes.
type content struct {
	kind, method string
	mkfs         []string
	fill         byte
}

// build makes a disk with a table by sfdisk, and fills its partitions.
func build(t testing.TB, size int64, script string, parts map[int]content) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Boot code, and a boot loader behind the MBR; garbage everywhere else.
	if _, err := f.Write(bytes.Repeat([]byte{0x90, 0xeb, 0x13}, int(size/3)+1)[:size]); err != nil {
		t.Fatal(err)
	}
	run(t, script, "sfdisk", "-q", "--wipe=never", path)
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tab, err := disk.ReadTable(d, d.Size(), d.SectorSize())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range tab.Partitions {
		c, ok := parts[p.Number]
		if !ok {
			continue
		}
		b := bytes.Repeat([]byte{c.fill}, int(p.Len))
		if c.mkfs != nil {
			img := filepath.Join(t.TempDir(), "part")
			if err := os.WriteFile(img, b, 0o644); err != nil {
				t.Fatal(err)
			}
			run(t, "", c.mkfs[0], append(c.mkfs[1:], img)...)
			if b, err = os.ReadFile(img); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := f.WriteAt(b, p.Off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func plan(t testing.TB, path string) *Layout {
	t.Helper()
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := Plan(d)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// copyUsed makes a disk of other bytes, with what l says is used.
func copyUsed(t testing.TB, path string, l *Layout) string {
	t.Helper()
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dst := bytes.Repeat([]byte{0xa5, 0x5a}, len(src)/2+1)[:len(src)]
	for _, e := range l.Used {
		copy(dst[e.Off:e.End()], src[e.Off:e.End()])
	}
	out := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(out, dst, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

var ext4Args = []string{"mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-L", "root", "-E", "hash_seed=0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa"}

func TestPlan(t *testing.T) {
	for _, c := range []struct {
		name, script string
		parts        map[int]content
		outside      extent.List // at least
	}{
		{
			"gpt", "label: gpt\nsize=1MiB,type=21686148-6449-6E6F-744E-656564454649\nsize=34MiB,type=uefi\nsize=16MiB,type=swap\nstart=60MiB,size=24MiB,type=linux\n",
			map[int]content{
				1: {"unknown", manifest.MethodWhole, nil, 0x77},
				2: {"vfat", manifest.MethodUsed, []string{"mkfs.vfat", "-F", "32", "-n", "EFI"}, 0},
				3: {"swap", manifest.MethodHead, []string{"mkswap", "-q", "-L", "swp"}, 0x11},
				4: {"ext4", manifest.MethodUsed, ext4Args, 0x22},
			},
			extent.List{{Off: 0, Len: mib}, {Off: 100*mib - 33*512, Len: 33 * 512}},
		},
		{
			"mbr", "label: dos\nstart=2MiB,size=1MiB,type=41\nsize=24MiB,type=83,bootable\nsize=60MiB,type=f\ntype=7,size=2MiB\nsize=16MiB,type=82\nsize=24MiB,type=83\n",
			map[int]content{
				1: {"unknown", manifest.MethodWhole, nil, 0x77},
				2: {"ext4", manifest.MethodUsed, ext4Args, 0x22},
				4: {"unknown", manifest.MethodWhole, nil, 0x33},
				5: {"swap", manifest.MethodHead, []string{"mkswap", "-q"}, 0x11},
				6: {"ext2", manifest.MethodUsed, []string{"mke2fs", "-q", "-F", "-t", "ext2"}, 0x22},
			},
			extent.List{{Off: 0, Len: 2 * mib}, {Off: 27 * mib, Len: 512}, {Off: 44 * mib, Len: 512}},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := build(t, 100*mib, c.script, c.parts)
			l := plan(t, path)
			if len(l.Notes) > 0 {
				t.Errorf("notes %q", l.Notes)
			}
			if err := l.Used.Valid(); err != nil {
				t.Fatal(err)
			}
			if lost := extent.Subtract(c.outside, l.Outside); len(lost) > 0 {
				t.Errorf("outside %v lacks %v", l.Outside, lost)
			}
			if len(l.Volumes) != len(c.parts) {
				t.Errorf("%d volumes, want %d", len(l.Volumes), len(c.parts))
			}
			sum := l.Outside.Bytes()
			for _, v := range l.Volumes {
				w := c.parts[v.Partition]
				if v.Type != w.kind || v.Method != w.method {
					t.Errorf("partition %d is %s by %s, want %s by %s (%s)", v.Partition, v.Type, v.Method, w.kind, w.method, v.Reason)
				}
				if in := v.Extents.Clip(extent.Extent{Off: v.Off, Len: v.Len}); in.Bytes() != v.Used || v.Extents.Bytes() != v.Used {
					t.Errorf("partition %d: extents %v lie outside of it", v.Partition, v.Extents)
				}
				sum += v.Used
			}
			if l.Used.Bytes() != sum {
				t.Errorf("%d bytes used, the parts are %d", l.Used.Bytes(), sum)
			}
			// The copy is the same disk to everybody.
			dup := copyUsed(t, path, l)
			dump := func(p string) string {
				return regexp.MustCompile(`(?m)^device:.*$|^\S+/(copy|disk)`).ReplaceAllString(run(t, "", "sfdisk", "--dump", p), "")
			}
			if a, b := dump(path), dump(dup); a != b {
				t.Errorf("the table was\n%s\nand is\n%s", a, b)
			}
			for _, v := range l.Volumes {
				probe := func(p string) string {
					out, _ := exec.Command("blkid", "-p", "-o", "export", "-O", fmt.Sprint(v.Off), "-S", fmt.Sprint(v.Len), p).Output()
					s, _, _ := strings.Cut(string(out), "PART_ENTRY")
					return strings.ReplaceAll(s, p, "")
				}
				a, b := probe(path), probe(dup)
				if a != b {
					t.Errorf("blkid said of partition %d\n%s\nand says\n%s", v.Partition, a, b)
				}
				for key, have := range map[string]string{"TYPE": v.Type, "UUID": v.UUID, "LABEL": v.Label} {
					m := regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(a)
					if m != nil && m[1] != have && v.Method != manifest.MethodWhole {
						t.Errorf("partition %d: %s is %q, blkid says %q", v.Partition, key, have, m[1])
					}
				}
				if strings.HasPrefix(v.Type, "ext") {
					part := filepath.Join(t.TempDir(), "part")
					cut(t, dup, part, v.Off, v.Len)
					run(t, "", "e2fsck", "-fn", part)
				}
			}
		})
	}
}

func cut(t testing.TB, from, to string, off, n int64) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// memory is a disk for small tests.
type memory struct {
	io.ReaderAt
	size int64
}

func (m memory) Info() manifest.Disk { return manifest.Disk{Size: m.size, SectorSize: 512} }

func TestWholeDisk(t *testing.T) {
	path := build(t, 8*mib, "label: gpt\nsize=1MiB\nsize=1MiB\n", nil)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	clear(b[512:1024])
	clear(b[len(b)-512:])
	l, err := Plan(memory{bytes.NewReader(b), int64(len(b))})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Volumes) != 1 || l.Volumes[0].Method != manifest.MethodWhole || l.Used.Bytes() != 8*mib || len(l.Notes) == 0 {
		t.Errorf("%+v", l)
	}
	if !strings.Contains(l.Volumes[0].Reason, "neither copy of the GPT") {
		t.Errorf("reason %q", l.Volumes[0].Reason)
	}
}

func TestBareDisk(t *testing.T) {
	img := filepath.Join(t.TempDir(), "img")
	run(t, "", append(ext4Args, img, "16M")[0], append(ext4Args[1:], img, "16M")...)
	l := plan(t, img)
	if len(l.Volumes) != 1 || l.Volumes[0].Type != "ext4" || l.Volumes[0].Partition != 0 || l.Table.Kind != "none" || l.Used.Bytes() > 6*mib || len(l.Outside) > 0 {
		t.Errorf("%+v", l)
	}
}

func TestLongGap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 200*mib); err != nil {
		t.Fatal(err)
	}
	run(t, "label: dos\nstart=150MiB,size=1MiB\n", "sfdisk", "-q", path)
	l := plan(t, path)
	if l.Outside.Bytes() != 64<<20 || len(l.Notes) != 1 {
		t.Errorf("outside %v, notes %q", l.Outside, l.Notes)
	}
}

// TestWholeDiskOfRAID looks at a whole disk of a RAID1 whose superblock lies at the end, and whose table is that of the array.
func TestWholeDiskOfRAID(t *testing.T) {
	const size, array = 66 * mib, 64 * mib
	for _, table := range []string{"gpt", "dos"} {
		path := build(t, array, "label: "+table+"\nsize=20MiB\nsize=+\n", map[int]content{1: {mkfs: []string{"mke2fs", "-q", "-F", "-t", "ext4"}}, 2: {fill: 7}})
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(size/512-16) &^ 7 * 512
		sb, le := b[at:], binary.LittleEndian
		le.PutUint32(sb, 0xa92b4efc)
		le.PutUint32(sb[4:], 1)
		le.PutUint32(sb[72:], 1) // level
		le.PutUint64(sb[80:], array/512)
		le.PutUint32(sb[92:], 2)
		le.PutUint64(sb[136:], array/512)
		le.PutUint64(sb[144:], uint64(at/512))
		le.PutUint64(sb[208:], 1<<64-1)
		le.PutUint32(sb[220:], 2)
		sum := uint64(0)
		for i := 0; i < 260; i += 4 {
			sum += uint64(le.Uint32(sb[i:]))
		}
		le.PutUint32(sb[216:], uint32(sum)+uint32(sum>>32))
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		l := plan(t, path)
		if l.Table.Kind != "none" || len(l.Volumes) != 1 || l.Volumes[0].Type != "linux_raid_member" || l.Volumes[0].Method != manifest.MethodUsed {
			t.Fatalf("%s: %+v\n%q", table, l.Volumes, l.Notes)
		}
		if !l.Used.ContainsAll(extent.Extent{Off: array, Len: size - array}) || !l.Used.ContainsAll(extent.Extent{Len: mib}) || l.Used.Bytes() > 60*mib {
			t.Errorf("%s: captured is %v\n%q", table, l.Used, l.Notes)
		}
	}
}

// broken cannot be read in one place.
type broken struct {
	memory
	at int64
}

var errBroken = errors.New("medium error")

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off <= b.at && b.at < off+int64(len(p)) {
		return 0, errBroken
	}
	return b.memory.ReadAt(p, off)
}

// TestUnreadable makes sure that a disk that cannot be read is an error that says where, and never a map.
func TestUnreadable(t *testing.T) {
	path := build(t, 48*mib, "label: gpt\nsize=40MiB\n", map[int]content{1: {mkfs: ext4Args}})
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m := memory{bytes.NewReader(b), int64(len(b))}
	for _, at := range []int64{0, 512, 1024, mib, mib + 1024, mib + 2048, int64(len(b)) - 512} {
		_, err := Plan(broken{m, at})
		if !errors.Is(err, errBroken) {
			t.Errorf("byte %d cannot be read: %v", at, err)
		}
	}
}

// TestHybridImage takes all of an image for optical discs that has partitions, too, and nothing of one that other partitions have
// replaced.
func TestHybridImage(t *testing.T) {
	dir := t.TempDir()
	run(t, "", "sh", "-euc", `cd "$1"; mkdir -p iso/boot/grub; echo 'set timeout=1' >iso/boot/grub/grub.cfg; head -c 3M /dev/urandom >iso/data
		grub-mkrescue -o image iso >log 2>&1; cp image later; truncate -s 80M later; printf 'label: gpt\nsize=60MiB\n' | sfdisk -q --wipe never later`, "sh", dir)
	image := filepath.Join(dir, "image")
	l := plan(t, image)
	if len(l.Volumes) < 3 || !strings.Contains(strings.Join(l.Notes, "\n"), "image for optical discs") {
		t.Fatalf("%d volumes, notes %q", len(l.Volumes), l.Notes)
	}
	a, err1 := os.ReadFile(image)
	b, err2 := os.ReadFile(copyUsed(t, image, l))
	if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
		t.Errorf("the copy differs, or: %v, %v", err1, err2)
	}
	if l := plan(t, filepath.Join(dir, "later")); strings.Contains(strings.Join(l.Notes, "\n"), "optical") || !l.Outside.ContainsAll(extent.Extent{Len: 1 << 20}) || l.Outside.Bytes() > 2<<20 {
		t.Errorf("%d bytes outside of partitions, notes %q", l.Outside.Bytes(), l.Notes)
	}
}
