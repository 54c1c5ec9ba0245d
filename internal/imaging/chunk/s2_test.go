package chunk

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/klauspost/compress/s2"
	"pgregory.net/rapid"
)

// fenced returns n bytes that end where memory ends: a byte read or written behind them is a fault.
func fenced(t testing.TB, n int) []byte {
	t.Helper()
	page := os.Getpagesize()
	room := (n + page - 1) / page * page
	all, err := syscall.Mmap(-1, 0, room+page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Munmap(all) })
	if err := syscall.Mprotect(all[room:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	return all[room-n : room : room]
}

// fence is memory for blocks of all lengths up to max.
type fence struct{ src, dst []byte }

func newFence(t testing.TB, max int) fence {
	return fence{fenced(t, max), fenced(t, MaxEncodedLen(max))}
}

// pack encodes raw between the fences and returns the block; nil where it does not pay.
func (f fence) pack(e *s2Encoder, raw []byte) []byte {
	src := f.src[len(f.src)-len(raw):]
	copy(src, raw)
	return e.encode(f.dst[len(f.dst)-MaxEncodedLen(len(raw)):], src)
}

// judge says what is wrong with a block for raw.
func judge(t *rapid.T, raw, block []byte) {
	t.Helper()
	if block == nil {
		return
	}
	if len(block) > len(raw)-len(raw)/32 {
		t.Fatalf("%d bytes became %d, which saves too little", len(raw), len(block))
	}
	if got, err := s2.Decode(nil, block); err != nil || !bytes.Equal(got, raw) {
		t.Fatalf("%d bytes: decoded others, or: %v", len(raw), err)
	}
}

// mixture returns n bytes of noise, of runs, and of copies of what stands before, near and far, short and long.
func mixture(r *rand.Rand, n int) []byte {
	letters := byte(1)<<(1+r.IntN(7)) | 1
	var b []byte
	for len(b) < n {
		switch k := 1 + r.IntN(1<<(1+r.IntN(12))); {
		case r.IntN(3) == 0 || len(b) == 0:
			for range k {
				b = append(b, byte(r.Uint32())&letters)
			}
		case r.IntN(4) == 0:
			b = append(b, bytes.Repeat(b[len(b)-1:], k*16)...)
		default:
			back := 1 + r.IntN(min(len(b), 1<<(1+r.IntN(17))))
			for range k {
				b = append(b, b[len(b)-back])
			}
		}
	}
	return b[:n]
}

func TestS2Bounds(t *testing.T) {
	const most = 3 * pieceLen
	f := newFence(t, most)
	var enc s2Encoder
	packed := 0
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for range 3 {
			n := r.IntN(1 << (1 + r.IntN(17)))
			if r.IntN(8) == 0 {
				n = max(r.IntN(most/pieceLen+1)*pieceLen+r.IntN(100)-50, 0) // around the ends of pieces
			}
			raw := mixture(r, min(max(n, 1), most))
			block := f.pack(&enc, raw)
			judge(t, raw, block)
			packed += len(block)
		}
	})
	if packed == 0 {
		t.Error("nothing was ever compressed")
	}
}

func FuzzS2(f *testing.F) {
	f.Add([]byte("to be, or not to be: to be, or not to be: to be, or not to be: that is the question"))
	f.Add(bytes.Repeat([]byte{0}, 300))
	f.Add(mixture(rand.New(rand.NewPCG(1, 1)), 4000))
	fence := newFence(f, MaxLen)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > MaxLen {
			return
		}
		var enc s2Encoder
		block := fence.pack(&enc, raw)
		if block == nil {
			return
		}
		if got, err := s2.Decode(nil, block); err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%d bytes: decoded others, or: %v", len(raw), err)
		}
	})
}

// BenchmarkS2 compresses a program and texts, chunk by chunk, with our encoder and with s2's own.
func BenchmarkS2(b *testing.B) {
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		b.Fatal(err)
	}
	sources, err := filepath.Glob("../../*/*/*.go")
	if err != nil || len(sources) == 0 {
		b.Fatalf("sources: %v", err)
	}
	var text []byte
	for _, path := range sources {
		source, err := os.ReadFile(path)
		if err != nil {
			b.Fatal(err)
		}
		text = append(text, source...)
	}
	var enc s2Encoder
	for _, what := range []struct {
		name string
		all  []byte
	}{{"program", program}, {"text", text}} {
		for _, by := range []struct {
			name   string
			encode func(dst, src []byte) []byte
		}{{"own", enc.encode}, {"klauspost", s2.Encode}} {
			b.Run(what.name+"/"+by.name, func(b *testing.B) {
				dst, packed := make([]byte, MaxEncodedLen(DefaultSize)), 0
				b.SetBytes(int64(len(what.all)))
				for b.Loop() {
					packed = 0
					for raw := range slices.Chunk(what.all, DefaultSize) {
						block := by.encode(dst, raw)
						if block == nil {
							block = raw
						}
						packed += len(block)
					}
				}
				b.ReportMetric(float64(packed)/float64(len(what.all)), "packed/raw")
			})
		}
	}
}
