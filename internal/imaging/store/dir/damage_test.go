package dir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

// filled returns the path of a closed store with revisions of two images: the first shares no chunk with the second.
func filled(t *testing.T) (path string, revs []store.Revision) {
	t.Helper()
	path = t.TempDir() + "/store"
	s, err := openAs(path, Options{Create: true, PackSize: smallPack})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"alma", "bookworm"} {
		m, err := storetest.Image(t.Context(), s, 12, func(piece int) uint64 { return uint64(100*i + 3*piece) })
		if err != nil {
			t.Fatal(err)
		}
		id, err := s.Stage(t.Context(), m)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Publish(t.Context(), name, id)
		if err != nil {
			t.Fatal(err)
		}
		revs = append(revs, r)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, revs
}

// entries returns the entries of a revision that name a chunk.
func entries(t *testing.T, s *Store, r store.Revision) (*manifest.Manifest, []manifest.Entry) {
	t.Helper()
	m, err := s.Manifest(t.Context(), r.ID)
	if err != nil {
		t.Fatal(err)
	}
	var out []manifest.Entry
	for e, err := range manifest.Entries(t.Context(), s, m) {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Zero {
			out = append(out, e)
		}
	}
	return m, out
}

// flip changes one bit of a file.
func flip(t *testing.T, name string, off int64) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[off] ^= 0x10
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// places returns all chunks in the order of the packs.
func places(t *testing.T, s *Store) (all []indexed) {
	t.Helper()
	if err := s.eachItem(t.Context(), func(_ uint32, it indexed) { all = append(all, it) }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(all, byPlace)
	return all
}

func TestDamagedChunk(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{})
	m, es := entries(t, s, revs[1])
	victim := es[4]
	l, _ := s.index.get(victim.ID)
	for where, off := range map[string]int64{"head": 5, "length": 41, "data": recordHead + 100} {
		name := filepath.Join(path, packName(l.pack))
		flip(t, name, int64(l.off)+off)
		err := s.Get(t.Context(), []chunk.ID{es[3].ID, victim.ID, es[5].ID}, func(chunk.Encoded) error { return nil })
		var damaged *store.DamagedError
		if !errors.As(err, &damaged) || damaged.ID != victim.ID {
			t.Fatalf("%s: got %v, want a DamagedError of %s", where, err, victim.ID)
		}
		if want := fmt.Sprintf("%s, offset %d,", name, l.off); !strings.HasPrefix(damaged.Where, want) {
			t.Errorf("%s: damage at %q, want %q", where, damaged.Where, want)
		}
		v, err := store.Verify(t.Context(), s, m, nil)
		if err != nil || v.OK() || v.Damaged != 1 || v.Missing != 0 || v.Lost != victim.Len || len(v.Losses) != 1 || v.Losses[0].Off != victim.Off {
			t.Errorf("%s: verify: %+v, %v", where, v, err)
		}
		quick, err := s.Check(t.Context(), false, nil)
		if err != nil || !quick.OK() {
			t.Errorf("%s: the quick check reads data: %+v, %v", where, quick, err)
		}
		var done, total int64
		r, err := s.Check(t.Context(), true, func(d, n int64) { done, total = d, n })
		if err != nil || r.OK() || r.Damaged != 1 || len(r.Problems) != 1 || len(r.Revisions) != 2 ||
			!r.Revisions[0].OK() || r.Revisions[1].OK() || r.Revisions[1].Damaged != 1 || r.Revisions[1].Missing != 0 {
			t.Errorf("%s: check: %+v, %v", where, r, err)
		}
		if done != total || r.Read == 0 || r.Read >= total || total != r.Bytes || r.Dead != 0 {
			t.Errorf("%s: check read %d (%d) of %d, %d dead", where, done, r.Read, total, r.Dead)
		}
		flip(t, name, int64(l.off)+off)
	}
	if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() {
		t.Errorf("whole again: %+v, %v", r, err)
	}
}

