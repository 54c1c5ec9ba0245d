package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/lab/tree"
)

func TestMain(m *testing.M) {
	// Where another program makes a namespace of mounts meanwhile, it gets a copy of ours, and the kernel goes on asking.
	copied := goleak.IgnoreAnyFunction("github.com/hanwen/go-fuse/v2/fuse.(*Server).loop")
	served := goleak.IgnoreAnyFunction("github.com/hanwen/go-fuse/v2/fuse.(*Server).Serve")
	goleak.VerifyTestMain(m, copied, served, goleak.Cleanup(func(code int) {
		if golden.dir != "" {
			os.RemoveAll(golden.dir)
		}
		os.Exit(code)
	}))
}

// golden is the disk that all tests share, and its capture.
var golden struct {
	sync.Once
	dir  string
	path string
	st   *mem.Store
	m    *manifest.Manifest
}

func theDisk(t *testing.T) (path string, st *mem.Store, m *manifest.Manifest) {
	t.Helper()
	golden.Do(func() {
		var err error
		if golden.dir, err = os.MkdirTemp("", "mimeo-mount-"); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(golden.dir, "disk")
		makeDisk(t, path)
		golden.st, golden.m = captureDisk(t, path)
		golden.path = path
	})
	if golden.path == "" {
		t.Fatal("there is no disk to test with")
	}
	return golden.path, golden.st, golden.m
}

func sh(t *testing.T, script string, args ...string) string {
	t.Helper()
	out, err := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", script, args, err, out)
	}
	return string(out)
}

// Where the partitions of the tests' disk are, in bytes.
const (
	ext4Off, ext4Len = 1 << 20, 96 << 20
	ntfsOff, ntfsLen = 97 << 20, 16 << 20
)

// makeDisk makes a disk of three partitions: ext4 full of odd files, NTFS, swap.
func makeDisk(t *testing.T, path string) {
	t.Helper()
	dir := t.TempDir()
	sh(t, `cd "$1"; mkdir -p etc deep/er many; echo ID=debian >etc/os-release; ln etc/os-release hard; ln -s etc/os-release soft; ln -s /nowhere broken
		head -c 5000000 /dev/urandom >random; head -c 300000 /dev/zero >zeros; truncate -s 20M sparse; printf end >>sparse; mkfifo pipe; mknod null c 1 3; mknod large b 300 70000
		printf x >'deep/er/with
newline'; chown 1234:4321 deep; chmod 2751 deep; chmod 4755 random; touch -d '1999-12-31 23:59:59.123456789' etc
		setfattr -n user.mimeo -v kept hard; setfattr -n user.empty hard; : >acl
		setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff02000400d204000004000400ffffffff10000400ffffffff20000000ffffffff acl; setfattr -n trusted.x -v y many
		setfattr -n user.long -v "$(head -c 700 /dev/zero | tr '\\0' x)" random; setfattr -n security.capability -v 0sAQAAAgAkAAAAAAAAAAAAAAAAAAA= zeros
		(cd many; seq 3000 | xargs touch); : >empty`, dir)
	sh(t, `truncate -s 130M "$1"
		sfdisk -q "$1" <<-END
			label: gpt
			start=2048, size=196608
			size=32768, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7
			type=swap
		END
		mke2fs -q -F -t ext4 -d "$2" -E offset=1048576 "$1" 96m
		truncate -s 16M "$1.ntfs"; mkntfs -q -F -Q -p 0 -s 512 "$1.ntfs"; ntfscp -q "$1.ntfs" "$2/random" random.bin
		dd if="$1.ntfs" of="$1" bs=1M seek=97 conv=notrunc,sparse status=none
		truncate -s 1M "$1.swap"; mkswap -q "$1.swap"; dd if="$1.swap" of="$1" bs=1M seek=113 conv=notrunc status=none`, path, dir)
}

func captureDisk(t *testing.T, path string) (*mem.Store, *manifest.Manifest) {
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
	st := mem.New()
	res, err := capture.Run(t.Context(), capture.Source{ReaderAt: d, Disk: d.Info()}, plan, st, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return st, res.Manifest
}

// lines takes what is logged.
type lines struct {
	mu  sync.Mutex
	all []string
}

func (l *lines) log(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, fmt.Sprintf(format, args...))
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.all, "\n")
}

