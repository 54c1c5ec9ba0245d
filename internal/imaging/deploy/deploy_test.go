package deploy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDisk is a target in memory that remembers the order of its writes.
type fakeDisk struct {
	mu     sync.Mutex
	data   []byte
	sector int
	writes []extent.Extent // without zeroing
	fails  int             // writes until one fails; 0 means none does
	syncs  int
}

var errDisk = errors.New("input/output error")

func (d *fakeDisk) ReadAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off >= int64(len(d.data)) {
		return 0, io.EOF
	}
	return copy(b, d.data[off:]), nil
}

func (d *fakeDisk) WriteAt(b []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails > 0 {
		if d.fails--; d.fails == 0 {
			return 0, errDisk
		}
	}
	if off < 0 || off+int64(len(b)) > int64(len(d.data)) {
		return 0, io.ErrShortWrite
	}
	d.writes = append(d.writes, extent.Extent{Off: off, Len: int64(len(b))})
	return copy(d.data[off:], b), nil
}

func (d *fakeDisk) Zero(off, n int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.data[off : off+n])
	return nil
}
func (d *fakeDisk) Size() int64     { return int64(len(d.data)) }
func (d *fakeDisk) SectorSize() int { return d.sector }
func (d *fakeDisk) Sync() error     { d.syncs++; return nil }
func (d *fakeDisk) Reread() error   { return nil }

// testImage captures a made-up disk into st.
func testImage(t *testing.T, rng *rand.Rand, st store.Writer, size int, table manifest.Table) ([]byte, extent.List, *manifest.Manifest) {
	t.Helper()
	data := make([]byte, size)
	var used []extent.Extent
	for off := 0; off < size; {
		n := min(size-off, 512*(1+rng.IntN(1+rng.IntN(1500))))
		part := data[off : off+n]
		switch rng.IntN(4) {
		case 0:
		case 1:
			if off > n {
				copy(part, data[off-n:off])
			}
		default:
			copy(part, garbage(rng, n))
		}
		if rng.IntN(4) > 0 || off == 0 {
			used = append(used, extent.Extent{Off: int64(off), Len: int64(n)})
		}
		off += n
	}
	list := extent.FromUnsorted(used)
	if table.Kind == "gpt" {
		list = extent.Union(list, extent.List{{Len: headLen}, {Off: int64(size) - backup512, Len: backup512}})
	}
	src := capture.Source{ReaderAt: bytes.NewReader(data), Disk: manifest.Disk{Size: int64(size), SectorSize: 512}}
	res, err := capture.Run(t.Context(), src, capture.Plan{Table: table, Used: list}, st,
		capture.Options{ChunkSize: 4096 << rng.IntN(7), Codec: capture.S2})
	if err != nil {
		t.Fatal(err)
	}
	return data, list, res.Manifest
}

// backup512 is the length of a usual GPT's backup.
const backup512 = 33 * 512

func garbage(rng *rand.Rand, n int) []byte {
	b := make([]byte, (n+7)/8*8)
	for i := 0; i < len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b[:n]
}

func checkDisk(t *testing.T, got, want []byte, used extent.List) {
	t.Helper()
	for _, e := range used {
		if !bytes.Equal(got[e.Off:e.End()], want[e.Off:e.End()]) {
			t.Fatalf("extent %v differs", e)
		}
	}
}

