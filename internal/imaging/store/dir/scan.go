package dir

import (
	"bytes"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/chunk"
)

// scanned is what a pack's own bytes tell.
type scanned struct {
	uid     uid
	head    error // what is wrong with the pack's head
	effort  uint8
	items   []indexed
	end     int64    // of the last good record: what follows was never finished, or is damaged
	damaged []string // what lies between good records and is none
}

// scan reads a pack from its first byte to its last and returns the records that are whole. The index can be made of
// nothing else. It trusts records whose checksums match up to the first damage; after that, a place that looks like
// a record may be part of some chunk's data, and is believed only where the data's hash is its name.
func (f form) scan(r io.ReaderAt, number uint32, size int64) (*scanned, error) {
	size = min(size, maxPack)
	s := new(scanned)
	w := window{r: r, size: size}
	head, err := w.at(0, packHead)
	if err != nil {
		return nil, err
	}
	var pos int64
	if s.uid, s.head = f.parsePackHead(head, number); s.head == nil {
		pos = packHead
		s.end = packHead
		s.effort = head[effortAt]
	}
	doubt := s.head != nil
	var raw, plain []byte
	for pos+recordHead < size {
		head, err := w.at(pos, recordHead)
		if err != nil {
			return nil, err
		}
		n, bad := f.recordLen(head)
		if bad == nil && n > size-pos {
			bad = fmt.Errorf("record of %d bytes reaches past the end of the pack", n)
		}
		if bad != nil {
			next, err := w.search(pos+1, f.magic())
			if err != nil {
				return nil, err
			}
			s.note(pos, bad)
			doubt, pos = true, next
			continue
		}
		rec, err := w.at(pos, n)
		if err != nil {
			return nil, err
		}
		if f.box != nil {
			plain = slices.Grow(plain[:0], len(rec))
		}
		c, bad := f.parse(rec, plain)
		if bad == nil && doubt {
			raw, bad = chunk.Decode(c, raw)
		}
		if bad != nil {
			s.note(pos, bad)
			doubt = true
			// What its length says may be wrong as well: look for the next from here.
			if pos, err = w.search(pos+1, f.magic()); err != nil {
				return nil, err
			}
			continue
		}
		l := loc{pack: number, off: uint32(pos), stored: uint32(n - recordHead), raw: c.RawLen, codec: c.Codec}
		s.items = append(s.items, indexed{c.ID, l})
		pos = l.end()
		s.end = pos
	}
	return s, nil
}

// note keeps the first damages, which is enough to tell a person.
func (s *scanned) note(pos int64, err error) {
	if len(s.damaged) < 100 {
		s.damaged = append(s.damaged, fmt.Sprintf("at %d: %v", pos, err))
	}
}

// window reads a file forwards through one buffer.
type window struct {
	r    io.ReaderAt
	size int64
	buf  []byte
	off  int64 // of buf in the file
}

const windowLen = 8 << 20 // twice the longest chunk, so that most reads are long

// at returns n bytes at off, fewer at the end of the file. They are good until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	n = max(0, min(n, w.size-off))
	if off < w.off || off+n > w.off+int64(len(w.buf)) {
		if w.buf == nil {
			w.buf = make([]byte, min(windowLen, w.size))
		}
		fill := max(n, min(int64(cap(w.buf)), w.size-off))
		w.buf = w.buf[:fill]
		got, err := w.r.ReadAt(w.buf, off)
		if int64(got) < fill {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read %d bytes at %d: %w", fill, off, err)
		}
		w.off = off
	}
	return w.buf[off-w.off:][:n], nil
}

// search returns the offset of the next pattern at or after off, or the file's size.
func (w *window) search(off int64, pattern []byte) (int64, error) {
	for off+int64(len(pattern)) <= w.size {
		b, err := w.at(off, windowLen/2)
		if err != nil {
			return 0, err
		}
		if i := bytes.Index(b, pattern); i >= 0 {
			return off + int64(i), nil
		}
		off += int64(len(b) - len(pattern) + 1)
	}
	return w.size, nil
}
