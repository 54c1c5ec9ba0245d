package ext4

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"mimeo/internal/imaging/extent"
)

const (
	bitmapRead = 2 << 20   // bytes read at once
	bitmapGap  = 128 << 10 // bytes between two bitmaps that are rather read than left out
)

// readBitmaps adds to used what the bitmaps of all groups say, and checks each against its descriptor.
func (fs *filesystem) readBitmaps(used *gather) error {
	order := make([]uint32, 0, len(fs.groups))
	for i, g := range fs.groups {
		if !g.uninit {
			order = append(order, uint32(i))
		}
	}
	// By place: with flex_bg the bitmaps of many groups lie side by side.
	slices.SortFunc(order, func(a, b uint32) int { return cmp.Compare(fs.groups[a].bitmap, fs.groups[b].bitmap) })
	buf := make([]byte, bitmapRead)
	for len(order) > 0 {
		first := fs.groups[order[0]].bitmap
		n, end := 0, first
		for n < len(order) {
			b := fs.groups[order[n]].bitmap
			if n > 0 && (int64(b-end)*fs.blockSize > bitmapGap || int64(b-first+1)*fs.blockSize > bitmapRead) {
				break
			}
			n, end = n+1, b+1
		}
		b := buf[:int64(end-first)*fs.blockSize]
		if err := fs.read(b, int64(first)*fs.blockSize); err != nil {
			return fmt.Errorf("read block bitmaps: %w", err)
		}
		for _, i := range order[:n] {
			at := fs.groups[i].bitmap
			if err := fs.bitmap(uint64(i), at, b[int64(at-first)*fs.blockSize:][:fs.blockSize], used); err != nil {
				return err
			}
		}
		order = order[n:]
	}
	return nil
}

// bitmap checks the bitmap of group i, and adds what is in use. Where the journal holds a newer bitmap, that is the one
// that is checked, and what either says is in use.
func (fs *filesystem) bitmap(i uint64, at blockNr, onDisk []byte, used *gather) error {
	now := onDisk
	if fs.log.has(at) {
		fs.addBits(i, onDisk, used)
		now = slices.Clone(onDisk)
		if err := fs.log.overlay(fs, at, now); err != nil {
			return err
		}
	}
	g := fs.groups[i]
	if fs.roCompat&roMetaCsum != 0 {
		sum := crc32c(fs.seed, now[:fs.clustersPerGroup/8])
		if fs.descSize < 64 {
			sum &= 0xffff
		}
		if sum != g.sum {
			return damaged("group %d: the checksum of its block bitmap is wrong", i)
		}
	}
	if free := fs.groupClusters(i) - fs.addBits(i, now, used); free != uint64(g.free) {
		return damaged("group %d: %d clusters are free by its bitmap, %d by its descriptor", i, free, g.free)
	}
	return nil
}

// addBits adds the clusters of group i whose bits are set, and returns their number.
func (fs *filesystem) addBits(i uint64, bitmap []byte, used *gather) uint64 {
	n := fs.groupClusters(i)
	base := int64(fs.firstBlock(i)) * fs.blockSize
	cluster := int64(fs.ratio) * fs.blockSize
	end := fs.facts.Len
	var count uint64
	for from := nextBit(bitmap, 0, n, false); from < n; {
		to := nextBit(bitmap, from, n, true)
		e := extent.Extent{Off: base + int64(from)*cluster, Len: int64(to-from) * cluster}
		e.Len = min(e.Len, end-e.Off) // the last cluster may be short
		used.add(e)
		count += to - from
		from = nextBit(bitmap, to, n, false)
	}
	return count
}

// nextBit returns the first bit from from on that is set, or with clear one that is not; n if none is before n. The
// bitmap is of whole words.
func nextBit(bitmap []byte, from, n uint64, clear bool) uint64 {
	for from < n {
		w := le.Uint64(bitmap[from/64*8:])
		if clear {
			w = ^w
		}
		if w >>= from % 64; w != 0 {
			return min(from+uint64(bits.TrailingZeros64(w)), n)
		}
		from += 64 - from%64
	}
	return n
}

// checkTotals holds the bitmaps against what must be in use anyway, and against the totals. static is the metadata of
// fixed place.
func (fs *filesystem) checkTotals(static extent.List, used *gather) error {
	known := extent.FromUnsorted(slices.Clone(used.list()))
	var uninit extent.List
	var free uint64
	for i, g := range fs.groups {
		free += uint64(g.free)
		if !g.uninit {
			continue
		}
		e := fs.bytes(fs.firstBlock(uint64(i)), blockNr(fs.groupBlocks(uint64(i))))
		uninit.Add(e)
		if left := fs.groupClusters(uint64(i)) - fs.clusters(static.Clip(e), e.Off); left != uint64(g.free) {
			return damaged("group %d: %d clusters are free as its bitmap was never written, %d by its descriptor", i, left, g.free)
		}
	}
	if lost := extent.Subtract(static, extent.Union(known, uninit)); len(lost) > 0 {
		return damaged("metadata at block %d is not marked as used", lost[0].Off/fs.blockSize)
	}
	if !fs.clean() || fs.log != nil {
		return nil
	}
	// The superblock counts blocks, and may count those behind the end in the last cluster.
	if have, want := free*fs.ratio, fs.free; have > want+fs.ratio || want > have+fs.ratio || fs.ratio == 1 && have != want {
		return damaged("%d blocks are free by the groups, %d by the superblock", have, want)
	}
	return nil
}

// clusters counts the clusters, from base on, that l touches.
func (fs *filesystem) clusters(l extent.List, base int64) uint64 {
	size := int64(fs.ratio) * fs.blockSize
	var n, next int64
	for _, e := range l {
		from, to := max((e.Off-base)/size, next), (e.End()-base+size-1)/size
		n += max(to-from, 0)
		next = max(next, to)
	}
	return uint64(n)
}
