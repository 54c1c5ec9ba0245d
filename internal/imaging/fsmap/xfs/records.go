package xfs

import (
	"bytes"
	"encoding/binary"
)

// record is one write to the log.
type record struct {
	n       int64  // sectors, with its headers
	place   uint64 // in the log: round and sector
	ops     uint32 // operations in it
	content []byte
}

// live returns from where up to where a log that was not replayed counts. All of it must be as it is while nothing is under
// way: around its head each sector is of the right round, and a whole record ends there.
func (l *ring) live() (tail, head int64, err error) {
	if head, err = l.head(); err != nil {
		return 0, 0, err
	}
	if other, err := l.headOfLinux(); err != nil {
		return 0, 0, err
	} else if other != head {
		return 0, 0, cutOff
	}
	b, err := l.last(head)
	if err != nil {
		return 0, 0, err
	}
	round, at := l.round, head
	if head == l.n {
		round, at = round+1, 0
	}
	place := be.Uint64(b[24:])
	tail = int64(place & 0xffffffff)
	switch of := uint32(place >> 32); {
	case of == round && tail < at, of == round-1 && tail > at && tail < l.n:
		return tail, at, nil
	default:
		return 0, 0, damaged("it is said to begin at %#x, its head is at sector %d of round %d", place, at, round)
	}
}

// headOfLinux finds the head as Linux does. Where all sectors are in order, so does everybody.
func (l *ring) headOfLinux() (int64, error) {
	roundAt := func(at int64) (uint32, error) {
		b, err := l.read(at, 1)
		if err != nil {
			return 0, err
		}
		return roundOf(b), nil
	}
	last, err := roundAt(l.n - 1)
	if err != nil {
		return 0, err
	}
	if last == l.round {
		return l.n, nil
	}
	first, end := int64(0), l.n-1
	for mid := (first + end) / 2; mid != first && mid != end; mid = (first + end) / 2 {
		round, err := roundAt(mid)
		if err != nil {
			return 0, err
		}
		if round == last {
			end = mid
		} else {
			first = mid
		}
	}
	return end, nil
}

// records calls fn with the records from tail up to head, which must follow each other without a gap.
func (l *ring) records(tail, head int64, fn func(*record) error) error {
	headers := int64(0)
	for at, left := tail, (head-tail+l.n)%l.n; left > 0; {
		round := l.round
		if at >= head && head > 0 {
			round--
		}
		r, n, err := l.record(at, round)
		if err != nil {
			return err
		}
		if headers == 0 {
			headers = n
		}
		if r.n > left || n != headers {
			return damaged("the record at sector %d does not fit in", at)
		}
		if err := fn(r); err != nil {
			return err
		}
		at, left = (at+r.n)%l.n, left-r.n
	}
	return nil
}

// record reads the record at a sector, and checks all that it says of itself.
func (l *ring) record(at int64, round uint32) (r *record, headers int64, err error) {
	b, err := l.read(at, 1)
	if err != nil {
		return nil, 0, err
	}
	if be.Uint32(b) != recordMagic || be.Uint32(b[4:]) != round || be.Uint64(b[16:]) != uint64(round)<<32|uint64(at) {
		return nil, 0, damaged("there is no record of round %d at sector %d", round, at)
	}
	headers, content := recordSize(b)
	switch {
	case headers == 0 || content > int64(be.Uint32(b[320:])) || be.Uint32(b[8:]) != 2:
		return nil, 0, damaged("the record at sector %d has version %d, %d of %d bytes", at, be.Uint32(b[8:]), content, be.Uint32(b[320:]))
	case be.Uint32(b[300:]) != formatLinuxLE:
		return nil, 0, damaged("it was written by a machine with another byte order than this program knows: mount and unmount it once there")
	case !bytes.Equal(b[304:320], l.fs.uuid):
		return nil, 0, damaged("the record at sector %d is of another filesystem", at)
	}
	r = &record{n: headers + (content+sector-1)/sector, place: be.Uint64(b[16:]), ops: be.Uint32(b[40:])}
	if r.n > l.n {
		return nil, 0, damaged("the record at sector %d is longer than the log", at)
	}
	if b, err = l.read(at, r.n); err != nil {
		return nil, 0, err
	}
	if !recordChecked(b, headers, content, binary.LittleEndian.Uint32(b[32:])) {
		return nil, 0, damaged("the checksum of the record at sector %d is wrong", at)
	}
	r.content = b[headers*sector:]
	// The number of the round stands where the first word of each sector was, and that in a header.
	for i := range r.n - headers {
		word := b[44+4*i:]
		if i >= recordCycles/sector {
			k := recordCycles / sector
			if i/int64(k) >= headers {
				return nil, 0, damaged("the record at sector %d has too few headers", at)
			}
			word = b[i/int64(k)*sector+4+4*(i%int64(k)):]
		}
		copy(r.content[i*sector:], word[:4])
	}
	r.content = r.content[:content]
	return r, headers, nil
}