// TestAnyRoad deploys with any options onto a disk of random bytes: the used extents are equal, and what was not
// captured is left alone.
func TestAnyRoad(t *testing.T) {
	for seed := range uint64(16) {
		rng := rand.New(rand.NewPCG(seed, 1))
		st := mem.New()
		data, used, m := testImage(t, rng, st, 512*(500+rng.IntN(40_000)), manifest.Table{Kind: "mbr"})
		before := garbage(rng, len(data))
		opts := Options{Workers: 1 + rng.IntN(4), Memory: 1 + rng.Int64N(32<<20), Compare: rng.IntN(2) == 0, Verify: rng.IntN(2) == 0}
		if rng.IntN(2) == 0 { // a disk that has most of it
			copy(before, data)
			for range 10 {
				before[rng.IntN(len(before))]++
			}
		}
		var last Progress
		opts.Progress = func(p Progress) { last = p }
		d := &fakeDisk{data: slices.Clone(before), sector: 512}
		res, err := Run(t.Context(), st, m, d, opts)
		if err != nil {
			t.Fatalf("seed %d, %+v: %v", seed, opts, err)
		}
		checkDisk(t, d.data, data, used)
		head, tail := int64(headLen), int64(len(data))-backup512
		for _, e := range used.Complement(int64(len(data))).Clip(extent.Extent{Off: head, Len: max(tail-head, 0)}) {
			if !bytes.Equal(d.data[e.Off:e.End()], before[e.Off:e.End()]) {
				t.Fatalf("seed %d: unused extent %v was written", seed, e)
			}
		}
		c := res.Counts
		if headZero := m.Content.Used - c.Written - c.Skipped - c.Zeroed; !res.Touched || headZero < 0 || headZero > headLen {
			t.Errorf("seed %d: counts %+v do not add up to %d used", seed, c, m.Content.Used)
		}
		if opts.Compare && bytes.Equal(before[head:head+512], data[head:head+512]) && c.Skipped < m.Content.Used/8 {
			t.Errorf("seed %d: of a disk that has most of the image only %d bytes were skipped", seed, c.Skipped)
		}
		if last.Phase != PhaseFinishing {
			t.Errorf("seed %d: last progress %+v", seed, last)
		}
		if w := d.writes[len(d.writes)-1]; w.Off != 0 || w.Len != 512 {
			t.Errorf("seed %d: the last write is %v, not the first sector", seed, w)
		}
	}
}

