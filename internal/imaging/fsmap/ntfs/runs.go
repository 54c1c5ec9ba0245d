package ntfs

import (
	"sort"
)

// hole is the place of a run that has none: of a sparse or compressed file.
const hole cluster = -1

// run is a part of an attribute that lies in one piece.
type run struct {
	vcn cluster // of its first cluster, in the attribute
	lcn cluster // in the volume; or hole
	n   cluster
}

// eachRun decodes mapping pairs (NTFS documentation, "data runs"): a byte with two lengths, then so many bytes of the
// number of clusters, and so many of the distance from the run before. They start at cluster vcn of the attribute, and
// eachRun returns the one behind them.
func (v *volume) eachRun(pairs []byte, vcn cluster, f func(run) error) (cluster, error) {
	var lcn cluster
	for {
		if len(pairs) == 0 {
			return 0, damaged("its data runs have no end")
		}
		lenBytes, lcnBytes := int(pairs[0]&15), int(pairs[0]>>4)
		if pairs[0] == 0 {
			return vcn, nil
		}
		if lenBytes == 0 || lenBytes > 8 || lcnBytes > 8 || 1+lenBytes+lcnBytes > len(pairs) {
			return 0, damaged("its data runs have a byte %#x", pairs[0])
		}
		n := cluster(signed(pairs[1 : 1+lenBytes]))
		if n <= 0 || n > maxVCN-vcn {
			return 0, damaged("it has a data run of %d clusters", n)
		}
		at := hole
		if lcnBytes > 0 {
			delta := cluster(signed(pairs[1+lenBytes : 1+lenBytes+lcnBytes]))
			if delta < -v.clusters || delta > v.clusters {
				return 0, damaged("it has a data run %d clusters from the one before", delta)
			}
			lcn += delta
			// Old versions of Windows wrote holes as cluster -1.
			if lcn < -1 || lcn > v.clusters || lcn >= 0 && n > v.clusters-lcn {
				return 0, damaged("it has a data run of %d clusters at %d, there are %d", n, lcn, v.clusters)
			}
			at = lcn
		}
		if err := f(run{vcn: vcn, lcn: at, n: n}); err != nil {
			return 0, err
		}
		vcn += n
		pairs = pairs[1+lenBytes+lcnBytes:]
	}
}

const (
	maxVCN  cluster = 1 << 54 // a file has at most 2^63 bytes in clusters of 512
	maxRuns         = 1 << 20 // of the MFT, of $Bitmap and other files that are read: 24 bytes each
)

// signed is a little-endian number of one to eight bytes.
func signed(b []byte) int64 {
	n := int64(int8(b[len(b)-1]))
	for i := len(b) - 2; i >= 0; i-- {
		n = n<<8 | int64(b[i])
	}
	return n
}

// stream is the content of an attribute.
type stream struct {
	v        *volume
	resident []byte // where it lies in the record
	runs     []run  // otherwise, without a gap
	size     int64  // bytes
	init     int64  // bytes; those behind are zero, whatever lies on the disk
}

// mapped is the number of bytes that the runs have.
func (s *stream) mapped() int64 {
	if len(s.runs) == 0 {
		return int64(len(s.resident))
	}
	last := s.runs[len(s.runs)-1]
	return int64(last.vcn+last.n) * s.v.clusterSize
}

// read fills b with the content at off.
func (s *stream) read(b []byte, off int64) error {
	if off < 0 || off > s.size || int64(len(b)) > s.size-off {
		return damaged("%d bytes at %d are asked for, it has %d", len(b), off, s.size)
	}
	if n := s.init - off; n < int64(len(b)) {
		clear(b[max(n, 0):])
		b = b[:max(n, 0)]
	}
	if s.resident != nil {
		copy(b, s.resident[min(off, int64(len(s.resident))):])
		return nil
	}
	cs := s.v.clusterSize
	i := sort.Search(len(s.runs), func(i int) bool { return int64(s.runs[i].vcn+s.runs[i].n)*cs > off })
	for len(b) > 0 {
		if i == len(s.runs) {
			return damaged("its data runs end before its content")
		}
		r := s.runs[i]
		within := off - int64(r.vcn)*cs
		n := min(int64(len(b)), int64(r.n)*cs-within)
		if r.lcn == hole {
			clear(b[:n])
		} else if err := s.v.read(b[:n], int64(r.lcn)*cs+within); err != nil {
			return err
		}
		b, off = b[n:], off+n
		i++
	}
	return nil
}
