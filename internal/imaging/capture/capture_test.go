package capture

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testDisk makes a disk of size bytes with stretches of zeros, of random bytes and of words, and a plan of some of it.
func testDisk(rng *rand.Rand, size int) ([]byte, Plan) {
	data := make([]byte, size)
	var used []extent.Extent
	for off := 0; off < size; {
		n := min(size-off, 512*(1+rng.IntN(1+rng.IntN(2000))))
		part := data[off : off+n]
		switch rng.IntN(5) {
		case 0: // zeros
		case 1:
			for i := range part {
				part[i] = byte(rng.Uint32())
			}
		case 2:
			if off > n { // seen before
				copy(part, data[off-n:off])
			}
		default:
			for i := range part {
				part[i] = "kernel initrd rootimg "[rng.IntN(22)]
			}
		}
		if rng.IntN(3) > 0 {
			used = append(used, extent.Extent{Off: int64(off), Len: int64(n)})
		}
		off += n
	}
	half := int64(size/2) / 4096 * 4096
	var pieces []fact.Piece
	for off := 4096 + int64(rng.IntN(9))*4096; rng.IntN(20) > 0; {
		n := 4096 * (1 + rng.Int64N(40))
		if off+n > half {
			break
		}
		pieces = append(pieces, fact.Piece{Off: off, Len: n, At: rng.Int64N(3) * 4096})
		off += n + 4096*rng.Int64N(3)
	}
	return data, Plan{
		Pieces: pieces,
		Table:  manifest.Table{Kind: "none"},
		Used:   extent.FromUnsorted(used),
		Volumes: []manifest.Volume{
			{Off: 4096, Len: half - 4096, Type: "ext4", Method: manifest.MethodUsed},
			{Off: half, Len: int64(size) - half, Type: "unknown", Method: manifest.MethodWhole},
		},
	}
}

func source(r io.ReaderAt, size int) Source {
	return Source{ReaderAt: r, Disk: manifest.Disk{Size: int64(size), SectorSize: 512}}
}

// restored reads an image back from the store: the bytes, and which of them the image holds.
func restored(t *testing.T, from store.Reader, m *manifest.Manifest) ([]byte, extent.List) {
	t.Helper()
	out := make([]byte, m.Disk.Size)
	var have extent.List
	for e, err := range manifest.Entries(t.Context(), from, m) {
		if err != nil {
			t.Fatal(err)
		}
		have.Add(extent.Extent{Off: e.Off, Len: e.Len})
		if e.Zero {
			continue
		}
		err := from.Get(t.Context(), []chunk.ID{e.ID}, func(c chunk.Encoded) error {
			raw, err := chunk.Decode(c, nil)
			if int64(len(raw)) != e.Len {
				t.Errorf("chunk at offset %d has %d bytes, its entry %d", e.Off, len(raw), e.Len)
			}
			copy(out[e.Off:], raw)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out, have
}

func checkImage(t *testing.T, from store.Reader, res *Result, data []byte, plan Plan) {
	t.Helper()
	m, err := from.Manifest(t.Context(), res.ID)
	if err != nil {
		t.Fatal(err)
	}
	got, have := restored(t, from, m)
	if len(have) != len(plan.Used) || have.Bytes() != plan.Used.Bytes() || m.Content.Used != plan.Used.Bytes() {
		t.Fatalf("the image holds %d bytes in %d extents, want %d in %d", have.Bytes(), len(have), plan.Used.Bytes(), len(plan.Used))
	}
	for i, e := range plan.Used {
		if have[i] != e {
			t.Fatalf("extent %d of the image is %v, want %v", i, have[i], e)
		}
		if !bytes.Equal(got[e.Off:e.End()], data[e.Off:e.End()]) {
			t.Fatalf("extent %v differs", e)
		}
	}
	c := res.Counts
	if c.Read != plan.Used.Bytes() || c.Zero != m.Content.Zero || c.Zero+c.New+c.Reused != c.Read {
		t.Fatalf("counts %+v do not add up to %d used, %d zero", c, plan.Used.Bytes(), m.Content.Zero)
	}
}

// TestAnyRoad captures the same disks with any chunk size, number of workers and amount of memory: the content is the
// same.
func TestAnyRoad(t *testing.T) {
	for seed := range uint64(16) {
		rng := rand.New(rand.NewPCG(seed, 1))
		data, plan := testDisk(rng, 512*(200+rng.IntN(30_000)))
		st := mem.New()
		var last Progress
		opts := Options{
			Workers:   1 + rng.IntN(5),
			ChunkSize: minChunkSize << rng.IntN(11),
			Memory:    int64(1+rng.IntN(64)) << 20,
			Codec:     Codec(rng.IntN(3)),
			Progress:  func(p Progress) { last = p },
		}
		res, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), plan, st, opts)
		if err != nil {
			t.Fatalf("seed %d, %+v: %v", seed, opts, err)
		}
		checkImage(t, st, res, data, plan)
		if last.Done != last.Total || last.Total != plan.Used.Bytes() || last.Phase != PhaseStaging {
			t.Errorf("seed %d: last progress is %+v", seed, last)
		}

		again, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), plan, st, opts)
		if err != nil {
			t.Fatal(err)
		}
		if again.Counts.New != 0 || again.Counts.Stored != 0 {
			t.Errorf("seed %d: the second capture of the same disk brought %+v", seed, again.Counts)
		}
	}
}

