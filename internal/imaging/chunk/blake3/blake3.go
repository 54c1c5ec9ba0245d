// Package blake3 computes BLAKE3-256 of many pieces at once.
//
// A processor's vector unit compresses eight or sixteen blocks at a time. One piece of 4 KiB has too few chunks (BLAKE3's, of
// 1 KiB each) to fill it, and most pieces of a filesystem are small: here the chunks of several pieces lie in its lanes side
// by side. The document is "BLAKE3: one function, fast everywhere" (2020), sections 2.4, 2.5 and 5.3.
package blake3

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

const (
	chunkLen = 1024
	blockLen = 64

	// Flags of a compression (table 3).
	chunkStart = 1 << 0
	chunkEnd   = 1 << 1
	parent     = 1 << 2
	root       = 1 << 3
)

// Sum returns the hash of b.
func Sum(b []byte) [32]byte { return blake3.Sum256(b) }

// kernel compresses blocks of lanes that have nothing to do with each other; see lanes512.
type kernel struct {
	name  string
	lanes int // 8 or 16
	run   func(in *[16]*byte, blocks int, flags *[3][16]uint32, counters *[16]uint32, out *[8][16]uint32)
}

// Hasher computes many hashes, and keeps the memory for it. It is for one goroutine at a time. Its zero value is ready.
type Hasher struct {
	kernel *kernel // best where nil
	values []value // of one level of the trees
	above  []value // of the next one
	pieces []pending
	in     [16]*byte
	to     [16]*value
	flags  [3][16]uint32
	count  [16]uint32
	out    [8][16]uint32
	used   int // lanes
}

// value is a chaining value: the hash of a chunk or of a node above chunks.
type value = [32]byte

// pending is a piece, the chaining values of which are from at on, n of them.
type pending struct{ index, at, n int }

var best = func() *kernel {
	if list := kernels(); len(list) > 0 {
		return &list[0]
	}
	return nil
}()

// Sums sets sums[i] to the hash of pieces[i]; both have the same length.
func (h *Hasher) Sums(pieces [][]byte, sums [][32]byte) {
	k := h.kernel
	if k == nil {
		k = best
	}
	if k == nil {
		for i, b := range pieces {
			sums[i] = Sum(b)
		}
		return
	}
	h.pieces = h.pieces[:0]
	n := 0
	for i, b := range pieces {
		// A lone chunk is its own root, the last chunk of others is short, and a long piece fills eight lanes by itself.
		if len(b)%chunkLen != 0 || len(b) < 2*chunkLen || k.lanes == 8 && len(b) >= 32*chunkLen {
			sums[i] = Sum(b)
			continue
		}
		h.pieces = append(h.pieces, pending{index: i, at: n, n: len(b) / chunkLen})
		n += len(b) / chunkLen
	}
	if n < k.lanes/2 {
		for _, p := range h.pieces {
			sums[p.index] = Sum(pieces[p.index])
		}
		return
	}
	if len(h.values) < n {
		h.values, h.above = make([]value, n), make([]value, n)
	}

	for i := range h.flags[2] {
		h.flags[2][i] = chunkEnd
	}
	for _, p := range h.pieces {
		b := pieces[p.index]
		for i := range p.n {
			h.add(k, &b[i*chunkLen], chunkLen, chunkStart, uint32(i), &h.values[p.at+i])
		}
	}
	h.flush(k, chunkLen)

	// One level of each tree after the other: neighbours are joined, and the last one of an odd number moves up as it is.
	for level := h.pieces; len(level) > 0; {
		above := level[:0]
		for _, p := range level {
			v, up := h.values[p.at:p.at+p.n], h.above[p.at:]
			if p.n == 2 {
				h.add(k, &v[0][0], blockLen, parent|root, 0, &sums[p.index])
				continue
			}
			for j := range p.n / 2 {
				h.add(k, &v[2*j][0], blockLen, parent, 0, &up[j])
			}
			if p.n%2 == 1 {
				up[p.n/2] = v[p.n-1]
			}
			p.n = (p.n + 1) / 2
			above = append(above, p)
		}
		h.flush(k, blockLen)
		h.values, h.above, level = h.above, h.values, above
	}
}

// add takes n bytes from in on as the next lane; the last one that there is room for is compressed with all before it.
func (h *Hasher) add(k *kernel, in *byte, n int, flags, counter uint32, to *value) {
	h.in[h.used], h.flags[0][h.used], h.count[h.used], h.to[h.used] = in, flags, counter, to
	if h.used++; h.used == k.lanes {
		h.flush(k, n)
	}
}

// flush compresses the lanes that wait, n bytes each.
func (h *Hasher) flush(k *kernel, n int) {
	if h.used == 0 {
		return
	}
	for i := h.used; i < k.lanes; i++ {
		h.in[i] = h.in[0] // nobody asks for it
	}
	k.run(&h.in, n/blockLen, &h.flags, &h.count, &h.out)
	for i, to := range h.to[:h.used] {
		for w := range h.out {
			binary.LittleEndian.PutUint32(to[4*w:], h.out[w][i])
		}
	}
	h.used = 0
}
