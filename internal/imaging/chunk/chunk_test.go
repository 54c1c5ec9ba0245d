package chunk

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"mimeo/internal/imaging/extent"
)

func TestSum(t *testing.T) {
	// Test vectors of the BLAKE3 reference implementation: input bytes 0, 1, …, 250, 0, …; first 32 bytes of output.
	for n, want := range map[int]string{
		0:    "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		1:    "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
		1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
	} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i % 251)
		}
		if got := Sum(b).String(); got != want {
			t.Errorf("%d bytes: got %s, want %s", n, got, want)
		}
		if id, err := ParseID(want); err != nil || id != Sum(b) {
			t.Errorf("ParseID(%s): %v, %v", want, id, err)
		}
	}
	for _, bad := range []string{"", "ab", string(make([]byte, 64)), hex.EncodeToString(make([]byte, 33))} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) is no error", bad)
		}
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 7, 8, 63, 64, 65, 4096, DefaultSize} {
		b := make([]byte, n)
		if !IsZero(b) {
			t.Errorf("%d zero bytes are not zero", n)
		}
		for _, i := range []int{0, 1, n / 3, n / 2, n - 2, n - 1} {
			if i < 0 || i >= n {
				continue
			}
			b[i] = 1
			if IsZero(b) {
				t.Errorf("%d bytes with a one at %d are zero", n, i)
			}
			b[i] = 0
		}
	}
}

// sample returns n bytes: random ones, or such that can be compressed.
func sample(n int, random bool) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(uint64(n), 7))
	for i := range b {
		b[i] = byte(r.Uint32())
		if !random {
			b[i] &= 3
		}
	}
	return b
}

func TestEncodeDecode(t *testing.T) {
	enc := NewEncoder()
	for _, n := range []int{1, 10, 1000, 4096, DefaultSize, MaxLen} {
		for _, random := range []bool{true, false} {
			for _, codec := range []Codec{Raw, Zstd, S2} {
				raw := sample(n, random)
				dst := make([]byte, 0, MaxEncodedLen(n))
				c := enc.Encode(Sum(raw), raw, dst, codec)
				if err := c.Check(); err != nil {
					t.Fatal(err)
				}
				if cap(dst) > 0 && &c.Data[:1][0] != &dst[:1][0] {
					t.Errorf("%d bytes by codec %d: MaxEncodedLen was not enough", n, codec)
				}
				if wantCodec := codec; !random && n >= 1000 && c.Codec != wantCodec {
					t.Errorf("%d bytes that can be compressed: codec %d, want %d", n, c.Codec, wantCodec)
				}
				if random && c.Codec != Raw {
					t.Errorf("%d random bytes: codec %d", n, c.Codec)
				}
				buf := make([]byte, 0, n)
				got, err := Decode(c, buf)
				if err != nil || !bytes.Equal(got, raw) {
					t.Fatalf("%d bytes by codec %d: %v", n, codec, err)
				}
				if &got[0] != &buf[:1][0] {
					t.Errorf("%d bytes by codec %d: decoded elsewhere than in dst", n, codec)
				}
				clear(raw)
				if IsZero(c.Data) {
					t.Errorf("codec %d shares memory with the raw bytes", codec)
				}
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	raw := sample(5000, false)
	bomb := make([]byte, MaxLen) // 4 MiB of zeros are a few hundred bytes
	z, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	if err != nil {
		t.Fatal(err)
	}
	good := NewEncoder().Encode(Sum(raw), raw, nil, Zstd)
	var stream bytes.Buffer // a frame that does not tell its length
	zw, err := zstd.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
		if _, err := zw.Write(bomb); err != nil {
			t.Fatal(err)
		}
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]Encoded{
		"zero length":      {good.ID, 0, Zstd, good.Data},
		"too long":         {good.ID, MaxLen + 1, Zstd, good.Data},
		"codec":            {good.ID, 5000, 3, good.Data},
		"shorter":          {good.ID, 4999, Zstd, good.Data},
		"longer":           {good.ID, 5001, Zstd, good.Data},
		"no data":          {good.ID, 5000, Zstd, nil},
		"data longer":      {good.ID, 10, Zstd, good.Data},
		"cut off":          {good.ID, 5000, Zstd, good.Data[:len(good.Data)-1]},
		"raw of 4999":      {good.ID, 5000, Raw, raw[:4999]},
		"zstd as s2":       {good.ID, 5000, S2, good.Data},
		"zstd bomb":        {good.ID, 5000, Zstd, z.EncodeAll(bomb, nil)},
		"zstd stream bomb": {good.ID, MaxLen, Zstd, stream.Bytes()},
		"s2 bomb":          {good.ID, 500_000, S2, s2.Encode(nil, bomb)},
		"s2 claims 4 GiB":  {good.ID, 5000, S2, append(binary.AppendUvarint(nil, 1<<32-1), raw[:100]...)},
	} {
		if _, err := Decode(c, nil); err == nil || errors.Is(err, ErrHash) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good.ID[3] ^= 1
	if _, err := Decode(good, nil); !errors.Is(err, ErrHash) {
		t.Errorf("wrong name: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	enc := NewEncoder()
	for _, codec := range []Codec{Raw, Zstd, S2} {
		c := enc.Encode(ID{}, sample(3000, false), nil, codec)
		f.Add(c.RawLen, byte(c.Codec), c.Data)
	}
	f.Add(uint32(0), byte(9), []byte(nil))
	f.Fuzz(func(t *testing.T, rawLen uint32, codec byte, data []byte) {
		c := Encoded{RawLen: rawLen, Codec: Codec(codec), Data: data}
		got, err := Decode(c, nil)
		if err == nil {
			t.Fatalf("%d bytes with the zero name were accepted", len(got))
		}
		if len(got) > 0 || cap(got) > MaxLen {
			t.Fatalf("%d bytes came with an error", len(got))
		}
	})
}

func FuzzDecodeOwn(f *testing.F) {
	f.Add([]byte("hello"), byte(1))
	f.Fuzz(func(t *testing.T, raw []byte, codec byte) {
		if len(raw) == 0 || len(raw) > MaxLen {
			return
		}
		c := NewEncoder().Encode(Sum(raw), raw, nil, Codec(codec%3))
		if got, err := Decode(c, nil); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("codec %d: %v", c.Codec, err)
		}
	})
}

func TestCutter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var used extent.List
		for range rapid.IntRange(0, 8).Draw(t, "extents") {
			used.Add(extent.Extent{Off: rapid.Int64Range(0, 400).Draw(t, "off"), Len: rapid.Int64Range(1, 120).Draw(t, "len")})
		}
		grids := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Grid {
			return Grid{Off: rapid.Int64Range(0, 500).Draw(t, "gridOff"), Origin: rapid.Int64Range(-50, 600).Draw(t, "origin"),
				Size: rapid.Int64Range(1, 64).Draw(t, "size")}
		}), 0, 5).Draw(t, "grids")
		slices.SortStableFunc(grids, func(a, b Grid) int { return int(a.Off - b.Off) })

		// A cut lies before each byte where the rules say so; pieces are what is between.
		cut := func(off int64) bool {
			g := Grid{Size: DefaultSize}
			for _, h := range grids {
				if h.Off == off {
					return true
				}
				if h.Off < off {
					g = h
				}
			}
			return (off-g.Origin)%g.Size == 0
		}
		var want []extent.Extent
		for _, e := range used {
			for off := e.Off; off < e.End(); off++ {
				if off == e.Off || cut(off) {
					want = append(want, extent.Extent{Off: off})
				}
				want[len(want)-1].Len++
			}
		}
		got := slices.Collect(NewCutter(used, each(grids)).All())
		if !slices.Equal(got, want) {
			t.Fatalf("used %v, grids %v:\n got %v\nwant %v", used, grids, got, want)
		}
	})
}