// faulty is a store that fails or waits after some Puts.
type faulty struct {
	store.Writer
	mu    sync.Mutex
	after int // chunks
	err   error
	block bool // wait for the end of the context instead
	raw   int64
}

func (f *faulty) Put(ctx context.Context, chunks []chunk.Encoded) (store.PutResult, error) {
	f.mu.Lock()
	if f.after -= len(chunks); f.after < 0 {
		f.mu.Unlock()
		if f.block {
			<-ctx.Done()
			return store.PutResult{}, ctx.Err()
		}
		return store.PutResult{}, f.err
	}
	f.mu.Unlock()
	res, err := f.Writer.Put(ctx, chunks)
	f.mu.Lock()
	f.raw += res.NewRaw
	f.mu.Unlock()
	return res, err
}

// TestGoesOn interrupts captures, by an error or a cancel, and runs them again: what is in the store is not put again.
func TestGoesOn(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 2))
		data, plan := testDisk(rng, 16<<20)
		st := mem.New()
		opts := Options{Workers: 1 + rng.IntN(3), ChunkSize: 64 << 10, Memory: 8 << 20}
		broken := &faulty{Writer: st, after: rng.IntN(60), err: store.ErrFull, block: seed%2 == 0}
		ctx, cancel := context.WithCancel(t.Context())
		if broken.block {
			opts.Progress = func(p Progress) { cancel() }
		}
		_, err := Run(ctx, source(bytes.NewReader(data), len(data)), plan, broken, opts)
		cancel()
		if want := broken.err; broken.block && !errors.Is(err, context.Canceled) || !broken.block && !errors.Is(err, want) {
			t.Fatalf("seed %d: got %v", seed, err)
		}
		opts.Progress = nil
		rest := &faulty{Writer: st, after: 1 << 30}
		res, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), plan, rest, opts)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, st, res, data, plan)
		whole := &faulty{Writer: mem.New(), after: 1 << 30}
		if _, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), plan, whole, opts); err != nil {
			t.Fatal(err)
		}
		if broken.raw+rest.raw != whole.raw {
			t.Errorf("seed %d: %d bytes before the interruption and %d after it, want %d in all", seed, broken.raw, rest.raw, whole.raw)
		}
	}
}

// badDisk cannot read one sector.
type badDisk struct {
	*bytes.Reader
	bad int64
}

