package fixed

import (
	"strings"
	"unicode/utf16"
)

// Of ISO 9660 (ECMA-119). Numbers of more than one byte are there twice, in both byte orders.
const (
	isoSector = 2048
	isoOff    = 16 * isoSector

	isoBoot       = 0
	isoPrimary    = 1
	isoSupplement = 2
	isoEnd        = 255

	isoMaxDescriptors = 64
	isoMaxFolders     = 1 << 20 // bounds the memory
	isoBehind         = 32 << 20
)

// iso is one reading of such a filesystem.
type iso struct {
	*volume
	block   int64 // bytes
	joliet  string
	left    int64 // bytes of folders that may still be read
	todo    []isoExtent
	folders map[isoExtent]bool // that were met
}

// isoExtent is where a file or folder lies.
type isoExtent struct{ off, n int64 }

// readISO reads all volume descriptors, and then all folders: what lies behind the end says that the length is wrong.
func (v *volume) readISO() error {
	s := &iso{volume: v, folders: map[isoExtent]bool{}}
	if err := s.descriptors(); err != nil {
		return err
	}
	if err := s.otherSession(); err != nil {
		return err
	}
	s.left = v.facts.Len
	for len(s.todo) > 0 {
		at := s.todo[len(s.todo)-1]
		s.todo = s.todo[:len(s.todo)-1]
		if err := s.folder(at); err != nil {
			return err
		}
	}
	return nil
}

// descriptors reads the volume descriptors (ECMA-119, section 8).
func (s *iso) descriptors() error {
	b := make([]byte, isoSector)
	for i := range int64(isoMaxDescriptors) {
		off := isoOff + i*isoSector
		if off+isoSector > s.size {
			return damaged("the volume descriptors have no end")
		}
		if err := s.read(b, off); err != nil {
			return err
		}
		if string(b[1:6]) != "CD001" {
			return damaged("volume descriptor %d: there is none", i)
		}
		if (i == 0) != (b[0] == isoPrimary) {
			return damaged("volume descriptor %d is of type %d", i, b[0])
		}
		switch b[0] {
		case isoPrimary, isoSupplement:
			if err := s.descriptor(b); err != nil {
				return err
			}
		case isoBoot:
			if err := s.boot(b); err != nil {
				return err
			}
		case isoEnd:
			if s.joliet != "" {
				s.facts.Label = merge(s.facts.Label, s.joliet)
			}
			return s.udf(off + isoSector)
		}
	}
	return damaged("more than %d volume descriptors", isoMaxDescriptors)
}

// both16 and both32 read numbers that are there in both byte orders.
func both16(b []byte) (int64, bool) {
	return int64(le.Uint16(b)), le.Uint16(b) == be.Uint16(b[2:])
}

func both32(b []byte) (int64, bool) {
	return int64(le.Uint32(b)), le.Uint32(b) == be.Uint32(b[4:])
}

// descriptor reads a primary or supplementary volume descriptor.
func (s *iso) descriptor(b []byte) error {
	blocks, ok1 := both32(b[80:])
	block, ok2 := both16(b[128:])
	_, ok3 := both16(b[120:])
	_, ok4 := both32(b[132:])
	if !ok1 || !ok2 || !ok3 || !ok4 {
		return damaged("volume descriptor: numbers differ in their two byte orders")
	}
	if block != 512 && block != 1024 && block != isoSector {
		return damaged("volume descriptor: blocks of %d bytes", block)
	}
	if b[0] == isoPrimary {
		s.block, s.facts.BlockSize = block, int(block)
		s.facts.Label = strings.ToValidUTF8(strings.TrimRight(string(b[40:72]), " \x00"), "�")
		s.facts.UUID = date(b[830:847])
		if s.facts.UUID == "" {
			s.facts.UUID = date(b[813:830])
		}
		if err := s.setLen(uint64(blocks * block)); err != nil {
			return err
		}
	} else {
		if blocks*block > s.facts.Len || block != s.block {
			return damaged("volume descriptor: %d blocks of %d bytes, more than in the primary one", blocks, block)
		}
		if e := string(b[88:91]); e == "%/@" || e == "%/C" || e == "%/E" {
			s.joliet = utf16Text(b[40:72])
		}
	}
	at, _, err := s.record(b[156:190])
	if err != nil {
		return err
	}
	return s.later(at)
}

// later remembers a folder that is to be read, unless it was met before.
func (s *iso) later(at isoExtent) error {
	if at.n == 0 || s.folders[at] {
		return nil
	}
	if len(s.folders) == isoMaxFolders {
		return damaged("more than %d folders are not supported", isoMaxFolders)
	}
	s.folders[at] = true
	s.todo = append(s.todo, at)
	return nil
}

