package hfsplus

import (
	"testing"

	"mimeo/internal/imaging/fsmap/maptest"
)

// newfs makes an empty filesystem of size bytes, of which the last may be less than a block. No program of Debian's does.
func newfs(t testing.TB, size, block int64, sig string, embedded bool) string {
	t.Helper()
	const node, macTime = 4096, 0xe0000000
	b := make([]byte, size)
	blocks := size / block
	next := (headerOff + headerLen + block - 1) / block
	var taken [][2]int64
	take := func(n int64) int64 {
		taken = append(taken, [2]int64{next, n})
		next += n
		return next - n
	}
	h := b[headerOff:]
	copy(h, sig)
	h[3] = map[string]byte{"H+": 4, "HX": 5}[sig]
	be.PutUint32(h[4:], attrUnmounted)
	copy(h[8:], "10.0")
	for _, at := range []int{16, 20, 28} {
		be.PutUint32(h[at:], macTime)
	}
	be.PutUint32(h[40:], uint32(block))
	be.PutUint32(h[44:], uint32(blocks))
	be.PutUint32(h[56:], 65536)
	be.PutUint32(h[60:], uint32(block))
	be.PutUint32(h[64:], 16)
	copy(h[104:], "identity")
	file := func(at int, n int64) []byte {
		n = (n + block - 1) / block * block
		first := take(n / block)
		be.PutUint64(h[at:], uint64(n))
		be.PutUint32(h[at+8:], uint32(n))
		be.PutUint32(h[at+12:], uint32(n/block))
		be.PutUint32(h[at+16:], uint32(first))
		be.PutUint32(h[at+20:], uint32(n/block))
		return b[first*block:][:n]
	}
	bitmap := file(112, (blocks+7)/8)
	tree := func(at int, nodes int64, leaf bool, keyLen uint16, attr uint32) []byte {
		f := file(at, nodes*node)
		f[8] = kindHeader
		be.PutUint16(f[10:], 3)
		free := nodes - 1
		f[248] = 0x80
		if leaf {
			be.PutUint16(f[14:], 1)
			for _, at := range []int{16, 24, 28} {
				be.PutUint32(f[at:], 1)
			}
			be.PutUint32(f[20:], 2)
			free, f[248] = free-1, 0xc0
		}
		be.PutUint16(f[32:], node)
		be.PutUint16(f[34:], keyLen)
		be.PutUint32(f[36:], uint32(nodes))
		be.PutUint32(f[40:], uint32(free))
		be.PutUint32(f[46:], uint32(nodes*node))
		be.PutUint32(f[52:], attr)
		for i, off := range []uint16{14, 120, 248, node - 8} {
			be.PutUint16(f[node-2-2*i:], off)
		}
		return f[node:]
	}
	tree(192, 8, false, 10, 2)
	leaf := tree(272, 16, true, 516, 6)
	if sig == "HX" {
		b[next*block-16*node+51] = 0xbc // names are told apart by case
	}
	leaf[8], leaf[9] = kindLeaf, 1
	be.PutUint16(leaf[10:], 2)
	name := "Gruesse"
	off := uint16(nodeHead)
	record := func(i int, key, rest []byte) {
		be.PutUint16(leaf[node-2-2*i:], off)
		be.PutUint16(leaf[off:], uint16(len(key)))
		copy(leaf[off+2:], append(key, rest...))
		off += uint16(2 + len(key) + len(rest))
		be.PutUint16(leaf[node-4-2*i:], off)
	}
	str := func(b []byte) []byte {
		b = be.AppendUint16(b, uint16(len(name)))
		for _, c := range name {
			b = be.AppendUint16(b, uint16(c))
		}
		return b
	}
	folder := make([]byte, 88)
	folder[1], folder[11] = recordFolder, 2
	for at := 12; at < 32; at += 4 {
		be.PutUint32(folder[at:], macTime)
	}
	be.PutUint16(folder[42:], 0o40755)
	record(0, str([]byte{0, 0, 0, rootParent}), folder)
	record(1, []byte{0, 0, 0, 2, 0, 0}, str([]byte{0, 3, 0, 0, 0, 0, 0, rootParent}))

	// The copy of the header lies 1024 bytes before the end, which may be behind the last block.
	taken = append(taken, [2]int64{0, (headerOff + headerLen + block - 1) / block})
	if last := (size - endLen) / block; last < blocks {
		taken = append(taken, [2]int64{last, blocks - last})
	}
	free := blocks
	for _, r := range taken {
		free -= r[1]
		for i := r[0]; i < r[0]+r[1]; i++ {
			bitmap[i/8] |= 0x80 >> (i % 8)
		}
	}
	be.PutUint32(h[48:], uint32(free))
	be.PutUint32(h[52:], uint32(next))
	copy(b[size-endLen:], h[:headerLen])
	if embedded {
		b = wrap(b)
	}
	return maptest.Save(t, b)
}

// wrap puts a HFS around a filesystem.
func wrap(b []byte) []byte {
	const block, first = 8192, 8 << 10
	n := (len(b) + block - 1) / block
	out := make([]byte, first+(n+5)*block+endLen)
	copy(out[first+3*block:], b)
	h := out[headerOff:]
	copy(h, wrapperSig)
	be.PutUint16(h[10:], 0x8300) // unmounted, with bad blocks (those of the filesystem in it), locked
	be.PutUint16(h[14:], 3)
	be.PutUint16(h[18:], uint16(n+5))
	be.PutUint32(h[20:], block)
	be.PutUint16(h[28:], first/512)
	copy(h[36:], "\x07wrapper")
	copy(h[embeddedSig:], b[headerOff:headerOff+2])
	be.PutUint16(h[126:], 3)
	be.PutUint16(h[128:], uint16(n))
	copy(out[len(out)-endLen:], h[:headerLen])
	return out
}
