package hfsplus

import (
	"unicode/utf16"
)

const (
	dataFork     = 0
	resourceFork = 0xff

	// Files that the header tells of, by number, and the blocks that are bad.
	rootParent     = 1
	extentsFile    = 3
	catalogFile    = 4
	badBlocks      = 5
	allocationFile = 6
	startupFile    = 7
	attributesFile = 8

	recordFolder = 1
	recordFile   = 2
	recordThread = 4 // the last
	fileLen      = 248

	attrInline  = 0x10
	attrFork    = 0x20
	attrExtents = 0x30

	maxRuns = 1 << 20 // 96 bytes each
)

// part is a fork of a file.
type part struct {
	file uint32
	fork byte
}

// run is a record of the tree of extents: the extents from a block of the file on.
type run struct {
	from  int64
	areas [8]area
}

// readMore reads the tree of extents.
func (fs *filesystem) readMore() error {
	pieces, err := fs.pieces(extentsFile, dataFork, fs.extents) // all of them are in the header
	if err != nil {
		return err
	}
	fs.more = map[part][]run{}
	return fs.eachRecord("the tree of extents", fs.extents, pieces, func(key, rest []byte) error {
		if len(key) != 10 || len(rest) < 64 {
			return damaged("the tree of extents has a key of %d bytes, %d behind it", len(key), len(rest))
		}
		if fs.runs++; fs.runs > maxRuns {
			return damaged("more than %d records in the tree of extents", maxRuns)
		}
		p := part{be.Uint32(key[2:]), key[0]}
		fs.more[p] = append(fs.more[p], run{int64(be.Uint32(key[6:])), readAreas(rest)})
		return nil
	})
}

// pieces returns where a fork lies.
func (fs *filesystem) pieces(file uint32, which byte, f fork) ([]area, error) {
	var out []area
	sum := int64(0)
	add := func(areas [8]area) error {
		for _, a := range areas {
			if sum == f.blocks {
				break // what follows was cut off
			}
			if a.n == 0 || a.at+a.n > fs.blocks || sum+a.n > f.blocks {
				return damaged("file %d has %d blocks from block %d on; it has %d, the filesystem %d", file, a.n, a.at, f.blocks, fs.blocks)
			}
			sum += a.n
			out = append(out, a)
		}
		return nil
	}
	if f.blocks == 0 {
		return nil, nil
	}
	if f.first[0].n > 0 || file != badBlocks {
		if err := add(f.first); err != nil {
			return nil, err
		}
	}
	for _, r := range fs.more[part{file, which}] {
		if sum == f.blocks {
			break
		}
		if r.from != sum {
			return nil, damaged("file %d: the tree of extents goes on at block %d, not %d", file, r.from, sum)
		}
		if err := add(r.areas); err != nil {
			return nil, err
		}
	}
	if sum != f.blocks {
		return nil, damaged("file %d has %d blocks, and extents for %d", file, f.blocks, sum)
	}
	return out, nil
}

// claim takes blocks for something that they belong to.
func (fs *filesystem) claim(file uint32, areas []area) error {
	for _, a := range areas {
		if a.at+a.n > fs.blocks {
			return damaged("file %d has %d blocks from block %d on, of %d", file, a.n, a.at, fs.blocks)
		}
		for i := a.at; i < a.at+a.n; i++ {
			if !fs.marked.Has(i) {
				return damaged("file %d has block %d, which is marked as free", file, i)
			}
			if fs.owned.Set(i) {
				return damaged("file %d has block %d, which belongs to something else, too", file, i)
			}
		}
	}
	return nil
}

func (fs *filesystem) claimFork(file uint32, which byte, f fork) ([]area, error) {
	pieces, err := fs.pieces(file, which, f)
	if err != nil {
		return nil, err
	}
	return pieces, fs.claim(file, pieces)
}

// claimFiles takes the blocks of all files, of the trees, and of both ends.
func (fs *filesystem) claimFiles() error {
	first := (headerOff + headerLen + fs.block - 1) / fs.block
	last := max(first, (fs.facts.Len-endLen)/fs.block)
	if first >= fs.blocks {
		return damaged("the filesystem has %d blocks", fs.blocks)
	}
	if err := fs.claim(0, []area{{0, first}}); err != nil {
		return err
	}
	for i := last; i < fs.blocks; i++ {
		// The copy of the header may as well lie behind the last block.
		if fs.marked.Has(i) {
			fs.owned.Set(i)
		}
	}
	for _, s := range []struct {
		file uint32
		fork fork
	}{{allocationFile, fs.allocation}, {extentsFile, fs.extents}, {startupFile, fs.startup}} {
		if _, err := fs.claimFork(s.file, dataFork, s.fork); err != nil {
			return err
		}
	}
	for _, r := range fs.more[part{badBlocks, dataFork}] {
		for _, a := range r.areas {
			if err := fs.claim(badBlocks, []area{a}); err != nil {
				return err
			}
		}
	}
	pieces, err := fs.claimFork(catalogFile, dataFork, fs.catalog)
	if err != nil {
		return err
	}
	if err := fs.eachRecord("the catalog", fs.catalog, pieces, fs.claimEntry); err != nil {
		return err
	}
	if pieces, err = fs.claimFork(attributesFile, dataFork, fs.attributes); err != nil {
		return err
	}
	return fs.eachRecord("the tree of attributes", fs.attributes, pieces, fs.claimAttribute)
}

// claimEntry takes the blocks of a file, and the name of the volume.
func (fs *filesystem) claimEntry(key, rest []byte) error {
	if len(key) < 6 || len(key) < 6+2*int(be.Uint16(key[4:])) || len(rest) < 2 {
		return damaged("the catalog has a key of %d bytes", len(key))
	}
	typ := be.Uint16(rest)
	if typ == recordFolder && be.Uint32(key) == rootParent {
		var name []uint16
		for i := range int(be.Uint16(key[4:])) {
			name = append(name, be.Uint16(key[6+2*i:]))
		}
		fs.facts.Label = string(utf16.Decode(name))
	}
	switch {
	case typ == 0 || typ > recordThread:
		return damaged("the catalog has a record of type %d", typ)
	case typ != recordFile:
		return nil
	case len(rest) < fileLen:
		return damaged("the catalog has a file of %d bytes", len(rest))
	}
	id := be.Uint32(rest[8:])
	if _, err := fs.claimFork(id, dataFork, readFork(rest[88:])); err != nil {
		return err
	}
	_, err := fs.claimFork(id, resourceFork, readFork(rest[168:]))
	return err
}

// claimAttribute takes the blocks of an attribute that has some.
func (fs *filesystem) claimAttribute(key, rest []byte) error {
	if len(key) < 12 || len(rest) < 4 {
		return damaged("the tree of attributes has a key of %d bytes", len(key))
	}
	file, typ := be.Uint32(key[2:]), be.Uint32(rest)
	var areas [8]area
	switch {
	case typ == attrInline:
		return nil
	case typ == attrFork && len(rest) >= 8+80:
		areas = readFork(rest[8:]).first
	case typ == attrExtents && len(rest) >= 8+64:
		areas = readAreas(rest[8:])
	default:
		return damaged("the tree of attributes has a record of type %d with %d bytes", typ, len(rest))
	}
	return fs.claim(file, areas[:])
}
