package fixed

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// samples returns a small image of each kind, with room behind it.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"a", "b/c", "b/d/e"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.Repeat([]byte(name), 3000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	img := filepath.Join(t.TempDir(), "img")
	out := map[string][]byte{}
	for kind, args := range map[string][]string{
		"squashfs": {"mksquashfs", dir, img, "-no-progress", "-quiet"},
		"erofs":    {"mkfs.erofs", img, dir},
		"iso9660":  {"genisoimage", "-quiet", "-R", "-J", "-b", "a", "-c", "boot.cat", "-no-emul-boot", "-o", img, dir},
	} {
		tool(t, args[0], args[1:]...)
		b, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		out[kind] = append(b, make([]byte, 600<<10)...)
		os.Remove(img)
	}
	return out
}

// sealErofs makes the superblock's checksum good again.
func sealErofs(b []byte) {
	block := slices.Clone(b[erofsOff:4096])
	clear(block[4:8])
	le.PutUint32(b[erofsOff+4:], ^crc32.Checksum(block, crc32.MakeTable(crc32.Castagnoli)))
}

// TestFlippedBits damages what says how long a filesystem is, bit by bit: the answer is the same, more, or that the volume
// must be captured whole.
func TestFlippedBits(t *testing.T) {
	for kind, b := range samples(t) {
		facts, _, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil || facts.Whole != "" {
			t.Fatalf("%s: %+v, %v", kind, facts, err)
		}
		n := int(facts.Len)
		var at []int
		add := func(from, to int) {
			for i := from; i < to; i++ {
				at = append(at, i)
			}
		}
		switch kind {
		case "squashfs":
			add(4, squashLen)
			add(n-40, n)
		case "erofs":
			add(erofsOff+4, erofsOff+erofsLen)
		case "iso9660":
			add(isoOff+80, isoOff+190)
			root := int(le.Uint32(b[isoOff+158:])) * isoSector
			add(root, root+100)
		}
		whole := 0
		for _, i := range at {
			for bit := range 8 {
				b[i] ^= 1 << bit
				damaged, used, err := Used(bytes.NewReader(b), int64(len(b)))
				b[i] ^= 1 << bit
				if err != nil {
					t.Fatalf("%s: bit %d of byte %d: %v", kind, bit, i, err)
				}
				if damaged.Whole != "" {
					whole++
				} else if used.Bytes() < facts.Len {
					t.Errorf("%s: bit %d of byte %d: %d bytes, not %d", kind, bit, i, used.Bytes(), facts.Len)
				}
			}
		}
		t.Logf("%s: %d flips, %d times whole", kind, 8*len(at), whole)
		if whole < len(at)/5 {
			t.Errorf("%s: only %d of %d flips were noticed", kind, whole, 8*len(at))
		}
	}
}

