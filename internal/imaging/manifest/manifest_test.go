package manifest

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"mimeo/internal/imaging/chunk"
)

func example() *Manifest {
	return &Manifest{
		Version: Version, Hash: "blake3", Created: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600)),
		Source: Source{Node: "n01", Job: "17", Agent: "mimeo-agent 1.0", Arch: "amd64"},
		Disk:   Disk{Size: 10 << 30, SectorSize: 512, PhysicalSector: 4096, Model: "QEMU <HARDDISK>", Serial: "S1", WWN: "0x5000"},
		Table: Table{Kind: "gpt", ID: "6f0d4c1e-7a9b-4a52-9a4e-2f9c5b1d3e77", Partitions: []Partition{
			{Number: 1, Off: 1 << 20, Len: 1 << 30, Type: "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", Name: "EFI"},
			{Number: 2, Off: 2 << 30, Len: 8 << 30, Type: "0fc63daf-8483-4772-8e79-3d69d8477de4", Attrs: 4},
		}},
		Volumes: []Volume{
			{Partition: 1, Off: 1 << 20, Len: 1 << 30, Type: "vfat", Method: MethodWhole, Reason: "no reader for vfat", Used: 1 << 30},
			{Partition: 2, Off: 2 << 30, Len: 8 << 30, Type: "ext4", UUID: "u", Label: "root & home", BlockSize: 4096, Method: MethodUsed, Used: 5 << 30},
		},
		Content: Content{Segments: []Segment{{ID: chunk.Sum([]byte("s")), Len: 2 * EntrySize}}, Entries: 2, Used: 8192, Zero: 4096, Chunks: 1},
	}
}

// TestGolden holds the bytes of format 1 fast: what was written once stays readable, under the same ID.
func TestGolden(t *testing.T) {
	b, err := Encode(example())
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/v1.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("got\n%s\nwant\n%s", b, want)
	}
	m, err := Decode(want)
	if err != nil {
		t.Fatal(err)
	}
	if !m.Created.Equal(example().Created) || m.Disk != example().Disk || !slices.Equal(m.Volumes, example().Volumes) {
		t.Errorf("came back as %+v", m)
	}
	const id = "1b2297f8b0962832ed0e103afc84c2e68275b3bd17eee1df40f75b1ae13d5251"
	if got := Sum(want).String(); got != id {
		t.Errorf("ID %s, want %s", got, id)
	}
}

func TestEncodeRepairsText(t *testing.T) {
	m := example()
	m.Volumes[1].Label = "caf\xe9 \u2028 <&>"
	m.Warnings = []string{"\xff"}
	b, err := Encode(m)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if got.Volumes[1].Label != "caf\ufffd \u2028 <&>" {
		t.Errorf("label came back as %q", got.Volumes[1].Label)
	}
	if m.Volumes[1].Label != "caf\xe9 \u2028 <&>" {
		t.Error("Encode changed its argument")
	}
}