// mounted mounts an image for the rest of the test.
func mounted(t *testing.T, st store.Reader, m *manifest.Manifest, l *lines) *Mount {
	t.Helper()
	mnt, err := Start(t.Context(), st, m, filepath.Join(t.TempDir(), "mnt"), Options{Name: "golden@1", Log: l.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mnt.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(mnt.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", mnt.Dir, err)
		}
		if table, _ := os.ReadFile("/proc/mounts"); bytes.Contains(table, []byte(mnt.Dir)) {
			t.Errorf("%s is still mounted", mnt.Dir)
		}
	})
	return mnt
}

// TestFiles holds the files of a mounted image against what the kernel shows of the disk itself.
func TestFiles(t *testing.T) {
	path, st, m := theDisk(t)
	var l lines
	mnt := mounted(t, st, m, &l)

	orig := t.TempDir()
	sh(t, `mount -o loop,ro,offset=1048576,sizelimit=$((96<<20)) "$1" "$2"`, path, orig)
	defer sh(t, `umount "$1"`, orig)
	want, err := tree.Read(orig)
	if err != nil {
		t.Fatal(err)
	}
	got, err := tree.Read(filepath.Join(mnt.Dir, "files/1"))
	if err != nil {
		t.Fatal(err)
	}
	if len(want) < 3000 {
		t.Fatalf("%d files", len(want))
	}
	for _, list := range []map[string]tree.File{want, got} {
		for name, f := range list {
			f.Inode &= 1<<32 - 1
			list[name] = f
		}
	}
	for _, d := range tree.Diff(want, got) {
		t.Error(d)
	}

	ntfs := t.TempDir()
	sh(t, `mount -o loop,ro,offset=$((97<<20)),sizelimit=$((16<<20)) -t ntfs-3g "$1" "$2"`, path, ntfs)
	defer sh(t, `umount "$1"`, ntfs)
	sh(t, `cmp "$1/random.bin" "$2/files/2/random.bin"; cmp "$2/files/1/random" "$2/files/2/random.bin"`, ntfs, mnt.Dir)
	if s := l.String(); s != "" {
		t.Errorf("it said:\n%s", s)
	}

	// Of sparse files, holes are told as the filesystem has them.
	f, err := os.Open(filepath.Join(mnt.Dir, "files/1/sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if at, err := f.Seek(0, unix.SEEK_DATA); err != nil || at != 20<<20 {
		t.Errorf("data of a sparse file begin at %d, %v", at, err)
	}
	if at, err := f.Seek(0, unix.SEEK_HOLE); err != nil || at != 0 {
		t.Errorf("the hole of a sparse file begins at %d, %v", at, err)
	}
	// Nothing can be changed.
	for _, script := range []string{`: >"$1/files/1/new"`, `rm "$1/files/1/hard"`, `printf x >>"$1/disk.img"`, `chmod 700 "$1/files/1/hard"`, `mkdir "$1/files/9"`} {
		if out, err := exec.Command("sh", "-c", script, "sh", mnt.Dir).CombinedOutput(); err == nil || !strings.Contains(string(out), "Read-only") {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}

// TestImages holds disk.img and the volumes against the disk: what is in use is equal, the rest are zeros and holes.
func TestImages(t *testing.T) {
	path, st, m := theDisk(t)
	var l lines
	mnt := mounted(t, st, m, &l)
	orig, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	img, err := os.Open(filepath.Join(mnt.Dir, "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	got, err := io.ReadAll(img)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(orig) {
		t.Fatalf("disk.img has %d bytes, the disk %d", len(got), len(orig))
	}
	// The data that it tells by seeking, copied to an empty file, are all of it.
	copied := make([]byte, len(got))
	var data int64
	for off := int64(0); ; {
		from, err := img.Seek(off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if off, err = img.Seek(from, unix.SEEK_HOLE); err != nil || off <= from {
			t.Fatalf("data at %d end at %d: %v", from, off, err)
		}
		copy(copied[from:off], got[from:off])
		data += off - from
	}
	if !bytes.Equal(copied, got) {
		t.Error("there are data where disk.img tells a hole")
	}
	if data > 20<<20 {
		t.Errorf("disk.img tells %d bytes of data", data)
	}
	var s unix.Stat_t
	if err := unix.Fstat(int(img.Fd()), &s); err != nil || s.Blocks*512 > 30<<20 || s.Blocks == 0 {
		t.Errorf("disk.img has %d blocks of 512 bytes, %v", s.Blocks, err)
	}
	for i := range got {
		if got[i] != orig[i] && got[i] != 0 {
			t.Fatalf("byte %d of the disk is %#x, was %#x", i, got[i], orig[i])
		}
	}
	for name, at := range map[string][2]int64{"1": {ext4Off, ext4Len}, "2": {ntfsOff, ntfsLen}} {
		vol, err := os.ReadFile(filepath.Join(mnt.Dir, "volumes", name+".img"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(vol, got[at[0]:at[0]+at[1]]) {
			t.Errorf("volumes/%s.img is not what lies there on the disk", name)
		}
	}
	// The filesystem's own checks, and the kernel, judge the volumes.
	sh(t, `e2fsck -fn "$1/volumes/1.img"; cp --sparse=always "$1/volumes/2.img" "$2"; ntfsfix -n "$2"`, mnt.Dir, filepath.Join(t.TempDir(), "ntfs"))
	sh(t, `d="$2"; mount -o loop,ro "$1/volumes/1.img" "$d"; cmp "$d/random" "$1/files/1/random"; umount "$d"`, mnt.Dir, t.TempDir())
	if s := l.String(); s != "" {
		t.Errorf("it said:\n%s", s)
	}
}

// broken is a store of which some chunks are damaged, or do not come.
type broken struct {
	store.Reader
	mu     sync.Mutex
	damage bool
	hang   bool
}

func (b *broken) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	b.mu.Lock()
	damage, hang := b.damage, b.hang
	b.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	return b.Reader.Get(ctx, ids, func(c chunk.Encoded) error {
		if damage {
			c.Data = bytes.Clone(c.Data)
			c.Data[len(c.Data)/2] ^= 1
		}
		return fn(c)
	})
}

func TestDamagedChunk(t *testing.T) {
	_, st, m := theDisk(t)
	b := &broken{Reader: st}
	var l lines
	mnt := mounted(t, b, m, &l)
	b.mu.Lock()
	b.damage = true
	b.mu.Unlock()
	if _, err := os.ReadFile(filepath.Join(mnt.Dir, "disk.img")); !errors.Is(err, unix.EIO) {
		t.Errorf("disk.img: %v", err)
	}
	if s := l.String(); !strings.Contains(s, "golden@1: disk.img: read") || !strings.Contains(s, "chunk ") {
		t.Errorf("it said:\n%s", s)
	}
	b.mu.Lock()
	b.damage = false
	b.mu.Unlock()
	if _, err := os.ReadFile(filepath.Join(mnt.Dir, "disk.img")); err != nil {
		t.Errorf("disk.img of a store that is whole again: %v", err)
	}
}

// TestHanging: who waits for a store that does not answer can be killed, and the mount be taken down.
func TestHanging(t *testing.T) {
	_, st, m := theDisk(t)
	b := &broken{Reader: st}
	var l lines
	mnt := mounted(t, b, m, &l)
	b.mu.Lock()
	b.hang = true
	b.mu.Unlock()
	cat := exec.Command("cat", filepath.Join(mnt.Dir, "files/1/random"))
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	begin := time.Now()
	cat.Process.Kill()
	cat.Wait()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v to kill a reader", d)
	}
}

// TestStop: the mount goes when its context ends, in use or not, and when somebody else takes it down.
func TestStop(t *testing.T) {
	_, st, m := theDisk(t)
	for _, use := range []string{"idle", "in use", "from outside"} {
		t.Run(use, func(t *testing.T) {
			var l lines
			dir := filepath.Join(t.TempDir(), "mnt")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			mnt, err := Start(ctx, st, m, dir, Options{Name: "golden@1", Log: l.log})
			if err != nil {
				t.Fatal(err)
			}
			if use == "in use" {
				f, err := os.Open(filepath.Join(dir, "disk.img"))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
			}
			ended := make(chan error, 1)
			go func() { ended <- mnt.Wait(ctx) }()
			if use == "from outside" {
				sh(t, `umount "$1"`, dir)
			} else {
				cancel()
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if said := l.String(); (use == "in use") != strings.Contains(said, "was in use") {
				t.Errorf("it said %q", said)
			}
			if table, _ := os.ReadFile("/proc/mounts"); bytes.Contains(table, []byte(dir)) {
				t.Error("it is still mounted")
			}
		})
	}
	for dir, want := range map[string]error{"/dev/null": ErrNotFolder, "/etc": ErrNotEmpty} {
		if _, err := Start(t.Context(), st, m, dir, Options{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}
