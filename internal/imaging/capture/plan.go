package capture

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
)

// Plan is what is captured; NewPlan makes it.
type Plan struct {
	Table    manifest.Table
	Volumes  []manifest.Volume
	Used     extent.List  // in bytes of the disk
	Pieces   []fact.Piece // where files lie, in bytes of the disk, ascending and none on another: there it is cut
	Partial  map[int]bool // volumes, by index, of whose files not all are among Pieces
	LeftOut  extent.List  // in bytes of the disk: captured as zeros, whatever is there
	Warnings []string     // for the manifest
}

// NewPlan returns the plan of all that was found on a disk. It looks where its files lie, and leaves out what the rules
// say.
func NewPlan(src io.ReaderAt, l *layout.Layout, rules leaveout.Rules) (Plan, error) {
	if err := rules.Check(); err != nil {
		return Plan{}, err
	}
	p := Plan{Table: l.Table.Table, Volumes: l.Manifest(), Used: l.Used, Partial: map[int]bool{}, LeftOut: l.Zeros, Warnings: l.Notes}
	d := fsmap.DiskOf(src, p.Volumes)
	for i, v := range p.Volumes {
		if v.Method != manifest.MethodUsed {
			continue
		}
		list, all, err := d.Pieces(i, v.Type)
		if err != nil {
			return p, fmt.Errorf("partition %d: %w", v.Partition, err)
		}
		if !all {
			p.Partial[i] = true
		}
		p.Pieces = append(p.Pieces, list...)
		if err := p.leaveOut(d, i, rules); err != nil {
			return p, fmt.Errorf("partition %d: %w", v.Partition, err)
		}
	}
	slices.SortFunc(p.Pieces, func(a, b fact.Piece) int { return cmp.Compare(a.Off, b.Off) })
	return p, nil
}

// leaveOut adds what the rules leave out of the i-th volume.
func (p *Plan) leaveOut(d fsmap.Disk, i int, rules leaveout.Rules) error {
	v := p.Volumes[i]
	if !rules.Swap && len(rules.Patterns) == 0 {
		return nil
	}
	name := fmt.Sprintf("partition %d (%s)", v.Partition, v.Type)
	if fsmap.HasTree(v.Type) {
		list, err := p.leaveOutOf(d.Volume(i), v.Len, v.Type, name, rules)
		p.LeftOut = extent.Union(p.LeftOut, list.Shift(v.Off))
		return err
	}
	inner, err := d.Inside(i, v.Type)
	if err != nil {
		return err
	}
	for _, in := range inner {
		if in.Method != manifest.MethodUsed || in.Leg || !fsmap.HasTree(in.Type) { // other legs would keep what is left out
			continue
		}
		list, err := p.leaveOutOf(in.Reader(d.ReaderAt), in.Size, in.Type, name+": "+in.Name, rules)
		if err != nil {
			return err
		}
		p.LeftOut = extent.Union(p.LeftOut, in.OuterList(list))
	}
	return nil
}

// leaveOutOf returns what the rules leave out of a filesystem.
func (p *Plan) leaveOutOf(src io.ReaderAt, size int64, typ, name string, rules leaveout.Rules) (extent.List, error) {
	var found leaveout.Found
	fs, err := fsmap.Tree(src, size, typ)
	if err != nil {
		found.Notes = []string{fmt.Sprintf("nothing is left out: %v", err)}
	} else if found, err = leaveout.Find(fs, rules, func(add func(extent.Extent)) (string, error) {
		return fsmap.Claims(src, size, typ, add)
	}); err != nil {
		return nil, err
	}
	if n := found.Extents.Bytes(); n > 0 {
		found.Notes = append(found.Notes, fmt.Sprintf("%d files with %d MiB are left out: captured as zeros", found.Files, n>>20))
	}
	for _, n := range found.Notes {
		p.Warnings = append(p.Warnings, name+": "+n)
	}
	return found.Extents, nil
}

// masked is a disk on which what is left out reads as zeros.
type masked struct {
	io.ReaderAt
	out extent.List
}

