package shrink

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sync"
	"syscall"

	"mimeo/internal/imaging/chunk"
)

const (
	blockLen  = 4096
	leafLen   = 512 // blocks of a leaf: 2 MiB of the disk
	slabLen   = 256 // blocks of a piece of memory
	recentLen = 1 << 18
)

// ErrScratch says that what was written did not fit into the memory that it may take.
var ErrScratch = errors.New("the memory for what a shrink changes is used up")

// overlay is a disk that can be written to and never is: what is written is kept in memory. A block that holds what some
// block of the disk holds, as one that was moved, takes eight bytes and no copy. Its methods may be called from several
// goroutines.
type overlay struct {
	src   io.ReaderAt
	size  int64
	limit int64 // bytes of memory

	mu     sync.Mutex
	leaves map[int64]*[leafLen]entry
	slabs  [][]byte
	free   []int64 // slots of slabs that are not used any more
	slots  int64   // that were ever used

	seed   maphash.Seed
	recent []seen // by the low bits of the hash: blocks of the disk that were read
}

// entry says where a block is: kind in its two lowest bits, number above.
type entry int64

const (
	same  = iota // as on the disk, at its place
	zero         // all zero
	moved        // another block of the disk
	kept         // a slot of memory
)

func (e entry) kind() int     { return int(e & 3) }
func (e entry) nr() int64     { return int64(e >> 2) }
func at(k int, n int64) entry { return entry(n<<2 | int64(k)) }

type seen struct {
	hash  uint64
	block int64 // of the disk, and one; 0 means none
}

func newOverlay(src io.ReaderAt, size, limit int64) *overlay {
	return &overlay{src: src, size: size, limit: limit, leaves: map[int64]*[leafLen]entry{}, seed: maphash.MakeSeed(), recent: make([]seen, recentLen)}
}

func (o *overlay) get(block int64) entry {
	if l := o.leaves[block/leafLen]; l != nil {
		return l[block%leafLen]
	}
	return 0
}

// used is how much memory is taken.
func (o *overlay) used() int64 {
	return int64(len(o.leaves))*(leafLen*8+64) + int64(len(o.slabs))*slabLen*blockLen
}

// set says where a block is from now on.
func (o *overlay) set(block int64, e entry) error {
	l := o.leaves[block/leafLen]
	if l == nil {
		if e == 0 {
			return nil
		}
		if o.used() > o.limit {
			return fmt.Errorf("%w (%d MiB): %w", ErrScratch, o.limit>>20, syscall.ENOSPC)
		}
		l = new([leafLen]entry)
		o.leaves[block/leafLen] = l
	}
	if old := l[block%leafLen]; old.kind() == kept && old != e {
		o.free = append(o.free, old.nr())
	}
	l[block%leafLen] = e
	return nil
}

func (o *overlay) slot(n int64) []byte {
	return o.slabs[n/slabLen][n%slabLen*blockLen:][:blockLen]
}

// keep puts a block's bytes into memory.
func (o *overlay) keep(block int64, b []byte) error {
	if e := o.get(block); e.kind() == kept {
		copy(o.slot(e.nr()), b)
		return nil
	}
	var n int64
	switch {
	case len(o.free) > 0:
		n = o.free[len(o.free)-1]
		o.free = o.free[:len(o.free)-1]
	default:
		if o.slots == int64(len(o.slabs))*slabLen {
			if o.used()+slabLen*blockLen > o.limit {
				return fmt.Errorf("%w (%d MiB): %w", ErrScratch, o.limit>>20, syscall.ENOSPC)
			}
			o.slabs = append(o.slabs, make([]byte, slabLen*blockLen))
		}
		n = o.slots
		o.slots++
	}
	copy(o.slot(n), b)
	return o.set(block, at(kept, n))
}

// load reads one block, all of it; what lies behind the end of the disk is zero.
func (o *overlay) load(block int64, b []byte) error {
	switch e := o.get(block); e.kind() {
	case zero:
		clear(b)
	case kept:
		copy(b, o.slot(e.nr()))
	case moved:
		return o.source(e.nr(), b)
	default:
		return o.source(block, b)
	}
	return nil
}

// source reads a block of the disk.
func (o *overlay) source(block int64, b []byte) error {
	off := block * blockLen
	n := min(int64(len(b)), o.size-off)
	clear(b[n:])
	if got, err := o.src.ReadAt(b[:n], off); int64(got) < n {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read %d bytes at offset %d of the disk: %w", n, off, err)
	}
	return nil
}

