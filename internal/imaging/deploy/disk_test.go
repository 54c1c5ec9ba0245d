package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/tool"
)

// command runs a program of the system, which judges what we do.
func command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// imageFile makes a disk of mib MiB with a partition table by sfdisk's script.
func imageFile(t *testing.T, mib int64, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), fmt.Sprintf("disk%d.img", mib))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(mib<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	if script != "" {
		command(t, script, "sfdisk", "-q", path)
	}
	return path
}

// format makes a filesystem in a partition, with files in it.
func format(t *testing.T, rng *rand.Rand, path string, off, n int64, args ...string) {
	t.Helper()
	tree := t.TempDir()
	for i := range 20 + rng.IntN(60) {
		dir := filepath.Join(tree, fmt.Sprint(rng.IntN(9)))
		os.Mkdir(dir, 0o755)
		b := garbage(rng, rng.IntN(1<<rng.IntN(19)+1))
		if rng.IntN(2) == 0 {
			b = bytes.Repeat([]byte("a line that compresses\n"), len(b)/22+1)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args = append(args, "-q", "-F", "-d", tree, "-E", fmt.Sprintf("offset=%d", off), path, fmt.Sprintf("%dk", n>>10))
	command(t, "", "mke2fs", args...)
}

// captured captures a disk into a new store.
func captured(t *testing.T, path string, st *mem.Store, o capture.Options) (*manifest.Manifest, *layout.Layout) {
	t.Helper()
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
	res, err := capture.Run(t.Context(), capture.Source{ReaderAt: d, Disk: d.Info()}, plan, st, o)
	if err != nil {
		t.Fatal(err)
	}
	return res.Manifest, l
}

// deployed deploys onto an image file.
func deployed(t *testing.T, path string, st *mem.Store, m *manifest.Manifest, o Options) *Result {
	t.Helper()
	d, err := disk.OpenExclusive(path, disk.Options{SectorSize: m.Disk.SectorSize})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	res, err := Run(t.Context(), st, m, Disk{d}, o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func fill(t *testing.T, rng *rand.Rand, path string, mib int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := garbage(rng, 1<<20)
	for i := range mib {
		if _, err := f.WriteAt(b, int64(i)<<20); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const gptScript = "label: gpt\nfirst-lba: 2048\nsize=1MiB, type=21686148-6449-6E6F-744E-656564454649\nsize=20MiB, name=root\nsize=4MiB, type=swap\n"
const mbrScript = "label: dos\nsize=20MiB, bootable\nsize=6MiB, type=5\nsize=4MiB, type=82\n"

// TestRealDisks makes disks with sfdisk, mke2fs and mkswap, captures and deploys them in many ways onto disks full of
// something else: the used extents are equal, and the tools find nothing wrong.
func TestRealDisks(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 11))
		script, ext4, swap := gptScript, int64(2<<20), int64(22<<20)
		if seed%2 == 1 {
			script, ext4, swap = mbrScript, 1<<20, 0
		}
		from := imageFile(t, 40, script)
		fill(t, rng, from, 40)
		command(t, script, "sfdisk", "-q", "--wipe", "always", from)
		kinds := []string{"ext4", "ext3", "ext2", "ext4"}
		format(t, rng, from, ext4, 20<<20, "-t", kinds[rng.IntN(4)], "-b", []string{"1024", "4096"}[rng.IntN(2)])
		if swap > 0 {
			area := imageFile(t, 4, "")
			command(t, "", "mkswap", "-q", area)
			command(t, "", "dd", "status=none", "conv=notrunc", "bs=1M", fmt.Sprint("seek=", swap>>20), "if="+area, "of="+from)
		}
		st := mem.New()
		size := 4096 << rng.IntN(8)
		m, l := captured(t, from, st, capture.Options{ChunkSize: size, Workers: 1 + rng.IntN(3), Memory: 1 + rng.Int64N(40<<20)})

		grown := int64(rng.IntN(3)) * 7 // MiB
		to := imageFile(t, 40+grown, "label: gpt\nsize=3MiB\n")
		fill(t, rng, to, int(40+grown))
		opts := Options{Compare: rng.IntN(2) == 0, Verify: true, Workers: 1 + rng.IntN(4), Memory: 1 + rng.Int64N(40<<20)}
		if rng.IntN(2) == 0 {
			opts.Grow = GrowLast
		}
		res := deployed(t, to, st, m, opts)
		want, got := read(t, from), read(t, to)
		used := l.Used
		if grown > 0 {
			used = extent.Subtract(used, extent.List{{Off: 40<<20 - backup512, Len: backup512}, {Off: 0, Len: 34 * 512}})
			for _, r := range l.Table.Regions {
				used = extent.Subtract(used, extent.List{r})
			}
		}
		checkDisk(t, got, want, used)
		if seed%2 == 0 {
			if out := command(t, "", "sgdisk", "-v", to); !strings.Contains(out, "No problems found") {
				t.Errorf("seed %d: sgdisk: %s", seed, out)
			}
		}
		command(t, "", "sfdisk", "-V", "-q", to)
		last := res.Table.Partitions[len(res.Table.Partitions)-1]
		if old := m.Table.Partitions[len(m.Table.Partitions)-1]; (last.Len > old.Len) != (grown > 0 && opts.Grow == GrowLast) {
			t.Errorf("seed %d: the last partition has %d bytes of %d before, on a disk %d MiB larger, grow %q", seed, last.Len, old.Len, grown, opts.Grow)
		}
		command(t, "", "e2fsck", "-f", "-n", fmt.Sprintf("%s?offset=%d", to, ext4))

		// The same image once more: nothing but the chunks at the start of the disk is written, and the backup table.
		if res := deployed(t, to, st, m, Options{Compare: true}); res.Written > max(headLen, int64(size))+int64(size) {
			t.Errorf("seed %d: %d bytes were written onto a disk that had them", seed, res.Written)
		}
	}
}

// TestSmallerDisk puts an image of a disk with a free end on a smaller one.
func TestSmallerDisk(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	from := imageFile(t, 40, "label: gpt\nsize=10MiB\n")
	format(t, rng, from, 1<<20, 10<<20, "-t", "ext4")
	st := mem.New()
	m, _ := captured(t, from, st, capture.Options{})
	if need, want := m.Needed(), int64(11<<20+backup512); need != want {
		t.Fatalf("needs %d bytes, want %d", need, want)
	}
	to := imageFile(t, 12, "")
	deployed(t, to, st, m, Options{Grow: GrowLast})
	if out := command(t, "", "sgdisk", "-v", to); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk: %s", out)
	}
	command(t, "", "e2fsck", "-f", "-n", to+"?offset=1048576")
}

// TestGrow deploys onto a larger disk and lets the filesystem grow into it.
func TestGrow(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	from := imageFile(t, 24, "label: gpt\nsize=20MiB\n")
	format(t, rng, from, 1<<20, 20<<20, "-t", "ext4", "-b", "4096")
	st := mem.New()
	m, _ := captured(t, from, st, capture.Options{})
	to := imageFile(t, 64, "")
	res := deployed(t, to, st, m, Options{Grow: GrowLast})
	p := res.Table.Partitions[0]
	if p.Len < 60<<20 {
		t.Fatalf("the partition has %d bytes", p.Len)
	}
	g, err := GrowVolume(t.Context(), to, 64<<20, m, res.Table, GrowLast)
	if want := []Grown{{"partition 1 (ext4)", 20 << 20, p.Len}}; err != nil || !slices.Equal(g.Grown, want) || len(g.Notes) > 0 {
		t.Fatalf("%+v, %v", g, err)
	}
	at := fmt.Sprintf("%s?offset=%d", to, p.Off)
	command(t, "", "e2fsck", "-f", "-n", at)
	if out := command(t, "", "dumpe2fs", "-h", at); !strings.Contains(out, fmt.Sprintf("Block count:              %d\n", p.Len/4096)) {
		t.Errorf("the filesystem does not fill its partition of %d bytes: %s", p.Len, out)
	}

	if err := Grow(t.Context(), to, "jfs"); !errors.Is(err, ErrCannotGrow) {
		t.Errorf("jfs: %v", err)
	}
	if err := Grow(t.Context(), to, "swap"); err != nil {
		t.Errorf("swap: %v", err)
	}
	var te *tool.Error
	if err := GrowRange(t.Context(), to, 0, 1<<20, "ext4"); !errors.As(err, &te) || !strings.Contains(te.Output, "superblock") {
		t.Errorf("no filesystem: %v", err)
	}
}

// TestGrowOthers grows what e2fsprogs does not know, and asks other programs whether all is there.
func TestGrowOthers(t *testing.T) {
	const off, was, is = 1 << 20, 320 << 20, 500 << 20
	for kind, c := range map[string]struct{ make, check, size string }{
		"xfs":   {`mkfs.xfs -q "$1"`, `xfs_repair -n "$1"`, `xfs_db -r -c 'sb 0' -c 'p dblocks blocksize' "$1" | awk '{n=$3; if (p) print p*n; p=n}'`},
		"btrfs": {`mkfs.btrfs -q "$1"`, `btrfs check --readonly "$1"`, `btrfs inspect-internal dump-super "$1" | awk '/^total_bytes/ {print $2}'`},
		"ntfs":  {`mkntfs -q -F -f "$1" && head -c 3000000 /dev/urandom >"$1.file" && ntfscp -q "$1" "$1.file" /file`, `ntfsfix -n "$1" && ntfscat --force "$1" /file | cmp - "$1.file"`, `ntfsresize --info --force --no-progress-bar "$1" | awk '/Current volume size/ {print $4}'`},
	} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			fs := filepath.Join(dir, "fs")
			sh := func(script string) string { return command(t, "", "sh", "-euc", script, "sh", fs) }
			disk := filepath.Join(dir, "disk")
			sh(fmt.Sprintf(`truncate -s %d "$1"; %s; truncate -s %d "$1.disk"; dd if="$1" of="$1.disk" bs=1M seek=1 conv=notrunc,sparse status=none; mv "$1.disk" %s`, was, c.make, off+is+1<<20, disk))
			if err := GrowRange(t.Context(), disk, off, is, kind); err != nil {
				t.Fatal(err)
			}
			sh(fmt.Sprintf(`dd if=%s of="$1" bs=1M skip=1 count=%d conv=sparse status=none; %s`, disk, is>>20, c.check))
			var got int64
			if out := sh(c.size); true {
				fmt.Sscan(out, &got)
			}
			if got < is-8<<20 || got > is {
				t.Errorf("the filesystem has %d bytes of %d", got, is)
			}
		})
	}
	// FAT grows in an image, as far as its kind of it can.
	st, from, to := mem.New(), imageFile(t, 42, "label: gpt\nsize=1MiB\nsize=40MiB,type=uefi\n"), imageFile(t, 200, "")
	command(t, "", "sh", "-euc", `mkfs.vfat -F 16 -s 2 -n EFI "$1.fs" -C 40960; mmd -i "$1.fs" ::/EFI ::/EFI/BOOT; mcopy -i "$1.fs" /etc/passwd ::/EFI/BOOT/FILE
		dd if="$1.fs" of="$1" bs=1M seek=2 conv=notrunc,sparse status=none`, "sh", from)
	m, _ := captured(t, from, st, capture.Options{})
	res := deployed(t, to, st, m, Options{Grow: GrowLast})
	g, err := GrowVolume(t.Context(), to, 200<<20, m, res.Table, GrowLast)
	if err != nil || len(g.Grown) != 1 || g.Grown[0].To < 63<<20 || g.Grown[0].To > 65<<20 || len(g.Notes) != 1 || !strings.Contains(g.Notes[0], "FAT16 has no numbers") {
		t.Errorf("%+v, %v", g, err)
	}
	command(t, "", "sh", "-euc", `dd if="$1" of="$1.fs" bs=1M skip=2 count=197 status=none; fsck.vfat -n "$1.fs"; mcopy -i "$1.fs" ::/EFI/BOOT/FILE - | cmp - /etc/passwd`, "sh", to)
	// A Windows that sleeps is left alone.
	dir := t.TempDir()
	img := filepath.Join(dir, "img")
	command(t, "", "sh", "-euc", `truncate -s 20M "$1"; mkntfs -q -F -f "$1"; (printf hibr; seq 9999) >"$1.h"; ntfscp -q "$1" "$1.h" /hiberfil.sys; truncate -s 40M "$1"; cp "$1" "$1.before"`, "sh", img)
	if err := GrowRange(t.Context(), img, 0, 40<<20, "ntfs"); !errors.Is(err, ErrSleeps) {
		t.Errorf("a hibernated Windows: %v", err)
	}
	command(t, "", "cmp", img, img+".before")
}