func (m masked) ReadAt(b []byte, off int64) (int, error) {
	i, _ := slices.BinarySearchFunc(m.out, off, func(e extent.Extent, off int64) int {
		if e.End() <= off {
			return -1
		}
		return 1
	})
	end := off + int64(len(b))
	if i < len(m.out) && m.out[i].Off <= off && m.out[i].End() >= end {
		clear(b)
		return len(b), nil
	}
	n, err := m.ReaderAt.ReadAt(b, off)
	for ; i < len(m.out) && m.out[i].Off < off+int64(n); i++ {
		clear(b[max(m.out[i].Off-off, 0):min(m.out[i].End()-off, int64(n))])
	}
	return n, err
}

// Grids on which is cut what belongs to no file, where files are known. Metadata changes in many places, and a little in each:
// an inode here, an entry of a directory there. So it is cut as small as the blocks in which most filesystems write it.
// Where files are so many that not all of their pieces are known, their content is cut with it, and there chunks would
// be too many.
const (
	metaSize    = 4 << 10
	partialSize = 64 << 10
)

// grids gives the grids of the disk, in ascending order. One starts anew with each volume, so that the same filesystem
// gives the same chunks wherever its partition lies. In a volume of which is known where its files lie, one starts with
// each piece of a file, so that the same file gives the same chunks wherever its filesystem puts it.
func (p Plan) grids(size int64) func() (chunk.Grid, bool) {
	type state int
	const (
		disk   state = iota // its start
		start               // of a volume
		inside              // between files
		file                // at the end of one
	)
	volumes, pieces, index := p.Volumes, p.Pieces, 0
	outer := chunk.Grid{Size: size} // of the volume, between its files
	at := disk
	var next chunk.Grid
	return func() (chunk.Grid, bool) {
		for {
			switch at {
			case disk:
				at = start
				return outer, true
			case start:
				if len(volumes) == 0 {
					return chunk.Grid{}, false
				}
				v := volumes[0]
				for len(pieces) > 0 && pieces[0].Off < v.Off {
					pieces = pieces[1:]
				}
				outer = chunk.Grid{Off: v.Off, Origin: v.Off, Size: size}
				if len(pieces) > 0 && pieces[0].Off+pieces[0].Len <= v.Off+v.Len {
					outer.Size = min(size, metaSize)
					if p.Partial[index] {
						outer.Size = min(size, partialSize)
					}
				}
				at = inside
				return outer, true
			case inside:
				v := volumes[0]
				if len(pieces) == 0 || pieces[0].Off+pieces[0].Len > v.Off+v.Len {
					volumes, index, at = volumes[1:], index+1, start
					return chunk.Grid{Off: v.Off + v.Len, Size: size}, true
				}
				f := pieces[0]
				pieces = pieces[1:]
				next = outer
				next.Off = f.Off + f.Len
				at = file
				return chunk.Grid{Off: f.Off, Origin: f.Off - f.At, Size: size}, true
			default:
				at = inside
				return next, true
			}
		}
	}
}

// headLen is how much of the disk and of each volume is looked at before and after. Mounting a filesystem, or changing
// a mounted one, changes its superblock, which lies within it.
const headLen = 68 << 10

// head returns the range of the i-th head: the disk's, then those of the volumes.
func (r *run) head(i int) extent.Extent {
	if i == 0 {
		return extent.Extent{Len: min(headLen, r.src.Disk.Size)}
	}
	v := r.plan.Volumes[i-1]
	return extent.Extent{Off: v.Off, Len: min(headLen, v.Len)}
}

func (r *run) headName(i int) string {
	if i == 0 {
		return "start of the disk"
	}
	v := r.plan.Volumes[i-1]
	return fmt.Sprintf("%s volume at offset %d (partition %d)", v.Type, v.Off, v.Partition)
}

// heads returns the hashes of all heads.
func (r *run) heads() ([]chunk.ID, error) {
	ids := make([]chunk.ID, 1+len(r.plan.Volumes))
	buf := make([]byte, headLen)
	for i := range ids {
		e := r.head(i)
		if err := readFull(r.src, buf[:e.Len], e.Off); err != nil {
			return nil, fmt.Errorf("%s: %w", r.headName(i), err)
		}
		ids[i] = chunk.Sum(buf[:e.Len])
	}
	return ids, nil
}