// remember notes what a block of the disk holds.
func (o *overlay) remember(block int64, b []byte) {
	h := maphash.Bytes(o.seed, b)
	o.recent[h%recentLen] = seen{h, block + 1}
}

// known finds a block of the disk that holds b.
func (o *overlay) known(b []byte) (int64, bool) {
	h := maphash.Bytes(o.seed, b)
	s := o.recent[h%recentLen]
	if s.hash != h || s.block == 0 {
		return 0, false
	}
	var have [blockLen]byte
	if o.source(s.block-1, have[:]) != nil || !bytes.Equal(have[:], b) {
		return 0, false
	}
	return s.block - 1, true
}

// ReadAt implements io.ReaderAt.
func (o *overlay) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= o.size {
		return 0, io.EOF
	}
	var end error
	if int64(len(b)) > o.size-off {
		b, end = b[:o.size-off], io.EOF
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for done := 0; done < len(b); {
		at := off + int64(done)
		block, skip := at/blockLen, at%blockLen
		// A stretch of blocks that lie together on the disk is read at once.
		if from, n, ok := o.stretch(block, at, int64(len(b)-done)); ok {
			part := b[done : done+int(n)]
			if got, err := o.src.ReadAt(part, from); got < len(part) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return done + got, fmt.Errorf("read %d bytes at offset %d of the disk: %w", len(part), from, err)
			}
			if o.recent != nil {
				for i := (blockLen - from%blockLen) % blockLen; i+blockLen <= n; i += blockLen {
					o.remember((from+i)/blockLen, part[i:i+blockLen])
				}
			}
			done += int(n)
			continue
		}
		var one [blockLen]byte
		if err := o.load(block, one[:]); err != nil {
			return done, err
		}
		done += copy(b[done:], one[skip:])
	}
	return len(b), end
}

// stretch returns where on the disk the n bytes at off begin, and how many of them lie together there.
func (o *overlay) stretch(block, off, n int64) (from, count int64, ok bool) {
	place := func(block int64) (int64, bool) {
		switch e := o.get(block); e.kind() {
		case same:
			return block, true
		case moved:
			return e.nr(), (e.nr()+1)*blockLen <= o.size
		}
		return 0, false
	}
	first, ok := place(block)
	if !ok {
		return 0, 0, false
	}
	skip := off % blockLen
	count = min(blockLen-skip, n)
	for i := int64(1); count < n; i++ {
		if p, ok := place(block + i); !ok || p != first+i {
			break
		}
		count = min(count+blockLen, n)
	}
	return first*blockLen + skip, count, true
}

// WriteAt implements io.WriterAt.
func (o *overlay) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || int64(len(b)) > o.size-off {
		return 0, fmt.Errorf("write %d bytes at offset %d of a disk of %d", len(b), off, o.size)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for done := 0; done < len(b); {
		at := off + int64(done)
		block, skip := at/blockLen, at%blockLen
		n := min(blockLen-skip, int64(len(b)-done))
		part := b[done : done+int(n)]
		if n < blockLen {
			var one [blockLen]byte
			if err := o.load(block, one[:]); err != nil {
				return done, err
			}
			copy(one[skip:], part)
			part = one[:]
		}
		if err := o.put(block, part); err != nil {
			return done, err
		}
		done += int(n)
	}
	return len(b), nil
}

// put writes a whole block.
func (o *overlay) put(block int64, b []byte) error {
	if chunk.IsZero(b) {
		return o.set(block, at(zero, 0))
	}
	if from, ok := o.known(b); ok {
		if from == block {
			return o.set(block, 0)
		}
		return o.set(block, at(moved, from))
	}
	return o.keep(block, b)
}

// move puts n bytes from off at another place, without a copy. Both and n are whole blocks but for the bytes around,
// which come along. What lies in between is to be moved in ascending order to lower places.
func (o *overlay) move(off, n, to int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	delta := (off - to) / blockLen
	if (off-to)%blockLen != 0 || delta < 0 {
		return fmt.Errorf("move %d bytes from offset %d to %d", n, off, to)
	}
	for block := off / blockLen; block*blockLen < off+n; block++ {
		e := o.get(block)
		switch e.kind() {
		case same:
			e = at(moved, block)
		case kept:
			var one [blockLen]byte
			copy(one[:], o.slot(e.nr()))
			if err := o.keep(block-delta, one[:]); err != nil {
				return err
			}
			continue
		}
		if err := o.set(block-delta, e); err != nil {
			return err
		}
	}
	return nil
}
