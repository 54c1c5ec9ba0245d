package dir

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"

	"mimeo/internal/imaging/chunk"
)

// loc says where a chunk's record lies.
type loc struct {
	pack   uint32
	off    uint32 // of the record's head, in bytes from the start of the pack
	stored uint32 // bytes of data
	raw    uint32 // bytes, at most chunk.MaxLen
	codec  chunk.Codec
}

// end returns the offset of the first byte after the record.
func (l loc) end() int64 { return int64(l.off) + recordHead + int64(l.stored) }

// item is an index entry: 52 bytes, without pointers, so that the garbage collector never looks at ten million of them.
type item struct {
	id       chunk.ID
	pack     uint32
	off      uint32
	stored   uint32
	rawCodec uint32 // raw length in the low 24 bits, codec above
	told     uint32 // the last epoch in which anybody was told that it is there; atomic under a read lock
}

const (
	slabBits = 12 // items of a slab: small enough to waste little, large enough to make few
	slabLen  = 1 << slabBits
	noSlot   = 0 // in table: never used
	gone     = 1 // in table: removed
	firstRef = 2 // in table: item number plus firstRef
)

// index finds chunks by name: items in slabs, which never move, and a hash table of item numbers with linear probing.
// At 10 million chunks that is 52 bytes for the item and 6 to 12 for its slot. It is not safe for concurrent use.
type index struct {
	seed  uint64 // so that nobody can choose names which all meet in one slot
	table []uint32
	slabs [][]item
	n     uint32   // items in use or free
	used  int      // slots that are not noSlot
	count int64    // chunks
	raw   int64    // bytes of all chunks, raw
	free  []uint32 // items to use again
}

func newIndex() *index { return &index{seed: rand.Uint64(), table: make([]uint32, 1<<10)} }

// slot returns the slot where the search for id begins. Names are hashes, so eight bytes of them spread evenly.
func (x *index) slot(id *chunk.ID) uint32 {
	h := (binary.LittleEndian.Uint64(id[:]) ^ x.seed) * 0x9e3779b97f4a7c15
	return uint32(h>>32) & uint32(len(x.table)-1)
}

func (x *index) item(n uint32) *item { return &x.slabs[n>>slabBits][n&(slabLen-1)] }

// find returns the slot of id, or false.
func (x *index) find(id *chunk.ID) (uint32, bool) {
	mask := uint32(len(x.table) - 1)
	for s := x.slot(id); ; s = (s + 1) & mask {
		switch ref := x.table[s]; ref {
		case noSlot:
			return 0, false
		case gone:
		default:
			if x.item(ref-firstRef).id == *id {
				return s, true
			}
		}
	}
}

func (x *index) get(id chunk.ID) (loc, bool) {
	s, ok := x.find(&id)
	if !ok {
		return loc{}, false
	}
	return x.item(x.table[s] - firstRef).loc(), true
}

func (it *item) loc() loc {
	return loc{pack: it.pack, off: it.off, stored: it.stored, raw: it.rawCodec & 0xffffff, codec: chunk.Codec(it.rawCodec >> 24)}
}

// put makes l the place of id, whether or not id was there, and told the epoch in which somebody was told of it, if that
// is later than what was known.
func (x *index) put(id chunk.ID, l loc, told uint32) {
	it := item{id: id, pack: l.pack, off: l.off, stored: l.stored, rawCodec: l.raw | uint32(l.codec)<<24, told: told}
	if s, ok := x.find(&id); ok {
		old := x.item(x.table[s] - firstRef)
		it.told = max(it.told, old.told)
		x.raw += int64(l.raw) - int64(old.rawCodec&0xffffff)
		*old = it
		return
	}
	if x.used >= len(x.table)/8*7 {
		x.rehash()
	}
	n := x.n
	if k := len(x.free); k > 0 {
		n, x.free = x.free[k-1], x.free[:k-1]
	} else {
		if x.n>>slabBits == uint32(len(x.slabs)) {
			x.slabs = append(x.slabs, make([]item, slabLen))
		}
		x.n++
	}
	*x.item(n) = it
	x.insert(n)
	x.count++
	x.raw += int64(l.raw)
}

// insert enters item n, which is not there, into the first slot that is free for it.
func (x *index) insert(n uint32) {
	mask := uint32(len(x.table) - 1)
	s := x.slot(&x.item(n).id)
	for x.table[s] >= firstRef {
		s = (s + 1) & mask
	}
	if x.table[s] == noSlot {
		x.used++
	}
	x.table[s] = n + firstRef
}

// tell notes that somebody is told of id in this epoch, and returns whether it is there. A read lock is enough.
func (x *index) tell(id *chunk.ID, epoch uint32) bool {
	s, ok := x.find(id)
	if !ok {
		return false
	}
	// Most are told of many times in an epoch: a write would take the line from other processors.
	if it := x.item(x.table[s] - firstRef); atomic.LoadUint32(&it.told) != epoch {
		atomic.StoreUint32(&it.told, epoch)
	}
	return true
}

// remove forgets id.
func (x *index) remove(id chunk.ID) {
	s, ok := x.find(&id)
	if !ok {
		return
	}
	n := x.table[s] - firstRef
	x.table[s] = gone
	x.count--
	x.raw -= int64(x.item(n).rawCodec & 0xffffff)
	*x.item(n) = item{}
	x.free = append(x.free, n)
}

// rehash makes the table twice as large, or only drops removed slots where that gives enough room.
func (x *index) rehash() {
	old, size := x.table, len(x.table)
	if x.count >= int64(size)/2 {
		size *= 2
	}
	x.table, x.used = make([]uint32, size), 0
	for _, ref := range old {
		if ref >= firstRef {
			x.insert(ref - firstRef)
		}
	}
}
