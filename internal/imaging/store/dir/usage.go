package dir

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Usage says what takes how much room in the store. Stored, unique and shared bytes are those of records in packs,
// encoded, with their heads.
type Usage struct {
	Packs     int          `json:"packs"`
	PackBytes int64        `json:"pack_bytes"` // bytes of all packs
	Chunks    int64        `json:"chunks"`
	Raw       int64        `json:"raw"`       // bytes of all chunks, raw
	Named     int64        `json:"named"`     // bytes of packs that some revision names
	Unnamed   int64        `json:"unnamed"`   // bytes of packs that none names: garbage, and captures under way
	Revisions int          `json:"revisions"` // of all images
	DiskSize  int64        `json:"disk_size"` // of all revisions: what they would take as raw disks
	Used      int64        `json:"used"`      // of all revisions: what they would take if nothing were shared or compressed
	Images    []ImageUsage `json:"images"`
}

// ImageUsage is the part of an image.
type ImageUsage struct {
	Image     string          `json:"image"`
	DiskSize  int64           `json:"disk_size"` // of all its revisions
	Used      int64           `json:"used"`      // of all its revisions
	Stored    int64           `json:"stored"`    // by all its chunks, each counted once
	Unique    int64           `json:"unique"`    // by chunks that no other image has: removing the image would free them
	Shared    int64           `json:"shared"`    // by chunks that another image has, too
	Revisions []RevisionUsage `json:"revisions"`
}

// RevisionUsage is the part of a revision.
type RevisionUsage struct {
	store.Revision
	Chunks int64  `json:"chunks"` // different ones
	Stored int64  `json:"stored"` // by its chunks, each counted once
	Unique int64  `json:"unique"` // by chunks that no other revision has: removing it would free them
	Shared int64  `json:"shared"` // by chunks that another revision has, too
	Error  string `json:"error,omitempty"`
}

const (
	nobody  = 0         // in owners: not named yet
	several = 1<<32 - 1 // in owners: named by more than one
)

// owners says of each item of the index who names it: 4 bytes an item.
type owners []uint32

// claim tells whether who is the first that names item n, and who was the only one until now, if that ends.
func (o *owners) claim(n, who uint32) (first bool, was uint32) {
	if int(n) >= len(*o) {
		*o = append(*o, make([]uint32, int(n)+1-len(*o))...)
	}
	switch old := (*o)[n]; old {
	case who, several:
		return false, nobody
	case nobody:
		(*o)[n] = who
		return true, nobody
	default:
		(*o)[n] = several
		return false, old
	}
}

// bits is a set of items of the index.
type bits []uint64

// add puts n into the set, and tells whether it was not there.
func (b *bits) add(n uint32) bool {
	if k := int(n >> 6); k >= len(*b) {
		*b = append(*b, make([]uint64, k+1-len(*b))...)
	}
	w, bit := &(*b)[n>>6], uint64(1)<<(n&63)
	fresh := *w&bit == 0
	*w |= bit
	return fresh
}

func (b bits) has(n uint32) bool { return int(n>>6) < len(b) && b[n>>6]&(1<<(n&63)) != 0 }

