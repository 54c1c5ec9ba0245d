package hfsplus

import "fmt"

const (
	nodeHead   = 14
	kindLeaf   = 0xff
	kindHeader = 1
	minNode    = 512
	maxNode    = 32768
)

// eachRecord calls f with the key and the rest of each record of a tree, in order (TN1150, B-Trees). The length of the key is
// not part of it. It reads the chain of leaves, whose nodes and records the tree's header counts.
func (fs *filesystem) eachRecord(name string, f fork, pieces []area, each func(key, rest []byte) error) error {
	if f.blocks == 0 {
		return nil
	}
	length := int64(min(f.size, uint64(f.blocks*fs.block)))
	readAt := func(b []byte, off int64) error {
		if off < 0 || off+int64(len(b)) > length {
			return damaged("%s has %d bytes and a node at byte %d", name, length, off)
		}
		for _, p := range pieces {
			if n := p.n * fs.block; off >= n {
				off -= n
				continue
			}
			n := min(int64(len(b)), p.n*fs.block-off)
			if err := fs.read(b[:n], p.at*fs.block+off); err != nil {
				return fmt.Errorf("read %s: %w", name, err)
			}
			if b, off = b[n:], 0; len(b) == 0 {
				return nil
			}
		}
		return damaged("%s ends within a node", name)
	}
	b := make([]byte, minNode)
	if err := readAt(b, 0); err != nil {
		return err
	}
	root, records := be.Uint32(b[16:]), int64(be.Uint32(b[20:]))
	node, last, size, total := int64(be.Uint32(b[24:])), int64(be.Uint32(b[28:])), int64(be.Uint16(b[32:])), int64(be.Uint32(b[36:]))
	if b[8] != kindHeader || size < minNode || size > maxNode || size&(size-1) != 0 || total > length/size {
		return damaged("%s: a header that makes no sense", name)
	}
	if (root == 0) != (node == 0) || (root == 0) != (records == 0) {
		return damaged("%s: %d records, the first in node %d, root %d", name, records, node, root)
	}
	b = make([]byte, size)
	for before, left := int64(0), total; node != 0; left-- {
		if left <= 0 || node >= total {
			return damaged("%s: node %d of %d, or too many of them", name, node, total)
		}
		if err := readAt(b, node*size); err != nil {
			return err
		}
		next, n := int64(be.Uint32(b)), int64(be.Uint16(b[10:]))
		if b[8] != kindLeaf || b[9] != 1 || int64(be.Uint32(b[4:])) != before || n == 0 || nodeHead+2*(n+1) > size || (next == 0) != (node == last) {
			return damaged("%s: node %d is no leaf, or not where it must be", name, node)
		}
		for i := range n {
			from, to := int64(be.Uint16(b[size-2*i-2:])), int64(be.Uint16(b[size-2*i-4:]))
			if i == 0 && from != nodeHead || from+2 > to || to > size-2*(n+1) {
				return damaged("%s: record %d of node %d lies from byte %d to %d", name, i, node, from, to)
			}
			r := b[from:to]
			keyEnd := 2 + int(be.Uint16(r))
			if keyEnd+keyEnd%2 > len(r) {
				return damaged("%s: record %d of node %d has a key of %d bytes", name, i, node, keyEnd-2)
			}
			if err := each(r[2:keyEnd], r[keyEnd+keyEnd%2:]); err != nil {
				return err
			}
		}
		records -= n
		before, node = node, next
	}
	if records != 0 {
		return damaged("%s: %d records are missing", name, records)
	}
	return nil
}