// each gives one grid after the other.
func each(grids []Grid) func() (Grid, bool) {
	return func() (g Grid, ok bool) {
		if len(grids) > 0 {
			g, ok, grids = grids[0], true, grids[1:]
		}
		return g, ok
	}
}

func TestCutterSizes(t *testing.T) {
	used := extent.List{{Off: 0, Len: 3 * MaxLen}}
	n := 0
	for p := range NewCutter(used, each([]Grid{{Size: 100 * MaxLen}})).All() {
		if n++; p.Len > MaxLen {
			t.Fatalf("a piece of %d bytes", p.Len)
		}
	}
	if n != 3 {
		t.Errorf("%d pieces, want 3", n)
	}
}

func BenchmarkSum(b *testing.B)  { bench(b, func(raw []byte) { Sum(raw) }) }
func BenchmarkZstd(b *testing.B) { benchEncode(b, Zstd) }
func BenchmarkIsZero(b *testing.B) {
	zero := make([]byte, DefaultSize)
	bench(b, func([]byte) { IsZero(zero) })
}

func BenchmarkDecodeZstd(b *testing.B) {
	raw := sample(DefaultSize, false)
	c := NewEncoder().Encode(Sum(raw), raw, nil, Zstd)
	dst := make([]byte, 0, len(raw))
	bench(b, func([]byte) {
		if _, err := Decode(c, dst); err != nil {
			b.Fatal(err)
		}
	})
}

func bench(b *testing.B, fn func(raw []byte)) {
	raw := sample(DefaultSize, false)
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		fn(raw)
	}
}

func benchEncode(b *testing.B, codec Codec) {
	enc, dst := NewEncoder(), make([]byte, 0, MaxEncodedLen(DefaultSize))
	bench(b, func(raw []byte) { enc.Encode(ID{}, raw, dst, codec) })
}
