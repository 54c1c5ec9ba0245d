package dir

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/keys"
	"mimeo/internal/imaging/store/storetest"
)

// TestReadByOther restores a disk with a program in another language that knows the pages in docs/formats and nothing
// else: from a store as it is, without index files, with a torn pack and with damage that costs this disk nothing.
func TestReadByOther(t *testing.T) {
	path := t.TempDir() + "/store"
	opens := ""
	if !secret.IsZero() {
		opens = filepath.Join(t.TempDir(), "passphrase")
		if err := os.WriteFile(opens, []byte("correct horse battery\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openAs(path, Options{Create: true, PackSize: 60_000})
	if err != nil {
		t.Fatal(err)
	}
	enc := chunk.NewEncoder()
	put := func(raw []byte, codec chunk.Codec) chunk.ID {
		e := enc.Encode(chunk.Sum(raw), raw, nil, codec)
		if _, err := s.Put(t.Context(), []chunk.Encoded{e}); err != nil {
			t.Fatal(err)
		}
		return e.ID
	}
	want := make([]byte, 1<<20)
	w := manifest.NewSegmentWriter(func(_ chunk.ID, raw []byte) error { put(raw, chunk.Zstd); return nil })
	codecs := make(map[chunk.Codec]int)
	off := int64(512)
	for i, n := range []int{1, 4096, 30_000, 1024, 1025, 9000, 64, 2048, 20_000, 3, 70_000, 40_000} {
		raw := storetest.Bytes(uint64(i), n)
		if i%4 != 1 && n > 2000 { // long runs and repeats, which S2 writes in ways of its own
			raw = bytes.Repeat(raw[:700], n/700+1)[:n]
			copy(raw[n/2:], strings.Repeat("mimeo", 200))
		}
		e := manifest.Entry{Off: off, Len: int64(n), ID: put(raw, chunk.Codec(i%3))}
		l, _ := s.index.get(e.ID)
		codecs[l.codec]++
		copy(want[off:], raw)
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
		off += int64(n)
		if err := w.Add(manifest.Entry{Off: off, Len: 5000, Zero: true}); err != nil {
			t.Fatal(err)
		}
		off += 5000 + 777
	}
	if len(codecs) != 3 {
		t.Fatalf("codecs: %v", codecs)
	}
	content, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Stage(t.Context(), &manifest.Manifest{Version: manifest.Version, Hash: "blake3", Created: time.Now().UTC(), Source: manifest.Source{Agent: "test", Arch: "amd64"},
		Disk: manifest.Disk{Size: int64(len(want)), SectorSize: 512}, Table: manifest.Table{Kind: "none"}, Content: content})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(t.Context(), "disk", id); err != nil {
		t.Fatal(err)
	}
	if opens != "" { // beside the key file
		by, err := keys.Read(opens)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.AddKey(t.Context(), by); err != nil {
			t.Fatal(err)
		}
	}
	// Two chunks more, the first of which gets damaged: what follows it counts only by its hash.
	first := put(storetest.Bytes(100, 700), chunk.Raw)
	put(storetest.Bytes(101, 700), chunk.Raw)
	l, _ := s.index.get(first)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	restore := func(what string) {
		t.Helper()
		out := filepath.Join(t.TempDir(), "disk.img")
		if msg, err := exec.Command("/usr/bin/python3", "-B", "testdata/restore.py", path, "disk", "1", out, opens).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", what, err, msg)
		}
		got, err := os.ReadFile(out)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes that differ, %v", what, len(got), err)
		}
	}
	restore("whole")
	if err := os.RemoveAll(filepath.Join(path, indexDir)); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(path, packName(l.pack)), int64(l.off)+recordHead+50)
	flip(t, filepath.Join(path, packName(1)), 20)
	f, err := os.OpenFile(filepath.Join(path, packName(l.pack)), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(append(slices.Clone(s.form.magic()), make([]byte, 3000)...)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	restore("damaged and torn")
}