var errMedium = errors.New("input/output error")

func (d badDisk) ReadAt(b []byte, off int64) (int, error) {
	if off <= d.bad && d.bad < off+int64(len(b)) {
		return 0, errMedium
	}
	return d.Reader.ReadAt(b, off)
}

func TestReadError(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	data, plan := testDisk(rng, 16<<20)
	plan.Used = extent.List{{Off: 0, Len: 16 << 20}}
	_, err := Run(t.Context(), source(badDisk{bytes.NewReader(data), 9<<20 + 5000}, len(data)), plan, mem.New(), Options{})
	var re *ReadError
	if !errors.As(err, &re) || !errors.Is(err, errMedium) {
		t.Fatalf("got %v", err)
	}
	if re.Off != 9<<20+4096 || re.Len != 4096 {
		t.Errorf("the error names %d bytes at %d", re.Len, re.Off)
	}
	_, err = Run(t.Context(), source(bytes.NewReader(data[:15<<20]), len(data)), plan, mem.New(), Options{})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a disk that ends early: %v", err)
	}
}

func TestChangedDisk(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	data, plan := testDisk(rng, 8<<20)
	opts := Options{Recheck: func(context.Context) error { data[plan.Volumes[1].Off+1030]++; return nil }}
	_, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), plan, mem.New(), opts)
	if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), "unknown volume at offset") {
		t.Fatalf("got %v", err)
	}
	want := errors.New("mounted by now")
	opts.Recheck = func(context.Context) error { return want }
	if _, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), plan, mem.New(), opts); !errors.Is(err, want) {
		t.Fatalf("got %v", err)
	}
}

func TestRefusesPlans(t *testing.T) {
	data := make([]byte, 1<<20)
	for _, c := range []struct {
		plan Plan
		opts Options
	}{
		{plan: Plan{Used: extent.List{{Off: 0, Len: 1<<20 + 1}}}},
		{plan: Plan{Used: extent.List{{Off: -1, Len: 1}}}},
		{plan: Plan{Used: extent.List{{Off: 0, Len: 4096}, {Off: 512, Len: 512}}}},
		{plan: Plan{Volumes: []manifest.Volume{{Off: 1 << 19, Len: 1 << 20}}}},
		{opts: Options{ChunkSize: 5000}},
		{opts: Options{ChunkSize: 8 << 20}},
	} {
		c.plan.Table.Kind = "none"
		if _, err := Run(t.Context(), source(bytes.NewReader(data), len(data)), c.plan, mem.New(), c.opts); err == nil {
			t.Errorf("%+v %+v was taken", c.plan, c.opts)
		}
	}
}

// TestCancelIsPrompt cancels while the store does not answer.
func TestCancelIsPrompt(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	data, plan := testDisk(rng, 32<<20)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the admin said so")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	st := &faulty{Writer: mem.New(), after: 3, block: true}
	if _, err := Run(ctx, source(bytes.NewReader(data), len(data)), plan, st, Options{Memory: 4 << 20}); !errors.Is(err, why) {
		t.Fatalf("got %v", err)
	}
}

// TestMemory counts what the buffers take.
func TestMemory(t *testing.T) {
	for _, workers := range []int{1, 2, 16} {
		for _, size := range []int{4 << 10, 128 << 10, 4 << 20} {
			opts := Options{Workers: workers, ChunkSize: size}
			if err := opts.fill(); err != nil {
				t.Fatal(err)
			}
			r := newRun(source(nil, 1), Plan{}, nil, opts)
			total := 0
			for range cap(r.free) {
				total += cap((<-r.free).buf)
			}
			for range cap(r.spare) {
				total += cap((<-r.spare).arena)
			}
			if total > DefaultMemory+DefaultMemory/16 {
				t.Errorf("%d workers, chunks of %d: %d MiB of buffers", workers, size, total>>20)
			}
		}
	}
}
