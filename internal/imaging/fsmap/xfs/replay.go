package xfs

import (
	"encoding/binary"
	"fmt"

	"mimeo/internal/imaging/extent"
)

// The items of the log are in the byte order of the machine that wrote them.
var le = binary.LittleEndian

// The log's numbers, of the kernel's xfs_log_format.h.
const (
	formatLinuxLE = 1 // of a record: written by Linux on a machine with the low byte first

	opStart, opCommit, opContinue, opWasCont, opEnd = 0x1, 0x2, 0x4, 0x8, 0x10

	transactionMagic = 0x5452414e // TRAN
	transactionHead  = 16         // bytes

	itemFree, itemFreed       = 0x1236, 0x1237 // extents to be freed, and that they were
	itemInode                 = 0x123b
	itemBuffer                = 0x123c
	itemQuota                 = 0x123d
	itemQuotaOff              = 0x123e
	itemNewInodes             = 0x123f
	itemOwn, itemOwned        = 0x1240, 0x1241 // owners of extents
	itemShare, itemShared     = 0x1242, 0x1243 // how often extents are shared
	itemMap, itemMapped       = 0x1244, 0x1245 // extents of files
	itemAttr, itemAttrDone    = 0x1246, 0x1247
	itemSwap, itemSwapped     = 0x1248, 0x1249 // extents of two files that change places
	bufferInodes              = 0x1            // only the links between deleted inodes are replayed
	bufferCancel              = 0x2            // what the log has of it must not be replayed
	bufferQuota               = 0x1c
	bufferChunk               = 128 // bytes that a bit speaks of
	bufferTree, bufferGroup   = 4, 5
	bufferKept, bufferHead    = 6, 18
	bufferKinds               = 20                 // higher ones are not known
	maxHeld, maxImages        = 64 << 20, 48 << 20 // bytes of transactions that are not committed yet, and of blocks that the log changes
	maxTouched, maxUnfinished = 1 << 21, 1 << 18
	maxCancels                = 1 << 20
	otherLen                  = 256 // bytes that are counted for a block of another tree
)

// replay is what recovery will do to the filesystem when it is mounted.
type replay struct {
	fs      *filesystem
	blocks  map[int64]*image // what it changes of headers of groups, lists of kept blocks, and trees of free space; by bytes of the volume
	size    int64            // bytes of all these
	touched []extent.Extent  // all that it reads, writes, or finishes

	cancels map[buffer]int               // how often each buffer is still to be cancelled
	intents map[intent][][]extent.Extent // what was begun and not finished; an ID may be used again
	begun   int                          // so many, and extents of these
}

// image is a block as it will be.
type image struct {
	b []byte // nil for a block of another tree
}

// buffer is a stretch of the volume that is logged as one.
type buffer struct{ off, n int64 }

// intent is something that is to be done, by the kind of its item.
type intent struct {
	kind uint16
	id   uint64
}

// overlay changes b, which was read at off, to what it will be. It tells whether there was something to change.
func (p *replay) overlay(b []byte, off int64) bool {
	if p == nil {
		return false
	}
	i := p.blocks[off]
	if i == nil || len(i.b) != len(b) {
		return false
	}
	copy(b, i.b)
	return true
}

// readLog reads what recovery will do. It follows Linux' xfs_log_recover.c, and where that would have to guess, or the log
// is not in perfect order, the answer is damage.
func (fs *filesystem) readLog() error {
	switch {
	case !fs.logV2:
		return damaged("its log was not replayed, and is of version 1: mount and unmount it once")
	case !fs.lazy:
		return damaged("its log was not replayed, and it counts free blocks in the log: mount and unmount it once")
	case fs.realtimeExt > 0:
		return damaged("its log was not replayed, and it has realtime files: mount and unmount it once")
	case fs.logNews&^logKnown != 0:
		return damaged("its log was not replayed, and has unknown features %#x", fs.logNews&^logKnown)
	}
	l := fs.ring()
	tail, head, err := l.live()
	if err != nil {
		return ofLog(err)
	}
	p := &replay{fs: fs, blocks: map[int64]*image{}, cancels: map[buffer]int{}, intents: map[intent][][]extent.Extent{}}
	p.touched = append(p.touched, fs.logExtent())
	for _, pass := range []func(*transaction) error{p.look, p.change} {
		s := &scanner{open: map[uint32]*transaction{}, commit: pass}
		if err := l.records(tail, head, s.record); err != nil {
			return ofLog(err)
		}
	}
	for _, list := range p.intents {
		for _, es := range list {
			p.touched = append(p.touched, es...)
		}
	}
	if err := p.checkSuper(); err != nil {
		return err
	}
	fs.log = p
	return nil
}

