package blake3

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

// every calls f with each kernel that this processor has, and with none.
func every(f func(name string, k *kernel)) {
	had := best
	best = nil
	f("plain", nil)
	best = had
	for _, k := range kernels() {
		f(k.name, &k)
	}
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// TestSums takes pieces of many lengths, alone and in company of all kinds.
func TestSums(t *testing.T) {
	b := noise(4<<20, 1)
	lens := []int{0, 1, 63, 64, 512, 1023, 1024, 1025, 1536, 2048, 2049, 65536, 1 << 20, 1<<20 + 1024, 4 << 20}
	for n := 2; n < 70; n++ {
		lens = append(lens, n*1024)
	}
	rnd := rand.New(rand.NewPCG(1, 1))
	every(func(name string, k *kernel) {
		h := Hasher{kernel: k}
		check := func(lens []int) {
			t.Helper()
			var pieces [][]byte
			for _, n := range lens {
				at := rnd.IntN(len(b) - n + 1)
				pieces = append(pieces, b[at:at+n])
			}
			sums := make([][32]byte, len(pieces))
			h.Sums(pieces, sums)
			for i, p := range pieces {
				if sums[i] != Sum(p) {
					t.Fatalf("%s: piece %d, %d bytes: %x, want %x; lengths %v", name, i, len(p), sums[i], Sum(p), lens)
				}
			}
		}
		for _, n := range lens {
			check([]int{n})
		}
		check(nil)
		check(lens)
		for range 300 {
			some := make([]int, rnd.IntN(40))
			for i := range some {
				some[i] = lens[rnd.IntN(len(lens)-3)]
			}
			check(some)
		}
	})
}

// The hash of nothing, and of the first 2048 bytes of the test vectors that BLAKE3's authors publish.
func TestVectors(t *testing.T) {
	in := make([]byte, 2048)
	for i := range in {
		in[i] = byte(i % 251)
	}
	every(func(name string, k *kernel) {
		h, sums := Hasher{kernel: k}, make([][32]byte, 9)
		h.Sums([][]byte{in, in, in, in, in, in, in, in, nil}, sums)
		for i, s := range sums {
			want := "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a"
			if i == 8 {
				want = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
			}
			if fmt.Sprintf("%x", s) != want {
				t.Errorf("%s: sum %d is %x", name, i, s)
			}
		}
	})
}

func FuzzSums(f *testing.F) {
	f.Add([]byte("seed"), uint16(4), uint16(8))
	f.Fuzz(func(t *testing.T, b []byte, n, step uint16) {
		all := bytes.Repeat(b, 1+(128<<10)/max(len(b), 1))
		var pieces [][]byte
		for len(all) > 0 && len(pieces) < 100 {
			l := min(int(n)*512, len(all))
			pieces, all, n = append(pieces, all[:l]), all[l:], (n+step)%64
		}
		every(func(name string, k *kernel) {
			h, sums := Hasher{kernel: k}, make([][32]byte, len(pieces))
			h.Sums(pieces, sums)
			for i, p := range pieces {
				if sums[i] != Sum(p) {
					t.Fatalf("%s: piece %d of %d bytes", name, i, len(p))
				}
			}
		})
	})
}

// BenchmarkSums hashes 1 MiB in pieces of a length, next to one after the other.
func BenchmarkSums(b *testing.B) {
	data := noise(1<<20, 1)
	for _, n := range []int{4 << 10, 10 << 10, 16 << 10, 64 << 10, 1 << 20} {
		var pieces [][]byte
		for rest := data; len(rest) >= n; rest = rest[n:] {
			pieces = append(pieces, rest[:n])
		}
		sums := make([][32]byte, len(pieces))
		b.Run(fmt.Sprintf("one/%d", n), func(b *testing.B) {
			b.SetBytes(int64(n * len(pieces)))
			for b.Loop() {
				for i, p := range pieces {
					sums[i] = Sum(p)
				}
			}
		})
		for _, k := range kernels() {
			b.Run(fmt.Sprintf("%s/%d", k.name, n), func(b *testing.B) {
				b.SetBytes(int64(n * len(pieces)))
				h := Hasher{kernel: &k}
				for b.Loop() {
					h.Sums(pieces, sums)
				}
			})
		}
	}
}
