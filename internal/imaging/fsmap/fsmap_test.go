package fsmap

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// makeFS makes a filesystem in a sparse file.
func makeFS(t testing.TB, size int64, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	run(t, args[0], append(args[1:], path)...)
	return path
}

func mapFile(t testing.TB, path string) (Usage, int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	u, err := Map(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return u, st.Size()
}

// TestNames holds the names of what is captured whole against blkid.
func TestNames(t *testing.T) {
	const size = 600 * mib
	put := func(off int64, b string) func(f *os.File) error {
		return func(f *os.File) error { _, err := f.WriteAt([]byte(b), off); return err }
	}
	uberblocks := func(first int64, magic string) func(f *os.File) error {
		return func(f *os.File) error {
			for i := range int64(8) {
				if err := put(first+(128+i)<<10, magic)(f); err != nil {
					return err
				}
			}
			return nil
		}
	}
	for _, c := range []struct {
		name, reason string
		make         func(f *os.File) error
	}{
		{"apfs", "a container of APFS", func(f *os.File) error { run(t, "mkapfs", f.Name()); return nil }},
		{"zfs_member", "a ZFS pool", uberblocks(0, "\x0c\xb1\xba\x00\x00\x00\x00\x00")},
		{"zfs_member", "a ZFS pool", uberblocks(size-256<<10, "\x00\x00\x00\x00\x00\xba\xb1\x0c")},
		{"VMFS", "a VMware datastore", put(2*mib, "\x5e\xf1\xab\x2f")},
		{"VMFS_volume_member", "a disk of a VMware datastore", put(mib, "\x0d\xd0\x01\xc0")},
		{"ceph_bluestore", "a Ceph cluster", put(0, "bluestore block device\n")},
		{"reiser4", "no reader for reiser4 yet", put(64<<10, "ReIsEr4")},
		{"hfs", "no reader for hfs yet", put(1024, "BD")},
		{"vdo", "a device of VDO", put(0, "dmvdo001")},
		{"stratis", "a Stratis pool", put(516, "!Stra0tis\x86\xff\x02^\x41rh")},
		{"DM_verity_hash", "dm-verity", put(0, "verity\x00\x00")},
		{"DM_integrity", "dm-integrity", put(0, "integrt\x00")},
		{"ocfs2", "no reader for ocfs2 yet", put(4096, "OCFSV2")},
		{"gfs2", "no reader for gfs2 yet", put(64<<10, "\x01\x16\x19\x70\x00\x00\x00\x01")},
		{"bcache", "a disk of bcache", put(4096+24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := makeFS(t, size, "true")
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := c.make(f); err != nil {
				t.Fatal(err)
			}
			u, size := mapFile(t, path)
			if u.Type != c.name || u.Method != manifest.MethodWhole || !strings.Contains(u.Reason, c.reason) || u.Used.Bytes() != size {
				t.Errorf("%+v", u)
			}
			if slices.Contains([]string{"hfs", "bcache", "stratis", "DM_integrity", "DM_verity_hash", "ocfs2", "gfs2"}, c.name) {
				return // blkid wants more of it
			}
			if want := strings.TrimSpace(run(t, "blkid", "-p", "-o", "value", "-s", "TYPE", path)); want != c.name {
				t.Errorf("%s: blkid says %s", c.name, want)
			}
		})
	}
}

// TestHints makes sure that who captures what is encrypted is told so, and what to do, whatever lay there before.
func TestHints(t *testing.T) {
	fve := func(jump, name string, at int, mark string) string {
		return `printf '` + jump + name + `' | dd of="$1" conv=notrunc status=none; printf '` + mark + `' | dd of="$1" bs=1 seek=` + strconv.Itoa(at) +
			` conv=notrunc status=none; printf '\125\252' | dd of="$1" bs=1 seek=510 conv=notrunc status=none`
	}
	for _, c := range []struct{ name, kind, uuid, label, make, hint string }{
		{"LUKS1", "crypto_LUKS", "6f1f2d3e-0000-4000-8000-0123456789ab", "", `printf 'LUKS\272\276\0\1aes' | dd of="$1" conv=notrunc status=none; printf 6f1f2d3e-0000-4000-8000-0123456789ab | dd of="$1" bs=1 seek=168 conv=notrunc status=none`, "cryptsetup open"},
		{"LUKS2", "crypto_LUKS", "6f1f2d3e-0000-4000-8000-0123456789ab", "secret", `printf 'LUKS\272\276\0\2' | dd of="$1" conv=notrunc status=none; printf secret | dd of="$1" bs=1 seek=24 conv=notrunc status=none; printf 6f1f2d3e-0000-4000-8000-0123456789ab | dd of="$1" bs=1 seek=168 conv=notrunc status=none`, "cryptsetup open"},
		{"BitLocker of Vista", "BitLocker", "", "", fve(`\353\122\220`, "-FVE-FS-", 0, ""), "manage-bde -off"},
		{"BitLocker", "BitLocker", "", "", fve(`\353\130\220`, "-FVE-FS-", 0, ""), "manage-bde -off"},
		{"BitLocker To Go", "BitLocker", "", "", `mkfs.vfat -F 32 "$1" >/dev/null; ` + fve(`\353\130\220`, "MSWIN4.1", 0x1a8, `\073\326\147\111\051\056\330\112\203\231\366\243\071\343\320\001`), "manage-bde -off"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := makeFS(t, 40*mib, "sh", "-euc", `mke2fs -q -F "$1"; `+c.make, "sh")
			u, size := mapFile(t, path)
			if u.Type != c.kind || u.UUID != c.uuid || u.Label != c.label || u.Method != manifest.MethodWhole || !strings.Contains(u.Reason, "encrypted") || u.Used.Bytes() != size {
				t.Errorf("%+v", u)
			}
			if len(u.Notes) != 1 || !strings.HasPrefix(u.Notes[0], "hint: ") || !strings.Contains(u.Notes[0], c.hint) {
				t.Errorf("notes %q", u.Notes)
			}
		})
	}
}

