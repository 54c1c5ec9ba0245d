package fsmap

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/uml"
	"mimeo/internal/night"
)

// parityTools make LVM2's RAIDs with parity work in user-mode Linux. raid makes one of a type with so many stripes.
const parityTools = mirrorTools + `modprobe -a raid456 raid10
	wait_for() { for i in $(seq 600); do [ "$(lvm lvs --noheadings -o $2 vg0/$1 | tr -d ' ')" = $3 ] && return; sleep 0.1; done; lvm lvs -a -o +$2 vg0; exit 1; }
	raid() { lvm lvcreate -qq -y --type $1 -i $2 -I $3 -L $4 -n $1 vg0; wait_for $1 copy_percent 100.00; mke2fs -q -t ext4 -b 4096 -E nodiscard /dev/vg0/$1; mount /dev/vg0/$1 /run/mnt
		mkdir /run/mnt/d; head -c 3000000 /dev/urandom | split -d -b 90000 - /run/mnt/d/f; rm /run/mnt/d/f*3; umount /run/mnt; }
	show() { mount -o ro,noload /dev/vg0/$1 /run/mnt; echo "== $1"; files /run/mnt; umount /run/mnt; }
`

// sumOf finds what files prints.
var sumOf = regexp.MustCompile(`(?m)^[0-9a-f]{64}  .*$`)

// TestLVMParity makes RAIDs of LVM2 whose images all lie on one disk, with parity and of striped mirrors. It copies what is in use
// onto random bytes, and has Linux check all parity, with all images, and reads all files with one of them gone.
func TestLVMParity(t *testing.T) {
	const size, count = 64 * mib, 5
	kinds := []struct {
		name    string
		stripes int
		chunk   string
	}{{"raid5", 2, "64k"}, {"raid6", 3, "16k"}, {"raid10", 2, "64k"}, {"raid4", 2, "4k"}}
	dir := t.TempDir()
	var paths []string
	script, devices := parityTools, ""
	for i := range count {
		paths = append(paths, filepath.Join(dir, fmt.Sprint("pv", i)))
		noise(t, paths[i], size, uint64(i))
		devices += fmt.Sprintf(" /dev/ubd%c", 'a'+i)
	}
	script += "lvm pvcreate -qq -y" + devices + "; lvm vgcreate -qq -s 512k vg0" + devices + "\n"
	for _, k := range kinds {
		script += fmt.Sprintf("raid %s %d %s 12M; show %[1]s\n", k.name, k.stripes, k.chunk)
	}
	want := strings.Split(uml.Run(t, script+"sync; sleep 6; echo ==; lvm vgchange -qq -an", paths...), "==")

	disk := joined(t, paths, size)
	d := Disk{ReaderAt: bytes.NewReader(disk)}
	for i := range paths {
		d.Volumes = append(d.Volumes, extent.Extent{Off: int64(i) * size, Len: size})
	}
	parts := map[string]Inner{}
	var copied []string
	for i, path := range paths {
		u, err := d.Map(i)
		if err != nil || u.Method != manifest.MethodUsed {
			t.Fatalf("%s, %s, %v", u.Method, u.Reason, err)
		}
		inner, err := d.Inside(i, u.Type)
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range inner {
			parts[in.Name] = in
		}
		to := copyUsed(t, path, size, extent.Subtract(u.Used, u.Zeros))
		f, err := os.OpenFile(to, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range u.Zeros {
			if err := fact.Zero(f, e.Off, e.Len); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
		copied = append(copied, to)
	}
	parityFlips(t, disk, d, parts)
	script = parityTools
	for _, k := range kinds {
		in, ok := parts["vg0/"+k.name]
		if !ok || in.Type != "ext4" || in.Method != manifest.MethodUsed || !in.Leg || (in.Rows == nil) != (k.name == "raid10") || in.Used.Bytes() > in.Size*2/3 {
			t.Fatalf("%s is %+v", k.name, in.Usage)
		}
		script += fmt.Sprintf("lvm lvchange -qq -ay vg0/%s; e2fsck -fn /dev/vg0/%[1]s >/run/log 2>&1 || { cat /run/log; exit 1; }; show %[1]s\n", k.name)
		if in.Rows != nil {
			script += fmt.Sprintf("lvm lvchange -qq --syncaction check vg0/%s; wait_for %[1]s sync_percent,raid_sync_action,raid_mismatch_count 100.00idle0\n", k.name)
		}
	}
	same := func(got []string) {
		t.Helper()
		if len(got) != len(kinds)+2 {
			t.Fatalf("%d volumes: %q", len(got)-2, got)
		}
		for i, k := range kinds {
			was, is := sumOf.FindAllString(want[i+1], -1), sumOf.FindAllString(got[i+1], -1)
			if len(was) < 20 || !slices.Equal(is, was) {
				t.Errorf("%s: %s\nwant\n%s", k.name, got[i+1], want[i+1])
			}
		}
	}
	same(strings.Split(uml.Run(t, script+"echo ==; lvm vgchange -qq -an", copied...), "=="))
	if !night.On() {
		return
	}
	// Without one disk the others and their parity give the same.
	script = parityTools
	for _, k := range kinds {
		script += fmt.Sprintf("lvm lvchange -qq -ay --activationmode degraded vg0/%s; show %[1]s\n", k.name)
	}
	same(strings.Split(uml.Run(t, script+"echo ==; lvm vgchange -qq -an || true", slices.Delete(slices.Clone(copied), 1, 2)...), "=="))
}

// parityFlips flips bits in what says that images are in sync: what is captured then, and not as zeros, is at least what it was.
func parityFlips(t *testing.T, disk []byte, d Disk, parts map[string]Inner) {
	t.Helper()
	captured := func(i int) extent.List {
		u, err := d.Map(i)
		if err != nil {
			t.Fatal(err)
		}
		return extent.Subtract(u.Used, u.Zeros)
	}
	var was []extent.List
	for i := range d.Volumes {
		was = append(was, captured(i))
	}
	for name, in := range parts {
		if !strings.HasSuffix(name, "_rmeta_1") {
			continue
		}
		less := 0
		for i := range int64(64) {
			off := in.Spans[0].Off + i
			disk[off] ^= 1 << (i % 8)
			for k := range d.Volumes {
				now := captured(k)
				if lost := extent.Subtract(was[k], now); len(lost) > 0 {
					t.Fatalf("%s: byte %d changed: %v of volume %d is not captured", name, i, lost[0], k)
				}
				if now.Bytes() > was[k].Bytes() {
					less++
					break
				}
			}
			disk[off] ^= 1 << (i % 8)
		}
		if less < 40 {
			t.Errorf("%s: %d of 64 bytes count", name, less)
		}
	}
	// Where one of the disks is captured whole, the others must not have zeros in the same rows.
	mark := disk[d.Volumes[2].Off+32<<10:][:4]
	old := bytes.Clone(mark)
	copy(mark, "JFS1")
	for i := range d.Volumes {
		if u, err := d.Map(i); err != nil || len(u.Zeros) > 0 || (u.Method == manifest.MethodWhole) != (i == 2) {
			t.Errorf("volume %d: %s, %d extents of zeros, %v", i, u.Method, len(u.Zeros), err)
		}
	}
	copy(mark, old)
}

// joined returns files one behind the other.
func joined(t *testing.T, paths []string, size int64) []byte {
	t.Helper()
	disk := make([]byte, int64(len(paths))*size)
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f, disk[int64(i)*size:][:size]); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return disk
}