// look collects what is cancelled, what is begun, and where the log leads.
func (p *replay) look(t *transaction) error {
	for _, i := range t.items {
		if err := p.lookAt(i.regions[0]); err != nil {
			return err
		}
	}
	return nil
}

func (p *replay) lookAt(b []byte) error {
	fs := p.fs
	need := func(n int) error {
		if len(b) < n {
			return damaged("an item %#x of %d bytes", le.Uint16(b), len(b))
		}
		return nil
	}
	switch kind := le.Uint16(b); kind {
	case itemBuffer:
		f, err := fs.parseBuffer(b)
		if err != nil {
			return err
		}
		if f.flags&bufferCancel != 0 {
			if p.cancels[f.buffer]++; len(p.cancels) > maxCancels {
				return damaged("it cancels more than %d buffers", maxCancels)
			}
		}
		return p.touch(f.off, f.n)
	case itemInode:
		at := 40 // of the place; old systems of 32 bits left no gap before the number of the inode
		if len(b) == 52 {
			at = 36
		} else if len(b) != 56 {
			return damaged("an item of an inode with %d bytes", len(b))
		}
		return p.touchSectors(le.Uint64(b[at:]), le.Uint32(b[at+8:]))
	case itemQuota:
		if err := need(24); err != nil {
			return err
		}
		return p.touchSectors(le.Uint64(b[8:]), le.Uint32(b[16:]))
	case itemNewInodes:
		if err := need(28); err != nil {
			return err
		}
		group, at, n := be.Uint32(b[4:]), be.Uint32(b[8:]), be.Uint32(b[20:])
		if group >= fs.agCount || at >= fs.groupLen(group) || n == 0 || n > fs.groupLen(group)-at {
			return damaged("it makes inodes in %d blocks at block %d of group %d", n, at, group)
		}
		e := fs.bytes(group, agBlock(at), int64(n))
		return p.touch(e.Off, e.Len)
	case itemFree, itemOwn, itemShare, itemMap, itemAttr, itemSwap:
		if err := need(16); err != nil {
			return err
		}
		es, err := fs.intended(kind, b)
		if err != nil {
			return err
		}
		if p.begun += 1 + len(es); p.begun > maxUnfinished {
			return damaged("more than %d things were begun and not finished", maxUnfinished)
		}
		id := intent{kind, le.Uint64(b[8:])}
		p.intents[id] = append(p.intents[id], es)
		return nil
	case itemFreed, itemOwned, itemShared, itemMapped, itemAttrDone, itemSwapped:
		if err := need(16); err != nil {
			return err
		}
		id := intent{kind - 1, le.Uint64(b[8:])}
		list := p.intents[id]
		if len(list) > 0 {
			p.begun -= 1 + len(list[0])
		}
		if len(list) > 1 {
			p.intents[id] = list[1:]
		} else {
			delete(p.intents, id)
		}
		return nil
	case itemQuotaOff:
		return damaged("quotas were being turned off")
	default:
		return damaged("an item of an unknown kind, %#x", kind)
	}
}

// intended returns the extents of which an item says that something is to be done with them.
func (fs *filesystem) intended(kind uint16, b []byte) ([]extent.Extent, error) {
	n, unit, start := int64(le.Uint32(b[4:])), int64(16), 0
	length := 8
	switch kind {
	case itemAttr, itemSwap:
		return nil, nil // these name files
	case itemOwn, itemMap:
		unit, start, length = 32, 8, 24
	case itemFree:
		if int64(len(b)) == 16+12*n { // old systems of 32 bits
			unit = 12
		}
	}
	if int64(len(b)) < 16+unit*n {
		return nil, damaged("an item %#x of %d bytes for %d extents", kind, len(b), n)
	}
	var es []extent.Extent
	for b := b[16:][:unit*n]; len(b) > 0; b = b[unit:] {
		block, n := le.Uint64(b[start:]), le.Uint32(b[length:])
		group, at, ok := fs.split(block)
		if !ok || n == 0 || n > fs.groupLen(group)-uint32(at) {
			return nil, damaged("an item %#x names %d blocks at %#x", kind, n, block)
		}
		es = append(es, fs.bytes(group, at, int64(n)))
	}
	return es, nil
}