// TestWhole has what cannot be believed, or what came after.
func TestWhole(t *testing.T) {
	all := samples(t)
	for _, c := range []struct {
		kind, name, want string
		f                func(b []byte) []byte
	}{
		{"squashfs", "cut off", "the volume", func(b []byte) []byte { return b[:200] }},
		{"squashfs", "old version", "version 3.1", func(b []byte) []byte { b[28], b[30] = 3, 1; return b }},
		{"squashfs", "remnant", "table before", func(b []byte) []byte {
			clear(b[le.Uint64(b[48:])-20 : le.Uint64(b[48:])])
			return b
		}},
		{"erofs", "cut off", "the volume", func(b []byte) []byte { return b[:8192] }},
		{"erofs", "no checksum", "no checksum", func(b []byte) []byte { b[erofsOff+8] &^= erofsCompatSum; return b }},
		{"erofs", "other devices", "other devices", func(b []byte) []byte { b[erofsOff+86] = 1; sealErofs(b); return b }},
		{"erofs", "unknown feature", "0x80", func(b []byte) []byte { b[erofsOff+80] |= 0x80; sealErofs(b); return b }},
		{"erofs", "no root", "no folder", func(b []byte) []byte { b[erofsOff+14]++; sealErofs(b); return b }},
		{"iso9660", "cut off", "the volume", func(b []byte) []byte { return b[:40<<10] }},
		{"iso9660", "too short", "behind the end", func(b []byte) []byte {
			le.PutUint32(b[isoOff+80:], 24)
			be.PutUint32(b[isoOff+84:], 24)
			return b
		}},
		{"iso9660", "no end of descriptors", "there is none", func(b []byte) []byte {
			clear(b[isoOff+2*isoSector : isoOff+4*isoSector])
			return b
		}},
	} {
		t.Run(c.kind+" "+c.name, func(t *testing.T) {
			b := c.f(slices.Clone(all[c.kind]))
			facts, _, err := Used(bytes.NewReader(b), int64(len(b)))
			if err != nil || !strings.Contains(facts.Whole, c.want) || facts.Type != c.kind {
				t.Errorf("%+v, %v; want a word of %q", facts, err, c.want)
			}
		})
	}
	b := all["erofs"]
	copy(b[erofsOff+64:], "some label")
	sealErofs(b)
	if facts, _, err := Used(bytes.NewReader(b), int64(len(b))); err != nil || facts.Whole != "" || facts.Label != "some label" {
		t.Errorf("%+v, %v", facts, err)
	}
}

func TestMerge(t *testing.T) {
	for _, c := range []struct{ primary, joliet, want string }{
		{"DEBIAN 12.0.0 amd64 n", "DEBIAN 12.0.0 am", "DEBIAN 12.0.0 amd64 n"},
		{"_BERGR__EN_AND_MUCH_MORE", "ÜBERGRÖẞEN_AND_M", "ÜBERGRÖẞEN_AND_MUCH_MORE"},
		{"BERGR__EN", "ÜBERGRÖßEN", "ÜBERGRÖßEN"},
		{"A_C", "AßC", "AßC"},
		{"SHORT", "SHORT AND LONG", "SHORT AND LONG"},
	} {
		if got := merge(c.primary, c.joliet); got != c.want {
			t.Errorf("%q and %q: %q, want %q", c.primary, c.joliet, got, c.want)
		}
	}
}

// broken fails to read from an offset on.
type broken struct {
	io.ReaderAt
	from int64
}

var errBroken = errors.New("broken")

func (b broken) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > b.from {
		return 0, errBroken
	}
	return b.ReaderAt.ReadAt(p, off)
}

// TestReadErrors makes sure that a disk that cannot be read is an error, and no reason.
func TestReadErrors(t *testing.T) {
	for kind, b := range samples(t) {
		for _, from := range []int64{10, isoOff + isoSector - 1} {
			if facts, _, err := Used(broken{bytes.NewReader(b), from}, int64(len(b))); !errors.Is(err, errBroken) {
				t.Errorf("%s, from %d on: %+v, %v", kind, from, facts, err)
			}
		}
	}
}

// FuzzUsed writes anything into small filesystems. Used must not fail, hang, or say what cannot be.
func FuzzUsed(f *testing.F) {
	all := samples(f)
	kinds := []string{"squashfs", "erofs", "iso9660"}
	for i := range kinds {
		f.Add(byte(i), []byte{40, 0, 0, 1, 80, 0x80, 0, 1})
	}
	f.Fuzz(func(t *testing.T, kind byte, ops []byte) {
		name := kinds[int(kind)%len(kinds)]
		b := slices.Clone(all[name])
		for ; len(ops) >= 4; ops = ops[4:] {
			b[(int(ops[0])|int(ops[1])<<8|int(ops[2])<<16)%len(b)] = ops[3]
		}
		if name == "erofs" {
			sealErofs(b)
		}
		if !Is(b) {
			return
		}
		facts, used, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used.Bytes() != facts.Len || facts.Len > int64(len(b))) {
			t.Fatalf("%+v, %v of %d bytes", facts, used, len(b))
		}
	})
}