func TestUnknown(t *testing.T) {
	for _, n := range []int{1, 511, 4096, 100_000} {
		u, err := Map(bytes.NewReader(make([]byte, n)), int64(n))
		if err != nil || u.Type != "unknown" || u.Method != manifest.MethodWhole || u.Reason == "" || u.Used.Bytes() != int64(n) {
			t.Errorf("%d bytes: %+v, %v", n, u, err)
		}
	}
	if _, err := Map(bytes.NewReader(make([]byte, 100)), 200); err == nil {
		t.Error("a volume that ends too early is no error")
	}
}

// TestRemains makes sure that what is around a filesystem goes before the remains of one.
func TestRemains(t *testing.T) {
	path := makeFS(t, 16*mib, "mke2fs", "-q", "-F")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte("LABELONE"), 512)
	f.WriteAt([]byte("LVM2 001"), 512+24)
	if u, _ := mapFile(t, path); u.Type != "LVM2_member" || u.Method != manifest.MethodWhole {
		t.Errorf("%+v", u)
	}
}

func TestTail(t *testing.T) {
	const fsLen, size = 16 * mib, 600 * mib
	path := makeFS(t, fsLen, "mke2fs", "-q", "-F", "-t", "ext4")
	alone, _ := mapFile(t, path)
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{fsLen, fsLen + mib + 5, size / 2, size - 128<<10, size - 1} {
		if _, err := f.WriteAt([]byte{1}, off); err != nil {
			t.Fatal(err)
		}
	}
	u, _ := mapFile(t, path)
	behind := extent.Subtract(u.Used, alone.Used)
	want := extent.List{{Off: fsLen, Len: tailPiece}, {Off: fsLen + mib, Len: tailPiece}, {Off: size - 128<<10, Len: 2 * tailPiece}}
	if len(behind) != len(want) {
		t.Fatalf("behind the filesystem: %v, want %v", behind, want)
	}
	for i := range want {
		if behind[i] != want[i] {
			t.Errorf("behind the filesystem: %v, want %v", behind, want)
		}
	}
	if len(u.Notes) != 1 || !strings.Contains(u.Notes[0], "left out") {
		t.Errorf("notes %q", u.Notes)
	}
}

