package export

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/view"
)

// content is a disk's content, in places that clusters, their tables and reads do not fit.
type content map[int64][]byte

// disk captures a disk of so many bytes, of which only the content is in use.
func disk(t *testing.T, size int64, c content) (*view.Disk, *mem.Store) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	var used []extent.Extent
	for off, b := range c {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
		used = append(used, extent.Extent{Off: off, Len: int64(len(b))})
	}
	st := mem.New()
	res, err := capture.Run(t.Context(), capture.Source{ReaderAt: f, Disk: manifest.Disk{Size: size, SectorSize: 512}},
		capture.Plan{Table: manifest.Table{Kind: "none"}, Used: extent.FromUnsorted(used)}, st, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := view.Open(t.Context(), st, res.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return d, st
}

func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func text(n int) []byte { return bytes.Repeat([]byte("what compresses well, "), n/22+1)[:n] }

// sample has noise, text and zeros, next to each other and far apart.
func sample() (int64, content) {
	const size = 9<<30 + 123*512
	return size, content{
		0:                 noise(1, 512),
		1 << 20:           append(append(noise(2, 3<<20+512), make([]byte, 1<<20)...), text(5<<20)...),
		511<<20 + 65024:   text(3 << 20), // over the border of a table
		4<<30 - 512:       noise(3, 1024),
		5<<30 + 7*512:     text(100_352),
		6 << 30:           make([]byte, 1<<20),
		size - 200*512:    noise(4, 200*512),
		size - 300*512:    text(50 * 512),
		8<<30 + 8192:      noise(5, 4096),
		8<<30 + 8192*1000: text(4096),
	}
}

// same compares a file with a raw one by qemu-img, which reads both.
func same(t *testing.T, kind, path, raw string) {
	t.Helper()
	if kind == "qcow2" {
		if out, err := exec.Command("qemu-img", "check", "-f", kind, path).CombinedOutput(); err != nil {
			t.Errorf("qemu-img check: %v: %s", err, out)
		}
	}
	if out, err := exec.Command("qemu-img", "compare", "-f", kind, "-F", "raw", path, raw).CombinedOutput(); err != nil {
		t.Errorf("qemu-img compare: %v: %s", err, out)
	}
}

// original writes the content itself.
func original(t *testing.T, size int64, c content) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "original")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off, b := range c {
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func TestReadByQemu(t *testing.T) {
	size, c := sample()
	d, _ := disk(t, size, c)
	raw := original(t, size, c)
	for name, write := range map[string]func(f *os.File) error{
		"raw":              func(f *os.File) error { return Raw(t.Context(), d, f, nil) },
		"qcow2":            func(f *os.File) error { return Qcow2(t.Context(), d, f, false, nil) },
		"qcow2 compressed": func(f *os.File) error { return Qcow2(t.Context(), d, f, true, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			if err := File(path, false, write); err != nil {
				t.Fatal(err)
			}
			kind, _, _ := strings.Cut(name, " ")
			same(t, kind, path, raw)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if name == "qcow2 compressed" && info.Size() > 6<<20 {
				t.Errorf("it has %d bytes", info.Size())
			}
		})
	}
}

// Small disks, also such that are no whole cluster, and an empty one.
func TestSmallDisks(t *testing.T) {
	for _, size := range []int64{512, 65536 - 512, 65536, 65536 + 512, 1 << 29, 1<<29 + 512} {
		for _, c := range []content{{}, {0: noise(7, 512)}, {size - 512: text(512)}} {
			d, _ := disk(t, size, c)
			path := filepath.Join(t.TempDir(), "out")
			for _, packed := range []bool{false, true} {
				if err := File(path, true, func(f *os.File) error { return Qcow2(t.Context(), d, f, packed, nil) }); err != nil {
					t.Fatal(err)
				}
				same(t, "qcow2", path, original(t, size, c))
			}
		}
	}
}

func TestStream(t *testing.T) {
	const size = 20<<20 + 512
	c := content{0: noise(1, 100), 5 << 20: text(9 << 20), size - 1: {1}}
	d, _ := disk(t, size, c)
	want, err := os.ReadFile(original(t, size, c))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	last := int64(-1)
	err = Stream(t.Context(), d, &got, func(done, total int64) {
		if done <= last || done > total {
			t.Errorf("%d of %d after %d", done, total, last)
		}
		last = done
	})
	if err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%v: %d bytes", err, got.Len())
	}
	if last != d.Manifest().Content.Used {
		t.Errorf("%d bytes were told of", last)
	}
}

// What goes wrong leaves nothing behind, and what was there as it was.
func TestLeavesNothingHalf(t *testing.T) {
	size, c := int64(8<<20), content{0: noise(1, 4<<20)}
	d, st := disk(t, size, c)
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	write := func(f *os.File) error { return Raw(t.Context(), d, f, nil) }
	if err := File(path, false, write); !errors.Is(err, ErrExists) {
		t.Errorf("error %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := File(path, true, func(f *os.File) error { return Raw(ctx, d, f, nil) }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	lost, err := view.Open(t.Context(), lossy{st}, d.Manifest())
	if err != nil {
		t.Fatal(err)
	}
	if err := File(path, true, func(f *os.File) error { return Qcow2(t.Context(), lost, f, true, nil) }); err == nil {
		t.Error("a chunk that is damaged was written")
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "mine" {
		t.Errorf("%q, %v", b, err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if err := File(path, true, write); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != size {
		t.Errorf("%v, %v", info, err)
	}
}

// lossy damages the chunks of the disk, not those of its list.
type lossy struct{ store.Reader }

func (l lossy) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	return l.Reader.Get(ctx, ids, func(c chunk.Encoded) error {
		if c.RawLen == chunk.DefaultSize {
			c.Data = bytes.Clone(c.Data)
			c.Data[len(c.Data)/2] ^= 1
		}
		return fn(c)
	})
}
