// Package thin tells which blocks of a thin pool's data are in use, and which of its volumes have them.
//
// It follows Linux' drivers/md/dm-thin-metadata.c and drivers/md/persistent-data: the superblock in block 0 of the pool's metadata has
// the root of the data's space map, a B-tree of bitmap blocks with two bits for each data block. All blocks read must have their
// number and a right checksum, and the counts of what is in use must agree; what the pool changed after its last commit is in none.
// Where volumes lie is in a tree of two levels: devices, and their blocks. A second tree says how many blocks each has.
package thin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"mimeo/internal/imaging/extent"
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	blockLen   = 4096
	sector     = 512
	magic      = 27022010
	needsCheck = 1 // flag of the superblock

	// What is mixed into the checksum of each kind of block.
	superSum, nodeSum, bitmapSum = 160774, 121107, 240779

	internal, leaf = 1, 2 // flags of a node
	nodeHead       = 32
	bitmapHead     = 16
	perBitmap      = (blockLen - bitmapHead) * 4 // data blocks of a bitmap block
	indexLen       = 16                          // of the value that leads to a bitmap block
	maxDepth       = 8
	maxData        = 1 << 32 // data blocks: 256 TiB of the smallest
)

// damage is a reason why the metadata cannot be trusted. It is no error of the disk.
type damage string

func (d damage) Error() string { return string(d) }

func damaged(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// Used returns what is in use of a pool's data, of dataSize bytes in blocks of chunk, by its metadata of size bytes. why says why the
// metadata cannot be trusted, or is empty; an error means that it could not be read.
func Used(meta io.ReaderAt, size, dataSize, chunk int64) (list extent.List, why string, err error) {
	p := &pool{r: meta, blocks: uint64(size / blockLen), most: uint64(size / blockLen)} // none is needed twice
	list, err = p.used(dataSize, chunk)
	var d damage
	if errors.As(err, &d) {
		return nil, err.Error(), nil
	}
	return list, "", err
}

type pool struct {
	r      io.ReaderAt
	blocks uint64 // of the metadata
	read   uint64 // so many were read
	most   uint64 // so many may be

	chunk     int64  // bytes of a data block
	data      uint64 // data blocks
	next      uint64 // the data block that the next bitmap begins with
	allocated uint64
	out       extent.List
}

// block reads a block of metadata and checks it. The number stands at another place in a superblock, which is like the others here.
func (p *pool) block(n uint64, mix uint32) ([]byte, error) {
	if n >= p.blocks {
		return nil, damaged("block %d of the metadata does not exist", n)
	}
	if p.read++; p.read > p.most {
		return nil, damaged("the metadata's blocks lead back to each other, or are too many")
	}
	b := make([]byte, blockLen)
	if got, err := p.r.ReadAt(b, int64(n)*blockLen); got < len(b) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("block %d of the pool's metadata: %w", n, err)
	}
	if ^crc32.Checksum(b[4:], castagnoli)^mix != le.Uint32(b) {
		return nil, damaged("the checksum of block %d of the metadata is wrong", n)
	}
	if le.Uint64(b[8:]) != n {
		return nil, damaged("block %d of the metadata says that it is block %d", n, le.Uint64(b[8:]))
	}
	return b, nil
}

// super reads the superblock.
func (p *pool) super(dataSize, chunk int64) ([]byte, error) {
	b, err := p.block(0, superSum)
	if err != nil {
		return nil, err
	}
	version := le.Uint32(b[40:])
	switch {
	case le.Uint64(b[32:]) != magic:
		return nil, damaged("the metadata has no superblock")
	case version < 1 || version > 2:
		return nil, damaged("version %d of the metadata is not known", version)
	case le.Uint32(b[4:])&needsCheck != 0:
		return nil, damaged("the pool is marked as to be checked")
	case int64(le.Uint32(b[336:]))*sector != chunk || chunk <= 0:
		return nil, damaged("the metadata has data blocks of %d sectors, the volume group says %d", le.Uint32(b[336:]), chunk/sector)
	}
	p.chunk = chunk
	p.data = le.Uint64(b[64:])
	if count := le.Uint64(b[72:]); p.data > maxData || int64(p.data) > dataSize/chunk || count > p.data {
		return nil, damaged("the metadata has %d data blocks, of which %d are in use; there is room for %d", p.data, count, dataSize/chunk)
	}
	return b, nil
}

func (p *pool) used(dataSize, chunk int64) (extent.List, error) {
	b, err := p.super(dataSize, chunk)
	if err != nil {
		return nil, err
	}
	count, root := le.Uint64(b[72:]), le.Uint64(b[80:])
	if err := p.walk(root, 0, indexLen, p.index); err != nil {
		return nil, err
	}
	if p.next < p.data {
		return nil, damaged("the space map ends with data block %d of %d", p.next, p.data)
	}
	if p.allocated != count {
		return nil, damaged("%d data blocks are in use, the superblock says %d", p.allocated, count)
	}
	return p.out, nil
}

// walk calls fn with the entries of a tree, in the order of its keys, with values of so many bytes.
func (p *pool) walk(n uint64, depth int, valueLen uint32, fn func(key uint64, value []byte) error) error {
	if depth > maxDepth {
		return damaged("a tree of the metadata is too deep")
	}
	b, err := p.block(n, nodeSum)
	if err != nil {
		return err
	}
	flags, count, most, size := le.Uint32(b[4:]), le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
	want := valueLen
	if flags == internal {
		want = 8
	} else if flags != leaf {
		return damaged("node %d of the metadata is of no kind (%d)", n, flags)
	}
	if size != want || most > (blockLen-nodeHead)/(8+want) || count > most {
		return damaged("node %d of the metadata has %d of %d entries of %d bytes", n, count, most, size)
	}
	for i := range count {
		key, value := le.Uint64(b[nodeHead+8*i:]), b[nodeHead+8*most+want*i:][:want]
		if flags == internal {
			err = p.walk(le.Uint64(value), depth+1, valueLen, fn)
		} else {
			err = fn(key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// index takes an entry of the space map's tree: the keys are the numbers of bitmap blocks.
func (p *pool) index(key uint64, value []byte) error {
	if key*perBitmap != p.next || key > maxData/perBitmap {
		return damaged("the space map has bitmap %d where that of data block %d should be", key, p.next)
	}
	return p.bitmap(le.Uint64(value))
}

// bitmap adds what is in use of the next data blocks.
func (p *pool) bitmap(n uint64) error {
	b, err := p.block(n, bitmapSum)
	if err != nil {
		return err
	}
	for i := uint64(0); i < perBitmap && p.next < p.data; i++ {
		if b[bitmapHead+i/4]>>(i%4*2)&3 != 0 {
			p.allocated++
			p.out.Add(extent.Extent{Off: int64(p.next) * p.chunk, Len: p.chunk})
		}
		p.next++
	}
	return nil
}