// TestHeal captures the same disk again after a chunk of it was damaged.
func TestHeal(t *testing.T) {
	path, revs := filled(t)
	s, err := openAs(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, es := entries(t, s, revs[0])
	l, _ := s.index.get(es[2].ID)
	flip(t, filepath.Join(path, packName(l.pack)), int64(l.off)+recordHead)
	again := func() store.PutResult {
		t.Helper()
		missing, err := s.Missing(t.Context(), []chunk.ID{es[1].ID, es[2].ID})
		if err != nil {
			t.Fatal(err)
		}
		var batch []chunk.Encoded
		for _, id := range missing {
			if id != es[2].ID {
				t.Fatalf("chunk %s is missing", id)
			}
			raw := storetest.Bytes(6, 4096)
			batch = append(batch, chunk.NewEncoder().Encode(chunk.Sum(raw), raw, nil, chunk.Zstd))
		}
		res, err := s.Put(t.Context(), batch)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if res := again(); res.New != 0 {
		t.Errorf("before it was found: %+v", res)
	}
	if r, err := s.Check(t.Context(), true, nil); err != nil || r.OK() {
		t.Fatalf("check: %+v, %v", r, err)
	}
	if _, err := s.Stage(t.Context(), m); err == nil {
		t.Error("staged over a damaged chunk")
	}
	if res := again(); res.New != 1 {
		t.Errorf("after it was found: %+v", res)
	}
	for range 2 { // also after the next start
		if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() {
			t.Errorf("check: %+v, %v", r, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = openAs(path, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPackLostOrCut(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{})
	_, es := entries(t, s, revs[0])
	l, _ := s.index.get(es[0].ID)
	name := filepath.Join(path, packName(l.pack))
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, int64(l.off)+10); err != nil {
		t.Fatal(err)
	}
	r, err := s.Check(t.Context(), false, nil)
	if err != nil || r.OK() || r.Revisions[0].OK() || !r.Revisions[1].OK() {
		t.Errorf("pack cut off: %+v, %v", r, err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if r, err = s.Check(t.Context(), true, nil); err != nil || r.OK() || r.Revisions[0].OK() || !r.Revisions[1].OK() {
		t.Errorf("pack lost: %+v, %v", r, err)
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(path, manifestName(revs[0].ID))); err != nil {
		t.Fatal(err)
	}
	if r, err = s.Check(t.Context(), true, nil); err != nil || r.OK() || r.Revisions[0].Error == "" || !r.Revisions[1].OK() {
		t.Errorf("manifest lost: %+v, %v", r, err)
	}
}

func TestDamagedManifestAndRecord(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{})
	flip(t, filepath.Join(path, manifestName(revs[0].ID)), 200)
	if _, err := s.Manifest(t.Context(), revs[0].ID); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("damaged manifest: %v", err)
	}
	flip(t, filepath.Join(path, revName("bookworm", 1, revExt)), 3)
	if _, err := s.Revisions(t.Context(), "bookworm"); err == nil {
		t.Error("damaged record was read")
	}
	r, err := s.Check(t.Context(), false, nil)
	if err != nil || r.OK() || len(r.Revisions) != 1 || r.Revisions[0].Error == "" || len(r.Problems) != 1 {
		t.Errorf("check: %+v, %v", r, err)
	}
}

// TestIndexRebuilt takes the index away in several ways; the packs alone must give it back.
func TestIndexRebuilt(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{ReadOnly: true})
	want := places(t, s)
	files, err := filepath.Glob(filepath.Join(path, indexDir, "*.idx"))
	if err != nil || len(files) < 3 {
		t.Fatalf("%d index files, %v", len(files), err)
	}
	for name, spoil := range map[string]func(f string) error{
		"lost":    os.Remove,
		"empty":   func(f string) error { return os.Truncate(f, 0) },
		"damaged": func(f string) error { flip(t, f, 70); return nil },
		"other's": func(f string) error {
			b, err := os.ReadFile(files[0])
			if err != nil {
				return err
			}
			return os.WriteFile(f, b, 0o600)
		},
	} {
		for _, f := range files[1:] {
			if err := spoil(f); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range []Options{{ReadOnly: true}, {}} {
			s, err := openAs(path, o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := places(t, s); !slices.Equal(got, want) {
				t.Errorf("%s: %d chunks, want %d", name, len(got), len(want))
			}
			if _, es := entries(t, s, revs[0]); len(es) == 0 {
				t.Errorf("%s: no entries", name)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range files {
			if info, err := os.Stat(f); err != nil || info.Size() < indexHead {
				t.Errorf("%s: the index was not written again: %v", name, err)
			}
		}
	}
}

// TestTornPack cuts a pack that has no index file at every length, and damages it in the middle.
func TestTornPack(t *testing.T) {
	f := newCrashFS()
	s := openFS(t, f)
	for i := range uint64(4) {
		c, _ := storetest.Chunk(i, 300)
		if _, err := s.Put(t.Context(), []chunk.Encoded{c}); err != nil {
			t.Fatal(err)
		}
	}
	all := places(t, s)
	whole := slices.Clone(f.names[packName(1)].data)
	count := func(data []byte) int {
		t.Helper()
		f.names[packName(1)].data = slices.Clone(data)
		for _, o := range []Options{{ReadOnly: true, FS: f.killed()}, {FS: f.killed()}} {
			s, err := openAs("store", o)
			if err != nil {
				t.Fatalf("%d bytes: %v", len(data), err)
			}
			got := places(t, s)
			for _, it := range got {
				if !slices.Contains(all, it) {
					t.Fatalf("%d bytes: a chunk that never was: %+v", len(data), it)
				}
			}
			for _, it := range got {
				if err := s.Get(t.Context(), []chunk.ID{it.id}, func(c chunk.Encoded) error {
					_, err := chunk.Decode(c, nil)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if !o.ReadOnly {
				n := len(got)
				for name := range f.names { // begin again
					if strings.HasPrefix(name, indexDir+"/") || strings.HasPrefix(name, packsDir+"/") {
						delete(f.names, name)
					}
				}
				f.names[packName(1)] = &inode{}
				return n
			}
		}
		return 0
	}
	for n := range whole {
		want := 0
		for _, it := range all {
			if it.end() <= int64(n) {
				want++
			}
		}
		if got := count(whole[:n]); got != want {
			t.Fatalf("cut at %d: %d chunks, want %d", n, got, want)
		}
	}
	for off := range whole {
		b := slices.Clone(whole)
		b[off] ^= 0x40
		want := len(all)
		if off >= packHead {
			want--
		}
		if got := count(b); got != want {
			t.Fatalf("damaged at %d: %d chunks, want %d", off, got, want)
		}
	}
	if got := count(append(slices.Clone(whole), make([]byte, 5000)...)); got != len(all) {
		t.Errorf("zeros at the end: %d chunks", got)
	}
}

// TestRecordInsideChunk captures a disk that holds a pack: what looks like a record in a chunk's data is none, unless
// it is a chunk indeed.
func TestRecordInsideChunk(t *testing.T) {
	fake, _ := form{}.appendRecord(nil, chunk.Encoded{ID: chunk.Sum([]byte("name of something else")), RawLen: 5, Data: []byte("virus")})
	raw := append(append(make([]byte, 100), fake...), storetest.Bytes(0, 300)...)
	c := chunk.Encoded{ID: chunk.Sum(raw), RawLen: uint32(len(raw)), Data: raw}
	pack := form{}.appendPackHead(nil, 1, uid{1}, uid{2}, 0)
	at := len(pack)
	pack, _ = form{}.appendRecord(pack, c)
	sc, err := form{}.scan(bytes.NewReader(pack), 1, int64(len(pack)))
	if err != nil || len(sc.items) != 1 || sc.items[0].id != c.ID {
		t.Fatalf("whole: %+v, %v", sc, err)
	}
	pack[at+recordHead+250] ^= 1 // damages the chunk around it
	sc, err = form{}.scan(bytes.NewReader(pack), 1, int64(len(pack)))
	if err != nil || len(sc.items) != 0 || len(sc.damaged) == 0 {
		t.Errorf("damaged: %+v, %v", sc, err)
	}
}

func TestLock(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{})
	if _, err := openAs(path, Options{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("opened twice for writing: %v", err)
	}
	r := open(t, path, Options{ReadOnly: true})
	if _, err := r.Put(t.Context(), nil); err == nil {
		t.Error("a reader may put")
	}
	if _, err := r.Publish(t.Context(), "x", revs[0].ID); err == nil {
		t.Error("a reader may publish")
	}
	// The reader sees what is published after it was opened, with its chunks.
	m, err := storetest.Image(t.Context(), s, 9, func(piece int) uint64 { return uint64(7000 + piece) })
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(t.Context(), "late", id); err != nil {
		t.Fatal(err)
	}
	rev, err := store.Find(t.Context(), r, "late", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, es := entries(t, r, rev); len(es) == 0 {
		t.Error("no entries")
	}
	if v, err := store.Verify(t.Context(), r, m, nil); err != nil || !v.OK() {
		t.Errorf("verify: %+v, %v", v, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	home := t.TempDir()
	if _, err := openAs(home, Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no store: %v", err)
	}
	if _, err := openAs(home+"/none", Options{ReadOnly: true, Create: true}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no folder: %v", err)
	}
	if err := os.WriteFile(home+"/thesis.txt", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openAs(home, Options{Create: true}); err == nil || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("a folder with files: %v", err)
	}
	if list, err := os.ReadDir(home); err != nil || len(list) != 1 {
		t.Errorf("something was made there: %v, %v", list, err)
	}
	path, _ := filled(t)
	b, err := os.ReadFile(path + "/format.json")
	if err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{`"version": `: `"version": 3`, "blake3": "sha256", "mimeo-store": "other"} {
		if err := os.WriteFile(path+"/format.json", bytes.Replace(b, []byte(from), []byte(to), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openAs(path, Options{}); err == nil {
			t.Errorf("%s: opened", to)
		}
	}
}

func TestStats(t *testing.T) {
	path, _ := filled(t)
	s := open(t, path, Options{})
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var bytes int64
	files, err := filepath.Glob(filepath.Join(path, packsDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	if st.Packs != len(files) || st.PackBytes != bytes || st.Images != 2 || st.Revisions != 2 || st.Chunks != 22 || st.Raw != 20*4096+2*12*manifest.EntrySize {
		t.Errorf("got %+v; %d packs of %d bytes", st, len(files), bytes)
	}
}

func FuzzScan(f *testing.F) {
	pack := form{}.appendPackHead(nil, 1, uid{1}, uid{2}, 0)
	for i := range uint64(3) {
		c, _ := storetest.Chunk(i, 200)
		pack, _ = form{}.appendRecord(pack, c)
	}
	f.Add(pack)
	f.Add(pack[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := form{}.scan(bytes.NewReader(b), 1, int64(len(b)))
		if err != nil {
			t.Fatal(err) // the file can be read, so nothing in it is a reason to stop
		}
		end := int64(0)
		for _, it := range s.items {
			if int64(it.off) < end || it.end() > int64(len(b)) {
				t.Fatalf("chunk at %d to %d, after %d, of %d bytes", it.off, it.end(), end, len(b))
			}
			end = it.end()
			if _, err := it.parse(form{}, b[it.off:it.end()], nil); err != nil {
				t.Fatal(err)
			}
		}
		if s.end < end || s.end > int64(len(b)) {
			t.Fatalf("the end is %d", s.end)
		}
	})
}

func FuzzIndexFile(f *testing.F) {
	c, _ := storetest.Chunk(1, 200)
	f.Add(encodeIndex(1, uid{1}, 1000, 0, []indexed{{c.ID, loc{pack: 1, off: 64, stored: 50, raw: 200, codec: chunk.Zstd}}}), int64(1000))
	f.Fuzz(func(t *testing.T, b []byte, length int64) {
		id, items, err := form{}.parseIndex(b, 1, length)
		if err != nil {
			// Give it a hash that matches, and look at what is behind that.
			if len(b) < indexSum {
				return
			}
			body := b[:len(b)-indexSum]
			sum := chunk.Sum(body)
			b = append(slices.Clone(body), sum[:]...)
			if id, items, err = (form{}).parseIndex(b, 1, length); err != nil {
				return
			}
		}
		end := int64(0)
		for _, it := range items {
			if int64(it.off) < end || it.end() > length || it.raw > chunk.MaxLen {
				t.Fatalf("%+v of %d", it, length)
			}
			end = it.end()
		}
		again := encodeIndex(1, id, length, indexEffort(b), items)
		if _, back, err := (form{}).parseIndex(again, 1, length); err != nil || !slices.Equal(back, items) {
			t.Fatalf("written and read again: %v", err)
		}
	})
}
