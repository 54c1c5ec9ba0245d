package fact

import (
	"cmp"
	"slices"
)

// Piece is a part of a file that lies in one piece on a volume.
type Piece struct {
	Off int64 // bytes from the start of the volume
	Len int64 // bytes
	At  int64 // bytes from the start of the file
}

// MaxPieces bounds the memory of Pieces: 24 bytes each.
const MaxPieces = 2 << 20

// Pieces collects the pieces of files, at most MaxPieces. Beyond that the shortest are dropped: where they lie, disks
// are cut as if no file were there.
type Pieces struct {
	list     []Piece
	most     int
	shortest int64 // shorter ones are dropped
}

// Add takes a piece. Nonsense is dropped.
func (p *Pieces) Add(f Piece) {
	if f.Off < 0 || f.At < 0 || f.Len <= 0 || f.Len < p.shortest || f.Len > 1<<62-f.Off {
		return
	}
	if p.most == 0 {
		p.most = MaxPieces
	}
	if len(p.list) == p.most {
		lens := make([]int64, len(p.list))
		for i, f := range p.list {
			lens[i] = f.Len
		}
		slices.Sort(lens)
		p.shortest = lens[len(lens)/2] + 1
		p.list = slices.DeleteFunc(p.list, func(f Piece) bool { return f.Len < p.shortest })
		if f.Len < p.shortest {
			return
		}
	}
	p.list = append(p.list, f)
}

// Dropped tells whether any were.
func (p *Pieces) Dropped() bool { return p.shortest > 0 }

// List returns the pieces in ascending order of Off, none on another: of files that share blocks the first counts.
func (p *Pieces) List() []Piece {
	slices.SortFunc(p.list, func(a, b Piece) int {
		return cmp.Or(cmp.Compare(a.Off, b.Off), cmp.Compare(a.At, b.At), cmp.Compare(b.Len, a.Len))
	})
	end := int64(0)
	return slices.DeleteFunc(p.list, func(f Piece) bool {
		if f.Off < end {
			return true
		}
		end = f.Off + f.Len
		return false
	})
}