// TestTailAgainstBytes compares with a plain search, with pieces that do not start at multiples of anything.
func TestTailAgainstBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 20 {
		b := make([]byte, 9*mib+r.IntN(mib))
		for range r.IntN(8) {
			b[r.IntN(len(b))] = 1
		}
		from := r.Int64N(int64(len(b)))
		got, note, err := tail(bytes.NewReader(b), from, int64(len(b)))
		if err != nil || note != "" {
			t.Fatal(note, err)
		}
		for i := from; i < int64(len(b)); i++ {
			if b[i] != 0 && !got.Contains(i) {
				t.Fatalf("byte %d of %d is lost: %v", i, len(b), got)
			}
		}
		if got.Valid() != nil || len(got) > 0 && (got[0].Off < from || got[len(got)-1].End() > int64(len(b))) {
			t.Fatalf("%v, from %d to %d", got, from, len(b))
		}
	}
}

func TestSwapOnVolume(t *testing.T) {
	path := makeFS(t, 8*mib, "mkswap", "-q", "-L", "swp", "-U", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa")
	u, _ := mapFile(t, path)
	if u.Type != "swap" || u.Method != manifest.MethodHead || u.Used.Bytes() != int64(os.Getpagesize()) || u.Label != "swp" ||
		u.UUID != "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa" {
		t.Errorf("%+v", u)
	}
}

// TestNTFSOnVolume has sectors behind the filesystem, and makes it one of BitLocker, which nobody can look into.
func TestNTFSOnVolume(t *testing.T) {
	path := makeFS(t, 16*mib, "mkfs.ntfs", "-q", "-F", "-f", "-L", "win")
	if err := os.Truncate(path, 17*mib); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte{1}, 17*mib-1)
	u, size := mapFile(t, path)
	if u.Type != "ntfs" || u.Method != manifest.MethodUsed || u.Label != "win" || len(u.Notes) > 0 || u.Used.Bytes() > 6*mib ||
		!u.Used.ContainsAll(extent.Extent{Off: 16*mib - 512, Len: 512}) || !u.Used.Contains(17*mib-1) {
		t.Errorf("%+v", u)
	}
	f.WriteAt([]byte("-FVE-FS-"), 3)
	if u, _ := mapFile(t, path); u.Type != "BitLocker" || u.Method != manifest.MethodWhole || u.Used.Bytes() != size {
		t.Errorf("%+v", u)
	}
}

// TestFATOnVolume has the remains of another filesystem in it, or it is the remains: nobody can tell.
func TestFATOnVolume(t *testing.T) {
	path := makeFS(t, 64*mib, "mkfs.vfat", "-F", "32", "-n", "EFI", "-i", "0A1B2C3D")
	u, size := mapFile(t, path)
	if u.Type != "vfat" || u.Method != manifest.MethodUsed || u.Label != "EFI" || u.UUID != "0A1B-2C3D" || len(u.Notes) > 0 || u.Used.Bytes() > 3*mib {
		t.Errorf("%+v", u)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte("\x10\x20\xf5\xf2"), 1024)
	if u, _ := mapFile(t, path); u.Method != manifest.MethodWhole || u.Used.Bytes() != size {
		t.Errorf("%+v", u)
	}
}

func TestExFATOnVolume(t *testing.T) {
	path := makeFS(t, 64*mib, "mkfs.exfat", "-L", "stick")
	u, _ := mapFile(t, path)
	if u.Type != "exfat" || u.Method != manifest.MethodUsed || u.Label != "stick" || len(u.Notes) > 0 || u.Used.Bytes() > 5*mib {
		t.Errorf("%+v", u)
	}
}

