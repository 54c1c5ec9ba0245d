package mount

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/night"
)

// bare makes the image of a filesystem without a partition table, whatever is wrong with it.
func bare(t *testing.T, data []byte, typ string) (*mem.Store, *manifest.Manifest) {
	t.Helper()
	st := mem.New()
	size := int64(len(data))
	res, err := capture.Run(t.Context(), capture.Source{ReaderAt: bytes.NewReader(data), Disk: manifest.Disk{Size: size, SectorSize: 512}},
		capture.Plan{Table: manifest.Table{Kind: "none"}, Used: extent.List{{Off: 0, Len: size}},
			Volumes: []manifest.Volume{{Len: size, Type: typ, Method: manifest.MethodWhole, Used: size}}}, st, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st, res.Manifest
}

// walk reads all that is to be read, and must come to an end.
func walk(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "timeout", "-k", "1", "60", "sh", "-c", `find "$1" -ls >/dev/null; find "$1" -type f -size -100M -exec cat {} + >/dev/null`, "sh", dir)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() >= 124 {
		t.Fatalf("reading all of it did not end: %v", err)
	}
	return string(out)
}

// TestDamagedTrees mounts filesystems of which bits have turned over: what can be read is there, the rest is an error.
func TestDamagedTrees(t *testing.T) {
	path, _, _ := theDisk(t)
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	good := map[string][]byte{"ext4": make([]byte, ext4Len), "ntfs": make([]byte, ntfsLen)}
	for typ, off := range map[string]int64{"ext4": ext4Off, "ntfs": ntfsOff} {
		if _, err := f.ReadAt(good[typ], off); err != nil {
			t.Fatal(err)
		}
	}
	// A folder that lies in itself, and one with a name that no folder can have.
	loop := filepath.Join(t.TempDir(), "ext4")
	if err := os.WriteFile(loop, good["ext4"], 0o600); err != nil {
		t.Fatal(err)
	}
	sh(t, `debugfs -w -R "link /deep /deep/er/loop" "$1"; debugfs -w -R "link <2> /etc/root" "$1"
		off=$(LC_ALL=C grep -aboP '\x01os-release' "$1" | head -1 | cut -d: -f1); printf / | dd of="$1" bs=1 seek=$((off+3)) conv=notrunc status=none`, loop)
	looped, err := os.ReadFile(loop)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name, typ string, data []byte) (said, log string) {
		t.Run(name, func(t *testing.T) {
			var l lines
			st, m := bare(t, data, typ)
			mnt := mounted(t, st, m, &l)
			said = walk(t, mnt.Dir)
			if log = l.String(); strings.Contains(log, "fault of this program") {
				t.Errorf("it said:\n%s", log)
			}
		})
		return said, log
	}
	if said, log := try("loops", "ext4", looped); !strings.Contains(said, "deep/er/loop") || !strings.Contains(log, `"os/release"`) {
		t.Errorf("of loops the programs say:\n%s\nthe log:\n%s", said, log)
	}
	seeds := uint64(1)
	if night.On() {
		seeds = 8
	}
	for seed := range seeds {
		for typ, data := range good {
			rng := rand.New(rand.NewPCG(seed, uint64(len(typ))))
			data = bytes.Clone(data)
			for range 400 {
				at := rng.IntN(len(data) / (1 + rng.IntN(8))) // more of it where metadata begin
				if data[at] != 0 {
					data[at] ^= 1 << rng.IntN(8)
				}
			}
			try(fmt.Sprint(typ, seed), typ, data)
		}
	}
}

// TestInside: volumes inside a partition are folders and files below its number.
func TestInside(t *testing.T) {
	dir, path := t.TempDir(), filepath.Join(t.TempDir(), "disk")
	sh(t, `mkdir "$1/etc"; echo ID=inside >"$1/etc/os-release"
		export PATH=$PATH:/usr/sbin:/sbin LVM_SUPPRESS_FD_WARNINGS=1; cd "$(dirname "$2")"; truncate -s 40M pv; dev=$(losetup -f --show pv); trap 'losetup -d $dev' EXIT
		run() { cmd=$1; shift; lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@" 2>/dev/null; }
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev; for lv in root raw; do run lvcreate -q -y -an -Zn -Wn -L 12M -n $lv vg0; done
		truncate -s 12M fs; mke2fs -q -F -t ext4 -d "$1" fs; s=$(run pvs --noheadings --nosuffix --units b -o pe_start $dev | tr -d ' ')
		dd if=fs of=pv bs=1M oflag=seek_bytes seek=$s conv=notrunc status=none
		truncate -s 50M disk; echo 'label: gpt
			start=2048, type=lvm' | sfdisk -q disk; dd if=pv of=disk bs=1M seek=1 conv=notrunc status=none`, dir, path)
	st, m := captureDisk(t, path)
	var l lines
	mnt := mounted(t, st, m, &l)
	sh(t, `cmp "$1/files/1/vg0/root/etc/os-release" "$2/etc/os-release"; e2fsck -fn "$1/volumes/1/vg0/root.img"; ls -l "$1/volumes/1.img" "$1/volumes/1/vg0/raw.img"`, mnt.Dir, dir)
	f, err := os.Open(filepath.Join(mnt.Dir, "volumes/1/vg0/root.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at, err := f.Seek(0, 4); err != nil || at == 0 || at > 4<<20 { // SEEK_HOLE
		t.Errorf("the first hole is at %d, %v", at, err)
	}
	if b, err := io.ReadAll(f); err != nil || len(b) != 0 && len(b) > 12<<20 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if s := l.String(); s != "" {
		t.Errorf("it said:\n%s", s)
	}
}

// TestLayout: names off a disk do no harm, and do not hide each other.
func TestLayout(t *testing.T) {
	for in, want := range map[string]string{"..": "_", ".": "_", "a\x00/b\n": "a__b_", "root": "root"} {
		if got := safeName(in); got != want {
			t.Errorf("%q becomes %q", in, got)
		}
	}
	st, m := bare(t, make([]byte, 1<<20), "unknown")
	v := m.Volumes[0]
	m.Volumes = append(m.Volumes, v)
	var l lines
	mnt := mounted(t, st, m, &l)
	if list, err := filepath.Glob(filepath.Join(mnt.Dir, "volumes/*")); err != nil || len(list) != 2 {
		t.Errorf("%q, %v", list, err)
	}
}