func (p *replay) touchSectors(at uint64, n uint32) error {
	if at > 1<<54 {
		return damaged("it leads to sector %#x", at)
	}
	return p.touch(int64(at)*sector, int64(n)*sector)
}

func (p *replay) touch(off, n int64) error {
	if off < 0 || n <= 0 || off > p.fs.facts.Len || n > p.fs.facts.Len-off {
		return damaged("it leads to %d bytes at %d of %d", n, off, p.fs.facts.Len)
	}
	e := extent.Extent{Off: off, Len: n}
	if k := len(p.touched); p.touched[k-1] == e {
		return nil
	}
	if len(p.touched) == maxTouched {
		if p.touched = extent.FromUnsorted(p.touched); len(p.touched) > maxTouched/2 {
			return damaged("it leads to too many places")
		}
	}
	p.touched = append(p.touched, e)
	return nil
}

// bufferFormat is what the log says of a buffer in front of its content.
type bufferFormat struct {
	buffer
	flags uint16
	bits  []byte // which pieces of it follow
}

// kind is what is in the buffer.
func (f bufferFormat) kind() int { return int(f.flags >> 11) }

func (fs *filesystem) parseBuffer(b []byte) (bufferFormat, error) {
	if len(b) < 24 {
		return bufferFormat{}, damaged("an item of a buffer with %d bytes", len(b))
	}
	f := bufferFormat{flags: le.Uint16(b[4:])}
	at, words := le.Uint64(b[8:]), le.Uint32(b[16:])
	switch f.n = int64(le.Uint16(b[6:])) * sector; {
	case at > 1<<54:
		return f, damaged("a buffer at sector %#x", at)
	case f.kind() > bufferKinds, f.kind() == 0 && f.flags&(bufferCancel|bufferInodes|bufferQuota) == 0:
		return f, damaged("a buffer of an unknown kind, %d", f.kind())
	case words > uint32(len(b)-20)/4 || int64(words)*32*bufferChunk > f.n+32*bufferChunk:
		return f, damaged("a buffer of %d bytes with %d words of bits", f.n, words)
	}
	f.off, f.bits = int64(at)*sector, b[20:][:4*words]
	return f, nil
}

// kept tells whether recovery changes something with a buffer that is of interest here.
func (f bufferFormat) kept() bool {
	if f.flags&(bufferCancel|bufferInodes|bufferQuota) != 0 {
		return false
	}
	switch f.kind() {
	case bufferTree, bufferGroup, bufferKept:
		return true
	case bufferHead:
		return f.off == 0
	}
	return false
}

// change makes images of the blocks that a transaction changes. Within one, what cancels buffers comes last.
func (p *replay) change(t *transaction) error {
	var done []buffer
	for _, i := range t.items {
		if le.Uint16(i.regions[0]) != itemBuffer {
			continue
		}
		f, err := p.fs.parseBuffer(i.regions[0])
		if err != nil {
			return err
		}
		switch {
		case f.flags&bufferCancel != 0:
			done = append(done, f.buffer)
		case p.cancels[f.buffer] == 0 && f.kept():
			if err := p.patch(t.place, f, i.regions[1:]); err != nil {
				return err
			}
		}
	}
	for _, b := range done {
		p.cancels[b]--
	}
	return nil
}

