package shrink

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/store/mem"
)

// command runs a shell script. What it mounts nobody else sees, or could keep mounted when it is unmounted here.
func command(t *testing.T, stdin, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-euc", script, "sh"}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// tree makes a folder with files of random bytes.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	rng := rand.New(rand.NewChaCha8([32]byte{5}))
	for i := range 60 {
		sub := filepath.Join(dir, fmt.Sprint(i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, rng.IntN(1<<20))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("f", i)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func hash(t *testing.T, path string) [32]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return [32]byte(h.Sum(nil))
}

// makeDisk makes a disk of 1200 MiB with a table by sfdisk's script. Its partition at off, of 800 MiB, has the files of dir in
// the part of it behind the first quarter.
func makeDisk(t *testing.T, script, kind, dir string, off int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	make := `mkfs.ext4 -q "$part"; mount "$part" "$mnt"`
	if kind == "ntfs" {
		make = `mkntfs -q -f -F "$part"; ntfs-3g -o big_writes "$part" "$mnt"`
	}
	command(t, script, `truncate -s 1200M "$1"; sfdisk -q "$1"; part=$(losetup -f --show -o $3 --sizelimit $((800 << 20)) "$1"); mnt=$1.mnt; mkdir "$mnt"
		trap 'mountpoint -q "$mnt" && umount "$mnt"; losetup -d $part' EXIT
		`+make+`
		head -c 200M /dev/zero | tr '\0' x >"$mnt/filler"; cp -r "$2" "$mnt/"; sync; rm "$mnt/filler"; umount "$mnt"`, path, dir, strconv.FormatInt(off, 10))
	return path
}

func opened(t *testing.T, path string) *disk.Disk {
	t.Helper()
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// TestShrink captures disks as smaller ones, deploys them onto disks of that size, and compares.
func TestShrink(t *testing.T) {
	dir := tree(t)
	for _, tc := range []struct {
		name, script, kind string
		root               int64  // where the partition that shrinks begins, bytes
		then               string // on the deployed disk: where things lie, by sfdisk, and more
	}{
		{"gpt, ext4, swap behind", "label: gpt\nstart=1MiB,size=20MiB,type=uefi\nstart=21MiB,size=800MiB\nstart=900MiB,size=50MiB,type=swap,name=swap\n", "ext4", 21 << 20,
			`sgdisk -v "$1" | grep -q 'No problems'; test "$(blkid -p -s TYPE -o value -O $(( $(sfdisk -J "$1" | grep -o '"start": *[0-9]*' | tail -1 | tr -dc 0-9) * 512)) "$1")" = swap`},
		{"mbr, ext4, logical swap behind", "label: dos\nlabel-id: 0xabcd1234\nstart=1MiB,size=800MiB,bootable\nstart=900MiB,size=100MiB,type=5\nstart=901MiB,size=50MiB,type=82\n", "ext4", 1 << 20,
			`sfdisk -V "$1"; test $(sfdisk -l "$1" | grep -c "^$1") = 3; test "$(blkid -p -s TYPE -o value -O $(( $(sfdisk -J "$1" | grep -o '"start": *[0-9]*' | tail -1 | tr -dc 0-9) * 512)) "$1")" = swap`},
		{"gpt, ntfs, esp and more behind", "label: gpt\nstart=1MiB,size=800MiB\nstart=900MiB,size=16MiB,type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\nstart=920MiB,size=40MiB,type=uefi,name=esp\n", "ntfs", 1 << 20,
			`sgdisk -v "$1" | grep -q 'No problems'; test "$(blkid -p -s TYPE -o value -O $(( $(sfdisk -J "$1" | grep -o '"start": *[0-9]*' | tail -1 | tr -dc 0-9) * 512)) "$1")" = vfat`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			from := makeDisk(t, tc.script, tc.kind, dir, tc.root)
			if strings.Contains(tc.name, "swap") {
				command(t, "", `truncate -s 50M "$1.swap"; mkswap -q "$1.swap"; dd if="$1.swap" of="$1" bs=512 conv=notrunc status=none seek=$(sfdisk -J "$1" | grep -o '"start": *[0-9]*' | tail -1 | tr -dc 0-9)`, from)
			}
			if strings.Contains(tc.name, "esp") {
				command(t, "", `truncate -s 40M "$1.esp"; mkfs.fat "$1.esp" >/dev/null; dd if="$1.esp" of="$1" bs=1M conv=notrunc status=none seek=920`, from)
			}
			before := hash(t, from)
			src := opened(t, from)
			small, err := Run(t.Context(), src, Options{Memory: 64 << 20, Say: t.Logf})
			if err != nil {
				t.Fatal(err)
			}
			t.Log(small.Notes, small.o.used())
			size := small.Info().Size
			if size > 400<<20 {
				t.Errorf("it has %d MiB", size>>20)
			}
			l, err := layout.Plan(small)
			if err != nil {
				t.Fatal(err)
			}
			plan, err := capture.NewPlan(small, l, leaveout.Rules{})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range l.Notes {
				if strings.Contains(n, "partition table") {
					t.Error(n)
				}
			}
			st := mem.New()
			res, err := capture.Run(t.Context(), capture.Source{ReaderAt: small, Disk: small.Info()}, plan, st, capture.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if hash(t, from) != before {
				t.Fatal("the source was written to")
			}
			if err := small.Recheck(); err != nil {
				t.Error(err)
			}
			command(t, "", `printf x | dd of="$1" bs=1 seek=$(($2 + 1500)) conv=notrunc status=none`, from, strconv.FormatInt(tc.root, 10))
			if err := small.Recheck(); !errors.Is(err, capture.ErrChanged) {
				t.Errorf("the source has changed: %v", err)
			}
			to := filepath.Join(t.TempDir(), "to")
			command(t, "", `truncate -s "$2" "$1"`, to, strconv.FormatInt(size, 10))
			d, err := disk.OpenExclusive(to, disk.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := deploy.Run(t.Context(), st, res.Manifest, deploy.Disk{Disk: d}, deploy.Options{Verify: true}); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			command(t, "", tc.then, to)
			n := int64(0)
			for _, v := range res.Manifest.Volumes {
				if v.Type == tc.kind {
					n = v.Len
				}
			}
			check := `e2fsck -fn $part; mount -o ro $part "$mnt"`
			if tc.kind == "ntfs" {
				check = `ntfsfix -n $part; ntfs-3g -o ro $part "$mnt"`
			}
			command(t, "", `part=$(losetup -f --show -o $3 --sizelimit $4 "$1"); mnt=$1.mnt; mkdir "$mnt"; trap 'mountpoint -q "$mnt" && umount "$mnt"; losetup -d $part' EXIT
				`+check+`; diff -r "$2" "$mnt/tree"`, to, dir, strconv.FormatInt(tc.root, 10), strconv.FormatInt(n, 10))
		})
	}
}

// TestRefused says why a disk cannot shrink.
func TestRefused(t *testing.T) {
	dir := tree(t)
	root := makeDisk(t, "label: gpt\nstart=1MiB,size=800MiB\n", "ext4", dir, 1<<20)
	before := hash(t, root)
	var no *Error
	if _, err := Run(t.Context(), opened(t, root), Options{Memory: 200 << 10}); !errors.As(err, &no) || !errors.Is(err, ErrScratch) || no.Partition != 1 {
		t.Errorf("too little memory: %v", err)
	}
	for _, tc := range []struct{ script, want string }{
		{`truncate -s 100M "$1"; mkfs.ext4 -q "$1"`, "no partition table"},
		{`truncate -s 100M "$1"; printf 'label: gpt\nsize=90MiB\n' | sfdisk -q "$1"`, "no ext or NTFS filesystem"},
		{`truncate -s 600M "$1"; printf 'label: dos\nstart=1MiB,size=500MiB\nstart=501MiB,size=90MiB\n' | sfdisk -q "$1"; mkfs.ext4 -q -E offset=1048576 "$1" 500M; dd if=/dev/urandom of="$1" bs=1M seek=501 count=1 conv=notrunc status=none`,
			"what lies last on it stays where it is"},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		command(t, "", tc.script, path)
		if _, err := Run(t.Context(), opened(t, path), Options{}); !errors.As(err, &no) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.want, err)
		}
	}
	if hash(t, root) != before {
		t.Error("the source was written to")
	}
}