// transaction is what must happen as a whole.
type transaction struct {
	place uint64 // of the record in which it began
	head  int    // bytes of its header that were read
	items []item
	held  int // bytes
}

// item is one of the things that happen. It comes in regions.
type item struct {
	total   int // regions
	regions [][]byte
	dropped bool // what the regions but for the first hold is of no interest
}

// scanner puts transactions together from records.
type scanner struct {
	open   map[uint32]*transaction
	held   int // bytes
	last   uint64
	commit func(*transaction) error
}

func (s *scanner) record(r *record) error {
	b := r.content
	for range r.ops {
		if len(b) == 0 {
			break
		}
		if len(b) < 12 {
			return damaged("an operation of %d bytes in the record at %#x", len(b), r.place)
		}
		id, n, client, flags := be.Uint32(b), be.Uint32(b[4:]), b[8], b[9]
		if b = b[12:]; int64(n) > int64(len(b)) || client != 0x69 && client != 0xaa {
			return damaged("an operation of %d bytes by client %#x in the record at %#x", n, client, r.place)
		}
		if err := s.operation(r, id, flags, b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (s *scanner) operation(r *record, id uint32, flags byte, b []byte) error {
	t := s.open[id]
	if t == nil {
		// What began before the oldest record is done.
		if flags&opStart != 0 {
			if len(b) > 0 || len(s.open) >= 1024 {
				return damaged("transaction %#x begins with %d bytes, beside %d others", id, len(b), len(s.open))
			}
			s.open[id] = &transaction{place: r.place}
		}
		return nil
	}
	before := t.held
	defer func() { s.held += t.held - before }()
	flags &^= opEnd
	if flags&opWasCont != 0 {
		flags &^= opContinue
	}
	switch flags {
	case 0, opContinue:
		if err := t.add(b); err != nil {
			return err
		}
	case opWasCont:
		if err := t.more(b); err != nil {
			return err
		}
	case opCommit:
		delete(s.open, id)
		if len(b) > 0 || t.place < s.last {
			return damaged("transaction %#x is committed out of order", id)
		}
		s.last = t.place
		if n := len(t.items); n > 0 && len(t.items[n-1].regions) != t.items[n-1].total {
			return damaged("transaction %#x lacks something", id)
		}
		err := s.commit(t)
		t.held = 0
		return err
	default:
		return damaged("an operation of kind %#x within transaction %#x", flags, id)
	}
	if s.held > maxHeld {
		return damaged("its transactions are too large")
	}
	return nil
}

// add takes the next region, or its beginning.
func (t *transaction) add(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if t.head < transactionHead {
		if t.head > 0 || len(b) < 4 || len(b) > transactionHead || le.Uint32(b) != transactionMagic {
			return damaged("a transaction has no header")
		}
		t.head = len(b)
		return nil
	}
	n := len(t.items)
	if n == 0 || len(t.items[n-1].regions) == t.items[n-1].total {
		if len(b) < 4 || le.Uint16(b[2:]) == 0 {
			return damaged("an item of %d bytes", len(b))
		}
		t.items = append(t.items, item{total: int(le.Uint16(b[2:]))})
		n++
	}
	i := &t.items[n-1]
	if len(i.regions) == 1 {
		i.dropped = !wanted(i.regions[0])
	}
	i.regions = append(i.regions, nil)
	t.put(i, b)
	return nil
}

// more takes what follows of the last region.
func (t *transaction) more(b []byte) error {
	n := len(t.items)
	switch {
	case n > 0 && len(t.items[n-1].regions) > 0:
		t.put(&t.items[n-1], b)
	case t.head > 0 && t.head+len(b) == transactionHead:
		t.head = transactionHead
	default:
		return damaged("a transaction goes on that did not begin")
	}
	return nil
}

func (t *transaction) put(i *item, b []byte) {
	if i.dropped {
		b = nil
	}
	k := len(i.regions) - 1
	i.regions[k] = append(i.regions[k], b...)
	t.held += len(b) + 24
}

// wanted tells whether what follows the first region of an item is of interest.
func wanted(b []byte) bool {
	if le.Uint16(b) != itemBuffer || len(b) < 24 {
		return false
	}
	f := bufferFormat{buffer: buffer{off: int64(le.Uint64(b[8:]))}, flags: le.Uint16(b[4:])}
	return f.kept()
}