// boot checks that a boot catalog of El Torito, and what it leads to, lie within.
func (s *iso) boot(b []byte) error {
	if !strings.HasPrefix(string(b[7:39]), "EL TORITO SPECIFICATION") {
		return nil
	}
	at := int64(le.Uint32(b[71:])) * isoSector
	if at > s.facts.Len-isoSector {
		return damaged("the boot catalog at %d lies behind the end", at)
	}
	c := make([]byte, isoSector)
	if err := s.read(c, at); err != nil {
		return err
	}
	for ; len(c) >= 32; c = c[32:] {
		if c[0] == 0x88 { // can be booted
			if from := int64(le.Uint32(c[8:])) * isoSector; from+int64(le.Uint16(c[6:]))*512 > s.facts.Len {
				return damaged("the boot image at %d lies behind the end", from)
			}
		}
	}
	return nil
}

// udf looks for what follows the volume descriptors where the filesystem is one of UDF, too: that may be longer.
func (s *iso) udf(off int64) error {
	b := make([]byte, 6)
	if off+isoSector > s.size {
		return nil
	}
	if err := s.read(b, off); err != nil {
		return err
	}
	if id := string(b[1:6]); id == "BEA01" || id == "NSR02" || id == "NSR03" {
		return damaged("it is a filesystem of UDF, too")
	}
	return nil
}

// otherSession looks for a later session behind the end, which may refer to what is in this one.
func (s *iso) otherSession() error {
	n := min(s.size-s.facts.Len, isoBehind)
	buf := make([]byte, 1<<20)
	for at := int64(0); at < n; at += int64(len(buf)) {
		b := buf[:min(int64(len(buf)), n-at)]
		if err := s.read(b, s.facts.Len+at); err != nil {
			return err
		}
		for i := 0; i+6 <= len(b); i += 512 {
			if b[i] == isoPrimary && string(b[i+1:i+6]) == "CD001" {
				return damaged("another session begins behind the first, at %d", s.facts.Len+at+int64(i))
			}
		}
	}
	return nil
}

// record reads a directory record (ECMA-119, 9.1): where a file or folder lies.
func (s *iso) record(b []byte) (at isoExtent, folder bool, err error) {
	if len(b) < 34 {
		return at, false, damaged("a directory record of %d bytes", len(b))
	}
	first, ok1 := both32(b[2:])
	n, ok2 := both32(b[10:])
	if !ok1 || !ok2 {
		return at, false, damaged("directory record: numbers differ in their two byte orders")
	}
	if b[26] != 0 || b[27] != 0 {
		return at, false, damaged("directory record: the file is interleaved with others")
	}
	// Extended attributes come first. What is empty may be anywhere.
	at = isoExtent{(first + int64(b[1])) * s.block, n}
	if n > 0 && (at.off > s.facts.Len || n > s.facts.Len-at.off) {
		return at, false, damaged("%d bytes at %d lie behind the end", n, at.off)
	}
	return at, b[25]&2 != 0, nil
}

// folder reads a folder, and remembers those that it leads to.
func (s *iso) folder(at isoExtent) error {
	if s.left -= at.n; s.left < 0 {
		return damaged("the folders have more bytes than the filesystem")
	}
	buf := make([]byte, isoSector)
	for off := int64(0); off < at.n; off += isoSector {
		b := buf[:min(isoSector, at.n-off)]
		if err := s.read(b, at.off+off); err != nil {
			return err
		}
		// Records do not cross sectors; the rest of one is zero.
		for i := 0; len(b) > 0 && b[0] != 0; i++ {
			n := int(b[0])
			if n > len(b) {
				return damaged("the folder at %d: a record of %d bytes, where %d are left", at.off, n, len(b))
			}
			to, folder, err := s.record(b[:n])
			if err != nil {
				return err
			}
			if off == 0 && i == 0 && to != at {
				return damaged("the folder at %d says that it lies at %d", at.off, to.off)
			}
			if folder {
				if err := s.later(to); err != nil {
					return err
				}
			}
			b = b[n:]
		}
	}
	return nil
}

// date returns a date as blkid prints it as an UUID; "" where it is not set.
func date(b []byte) string {
	d := string(b[:16])
	if strings.Trim(d, "0") == "" && b[16] == 0 || strings.Trim(d, "\x00") == "" {
		return ""
	}
	d = strings.ToValidUTF8(d, "�")
	if len(d) != 16 {
		return ""
	}
	return strings.Join([]string{d[:4], d[4:6], d[6:8], d[8:10], d[10:12], d[12:14], d[14:]}, "-")
}

// utf16Text returns a label in big-endian UTF-16, without what is behind it.
func utf16Text(b []byte) string {
	u := make([]uint16, 0, len(b)/2)
	for ; len(b) >= 2; b = b[2:] {
		x := be.Uint16(b)
		if x == 0 {
			break
		}
		u = append(u, x)
	}
	return strings.TrimRight(string(utf16.Decode(u)), " ")
}

// merge makes one label of that of the primary descriptor, which has 32 characters of few kinds, and that of Joliet,
// which has 16 of any kind: the longer one where they say the same, else that of Joliet.
func merge(primary, joliet string) string {
	p, j := []rune(primary), []rune(joliet)
	for i, c := range j {
		if i >= len(p) || c != p[i] && p[i] != '_' {
			return joliet
		}
	}
	return joliet + string(p[len(j):])
}
