package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/storetest"
)

// loose publishes a revision of text whose chunks are stored raw and by S2, in several short packs.
func loose(t *testing.T, s *Store, image string, pieces int) (store.Revision, []byte) {
	t.Helper()
	enc := chunk.NewEncoder()
	r := rand.New(rand.NewPCG(uint64(pieces), 7))
	var disk []byte
	put := func(raw []byte, codec chunk.Codec) chunk.ID {
		e := enc.Encode(chunk.Sum(raw), raw, nil, codec)
		if _, err := s.Put(t.Context(), []chunk.Encoded{e}); err != nil {
			t.Fatal(err)
		}
		return e.ID
	}
	w := manifest.NewSegmentWriter(func(_ chunk.ID, raw []byte) error { put(raw, chunk.Raw); return nil })
	words := strings.Fields("the node boots from its disk and mounts what the profile asks for by NFS then runs scripts of all groups")
	for i := range pieces {
		var b bytes.Buffer
		for b.Len() < 6000 {
			fmt.Fprintf(&b, "%s %d\n", words[r.IntN(len(words))], r.IntN(1000))
		}
		raw := b.Bytes()
		if err := w.Add(manifest.Entry{Off: int64(len(disk)), Len: int64(len(raw)), ID: put(raw, chunk.Codec(2*(i%2)))}); err != nil {
			t.Fatal(err)
		}
		disk = append(disk, raw...)
	}
	content, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Stage(t.Context(), &manifest.Manifest{Version: manifest.Version, Hash: "blake3", Created: storetest.Created, Source: manifest.Source{Agent: "test", Arch: "amd64"},
		Disk: manifest.Disk{Size: int64(len(disk)), SectorSize: 512}, Table: manifest.Table{Kind: "none"}, Content: content})
	if err != nil {
		t.Fatal(err)
	}
	rev, err := s.Publish(t.Context(), image, id)
	if err != nil {
		t.Fatal(err)
	}
	return rev, disk
}

func packFiles(t *testing.T, path string) (n int, size int64) {
	t.Helper()
	list, err := filepath.Glob(path + "/packs/*.pack")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	return len(list), size
}

// TestRepack makes a store smaller, which another program reads as before; a second time there is nothing to do.
func TestRepack(t *testing.T) {
	path := t.TempDir() + "/store"
	var rev store.Revision
	var disk []byte
	for i := range 3 { // three processes, so that packs are short
		s, err := openAs(path, Options{Create: true, PackSize: 400_000})
		if err != nil {
			t.Fatal(err)
		}
		rev, disk = loose(t, s, "disk", 20+10*i)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	n, before := packFiles(t, path)
	if n != 3 {
		t.Fatalf("%d packs", n)
	}
	s := open(t, path, Options{PackSize: 400_000})
	dry, err := s.Repack(t.Context(), RepackOptions{DryRun: true})
	if err != nil || dry.Packs != 3 || dry.Bytes != before || dry.Chunks == 0 || dry.Freed < before/3 {
		t.Fatalf("%+v, %v", dry, err)
	}
	if _, now := packFiles(t, path); now != before {
		t.Error("a dry run changed something")
	}
	var told int64
	r, err := s.Repack(t.Context(), RepackOptions{Progress: func(done, total int64) { told = total - done }})
	if err != nil || len(r.Problems) > 0 || r.Packs != 3 || r.Level != DefaultLevel || r.Chunks < 50 || told != 0 {
		t.Fatalf("%+v, %v, %d bytes were not told", r, err, told)
	}
	n, after := packFiles(t, path)
	if n != 1 || after != r.After || before-after != r.Freed {
		t.Errorf("%d packs, %d bytes of %d: %+v", n, after, before, r)
	}
	if off := dry.After - after; off < -after/5 || off > after/5 {
		t.Errorf("it was said that %d bytes would be left, and %d are", dry.After, after)
	}
	again := func(s *Store) {
		t.Helper()
		r, err := s.Repack(t.Context(), RepackOptions{})
		if err != nil || r.Packs != 0 {
			t.Errorf("once more: %+v, %v", r, err)
		}
	}
	again(s)
	if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() || len(r.Notes) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, without := range []string{"", "/index"} { // what was tried is known from the pack's head as well
		if without != "" {
			if err := os.RemoveAll(path + without); err != nil {
				t.Fatal(err)
			}
		}
		s, err := openAs(path, Options{PackSize: 400_000})
		if err != nil {
			t.Fatal(err)
		}
		again(s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if secret.IsZero() {
		out := filepath.Join(t.TempDir(), "disk.img")
		if msg, err := exec.Command("/usr/bin/python3", "-B", "testdata/restore.py", path, "disk", fmt.Sprint(rev.Rev), out).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, msg)
		}
		if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, disk) {
			t.Errorf("%d bytes that differ, %v", len(got), err)
		}
	}
}

