package ntfs

import (
	"fmt"
	"slices"
)

// maxList is the most that an attribute list may have, in bytes: the limit of NTFS.
const maxList = 256 << 10

// open finds the unnamed attribute of a type in record n, and its further parts by the record's attribute list.
func (v *volume) open(n uint64, typ uint32) (stream, error) {
	rec, err := v.readRecord(n)
	if err != nil {
		return stream{}, err
	}
	s, err := v.openIn(rec, n, typ, nil)
	return s, about(err, n)
}

// openIn does the work of open, in a record that was read. Where grow is set, it sees the runs so far before each further
// record is read: the MFT may need one part of its list to reach the next.
func (v *volume) openIn(rec record, n uint64, typ uint32, grow func(stream)) (stream, error) {
	s := stream{v: v, size: -1}
	list, found := stream{v: v}, false
	err := rec.each(func(a *attr) error {
		switch {
		case len(a.name) > 0:
			return nil
		case a.typ == attrList:
			if found {
				return damaged("there are two attribute lists")
			}
			found = true
			list.size = -1
			return list.append(a)
		case a.typ == typ && (a.resident || a.low == 0):
			return s.append(a)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	if found {
		if err := v.follow(&s, &list, n, typ, grow); err != nil {
			return s, err
		}
	}
	if s.size < 0 {
		return s, damaged("attribute %#x is missing", typ)
	}
	if s.mapped() < s.init {
		return s, damaged("attribute %#x: its data runs have %d bytes, its content %d", typ, s.mapped(), s.init)
	}
	return s, nil
}

// follow appends the parts of an attribute that lie in other records.
func (v *volume) follow(s, list *stream, n uint64, typ uint32, grow func(stream)) error {
	if list.size > maxList || list.mapped() < list.init {
		return damaged("its attribute list has %d bytes", list.size)
	}
	b := make([]byte, list.size)
	if err := list.read(b, 0); err != nil {
		return fmt.Errorf("read the attribute list: %w", err)
	}
	for len(b) > 0 {
		// Type, length of the entry, length and place of the name, first VCN, record, instance.
		if len(b) < 0x1a {
			return damaged("its attribute list ends within an entry")
		}
		size := int(le.Uint16(b[4:]))
		if size < 0x1a || size > len(b) {
			return damaged("its attribute list has an entry of %d bytes", size)
		}
		entry := b[:size]
		b = b[size:]
		ref, low := le.Uint64(entry[0x10:])&refMask, le.Uint64(entry[8:])
		if le.Uint32(entry) != typ || entry[6] != 0 || ref == n {
			continue
		}
		if grow != nil {
			grow(*s)
		}
		ext, err := v.readRecord(ref)
		if err != nil {
			return err
		}
		if seq := le.Uint16(entry[0x16:]); ext.base != n || ext.seq != seq {
			return damaged("its extension, MFT record %d, is number %d of record %d, not %d", ref, ext.seq, ext.base, seq)
		}
		parts := 0
		err = ext.each(func(a *attr) error {
			if a.typ != typ || len(a.name) > 0 || !a.resident && uint64(a.low) != low {
				return nil
			}
			parts++
			return s.append(a)
		})
		if err != nil {
			return about(err, ref)
		}
		if parts != 1 {
			return damaged("its extension, MFT record %d, has %d parts of attribute %#x at cluster %d", ref, parts, typ, low)
		}
	}
	return nil
}

// append adds a part of the attribute. It must be plain: neither compressed nor encrypted nor sparse, without a hole.
func (s *stream) append(a *attr) error {
	switch {
	case a.flags != 0:
		return damaged("it is compressed, encrypted or sparse (%#x)", a.flags)
	case s.size >= 0 && (a.resident || a.low == 0 || s.resident != nil):
		return damaged("there are two of it")
	case a.resident:
		s.resident = slices.Clone(a.value)
		if s.resident == nil {
			s.resident = []byte{}
		}
		s.size, s.init = int64(len(a.value)), int64(len(a.value))
		return nil
	case s.size < 0 && a.low > 0:
		return damaged("its first part is missing")
	case s.size < 0:
		if a.init < 0 || a.init > a.size || a.size > a.alloc || a.alloc > int64(s.v.clusters)*s.v.clusterSize {
			return damaged("%d bytes are allocated, %d used, %d written", a.alloc, a.size, a.init)
		}
		s.size, s.init = a.size, a.init
	case a.low != s.next():
		return damaged("a part starts at cluster %d of it, the one before ends at %d", a.low, s.next())
	}
	return s.v.runs(a, func(r run) error {
		if r.lcn == hole {
			return damaged("it has a hole")
		}
		if len(s.runs) == maxRuns || r.vcn+r.n > s.v.clusters {
			return damaged("it has too many data runs")
		}
		if n := len(s.runs); n > 0 && s.runs[n-1].lcn+s.runs[n-1].n == r.lcn {
			s.runs[n-1].n += r.n
			return nil
		}
		s.runs = append(s.runs, r)
		return nil
	})
}

// next is the first cluster of the attribute that has no run yet.
func (s *stream) next() cluster {
	if len(s.runs) == 0 {
		return 0
	}
	last := s.runs[len(s.runs)-1]
	return last.vcn + last.n
}
