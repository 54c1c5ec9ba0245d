package nilfs2

import "fmt"

const (
	direct    = 6 // numbers of blocks in an inode
	large     = 1 // flag of a tree
	nodeHead  = 8
	nodePad   = 8 // in those that are blocks
	maxLevel  = 14
	rootNodes = 3
)

// readFile reads a block of a file, and tells whether it is there. The numbers of the blocks are those of the table of
// addresses where virtual is set.
func (fs *filesystem) readFile(f inode, block int64, virtual bool, b []byte) (bool, error) {
	if f.bmap[0]&large == 0 {
		if block >= direct {
			return false, nil
		}
		return fs.readBlock(le.Uint64(f.bmap[8+8*block:]), virtual, b)
	}
	level := int(f.bmap[1])
	if level < 1 || level >= maxLevel {
		return false, damaged("a tree of %d levels", level)
	}
	node, keys, most := f.bmap[:], nodeHead, rootNodes
	for {
		n := int(le.Uint16(node[2:]))
		if int(node[1]) != level || n > most {
			return false, damaged("a node of level %d, not %d, with %d of %d numbers", node[1], level, n, most)
		}
		// The last key that is not greater.
		i := -1
		for i+1 < n && le.Uint64(node[keys+8*(i+1):]) <= uint64(block) {
			i++
		}
		level--
		if i < 0 || level == 0 && le.Uint64(node[keys+8*i:]) != uint64(block) {
			return false, nil
		}
		next := le.Uint64(node[keys+8*most+8*i:])
		if level == 0 {
			return fs.readBlock(next, virtual, b)
		}
		page := make([]byte, fs.block)
		if there, err := fs.readBlock(next, virtual, page); err != nil || !there {
			if err == nil {
				err = damaged("a node of a tree is nowhere")
			}
			return false, err
		}
		node, keys, most = page, nodeHead+nodePad, int(fs.block-nodeHead-nodePad)/16
	}
}

// readBlock reads a block by its number.
func (fs *filesystem) readBlock(nr uint64, virtual bool, b []byte) (bool, error) {
	if nr == 0 {
		return false, nil
	}
	if virtual {
		place, err := fs.address(nr)
		if err != nil {
			return false, err
		}
		nr = place
	}
	if nr < uint64(fs.first) || nr >= uint64(fs.segments*fs.perSegment) {
		return false, damaged("block %d of %d", nr, fs.segments*fs.perSegment)
	}
	if err := fs.read(b, int64(nr)*fs.block); err != nil {
		return false, fmt.Errorf("read a block: %w", err)
	}
	return true, nil
}

// address looks a block up in the table of addresses. That has groups of a block of bits and blocks of entries; a block of
// descriptors comes before as many groups as it has room for.
func (fs *filesystem) address(nr uint64) (uint64, error) {
	perBlock := uint64(fs.block / fs.entryLen)
	perGroup := uint64(fs.block * 8)
	if nr >= 1<<48 {
		return 0, damaged("address %d", nr)
	}
	groupBlocks := (perGroup+perBlock-1)/perBlock + 1
	groups := uint64(fs.block / 4)
	group, in := nr/perGroup, nr%perGroup
	block := group/groups*(groups*groupBlocks+1) + 1 + group%groups*groupBlocks + 1 + in/perBlock
	b := make([]byte, fs.block)
	there, err := fs.readFile(fs.dat, int64(block), false, b)
	if err == nil && !there {
		err = damaged("address %d is nowhere", nr)
	}
	if err != nil {
		return 0, fmt.Errorf("the table of addresses: %w", err)
	}
	return le.Uint64(b[in%perBlock*uint64(fs.entryLen):]), nil
}