// TestRepackBeside repacks while others read and write, and is ended in the middle.
func TestRepackBeside(t *testing.T) {
	path := t.TempDir() + "/store"
	s := open(t, path, Options{Create: true, PackSize: 100_000})
	rev, _ := loose(t, s, "disk", 100)
	reader := open(t, path, Options{ReadOnly: true})
	whole := func(s *Store) {
		t.Helper()
		m, err := s.Manifest(t.Context(), rev.ID)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := store.Verify(t.Context(), s, m, nil); err != nil || !v.OK() {
			t.Fatalf("%+v, %v", v, err)
		}
	}
	whole(reader)
	stop := errors.New("enough")
	calls := 0
	_, err := s.Repack(t.Context(), RepackOptions{Level: 3, Pause: func(context.Context) error {
		if calls++; calls == 4 {
			return stop
		}
		whole(s)
		if _, err := storetest.Image(t.Context(), s, 3, func(i int) uint64 { return uint64(1000*calls + i) }); err != nil {
			t.Error(err)
		}
		return nil
	}})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
	whole(s)
	whole(reader)
	before, _ := packFiles(t, path)
	r, err := s.Repack(t.Context(), RepackOptions{Level: 3})
	if err != nil || len(r.Problems) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	whole(s)
	whole(reader)
	if n, _ := packFiles(t, path); n >= before {
		t.Errorf("%d packs, %d before", n, before)
	}
	if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestRepackDamaged leaves a pack where it is that holds a chunk which is damaged.
func TestRepackDamaged(t *testing.T) {
	path := t.TempDir() + "/store"
	s, err := openAs(path, Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	rev, _ := loose(t, s, "disk", 10)
	_, es := entries(t, s, rev)
	l, _ := s.index.get(es[4].ID)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	flip(t, path+"/"+packName(l.pack), int64(l.off)+recordHead+20)
	s = open(t, path, Options{})
	r, err := s.Repack(t.Context(), RepackOptions{})
	if err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], packName(l.pack)) {
		t.Errorf("%+v, %v", r, err)
	}
	c, err := s.Check(t.Context(), true, nil)
	if err != nil || c.Damaged != 1 || len(c.Revisions) != 1 || c.Revisions[0].Damaged != 1 {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestPowerCutRepack cuts the power, or kills the program, at every single change that a Repack makes.
func TestPowerCutRepack(t *testing.T) {
	base, promises := newCrashFS(), nothing()
	first, err := openAs("store", Options{Create: true, PackSize: smallPack / 3, FS: base})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		r := publish(t, first, "one", 9, func(piece int) uint64 { return uint64(100*i + 3*piece) })
		promises.revs[r.Rev], promises.given[r.Rev] = r.ID, r.ID
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	compact := func(s *Store) error {
		_, err := s.Repack(t.Context(), RepackOptions{Level: 1})
		return err
	}
	clean := base.cut(nil)
	s := openFS(t, clean)
	if err := compact(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := len(packsIn(clean.cut(nil)))
	if have := len(packsIn(base)); want >= have {
		t.Fatalf("%d packs of %d", want, have)
	}
	for crashAt := 1; crashAt <= clean.ops; crashAt++ {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%d at %d", seed, crashAt), func(t *testing.T) {
				f := base.cut(nil)
				f.crashAt = crashAt
				s, err := openAs("store", Options{PackSize: smallPack, FS: f})
				if err == nil {
					if err = compact(s); err == nil {
						err = s.Close()
					}
				}
				if err != nil && !errors.Is(err, errCrashed) {
					t.Fatal(err)
				}
				after := f.killed()
				if seed > 0 {
					r := rand.New(rand.NewPCG(seed, uint64(crashAt)))
					if seed == 1 {
						r = nil
					}
					after = f.cut(r)
				}
				p := promises.clone()
				readOnly(t, after, p)
				s = openFS(t, after)
				kept(t, s, p)
				if err := compact(s); err != nil {
					t.Fatal(err)
				}
				kept(t, s, p)
				if r, err := s.Check(t.Context(), true, nil); err != nil || !r.OK() {
					t.Fatalf("%+v, %v", r, err)
				}
				if err := work(t.Context(), s, p, 1); err != nil {
					t.Fatal(err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = openFS(t, after.cut(nil))
				kept(t, s, p)
			})
		}
	}
}

// packsIn lists the packs of a store.
func packsIn(f *crashFS) (names []string) {
	for name := range f.names {
		if strings.HasSuffix(name, ".pack") {
			names = append(names, name)
		}
	}
	return names
}
