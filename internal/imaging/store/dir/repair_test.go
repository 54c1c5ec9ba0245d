package dir

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/store/storetest"
)

// TestRepair damages a store in every way at once, repairs it, and captures the same disks again.
func TestRepair(t *testing.T) {
	path := t.TempDir() + "/store"
	s, err := openAs(path, Options{Create: true, PackSize: smallPack})
	if err != nil {
		t.Fatal(err)
	}
	salt := func(image int) func(int) uint64 {
		return func(piece int) uint64 { return uint64(1000*image + 3*piece) }
	}
	for i, image := range []string{"a", "b", "c"} {
		publish(t, s, image, 12, salt(i+1))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openAs(path, Options{PackSize: smallPack}); err != nil {
		t.Fatal(err)
	}
	packOf := func(image, piece int) (string, int64) {
		t.Helper()
		l, ok := s.index.get(chunk.Sum(storetest.Bytes(salt(image)(piece), 4096)))
		if !ok {
			t.Fatal("no such chunk")
		}
		return filepath.Join(path, packName(l.pack)), int64(l.off)
	}
	// A chunk's data; a record's head in a pack whose index file is gone as well; a pack's own head; a whole pack.
	name, off := packOf(1, 1)
	flip(t, name, off+recordHead+9)
	name, off = packOf(2, 1)
	flip(t, name, off+5)
	if err := os.Remove(strings.Replace(strings.Replace(name, "packs", "index", 1), ".pack", ".idx", 1)); err != nil {
		t.Fatal(err)
	}
	name, _ = packOf(3, 6)
	flip(t, name, 20)
	lost, _ := packOf(2, 11)
	if other, _ := packOf(2, 1); other == lost {
		t.Fatal("one pack is all")
	}
	if err := os.Remove(lost); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, revName("c", 2, revExt)), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}

	before := disk(t, path)
	dry, err := s.Repair(t.Context(), true, nil)
	if err != nil || len(dry.Packs) != 3 || len(dry.Records) != 1 || dry.Lost < 3 || len(dry.Revisions) != 3 || disk(t, path) != before {
		t.Fatalf("%+v, %v", dry, err)
	}
	r, err := s.Repair(t.Context(), false, nil)
	if err != nil || r.Lost != dry.Lost || len(r.Packs) != 3 || r.Copied == 0 || len(r.Revisions) != 3 || len(r.Records) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, p := range r.Packs {
		if !strings.HasSuffix(p, damagedExt) {
			t.Errorf("%s is set aside", p)
		}
		if _, err := os.Stat(p); err != nil {
			t.Error(err)
		}
	}
	for _, v := range r.Revisions {
		if v.Missing == 0 || v.Damaged != 0 {
			t.Errorf("%+v", v)
		}
	}
	if u, err := s.Repair(t.Context(), false, nil); err != nil || len(u.Packs) != 0 || u.Lost != 0 || len(u.Records) != 0 {
		t.Errorf("a second time: %+v, %v", u, err)
	}
	// The next captures of the same disks heal all of it, and number 2 of c is not given again.
	for i, image := range []string{"a", "b", "c"} {
		if got := publish(t, s, image, 12, salt(i+1)); got.Rev != 1 {
			t.Errorf("%s", got)
		}
	}
	if got := publish(t, s, "c", 12, salt(4)); got.Rev != 3 {
		t.Errorf("%s", got)
	}
	for range 2 {
		if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() || len(r.Notes) != 3 || len(r.Revisions) != 4 {
			t.Fatalf("%+v, %v", r, err)
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

// TestRepairFindsCopy uses the copy of a chunk that lies in another pack, as one does after a clean-up that was cut off.
func TestRepairFindsCopy(t *testing.T) {
	path, revs := filled(t)
	s := open(t, path, Options{})
	_, es := entries(t, s, revs[0])
	victim := es[3].ID
	old, _ := s.index.get(victim)
	if all, err := s.move(t.Context(), []indexed{{victim, old}}); err != nil || !all {
		t.Fatal(all, err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	now, _ := s.index.get(victim)
	f, err := os.OpenFile(filepath.Join(path, packName(now.pack)), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{7}, 50), int64(now.off)+recordHead); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r, err := s.Repair(t.Context(), false, nil)
	if err != nil || r.Found != 1 || r.Lost != 0 || len(r.Revisions) != 0 || len(r.Packs) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if c, err := s.Check(t.Context(), true, nil); err != nil || !c.OK() {
		t.Errorf("%+v, %v", c, err)
	}
}