// patch changes an image.
func (p *replay) patch(place uint64, f bufferFormat, regions [][]byte) error {
	fs := p.fs
	if want := fs.sectorSize; f.kind() == bufferTree && f.n != fs.blockSize || f.kind() != bufferTree && f.n != want {
		return damaged("a buffer of kind %d and %d bytes", f.kind(), f.n)
	}
	i := p.blocks[f.off]
	if i == nil {
		b := make([]byte, f.n)
		if err := fs.read(b, f.off); err != nil {
			return err
		}
		if at, ok := fs.placeOf(b); ok && at != 0 && at >= place {
			return nil // what is on the disk is newer
		}
		i = &image{b: b}
		p.blocks[f.off] = i
		if p.size += f.n; p.size > maxImages {
			return damaged("it changes too many blocks")
		}
	}
	if i.b != nil && int64(len(i.b)) != f.n {
		return damaged("what lies at %d has two sizes", f.off)
	}
	isSet := func(bit int) bool { return f.bits[bit/8]>>(bit%8)&1 != 0 }
	for bit, n := 0, len(f.bits)*8; bit < n; {
		if !isSet(bit) {
			bit++
			continue
		}
		run := bit + 1
		for run < n && isSet(run) {
			run++
		}
		if len(regions) == 0 {
			return damaged("of what changes at %d only a part is there", f.off)
		}
		chunks := min(run-bit, len(regions[0])/bufferChunk)
		from, size := bit*bufferChunk, chunks*bufferChunk
		if chunks == 0 || int64(from+size) > f.n {
			return damaged("%d bytes at byte %d of a buffer of %d", len(regions[0]), from, f.n)
		}
		if i.b != nil {
			copy(i.b[from:], regions[0][:size])
		} else if from == 0 && fs.ofFreeSpace(regions[0]) {
			return damaged("a block of another tree becomes one of free space at %d", f.off)
		}
		regions, bit = regions[1:], bit+chunks
	}
	if len(regions) > 0 {
		return damaged("of what changes at %d there is too much", f.off)
	}
	if f.kind() == bufferTree && i.b != nil && !fs.ofFreeSpace(i.b) {
		i.b = nil
		p.size -= f.n - otherLen
	}
	return nil
}

// ofFreeSpace tells whether a block is one of a tree of free space.
func (fs *filesystem) ofFreeSpace(b []byte) bool {
	m := be.Uint32(b)
	if fs.version == 5 {
		return m == byPlace.magic5 || m == byLength.magic5
	}
	return m == byPlace.magic4 || m == byLength.magic4
}

// placeOf returns the place in the log of the last change of a block, where it says so: recovery passes over blocks that
// are newer than what it would write.
func (fs *filesystem) placeOf(b []byte) (place uint64, ok bool) {
	if fs.version < 5 {
		return 0, false
	}
	at, id := 0, 0
	switch be.Uint32(b) {
	case byPlace.magic4, byLength.magic4, byPlace.magic5, byLength.magic5, owners.magic5, refcounts.magic5, inodes.magic4, inodes.magic5, noInodes.magic5:
		at, id = 24, 32
	case mapMagic4, mapMagic5:
		at, id = 32, 40
	case groupMagic:
		at, id = 208, 64
	case listMagic:
		at, id = 24, 8
	case inodesMagic:
		at, id = 320, 296
	case linkMagic:
		at, id = 48, 16
	case blockMagic5, dataMagic5, 0x58444633: // XDF3
		at, id = 16, 24
	case superMagic:
		at, id = 240, 32
		if fs.hasMetaUUID {
			id = 248
		}
	}
	if at == 0 {
		switch be.Uint16(b[8:]) {
		case 0x3df1, 0x3dff, 0x3ebe: // leaves and nodes of folders and attributes
			at, id = 24, 32
		}
	}
	if at == 0 || string(b[id:id+16]) != string(fs.metaUUID) {
		return 0, false
	}
	return be.Uint64(b[at:]), true
}

// checkSuper refuses a log that changes more of the superblock than what changes while a filesystem is in use.
func (p *replay) checkSuper() error {
	fs := p.fs
	now := make([]byte, fs.sectorSize)
	if !p.overlay(now, 0) {
		return nil
	}
	old := make([]byte, fs.sectorSize)
	if err := fs.read(old, 0); err != nil {
		return fmt.Errorf("read superblock: %w", err)
	}
	// That there are attributes or quotas is noted when the first comes. The label, counts, quotas, features of the log, the
	// checksum, another quota, and the place in the log may differ.
	for _, b := range [][]byte{old, now} {
		b[101] &^= 0x10 | 0x40
		b[203], b[207] = b[203]&^0x8, b[207]&^0x8
	}
	for _, f := range [][2]int{{108, 120}, {128, 160}, {160, 178}, {220, 228}, {232, 248}} {
		clear(old[f[0]:f[1]])
		clear(now[f[0]:f[1]])
	}
	for i := range superLen {
		if old[i] != now[i] {
			return damaged("it was being changed as a whole when it was last used (superblock, byte %d): mount and unmount it once", i)
		}
	}
	return nil
}
