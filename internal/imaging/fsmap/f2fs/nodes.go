package f2fs

import (
	"bytes"
	"fmt"
)

const (
	natLen      = 9 // bytes of an entry: version, inode, block
	natPerBlock = blockSize / natLen

	// A node ends with its number, that of its inode, its place in the file, the version of the checkpoint before it,
	// and the next node (struct node_footer).
	footerOff  = blockSize - 24
	inodeAddrs = 360 // of the blocks of a file, in an inode
	inodeNodes = 5   // numbers of further nodes, behind them
	perNode    = footerOff / 4

	inlineXattr = 0x01 // flags of an inode: attributes take the end of the blocks,
	inlineData  = 0x02 // data all of them,
	inlineNames = 0x04 // or the entries of a folder;
	inlineExtra = 0x20 // further attributes take their beginning

	placeXattr = 1<<29 - 1 // of a node that holds attributes

	// Blocks that files have without a place on the disk: reserved, and in front of compressed ones.
	blockReserved   = 0xffffffff
	blockCompressed = 0xfffffffe
)

// natPlace is where the current copy of a block of the NAT lies. The copies take turns, segment by segment.
func (fs *filesystem) natPlace(i int64) blockNr {
	at := fs.natAt + blockNr(2*i-i%segBlocks)
	if bit(fs.cp.natCurrent, i) {
		at += segBlocks
	}
	return at
}

// checkNAT holds the NAT against the SIT: each node lies in a block that is in use, in a segment for nodes, and alone;
// and there are as many as the checkpoint says.
func (fs *filesystem) checkNAT() error {
	newer, blocks := map[int64]int64{}, map[int64]bool{}
	for _, e := range fs.nat {
		n := int64(le.Uint32(e))
		if n >= fs.nids {
			return damaged("NAT: the journal has node %d of %d", n, fs.nids)
		}
		newer[n], blocks[n/natPerBlock] = int64(le.Uint32(e[9:])), true
	}
	count, root := int64(0), false
	err := fs.eachBlock(fs.natBlocks, fs.natPlace, func(i int64, b []byte) error {
		if !blocks[i] && len(bytes.TrimLeft(b, "\x00")) == 0 {
			return nil
		}
		for j := range int64(natPerBlock) {
			n := i*natPerBlock + j
			at := int64(le.Uint32(b[j*natLen+5:]))
			if e, ok := newer[n]; ok {
				at = e
			}
			if at == 0 || n == 0 || uint32(n) == fs.ownNodes[0] || uint32(n) == fs.ownNodes[1] {
				continue
			}
			count++
			root = root || uint32(n) == fs.rootNode
			if !fs.claim(at, true) {
				return damaged("node %d lies in block %d, which is not marked as one, or is another's", n, at)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("NAT: %w", err)
	}
	if count != fs.cp.nodes || !root {
		return damaged("NAT: %d nodes, %d by the checkpoint; or no root", count, fs.cp.nodes)
	}
	return nil
}

// claim takes a block away from those in use. False says that it is not, or that it lies in a segment for the other
// kind of blocks.
func (fs *filesystem) claim(block int64, node bool) bool {
	n := block - int64(fs.mainAt)
	if fs.claimed != nil {
		fs.claimed(block)
	}
	return n >= 0 && n < fs.segments*segBlocks && fs.types[n/segBlocks] >= hotNode == node && fs.valid.Clear(n)
}

// checkFiles reads all nodes, segment by segment, and holds the blocks of data that they speak of against the SIT: they
// are in use, and nobody else's.
func (fs *filesystem) checkFiles() error {
	buf := make([]byte, maxRead*blockSize)
	for seg, typ := range fs.types {
		if typ < hotNode {
			continue
		}
		end := int64(seg+1) * segBlocks
		for n := fs.valid.Next(int64(seg)*segBlocks, end, true); n < end; n = fs.valid.Next(n, end, true) {
			to := min(fs.valid.Next(n, end, false), n+maxRead)
			b := buf[:(to-n)*blockSize]
			if err := fs.read(b, fs.mainAt+blockNr(n)); err != nil {
				return fmt.Errorf("read nodes: %w", err)
			}
			for ; n < to; n++ {
				if err := fs.checkNode(b[:blockSize]); err != nil {
					return fmt.Errorf("the node in block %d: %w", int64(fs.mainAt)+n, err)
				}
				b = b[blockSize:]
			}
		}
	}
	return nil
}

// checkNode claims the blocks of data of one node.
func (fs *filesystem) checkNode(b []byte) error {
	addrs := b[:perNode*4]
	place := le.Uint32(b[footerOff+8:]) >> 3
	switch {
	case le.Uint32(b[footerOff:]) == le.Uint32(b[footerOff+4:]):
		addrs = fs.inodeBlocks(b)
	case place == placeXattr || !direct(place):
		return nil
	}
	for ; len(addrs) >= 4; addrs = addrs[4:] {
		n := le.Uint32(addrs)
		if n == 0 || n == blockReserved || n == blockCompressed {
			continue
		}
		if !fs.claim(int64(n), false) {
			return damaged("its file %d has block %d, which is not marked as data, or is another's", le.Uint32(b[footerOff+4:]), n)
		}
	}
	return nil
}

// direct tells whether the node with the given place in a file has blocks, and not numbers of other nodes: the inode,
// two nodes with blocks, two with nodes that have blocks, and one with nodes of such (struct f2fs_inode, i_nid).
func direct(place uint32) bool {
	const first = 6 + 2*perNode // in the last of these
	return place != 3 && place != 4+perNode && place != 5+2*perNode && (place < first || (place-first)%(perNode+1) != 0)
}

// inodeBlocks returns where an inode has the blocks of its file.
func (fs *filesystem) inodeBlocks(b []byte) []byte {
	if mode := le.Uint16(b) & 0xf000; mode != 0x8000 && mode != 0x4000 && mode != 0xa000 {
		return nil // neither file, folder nor link: the number of a device
	}
	flags := b[3]
	if flags&(inlineData|inlineNames) != 0 {
		return nil
	}
	from, end := int64(inodeAddrs), int64(footerOff-4*inodeNodes)
	if flags&inlineXattr != 0 {
		n := int64(50)
		if fs.flexible && flags&inlineExtra != 0 {
			n = int64(le.Uint16(b[inodeAddrs+2:]))
		}
		end -= 4 * n
	}
	if flags&inlineExtra != 0 {
		from += int64(le.Uint16(b[inodeAddrs:])) &^ 3
	}
	if from >= end {
		return nil
	}
	return b[from:end]
}
