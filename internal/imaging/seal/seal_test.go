package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/seal"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/store/storetest"
)

// sealed returns a seal and the disk that it is of.
func sealed(t testing.TB) (b, disk []byte) {
	t.Helper()
	s := mem.New()
	s.Sign = func(store.Revision) store.Signature { return store.Signature{Key: "k", Sig: "s"} }
	m, err := storetest.Image(t.Context(), s, 6, func(piece int) uint64 { return uint64(piece) })
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Stage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Publish(t.Context(), "debian12", id)
	if err != nil {
		t.Fatal(err)
	}
	disk = make([]byte, m.Disk.Size)
	for e, err := range manifest.Entries(t.Context(), s, m) {
		if err != nil {
			t.Fatal(err)
		}
		if !e.Zero {
			copy(disk[e.Off:], storetest.Bytes(uint64(e.Off/8192), int(e.Len)))
		}
	}
	var w bytes.Buffer
	if err := seal.Write(t.Context(), &w, s, r, m); err != nil {
		t.Fatal(err)
	}
	return w.Bytes(), disk
}

func check(t *testing.T, b, disk []byte, rest bool) error {
	t.Helper()
	s, err := seal.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	return s.Check(t.Context(), bytes.NewReader(disk), int64(len(disk)), rest, nil)
}

func TestCheck(t *testing.T) {
	b, disk := sealed(t)
	s, err := seal.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil || s.Revision.String() != "debian12@1" || len(s.Revision.Signatures) != 1 || s.Revision.Signatures[0].Key != "k" {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := check(t, b, disk, true); err != nil {
		t.Error(err)
	}
	var other *seal.OtherError
	for i := range disk {
		if i%997 != 0 && i != len(disk)-1 {
			continue
		}
		bad := slices.Clone(disk)
		bad[i] ^= 4
		if err := check(t, b, bad, true); !errors.As(err, &other) || int64(i) < other.Off || int64(i) >= other.Off+other.Len {
			t.Errorf("byte %d: %v", i, err)
		}
		used := i/4096%2 == 0 && i/4096 < 12
		if err := check(t, b, bad, false); (err != nil) != used {
			t.Errorf("byte %d on a disk: %v", i, err)
		}
	}
	for _, rest := range []bool{true, false} {
		if err := check(t, b, disk[:len(disk)-1], rest); !errors.As(err, &other) {
			t.Errorf("a disk that is too small: %v", err)
		}
		if err := check(t, b, append(slices.Clone(disk), make([]byte, 512)...), rest); err != nil {
			t.Errorf("a disk that was rounded up: %v", err)
		}
	}
	if err := check(t, b, append(slices.Clone(disk), 1), true); !errors.As(err, &other) {
		t.Errorf("a file with something behind the disk: %v", err)
	}
}

func TestDamagedSeal(t *testing.T) {
	b, disk := sealed(t)
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	head := func(change func(map[string]any)) []byte {
		var h map[string]any
		if err := json.Unmarshal(line, &h); err != nil {
			t.Fatal(err)
		}
		change(h)
		text, _ := json.Marshal(h)
		return append(append(text, '\n'), rest...)
	}
	for name, bad := range map[string][]byte{
		"empty":             nil,
		"no line":           line,
		"text":              []byte("hello\nworld\n"),
		"a long line":       append(bytes.Repeat([]byte(" "), 1<<16), b...),
		"another version":   head(func(h map[string]any) { h["version"] = 2 }),
		"another manifest":  head(func(h map[string]any) { h["id"] = chunk.Sum(nil).String() }),
		"no image":          head(func(h map[string]any) { h["image"] = "../x" }),
		"no revision":       head(func(h map[string]any) { h["rev"] = 0 }),
		"negative manifest": head(func(h map[string]any) { h["manifest"] = -5 }),
		"huge manifest":     head(func(h map[string]any) { h["manifest"] = 1 << 40 }),
		"cut off":           b[:len(b)-1],
		"longer":            append(slices.Clone(b), 0),
		"an entry changed":  append(slices.Clone(b[:len(b)-20]), append([]byte{b[len(b)-20] ^ 1}, b[len(b)-19:]...)...),
	} {
		if err := check(t, bad, disk, true); err == nil || !strings.Contains(err.Error(), "seal") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	b, disk := sealed(f)
	f.Add(b)
	f.Add(b[:200])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := seal.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_ = s.Check(t.Context(), bytes.NewReader(disk), int64(len(disk)), true, nil)
	})
}