func TestChecksBeforeItWrites(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	st := mem.New()
	data, _, m := testImage(t, rng, st, 4<<20, manifest.Table{Kind: "mbr"})
	size := len(data)
	refuse := errors.New("not yet")
	holes := lossy{Reader: st, lost: firstChunk(t, st, m)}
	for _, c := range []struct {
		name string
		from store.Reader
		disk *fakeDisk
		opts Options
		want error
	}{
		{"smaller", st, &fakeDisk{data: make([]byte, size-512), sector: 512}, Options{}, &SizeError{}},
		{"sectors", st, &fakeDisk{data: make([]byte, size), sector: 4096}, Options{}, &SectorError{}},
		{"commit", st, &fakeDisk{data: make([]byte, size), sector: 512}, Options{Commit: func(context.Context) error { return refuse }}, refuse},
		{"missing chunk", holes, &fakeDisk{data: make([]byte, size), sector: 512}, Options{}, &store.MissingError{}},
		{"missing segment", lossy{Reader: st, lost: m.Content.Segments[0].ID}, &fakeDisk{data: make([]byte, size), sector: 512}, Options{}, &store.MissingError{}},
	} {
		res, err := Run(t.Context(), c.from, m, c.disk, c.opts)
		if err == nil || res.Touched || len(c.disk.writes) > 0 || c.disk.syncs > 0 {
			t.Errorf("%s: error %v, result %+v, %d writes", c.name, err, res, len(c.disk.writes))
		}
		switch want := c.want.(type) {
		case *SizeError:
			if !errors.As(err, &want) || want.Need != int64(size) || want.Have != int64(size-512) {
				t.Errorf("%s: %v", c.name, err)
			}
		case *SectorError:
			if !errors.As(err, &want) {
				t.Errorf("%s: %v", c.name, err)
			}
		case *store.MissingError:
			if !errors.As(err, &want) {
				t.Errorf("%s: %v", c.name, err)
			}
		default:
			if !errors.Is(err, want) {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

func firstChunk(t *testing.T, from store.Reader, m *manifest.Manifest) chunk.ID {
	for e, err := range manifest.Entries(t.Context(), from, m) {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Zero {
			return e.ID
		}
	}
	t.Fatal("no chunk")
	return chunk.ID{}
}

// lossy is a store that lost a chunk, and can be asked what it lacks.
type lossy struct {
	store.Reader
	lost chunk.ID
}

func (l lossy) Missing(_ context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	if slices.Contains(ids, l.lost) {
		return []chunk.ID{l.lost}, nil
	}
	return nil, nil
}

func (l lossy) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	if slices.Contains(ids, l.lost) {
		return &store.MissingError{ID: l.lost}
	}
	return l.Reader.Get(ctx, ids, fn)
}

// spoiled is a store that hands out a damaged chunk.
type spoiled struct {
	store.Reader
	id chunk.ID
}

func (s spoiled) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	return s.Reader.Get(ctx, ids, func(c chunk.Encoded) error {
		if c.ID == s.id {
			c.Data = slices.Clone(c.Data)
			c.Data[len(c.Data)/2] ^= 1
		}
		return fn(c)
	})
}

// TestFailuresLeaveNoTable fails in the middle in many ways: the start of the disk reads as zeros, so nothing boots.
func TestFailuresLeaveNoTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	st := mem.New()
	data, _, m := testImage(t, rng, st, 8<<20, manifest.Table{Kind: "gpt", Partitions: []manifest.Partition{{Number: 1, Off: 1 << 20, Len: 6 << 20}}})
	check := func(name string, d *fakeDisk, res *Result, err error) {
		t.Helper()
		if err == nil || !res.Touched {
			t.Fatalf("%s: error %v, result %+v", name, err, res)
		}
		tail := int64(len(data)) - backup512
		if !chunk.IsZero(d.data[:headLen]) || !chunk.IsZero(d.data[tail:]) {
			t.Errorf("%s: there is something where the partition table was", name)
		}
	}
	d := &fakeDisk{data: garbage(rng, len(data)), sector: 512}
	res, err := Run(t.Context(), spoiled{st, firstChunk(t, st, m)}, m, d, Options{})
	check("damaged chunk", d, res, err)

	d = &fakeDisk{data: garbage(rng, len(data)), sector: 512, fails: 5}
	res, err = Run(t.Context(), st, m, d, Options{})
	check("write error", d, res, err)
	if !errors.Is(err, errDisk) {
		t.Error(err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the admin said so")
	slow := waiting{st, func() { cancel(why) }}
	d = &fakeDisk{data: garbage(rng, len(data)), sector: 512}
	res, err = Run(ctx, slow, m, d, Options{})
	check("cancel", d, res, err)
	if !errors.Is(err, why) {
		t.Error(err)
	}
}

// waiting is a store that stops answering when chunks are asked for.
type waiting struct {
	store.Reader
	asked func()
}

func (w waiting) Get(ctx context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	if len(ids) == 1 {
		return w.Reader.Get(ctx, ids, fn)
	}
	time.AfterFunc(10*time.Millisecond, w.asked)
	<-ctx.Done()
	return ctx.Err()
}

func TestVerifyFindsALyingDisk(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	st := mem.New()
	data, used, m := testImage(t, rng, st, 8<<20, manifest.Table{Kind: "mbr"})
	at := used[len(used)/2].Off
	d := &forgetful{fakeDisk: fakeDisk{data: garbage(rng, len(data)), sector: 512}, at: at}
	_, err := Run(t.Context(), st, m, d, Options{Verify: true})
	var ve *VerifyError
	if !errors.As(err, &ve) || ve.Off > at || at >= ve.Off+ve.Len {
		t.Fatalf("got %v, want a VerifyError around %d", err, at)
	}
}

// forgetful is a disk with a byte that reads as something else.
type forgetful struct {
	fakeDisk
	at int64
}

func (d *forgetful) ReadAt(b []byte, off int64) (int, error) {
	n, err := d.fakeDisk.ReadAt(b, off)
	if off <= d.at && d.at < off+int64(n) {
		b[d.at-off] ^= 0x80
	}
	return n, err
}

// TestSparseFile deploys onto an empty file: where the image has zeros or nothing, the file has holes.
func TestSparseFile(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	st := mem.New()
	data := make([]byte, 32<<20)
	copy(data[20<<20:], garbage(rng, 1<<20))
	src := capture.Source{ReaderAt: bytes.NewReader(data), Disk: manifest.Disk{Size: int64(len(data)), SectorSize: 512}}
	all := extent.List{{Len: int64(len(data))}}
	cap, err := capture.Run(t.Context(), src, capture.Plan{Table: manifest.Table{Kind: "none"}, Used: all}, st, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.img"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, fill := range []bool{false, true} {
		if err := f.Truncate(int64(len(data))); err != nil {
			t.Fatal(err)
		}
		if fill { // with old content, which must go
			if _, err := f.WriteAt(garbage(rng, len(data)), 0); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Run(t.Context(), st, cap.Manifest, fileDisk{f, int64(len(data))}, Options{Verify: true}); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(f.Name())
		if err != nil || !bytes.Equal(got, data) {
			t.Fatalf("the file differs (%v)", err)
		}
		var s unix.Stat_t
		if err := unix.Stat(f.Name(), &s); err != nil || s.Blocks*512 > 2<<20 {
			t.Errorf("the file takes %d bytes of its filesystem (%v)", s.Blocks*512, err)
		}
	}
}

type fileDisk struct {
	*os.File
	size int64
}

func (d fileDisk) Size() int64             { return d.size }
func (d fileDisk) SectorSize() int         { return 512 }
func (d fileDisk) Zero(off, n int64) error { return ZeroFile(d.File, off, n) }
func (d fileDisk) Reread() error           { return nil }
