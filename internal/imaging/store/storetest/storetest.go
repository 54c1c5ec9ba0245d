// Package storetest is the suite that every store must pass.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Pair is a store under test and what publishes in it: the same value where the store can do both.
type Pair struct {
	store.Writer
	Publisher store.Publisher
}

// Open returns a new, empty store. It registers with t what has to be done at the end.
type Open func(t *testing.T) Pair

// Run runs the suite.
func Run(t *testing.T, open Open) {
	tests := map[string]func(*testing.T, Pair){
		"Empty": testEmpty, "PutGet": testPutGet, "PutTwice": testPutTwice, "Refused": testRefused,
		"StopInGet": testStopInGet, "Concurrent": testConcurrent, "Many": testMany, "Stage": testStage,
		"Publish": testPublish, "Verify": testVerify, "Cancelled": testCancelled,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// encoder is one for all tests, as a new one is dear.
var encoder = struct {
	sync.Mutex
	*chunk.Encoder
}{Encoder: chunk.NewEncoder()}

func encode(raw []byte, codec chunk.Codec) chunk.Encoded {
	encoder.Lock()
	defer encoder.Unlock()
	return encoder.Encode(chunk.Sum(raw), raw, nil, codec)
}

// Chunk returns a chunk of n bytes that differs for each seed. Every third is random, the others can be compressed.
func Chunk(seed uint64, n int) (chunk.Encoded, []byte) {
	raw := Bytes(seed, n)
	return encode(raw, chunk.Codec(seed%3)), raw
}

// Bytes returns the raw bytes of Chunk.
func Bytes(seed uint64, n int) []byte {
	raw := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range raw {
		raw[i] = byte(r.Uint32())
		if seed%3 != 0 && i > 16 {
			raw[i] &= 3
		}
	}
	return raw
}

// Created is when all disks of tests were captured.
var Created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// Image puts a small disk of n pieces into s and returns its manifest, which is not staged yet. Pieces with the same
// content in two images are the same chunks: salt says where they differ.
func Image(ctx context.Context, s store.Writer, n int, salt func(piece int) uint64) (*manifest.Manifest, error) {
	const piece = 4096
	put := func(raw []byte) (chunk.ID, error) {
		e := encode(raw, chunk.Zstd)
		_, err := s.Put(ctx, []chunk.Encoded{e})
		return e.ID, err
	}
	w := manifest.NewSegmentWriter(func(id chunk.ID, raw []byte) error {
		_, err := put(raw)
		return err
	})
	for i := range n {
		e := manifest.Entry{Off: int64(i) * 2 * piece, Len: piece, Zero: i%5 == 4}
		if !e.Zero {
			var err error
			if e.ID, err = put(Bytes(salt(i), piece)); err != nil {
				return nil, err
			}
		}
		if err := w.Add(e); err != nil {
			return nil, err
		}
	}
	content, err := w.Close()
	if err != nil {
		return nil, err
	}
	return &manifest.Manifest{
		Version: manifest.Version, Hash: "blake3", Created: Created,
		Source:  manifest.Source{Node: "n01", Agent: "test", Arch: "amd64"},
		Disk:    manifest.Disk{Size: int64(n)*2*piece + piece, SectorSize: 512},
		Table:   manifest.Table{Kind: "none"},
		Content: content,
	}, nil
}

// same makes all pieces of Image differ from each other, and none from run to run.
func same(i int) uint64 { return uint64(i) + 1000 }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func testEmpty(t *testing.T, s Pair) {
	ctx := t.Context()
	names, err := s.Images(ctx)
	check(t, err)
	revs, err := s.Revisions(ctx, "none")
	check(t, err)
	if len(names)+len(revs) > 0 {
		t.Errorf("an empty store has images %v, revisions %v", names, revs)
	}
	if _, err := s.Revisions(ctx, "../etc"); err == nil {
		t.Error("a name that is no name was accepted")
	}
	id := chunk.Sum([]byte("nothing"))
	if _, err := s.Manifest(ctx, id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("manifest: got %v, want ErrNotFound", err)
	}
	var missing *store.MissingError
	if err := s.Get(ctx, []chunk.ID{id}, nil); !errors.As(err, &missing) || missing.ID != id {
		t.Errorf("get: got %v, want a MissingError of %s", err, id)
	}
	check(t, s.Get(ctx, nil, nil))
	check(t, s.Flush(ctx))
	if res, err := s.Put(ctx, nil); err != nil || res != (store.PutResult{}) {
		t.Errorf("put of nothing: %+v, %v", res, err)
	}
}

// want gets ids and compares their raw bytes.
func want(t *testing.T, s store.Reader, raws map[chunk.ID][]byte, ids []chunk.ID) {
	t.Helper()
	seen := make(map[chunk.ID]int)
	err := s.Get(t.Context(), ids, func(c chunk.Encoded) error {
		raw, err := chunk.Decode(c, nil)
		if err == nil && !slices.Equal(raw, raws[c.ID]) {
			err = fmt.Errorf("chunk %s has other bytes", c.ID)
		}
		seen[c.ID]++
		return err
	})
	check(t, err)
	for _, id := range ids {
		if seen[id]--; seen[id] < 0 {
			t.Fatalf("chunk %s did not come as often as it was asked for", id)
		}
	}
}

func testPutGet(t *testing.T, s Pair) {
	ctx := t.Context()
	raws := make(map[chunk.ID][]byte)
	var batch []chunk.Encoded
	var ids []chunk.ID
	var raw int64
	for i, n := range []int{1, 2, 511, 4096, 100_000, chunk.DefaultSize, chunk.MaxLen, chunk.MaxLen - 1, chunk.MaxLen} {
		c, b := Chunk(uint64(i), n)
		raws[c.ID] = b
		batch, ids = append(batch, c), append(ids, c.ID)
		raw += int64(n)
	}
	missing, err := s.Missing(ctx, ids)
	check(t, err)
	if !slices.Equal(missing, ids) {
		t.Fatalf("%d of %d are missing before the put", len(missing), len(ids))
	}
	res, err := s.Put(ctx, batch)
	check(t, err)
	if res.New != len(batch) || res.NewRaw != raw || res.NewStored <= 0 {
		t.Errorf("put: %+v, want %d new of %d bytes", res, len(batch), raw)
	}
	for i := range batch { // a store must not keep what it was given
		clear(batch[i].Data)
	}
	want(t, s, raws, ids)
	check(t, s.Flush(ctx))
	slices.Reverse(ids)
	want(t, s, raws, append(ids, ids[0], ids[3]))
	other := chunk.Sum([]byte("other"))
	missing, err = s.Missing(ctx, append([]chunk.ID{other}, ids...))
	check(t, err)
	if !slices.Equal(missing, []chunk.ID{other}) {
		t.Errorf("missing after the put: %v", missing)
	}
}

func testPutTwice(t *testing.T, s Pair) {
	ctx := t.Context()
	a, _ := Chunk(1, 5000)
	b, _ := Chunk(2, 5000)
	first, err := s.Put(ctx, []chunk.Encoded{a, a})
	check(t, err)
	second, err := s.Put(ctx, []chunk.Encoded{a, b, a})
	check(t, err)
	check(t, s.Flush(ctx))
	third, err := s.Put(ctx, []chunk.Encoded{b, a})
	check(t, err)
	if first.New != 1 || second.New != 1 || third != (store.PutResult{}) {
		t.Errorf("counted %+v, %+v, %+v", first, second, third)
	}
}

func testRefused(t *testing.T, s Pair) {
	good, _ := Chunk(1, 5000)
	for name, spoil := range map[string]func(*chunk.Encoded){
		"no data":    func(c *chunk.Encoded) { c.Data = nil },
		"no length":  func(c *chunk.Encoded) { c.RawLen = 0 },
		"too long":   func(c *chunk.Encoded) { c.RawLen = chunk.MaxLen + 1 },
		"codec":      func(c *chunk.Encoded) { c.Codec = 77 },
		"raw length": func(c *chunk.Encoded) { c.Codec, c.RawLen = chunk.Raw, 4999 },
	} {
		c := good
		spoil(&c)
		if _, err := s.Put(t.Context(), []chunk.Encoded{c}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if missing, err := s.Missing(t.Context(), []chunk.ID{good.ID}); err != nil || len(missing) != 1 {
		t.Errorf("missing: %v, %v", missing, err)
	}
}

func testStopInGet(t *testing.T, s Pair) {
	a, _ := Chunk(1, 5000)
	b, _ := Chunk(2, 5000)
	_, err := s.Put(t.Context(), []chunk.Encoded{a, b})
	check(t, err)
	stop := errors.New("stop")
	calls := 0
	err = s.Get(t.Context(), []chunk.ID{a.ID, b.ID}, func(chunk.Encoded) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

func testConcurrent(t *testing.T, s Pair) {
	ctx := t.Context()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var total store.PutResult
	const workers, each, distinct = 4, 40, 60
	for w := range uint64(workers) {
		wg.Go(func() {
			for i := range uint64(each) {
				c, raw := Chunk((w*17+i)%distinct, 3000)
				res, err := s.Put(ctx, []chunk.Encoded{c})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				total.Add(res)
				mu.Unlock()
				err = s.Get(ctx, []chunk.ID{c.ID}, func(got chunk.Encoded) error {
					b, err := chunk.Decode(got, nil)
					if err == nil && !slices.Equal(b, raw) {
						err = errors.New("other bytes")
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
				if i%16 == 0 {
					if err := s.Flush(ctx); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if total.New != distinct || total.NewRaw != distinct*3000 {
		t.Errorf("counted %+v, want %d new", total, distinct)
	}
}

// testMany asks for more than fits into one message of any kind.
func testMany(t *testing.T, s Pair) {
	ctx := t.Context()
	raws := make(map[chunk.ID][]byte)
	var batch []chunk.Encoded
	var ids, ask, lost []chunk.ID
	for i := range 3000 {
		raw := fmt.Appendf(nil, "chunk number %d", i)
		id := chunk.Sum(raw)
		raws[id] = raw
		batch = append(batch, chunk.Encoded{ID: id, RawLen: uint32(len(raw)), Codec: chunk.Raw, Data: raw})
		ids = append(ids, id)
		other := chunk.Sum(fmt.Appendf(nil, "other %d", i))
		lost = append(lost, other)
		ask = append(ask, other, id, id, id)
	}
	_, err := s.Put(ctx, batch)
	check(t, err)
	want(t, s, raws, ids)
	missing, err := s.Missing(ctx, ask)
	check(t, err)
	if !slices.Equal(missing, lost) {
		t.Errorf("%d of %d are missing, want %d", len(missing), len(ask), len(lost))
	}
}

func testStage(t *testing.T, s Pair) {
	ctx := t.Context()
	m, err := Image(ctx, s, 12, same)
	check(t, err)
	id, err := s.Stage(ctx, m)
	check(t, err)
	again, err := s.Stage(ctx, m)
	check(t, err)
	b, err := manifest.Encode(m)
	check(t, err)
	if id != again || id != manifest.Sum(b) {
		t.Errorf("staged as %s, then %s, want %s", id, again, manifest.Sum(b))
	}
	got, err := s.Manifest(ctx, id)
	check(t, err)
	if b2, err := manifest.Encode(got); err != nil || !slices.Equal(b, b2) {
		t.Errorf("came back as %s, %v, want %s", b2, err, b)
	}
	if names, err := s.Images(ctx); err != nil || len(names) > 0 {
		t.Errorf("a staged manifest made images %v, %v", names, err)
	}

	var missing *store.MissingError
	lost := *m
	lost.Content.Segments = []manifest.Segment{{ID: chunk.Sum([]byte("lost")), Len: m.Content.Segments[0].Len}}
	if _, err := s.Stage(ctx, &lost); !errors.As(err, &missing) {
		t.Errorf("without its segment: got %v, want a MissingError", err)
	}
	w := manifest.NewSegmentWriter(func(id chunk.ID, raw []byte) error {
		_, err := s.Put(ctx, []chunk.Encoded{{ID: id, RawLen: uint32(len(raw)), Codec: chunk.Raw, Data: raw}})
		return err
	})
	gone := chunk.Sum([]byte("gone"))
	check(t, w.Add(manifest.Entry{Off: 0, Len: 4096, ID: gone}))
	lost.Content, err = w.Close()
	check(t, err)
	if _, err := s.Stage(ctx, &lost); !errors.As(err, &missing) || missing.ID != gone {
		t.Errorf("without a chunk: got %v, want a MissingError of %s", err, gone)
	}
	bad := *m
	bad.Content.Used++
	if _, err := s.Stage(ctx, &bad); err == nil {
		t.Error("a manifest whose entries do not add up was staged")
	}
}

func testPublish(t *testing.T, s Pair) {
	ctx, p := t.Context(), s.Publisher
	var ids []manifest.ID
	for i := range 3 {
		m, err := Image(ctx, s, 6, func(piece int) uint64 { return uint64(piece + 100*i) })
		check(t, err)
		id, err := s.Stage(ctx, m)
		check(t, err)
		ids = append(ids, id)
	}
	for i, id := range ids {
		for range 2 { // the second time changes nothing
			r, err := p.Publish(ctx, "debian12", id)
			check(t, err)
			if r.Image != "debian12" || r.Rev != i+1 || r.ID != id || r.Used != 6*4096 || r.DiskSize != 13*4096 || r.Created.IsZero() {
				t.Errorf("published %+v", r)
			}
		}
	}
	_, err := p.Publish(ctx, "other", ids[0])
	check(t, err)
	for _, bad := range []string{"", "../x", ".x", "a/b", "a@1"} {
		if _, err := p.Publish(ctx, bad, ids[0]); err == nil {
			t.Errorf("published as %q", bad)
		}
	}
	if _, err := p.Publish(ctx, "debian12", chunk.Sum([]byte("x"))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("published nothing: %v", err)
	}

	check(t, p.Remove(ctx, "debian12", 3))
	if err := p.Remove(ctx, "debian12", 3); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	r, err := p.Publish(ctx, "debian12", ids[2])
	check(t, err)
	if r.Rev != 4 {
		t.Errorf("the number %d was given again", r.Rev)
	}
	check(t, p.Remove(ctx, "debian12", 1))
	check(t, p.Remove(ctx, "other", 1))
	revs, err := s.Revisions(ctx, "debian12")
	check(t, err)
	if len(revs) != 2 || revs[0].Rev != 2 || revs[0].ID != ids[1] || revs[1].Rev != 4 || revs[1].ID != ids[2] {
		t.Errorf("revisions are %v", revs)
	}
	names, err := s.Images(ctx)
	check(t, err)
	if !slices.Equal(names, []string{"debian12"}) {
		t.Errorf("images are %v", names)
	}
	if r, err := store.Find(ctx, s, "debian12", 0); err != nil || r.Rev != 4 {
		t.Errorf("the newest is %v, %v", r, err)
	}
	if _, err := store.Find(ctx, s, "debian12", 3); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("found what was removed: %v", err)
	}
}

func testVerify(t *testing.T, s Pair) {
	ctx := t.Context()
	m, err := Image(ctx, s, 300, func(piece int) uint64 { return uint64(piece % 200) })
	check(t, err)
	var last int64
	v, err := store.Verify(ctx, s, m, func(done, total int64) { last = done })
	check(t, err)
	if !v.OK() || v.Chunks != m.Content.Chunks || v.Bytes != m.Content.Used-m.Content.Zero || last != m.Content.Used {
		t.Errorf("verified %+v of %+v, progress %d", v, m.Content, last)
	}
}

func testCancelled(t *testing.T, s Pair) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, _ := Chunk(1, 5000)
	if _, err := s.Put(ctx, []chunk.Encoded{c}); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if err := s.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("flush: %v", err)
	}
	if _, err := s.Missing(ctx, []chunk.ID{c.ID}); !errors.Is(err, context.Canceled) {
		t.Errorf("missing: %v", err)
	}
}