// TestBtrfsOnVolume has what came after it in its place: the superblock of a btrfs outlives that.
func TestBtrfsOnVolume(t *testing.T) {
	path := makeFS(t, 128*mib, "mkfs.btrfs", "-q", "-L", "data", "-U", "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa")
	u, size := mapFile(t, path)
	if u.Type != "btrfs" || u.Method != manifest.MethodUsed || u.Label != "data" || u.UUID != "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9fa" ||
		len(u.Notes) > 0 || u.Used.Bytes() > 3*mib {
		t.Errorf("%+v", u)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte("XFSB"), 0)
	if u, _ := mapFile(t, path); u.Method != manifest.MethodWhole || u.Used.Bytes() != size {
		t.Errorf("%+v", u)
	}
	run(t, "mke2fs", "-q", "-F", path)
	if u, _ := mapFile(t, path); u.Type != "ext2" || u.Method != manifest.MethodUsed {
		t.Errorf("%+v", u)
	}
}

// TestLinuxOnVolume has filesystems that leave what is in front of them as it was: which one is in use cannot be told.
func TestLinuxOnVolume(t *testing.T) {
	for typ, mkfs := range map[string]string{
		"jfs": "mkfs.jfs -q", "reiserfs": "mkfs.reiserfs -q -f", "nilfs2": "mkfs.nilfs2 -q", "minix": "mkfs.minix -3", "hfsplus": "true", "ufs": "true",
	} {
		path := makeFS(t, 200*mib, strings.Fields(mkfs)...)
		if mkfs == "true" {
			path = filepath.Join(t.TempDir(), "img")
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("file"), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "makefs", "-t", "ffs", "-s", "200m", "-o", "version=2", path, dir)
			if typ == "hfsplus" {
				run(t, "xorriso", "-as", "mkisofs", "-hfsplus", "-quiet", "-o", path+".iso", dir)
				iso, err := os.ReadFile(path + ".iso")
				if err != nil {
					t.Fatal(err)
				}
				at := int64(binary.BigEndian.Uint32(iso[3*512+8:])) * 512
				b := make([]byte, 200*mib)
				copy(b, iso[at:at+int64(binary.BigEndian.Uint32(iso[3*512+12:]))*512])
				if err := os.WriteFile(path, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		u, size := mapFile(t, path)
		if u.Type != typ || u.Method != manifest.MethodUsed || u.Used.Bytes() > 60*mib {
			t.Errorf("%s: %+v", typ, u)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.WriteAt([]byte("ReFS\x00\x00\x00\x00"), 3)
		if u, _ := mapFile(t, path); u.Method != manifest.MethodWhole || u.Used.Bytes() != size || !strings.Contains(u.Reason, "the marks of ReFS") {
			t.Errorf("%s: %+v", typ, u)
		}
	}
}

// TestOver makes filesystems over others. What was there before must never be taken for what is there now.
func TestOver(t *testing.T) {
	kinds := map[string]string{
		"ext4": "mke2fs -q -F -t ext4", "xfs": "mkfs.xfs -q -f", "ntfs": "mkfs.ntfs -q -F -f", "vfat": "mkfs.vfat -F 32", "exfat": "mkfs.exfat",
		"btrfs": "mkfs.btrfs -q -f", "f2fs": "mkfs.f2fs -q -f", "swap": "mkswap -q -f",
		"jfs": "mkfs.jfs -q", "reiserfs": "mkfs.reiserfs -q -f", "nilfs2": "mkfs.nilfs2 -q -f", "minix": "mkfs.minix -3",
	}
	for first, before := range kinds {
		for typ, mkfs := range kinds {
			if first == typ {
				continue
			}
			path := makeFS(t, 320*mib, strings.Fields(before)...)
			args := append(strings.Fields(mkfs), path)
			run(t, args[0], args[1:]...)
			u, _ := mapFile(t, path)
			if u.Type != typ && u.Method != manifest.MethodWhole {
				t.Errorf("%s over %s is taken for %s", typ, first, u.Type)
			}
		}
	}
	// Other systems make a UFS and leave what is in front of it.
	path, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
	run(t, "makefs", "-t", "ffs", "-s", "64m", "-o", "version=1", path, dir)
	ufs, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, first := range []string{"ext4", "ntfs", "exfat", "swap", "xfs"} {
		f, err := os.Open(makeFS(t, 320*mib, strings.Fields(kinds[first])...))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.ReadAt(ufs[:8<<10], 0); err != nil {
			t.Fatal(err)
		}
		if u, err := Map(bytes.NewReader(ufs), int64(len(ufs))); err != nil || u.Type != "ufs" && u.Method != manifest.MethodWhole {
			t.Errorf("ufs over %s is taken for %s: %v", first, u.Type, err)
		}
	}
}

// TestF2FSOnVolume has the boot sector of an XFS in front of it.
func TestF2FSOnVolume(t *testing.T) {
	path := makeFS(t, 110*mib, "mkfs.f2fs", "-l", "flash")
	u, size := mapFile(t, path)
	if u.Type != "f2fs" || u.Method != manifest.MethodUsed || u.Label != "flash" || len(u.Notes) > 0 || u.Used.Bytes() > 17*mib {
		t.Errorf("%+v", u)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.WriteAt([]byte("XFSB"), 0)
	if u, _ := mapFile(t, path); u.Method != manifest.MethodWhole || u.Used.Bytes() != size {
		t.Errorf("%+v", u)
	}
}

// TestFixedOnVolume has a hash tree of dm-verity behind a filesystem of its own length, and the remains of others on it.
func TestFixedOnVolume(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), bytes.Repeat([]byte("file"), 70_000), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "img")
	for _, c := range []struct{ typ, cmd string }{
		{"squashfs", "mksquashfs " + dir + " " + path + " -quiet -no-progress -noappend"},
		{"iso9660", "genisoimage -quiet -V disc -o " + path + " " + dir},
		{"erofs", "mkfs.erofs " + path + " " + dir},
	} {
		os.Remove(path)
		args := strings.Fields(c.cmd)
		run(t, args[0], args[1:]...)
		if err := os.Truncate(path, 32*mib); err != nil {
			t.Fatal(err)
		}
		u, _ := mapFile(t, path)
		if u.Type != c.typ || u.Method != manifest.MethodUsed || u.Used.Bytes() > mib {
			t.Errorf("%+v", u)
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		f.WriteAt([]byte("verity"), 5*mib)
		if u, _ := mapFile(t, path); u.Method != manifest.MethodUsed || !u.Used.Contains(5*mib) {
			t.Errorf("%+v", u)
		}
		for off, magic := range map[int64]string{2 * mib: "\x5e\xf1\xab\x2f", 32*mib - (256-128-9)<<10: "\x0c\xb1\xba\x00\x00\x00\x00\x00"} {
			f.WriteAt([]byte(magic), off)
			if u, size := mapFile(t, path); u.Method != manifest.MethodWhole || u.Used.Bytes() != size || u.Type != c.typ {
				t.Errorf("%+v", u)
			}
			f.WriteAt(make([]byte, len(magic)), off)
		}
		f.WriteAt([]byte("_BHRfS_M"), 0x10040)
		if u, size := mapFile(t, path); u.Method != manifest.MethodWhole || u.Used.Bytes() != size {
			t.Errorf("%+v", u)
		}
	}
}

func FuzzMap(f *testing.F) {
	for _, m := range magics {
		b := make([]byte, m.off+len(m.bytes))
		copy(b[m.off:], m.bytes)
		f.Add(b[:min(len(b), 4<<10)], uint32(1<<20))
	}
	f.Fuzz(func(t *testing.T, head []byte, size uint32) {
		size %= 4 << 20
		b := make([]byte, size)
		copy(b, head)
		u, err := Map(bytes.NewReader(b), int64(size))
		if err != nil {
			t.Fatal(err)
		}
		if u.Used.Valid() != nil || len(u.Used) > 0 && u.Used[len(u.Used)-1].End() > int64(size) || u.Type == "" || u.Method == "" {
			t.Fatalf("%+v of %d bytes", u, size)
		}
		if u.Method == manifest.MethodWhole && (u.Reason == "" || u.Used.Bytes() != int64(size)) {
			t.Fatalf("%+v of %d bytes", u, size)
		}
	})
}
