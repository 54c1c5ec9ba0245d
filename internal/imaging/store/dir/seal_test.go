package dir

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/keys"
	"mimeo/internal/imaging/store/storetest"
)

func phrase(t *testing.T, text string) keys.Secret {
	t.Helper()
	s, err := keys.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sealedStore makes an encrypted store with a revision.
func sealedStore(t *testing.T) (path string, by keys.Secret, rev store.Revision) {
	t.Helper()
	file := t.TempDir() + "/store.key"
	if err := keys.NewFile(file); err != nil {
		t.Fatal(err)
	}
	by, err := keys.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	path = t.TempDir() + "/store"
	s, err := Open(path, Options{Create: true, PackSize: smallPack, Key: by})
	if err != nil {
		t.Fatal(err)
	}
	rev = publish(t, s, "a", 20, func(i int) uint64 { return uint64(3 * i) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, by, rev
}

// tree returns all files of a folder.
func tree(t *testing.T, path string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		all[strings.TrimPrefix(name, path+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestWrongKey opens stores with what does not fit: it says so, and changes nothing.
func TestWrongKey(t *testing.T) {
	path, by, _ := sealedStore(t)
	plain := t.TempDir() + "/plain"
	s, err := Open(plain, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, "a", 3, func(i int) uint64 { return uint64(i) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other := t.TempDir() + "/other.key"
	if err := keys.NewFile(other); err != nil {
		t.Fatal(err)
	}
	wrong, err := keys.Read(other)
	if err != nil {
		t.Fatal(err)
	}
	// A crash left something that opening would put in order.
	for _, p := range []string{path, plain} {
		if err := os.WriteFile(p+"/tmp/0123", []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		path string
		by   keys.Secret
		want error
	}{{path, keys.Secret{}, ErrNoKey}, {path, wrong, keys.ErrWrong}, {path, phrase(t, "correct horse"), keys.ErrWrong}, {plain, by, ErrPlain}} {
		for _, o := range []Options{{Key: c.by}, {Key: c.by, ReadOnly: true}, {Key: c.by, Create: true}} {
			before := tree(t, c.path)
			if s, err := Open(c.path, o); !errors.Is(err, c.want) {
				t.Errorf("%+v: %v, want %v", o, err, c.want)
				if err == nil {
					s.Close()
				}
			}
			after := tree(t, c.path)
			for name, text := range before {
				if after[name] != text {
					t.Errorf("%+v: %s was changed", o, name)
				}
			}
			if len(before) != len(after) {
				t.Errorf("%+v: %d files, %d before", o, len(after), len(before))
			}
		}
	}
	// The keys of another store, or none.
	if err := os.Rename(path+"/keys", path+"/elsewhere"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{Key: by}); err == nil || !strings.Contains(err.Error(), "its key is not in") {
		t.Errorf("without keys: %v", err)
	}
}

// TestNothingToSee looks for what a store must hide in all its files, and for each chunk but once.
func TestNothingToSee(t *testing.T) {
	path, by, rev := sealedStore(t)
	s := open(t, path, Options{Key: by})
	m, es := entries(t, s, rev)
	files := tree(t, path)
	looked := 0
	for _, e := range es {
		var raw []byte
		if e.Zero {
			continue
		}
		if err := s.Get(t.Context(), []chunk.ID{e.ID, e.ID}, func(c chunk.Encoded) (err error) {
			raw, err = chunk.Decode(c, nil)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for name, text := range files {
			for _, part := range [][]byte{e.ID[:8], raw[:min(16, len(raw))]} {
				if looked++; strings.Contains(text, string(part)) {
					t.Errorf("%s shows chunk %s", name, e.ID)
				}
			}
		}
	}
	for _, hidden := range []string{"disk_size", "segments", m.Source.Agent + `"`, e2s(m.Content.Segments[0].ID)} {
		for name, text := range files {
			if strings.Contains(text, hidden) {
				t.Errorf("%s shows %q", name, hidden)
			}
		}
	}
	if looked < 100 {
		t.Fatalf("looked at %d", looked)
	}
	before, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	again := publish(t, s, "b", 20, func(i int) uint64 { return uint64(3 * i) })
	after, err := s.Stats(t.Context())
	if err != nil || after.Chunks > before.Chunks+1 || again.Image != "b" { // the list of entries may differ
		t.Errorf("%d chunks, %d before, %v", after.Chunks, before.Chunks, err)
	}
}

func e2s(id chunk.ID) string { return id.String() }

// TestKeys adds and removes what opens a store.
func TestKeys(t *testing.T) {
	path, by, rev := sealedStore(t)
	s, err := Open(path, Options{Key: by})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	list, err := s.Keys(ctx, by)
	if err != nil || len(list) != 1 || list[0].Kind != "key" || !list[0].Used {
		t.Fatalf("%+v, %v", list, err)
	}
	first := list[0].ID
	if err := s.RemoveKey(ctx, first); err == nil || !strings.Contains(err.Error(), "last one") {
		t.Errorf("remove the last: %v", err)
	}
	pass := phrase(t, "correct horse battery")
	second, err := s.AddKey(ctx, pass)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveKey(ctx, "0000000000000000"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remove one that is not there: %v", err)
	}
	if err := s.RemoveKey(ctx, first); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, Options{Key: by}); !errors.Is(err, keys.ErrWrong) {
		t.Errorf("by the key that was removed: %v", err)
	}
	s = open(t, path, Options{Key: pass})
	if list, err := s.Keys(ctx, pass); err != nil || len(list) != 1 || list[0].ID != second || list[0].Kind != "passphrase" {
		t.Errorf("%+v, %v", list, err)
	}
	entries(t, s, rev)
	if r, err := s.Check(ctx, true, nil); err != nil || !r.OK() {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestSwapped puts sealed files in the place of others: they count under their own names only.
func TestSwapped(t *testing.T) {
	path, by, rev := sealedStore(t)
	s, err := Open(path, Options{Key: by, PackSize: smallPack})
	if err != nil {
		t.Fatal(err)
	}
	second := publish(t, s, "a", 20, func(i int) uint64 { return uint64(900 + 3*i) })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{revName("a", rev.Rev, revExt), revName("a", second.Rev, revExt)}, {manifestName(rev.ID), manifestName(second.ID)}} {
		a, err := os.ReadFile(path + "/" + pair[0])
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path + "/" + pair[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+"/"+pair[1], a, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(path, Options{Key: by})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := s.Check(t.Context(), false, nil); err == nil && r.OK() {
			t.Errorf("%s under the name of %s counts", pair[0], pair[1])
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+"/"+pair[1], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzScanSealed(f *testing.F) {
	key, err := keys.New()
	if err != nil {
		f.Fatal(err)
	}
	fm := form{key.Records}
	pack := fm.appendPackHead(nil, 1, uid{1}, uid{2}, 0)
	var ends []int
	for i := range uint64(3) {
		c, _ := storetest.Chunk(i, 200)
		if pack, err = fm.appendRecord(pack, c); err != nil {
			f.Fatal(err)
		}
		ends = append(ends, len(pack))
	}
	f.Add(pack)
	f.Add(pack[:100])
	f.Add(append(bytes.Clone(pack[:ends[0]+40]), pack[ends[1]:]...))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := fm.scan(bytes.NewReader(b), 1, int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		end := int64(0)
		for _, it := range s.items {
			if int64(it.off) < end || it.end() > int64(len(b)) {
				t.Fatalf("chunk at %d to %d, after %d, of %d bytes", it.off, it.end(), end, len(b))
			}
			end = it.end()
			rec := b[it.off:it.end()]
			c, err := it.parse(fm, rec, make([]byte, len(rec)))
			if err == nil {
				_, err = chunk.Decode(c, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if bytes.Equal(b, pack) && len(s.items) != 3 {
			t.Fatalf("%d records of 3", len(s.items))
		}
	})
}