// Usage counts what each image and revision takes. It reads the chunk lists of all revisions, and no other data. In
// memory it needs some 10 bytes for each chunk of the store.
func (s *Store) Usage(ctx context.Context) (*Usage, error) {
	end, err := s.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	u := &Usage{Images: []ImageUsage{}}
	s.imu.RLock()
	u.Packs, u.Chunks, u.Raw = len(s.packs), s.index.count, s.index.raw
	n := int(s.index.n)
	for _, p := range s.packs {
		u.PackBytes += p.size
	}
	s.imu.RUnlock()
	revs, err := s.all(ctx, func(string, error) {}) // Check tells of these
	if err != nil {
		return nil, err
	}
	byRev, byImage := make(owners, n), make(owners, n)
	inRev, inImage := make(bits, n/64+1), make(bits, n/64+1)
	where := make([][2]int, 1, len(revs)+1) // of each revision, from 1: image and place in it
	for _, rev := range revs {
		if k := len(u.Images); k == 0 || u.Images[k-1].Image != rev.Image {
			u.Images = append(u.Images, ImageUsage{Image: rev.Image})
			clear(inImage)
		}
		i := len(u.Images) - 1
		im := &u.Images[i]
		im.Revisions = append(im.Revisions, RevisionUsage{Revision: rev})
		r := &im.Revisions[len(im.Revisions)-1]
		where = append(where, [2]int{i, len(im.Revisions) - 1})
		who := uint32(len(where) - 1)
		clear(inRev)
		m, err := s.Manifest(ctx, rev.ID)
		if err == nil {
			err = s.named(ctx, m, nil, func(n uint32, l loc) {
				size := recordHead + int64(l.stored)
				if inRev.add(n) {
					r.Chunks++
					r.Stored += size
				}
				if inImage.add(n) {
					im.Stored += size
				}
				first, was := byRev.claim(n, who)
				if first {
					r.Unique += size
					u.Named += size
				} else if was != nobody {
					at := where[was]
					u.Images[at[0]].Revisions[at[1]].Unique -= size
				}
				first, was = byImage.claim(n, uint32(i+1))
				if first {
					im.Unique += size
				} else if was != nobody {
					u.Images[was-1].Unique -= size
				}
			})
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			r.Error = err.Error()
		}
	}
	for i := range u.Images {
		im := &u.Images[i]
		im.Shared = im.Stored - im.Unique
		for j := range im.Revisions {
			r := &im.Revisions[j]
			r.Shared = r.Stored - r.Unique
			im.DiskSize += r.DiskSize
			im.Used += r.Used
		}
		u.Revisions += len(im.Revisions)
		u.DiskSize += im.DiskSize
		u.Used += im.Used
	}
	u.Unnamed = max(0, u.PackBytes-int64(u.Packs)*packHead-u.Named)
	return u, nil
}

// met remembers what was named already, for those who need to hear of each chunk only once. Revisions share most segments,
// and segments most entries.
type met struct {
	segments map[chunk.ID]bool
	entries  [][]byte // of some segment that was read, by its place in its manifest
	size     int      // of entries, in bytes
}

// maxMet bounds met.entries: some 180 GiB of a disk with chunks of the default size.
const maxMet = 64 << 20

// before returns the records of a segment that was met at place i, and puts raw there.
func (m *met) before(i int, raw []byte) (old []byte) {
	for len(m.entries) <= i {
		m.entries = append(m.entries, nil)
	}
	old = m.entries[i]
	if m.size += len(raw) - len(old); m.size > maxMet {
		m.entries, m.size = nil, 0
		return nil
	}
	m.entries[i] = slices.Clone(raw)
	return old
}

// named calls fn with every chunk that m names, its list's own included, as far as the index has it: with the number of
// its item and its place, under imu. Where seen is not nil, what it has met is passed over.
func (s *Store) named(ctx context.Context, m *manifest.Manifest, seen *met, fn func(n uint32, l loc)) error {
	var raw []byte
	visit := func(id chunk.ID) {
		if slot, ok := s.index.find(&id); ok {
			n := s.index.table[slot] - firstRef
			fn(n, s.index.item(n).loc())
		}
	}
	for i, seg := range m.Content.Segments {
		if seen != nil && seen.segments[seg.ID] {
			continue
		}
		var err error
		if raw, err = manifest.ReadSegment(ctx, s, seg, raw); err != nil {
			return fmt.Errorf("segment %d: %w", i, err)
		}
		var old []byte
		if seen != nil {
			old = seen.before(i, raw)
		}
		s.imu.RLock()
		visit(seg.ID)
		for b := raw; len(b) > 0 && err == nil; b = b[manifest.EntrySize:] {
			if at := len(raw) - len(b); at < len(old) && bytes.Equal(b[:manifest.EntrySize], old[at:at+manifest.EntrySize]) {
				continue
			}
			var e manifest.Entry
			if e, err = manifest.DecodeEntry(b); err == nil && !e.Zero {
				visit(e.ID)
			}
		}
		s.imu.RUnlock()
		if err != nil {
			return fmt.Errorf("segment %d: %w: %w", i, manifest.ErrContent, err)
		}
		if seen != nil {
			seen.segments[seg.ID] = true
		}
	}
	return nil
}

// Of returns the part of one image, false where there is none.
func (u *Usage) Of(image string) (ImageUsage, bool) {
	i := slices.IndexFunc(u.Images, func(im ImageUsage) bool { return im.Image == image })
	if i < 0 {
		return ImageUsage{}, false
	}
	return u.Images[i], true
}