func TestCheck(t *testing.T) {
	for name, spoil := range map[string]func(*Manifest){
		"version":          func(m *Manifest) { m.Version = 2 },
		"hash":             func(m *Manifest) { m.Hash = "md5" },
		"no time":          func(m *Manifest) { m.Created = time.Time{} },
		"no disk":          func(m *Manifest) { m.Disk.Size = 0 },
		"sector":           func(m *Manifest) { m.Disk.SectorSize = 520 },
		"table":            func(m *Manifest) { m.Table.Kind = "apm" },
		"no table":         func(m *Manifest) { m.Table.Kind = "none" },
		"partition twice":  func(m *Manifest) { m.Table.Partitions[1].Number = 1 },
		"partition beyond": func(m *Manifest) { m.Table.Partitions[1].Len = math.MaxInt64 },
		"partition before": func(m *Manifest) { m.Table.Partitions[0].Off = -512 },
		"volume beyond":    func(m *Manifest) { m.Volumes[1].Off = 9 << 30 },
		"volume overlaps":  func(m *Manifest) { m.Volumes[0].Len = 3 << 30 },
		"volume unsorted":  func(m *Manifest) { slices.Reverse(m.Volumes) },
		"volume nowhere":   func(m *Manifest) { m.Volumes[1].Partition = 3 },
		"volume used":      func(m *Manifest) { m.Volumes[1].Used = 9 << 30 },
		"method":           func(m *Manifest) { m.Volumes[0].Method = "some" },
		"type":             func(m *Manifest) { m.Volumes[0].Type = " " },
		"segment length":   func(m *Manifest) { m.Content.Segments[0].Len++ },
		"segment too long": func(m *Manifest) { m.Content.Segments[0].Len = MaxSegment + EntrySize },
		"entries":          func(m *Manifest) { m.Content.Entries++ },
		"chunks":           func(m *Manifest) { m.Content.Chunks = 3 },
		"used":             func(m *Manifest) { m.Content.Used = 11 << 30 },
		"zero":             func(m *Manifest) { m.Content.Zero = 8193 },
	} {
		m := example()
		spoil(m)
		if _, err := Encode(m); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestDecodeIsStrict(t *testing.T) {
	b, err := Encode(example())
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	for name, text := range map[string]string{
		"empty":         "",
		"space":         " " + s,
		"no newline":    strings.TrimSpace(s),
		"unknown field": strings.Replace(s, `{"version":1,`, `{"version":1,"new":2,`, 1),
		"field twice":   strings.Replace(s, `"hash":"blake3",`, `"hash":"blake3","hash":"blake3",`, 1),
		"case":          strings.Replace(s, `"hash"`, `"Hash"`, 1),
		"null":          strings.Replace(s, `"segments":[`, `"segments":null,"x":[`, 1),
		"zone":          strings.Replace(s, "Z\"", "+00:00\"", 1),
		"escape":        strings.Replace(s, "n01", `\u006e01`, 1),
		"trailing":      s + s,
	} {
		if text == s {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := Decode([]byte(text)); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
	later := strings.Replace(s, `"version":1`, `"version":2`, 1)
	if _, err := Decode([]byte(later)); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
}

func TestEntryRecord(t *testing.T) {
	e := Entry{Off: 0x0102030405060708, Len: 0x20000, ID: chunk.Sum([]byte("e"))}
	b := AppendEntry(nil, e)
	if got, want := hex.EncodeToString(b), "0807060504030201"+"0000020000000000"+e.ID.String(); got != want {
		t.Errorf("record is %s, want %s", got, want)
	}
	z := AppendEntry(nil, Entry{Off: 1, Len: 1 << 40, Zero: true, ID: e.ID})
	if got, want := hex.EncodeToString(z), "0100000000000000"+"0000000000010080"+strings.Repeat("00", 32); got != want {
		t.Errorf("record of zeros is %s, want %s", got, want)
	}
	for name, bad := range map[string][]byte{
		"short":          b[:47],
		"offset":         append([]byte{0, 0, 0, 0, 0, 0, 0, 0x80}, b[8:]...),
		"empty":          AppendEntry(nil, Entry{Off: 1, ID: e.ID}),
		"too long":       AppendEntry(nil, Entry{Off: 1, Len: chunk.MaxLen + 1, ID: e.ID}),
		"past the end":   AppendEntry(nil, Entry{Off: math.MaxInt64, Len: 1, ID: e.ID}),
		"zeros and name": append(slices.Clone(z[:16]), b[16:]...),
	} {
		if got, err := DecodeEntry(bad); err == nil {
			t.Errorf("%s: decoded as %+v", name, got)
		}
	}
}

// shelf is the smallest store that an EntryReader can read.
type shelf map[chunk.ID][]byte

func (s shelf) emit(id chunk.ID, raw []byte) error { s[id] = slices.Clone(raw); return nil }

func (s shelf) Get(_ context.Context, ids []chunk.ID, fn func(chunk.Encoded) error) error {
	for _, id := range ids {
		if s[id] == nil {
			return errors.New("not on the shelf")
		}
		if err := fn(chunk.Encoded{ID: id, RawLen: uint32(len(s[id])), Codec: chunk.Raw, Data: s[id]}); err != nil {
			return err
		}
	}
	return nil
}

func TestSegments(t *testing.T) {
	s := shelf{}
	w := NewSegmentWriter(s.emit)
	var want []Entry
	add := func(e Entry) {
		t.Helper()
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
		want = append(want, e)
	}
	// More small entries in one stretch of the disk than fit into a segment, then some far apart.
	for i := range int64(MaxSegment/EntrySize + 10) {
		add(Entry{Off: i * 4096, Len: 4096, ID: chunk.Sum([]byte{byte(i)})})
	}
	add(Entry{Off: segmentSpan, Len: 5 * segmentSpan, Zero: true})
	add(Entry{Off: 6 * segmentSpan, Len: 1, ID: chunk.Sum(nil)})
	for _, bad := range []Entry{{Off: 6 * segmentSpan, Len: 1, Zero: true}, {Off: 7 * segmentSpan, Zero: true}, {Off: 7 * segmentSpan, Len: chunk.MaxLen + 1}} {
		if err := w.Add(bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	m := example()
	var err error
	if m.Content, err = w.Close(); err != nil {
		t.Fatal(err)
	}
	var lens []int
	for _, seg := range m.Content.Segments {
		lens = append(lens, seg.Len/EntrySize)
	}
	if !slices.Equal(lens, []int{MaxSegment / EntrySize, 10, 1, 1}) {
		t.Errorf("segments of %v entries", lens)
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
	var got []Entry
	for e, err := range Entries(t.Context(), s, m) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d entries came back, want %d", len(got), len(want))
	}
	for range Entries(t.Context(), s, m) {
		break // a reader may stop early
	}
}

func TestEntryReaderRefuses(t *testing.T) {
	a, b, c := Entry{Off: 0, Len: 4096, ID: chunk.Sum([]byte("a"))}, Entry{Off: 4096, Len: 4096, Zero: true}, Entry{Off: 4095, Len: 1, Zero: true}
	good := Content{Entries: 2, Used: 8192, Zero: 4096, Chunks: 1}
	for name, tc := range map[string]struct {
		entries []Entry
		change  func(*Manifest, shelf)
		want    error
	}{
		"good":         {[]Entry{a, b}, nil, nil},
		"order":        {[]Entry{b, a}, nil, ErrContent},
		"overlap":      {[]Entry{a, c}, nil, ErrContent},
		"totals":       {[]Entry{a, b}, func(m *Manifest, _ shelf) { m.Content.Chunks = 2 }, ErrContent},
		"beyond":       {[]Entry{a, b}, func(m *Manifest, _ shelf) { m.Disk.Size = 8191 }, ErrContent},
		"length":       {[]Entry{a, b}, func(m *Manifest, _ shelf) { m.Content.Segments[0].Len = EntrySize }, ErrContent},
		"damaged":      {[]Entry{a, b}, func(m *Manifest, s shelf) { s[m.Content.Segments[0].ID][5] ^= 1 }, ErrContent},
		"missing":      {[]Entry{a, b}, func(m *Manifest, s shelf) { clear(s) }, io.EOF}, // any other error
		"no such size": {[]Entry{a, b}, func(m *Manifest, _ shelf) { m.Content.Segments[0].Len = 1 << 40 }, ErrContent},
	} {
		s, m := shelf{}, example()
		var raw []byte
		for _, e := range tc.entries {
			raw = AppendEntry(raw, e)
		}
		id := chunk.Sum(raw)
		if err := s.emit(id, raw); err != nil {
			t.Fatal(err)
		}
		m.Content = good
		m.Content.Segments = []Segment{{ID: id, Len: len(raw)}}
		if tc.change != nil {
			tc.change(m, s)
		}
		var err error
		for _, e := range Entries(t.Context(), s, m) {
			err = e
		}
		switch tc.want {
		case nil:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case io.EOF:
			if err == nil || errors.Is(err, ErrContent) {
				t.Errorf("%s: %v", name, err)
			}
		default:
			if !errors.Is(err, tc.want) {
				t.Errorf("%s: got %v, want %v", name, err, tc.want)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "rocky9", "Windows-11_edu.2", "9", strings.Repeat("x", MaxName)} {
		if err := ValidName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a@1", "a\x00", "é", "a\n", strings.Repeat("x", MaxName+1)} {
		if ValidName(bad) == nil {
			t.Errorf("%q is said to be a name", bad)
		}
	}
	for ref, want := range map[string]int{"a": 0, "a@1": 1, "rocky9@37": 37} {
		if name, rev, err := ParseRef(ref); err != nil || rev != want || name == "" {
			t.Errorf("%s: %s, %d, %v", ref, name, rev, err)
		}
	}
	for _, bad := range []string{"a@", "a@0", "a@-1", "a@+1", "a@01", "a@1@2", "@1", "a@99999999999"} {
		if _, _, err := ParseRef(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(example())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Encode(m)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%q was read and written as %q, %v", b, again, err)
		}
	})
}

func FuzzEntries(f *testing.F) {
	raw := AppendEntry(nil, Entry{Off: 0, Len: 4096, ID: chunk.Sum([]byte("a"))})
	f.Add(AppendEntry(raw, Entry{Off: 4096, Len: 1 << 30, Zero: true}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = raw[:len(raw)/EntrySize*EntrySize]
		if len(raw) == 0 || len(raw) > MaxSegment {
			return
		}
		s, m := shelf{}, example()
		id := chunk.Sum(raw)
		_ = s.emit(id, raw)
		m.Content = Content{Segments: []Segment{{ID: id, Len: len(raw)}}, Entries: int64(len(raw) / EntrySize)}
		var back []byte
		var end int64
		for e, err := range Entries(context.Background(), s, m) {
			if err != nil {
				return
			}
			if e.Off < end || e.Len <= 0 || e.Off > m.Disk.Size-e.Len {
				t.Fatalf("%+v after %d on a disk of %d", e, end, m.Disk.Size)
			}
			end = e.Off + e.Len
			back = AppendEntry(back, e)
		}
		if !bytes.Equal(back, raw) {
			t.Fatalf("%x was read and written as %x", raw, back)
		}
	})
}
