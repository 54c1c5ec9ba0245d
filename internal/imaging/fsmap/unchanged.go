package fsmap

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/btrfs"
	"mimeo/internal/imaging/fsmap/ext4"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/ntfs"
	"mimeo/internal/imaging/fsmap/swap"
	"mimeo/internal/imaging/fsmap/xfs"
	"mimeo/internal/imaging/manifest"
)

// walk calls file with the files of a volume whose every write leaves a mark, in ascending order, and other with what
// else has an owner. why says why nothing of that may be believed; an error means that the volume could not be read, or
// comes from file.
type walk func(r io.ReaderAt, size int64, file func(fact.File) error, other func(extent.Extent)) (why string, err error)

// marks are the filesystems of which is known what a write to a file leaves behind, by type.
var marks = map[string]walk{"ext2": ext4.Files, "ext3": ext4.Files, "ext4": ext4.Files, "xfs": xfs.Files, "btrfs": btrfs.Files, "ntfs": ntfs.Files}

// Unchanged returns the extents of the i-th volume, of the given type and UUID, in bytes of the disk, that by its own metadata
// nobody has written to between two states: those of files whose inodes are the same but for the time of the last
// reading, with their content in the same places. All of now's metadata is read for that, and nothing of what files hold
// but a few first blocks; whys say what there is nothing to be told of, each with its reason. Both states have the same volumes,
// and those of now may have grown.
//
// That does not see what was written past the filesystem, nor what a filesystem forgot when it lost power.
func Unchanged(now, before Disk, i int, typ, uuid string) (same extent.List, whys []string, err error) {
	return unchanged(now, before, i, typ, uuid, 0)
}

func unchanged(now, before Disk, i int, typ, uuid string, depth int) (extent.List, []string, error) {
	if !Holds(typ) && marks[typ] == nil {
		return nil, []string{typ + " does not tell which files were written to"}, nil
	}
	u, err := now.mapVolume(i, depth)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case u.Type != typ || u.UUID != uuid:
		return nil, []string{fmt.Sprintf("it is %s, and was %s", describe(u.Type, u.UUID), describe(typ, uuid))}, nil
	case u.Method != manifest.MethodUsed:
		return nil, []string{u.Reason}, nil
	case Holds(typ):
		return unchangedInside(now, before, i, typ, depth)
	}
	same, why, err := unchangedFiles(state{now.Volume(i), now.Volumes[i].Len}, state{before.Volume(i), before.Volumes[i].Len}, marks[typ])
	if why != "" {
		return nil, []string{why}, err
	}
	return same.Shift(now.Volumes[i].Off), nil, err
}

// state is a volume at one time.
type state struct {
	io.ReaderAt
	size int64 // bytes
}

func describe(typ, uuid string) string {
	if uuid == "" {
		return typ + " without a UUID"
	}
	return typ + " " + uuid
}

// maxUnchanged bounds the memory of the extents that are collected: 16 bytes each.
const maxUnchanged = 2 << 20

// collected are extents in any order.
type collected []extent.Extent

// add takes an extent; false says that there is no room.
func (c *collected) add(e extent.Extent) bool {
	s := *c
	if n := len(s); n > 0 && s[n-1].End() == e.Off {
		s[n-1].Len += e.Len
		return true
	}
	if len(s) == maxUnchanged {
		if s = collected(extent.FromUnsorted(s)); len(s) > maxUnchanged*3/4 {
			*c = s
			return false
		}
	}
	*c = append(s, e)
	return true
}

var errEnough = errors.New("nobody asks any more")

// unchangedFiles goes through the files of both states side by side.
func unchangedFiles(now, before state, files walk) (same extent.List, why string, err error) {
	var oldWhy string
	var oldErr error
	next, stop := iter.Pull(func(yield func(fact.File) bool) {
		oldWhy, oldErr = files(before, before.size, func(f fact.File) error {
			if !yield(f) {
				return errEnough
			}
			return nil
		}, func(extent.Extent) {})
	})
	defer stop()
	old, more := next()
	var good, bad collected
	room := true
	last := uint64(0)
	why, err = files(now, now.size, func(f fact.File) error {
		if f.Nr <= last {
			return fmt.Errorf("file %d comes after file %d", f.Nr, last)
		}
		last = f.Nr
		for more && old.Nr < f.Nr {
			old, more = next()
		}
		equal := more && old.Nr == f.Nr && bytes.Equal(old.Mark, f.Mark)
		if equal {
			swaps, err := isSwap(now, f)
			if err != nil {
				return err
			}
			equal = !swaps
		}
		for _, e := range f.Extents {
			if equal {
				good.add(e) // what finds no room is read
			} else {
				room = room && bad.add(e)
			}
		}
		return nil
	}, func(e extent.Extent) { room = room && bad.add(e) })
	if why != "" || err != nil {
		return nil, why, err
	}
	for more {
		_, more = next()
	}
	switch {
	case oldErr != nil:
		return nil, "", fmt.Errorf("read what it held before: %w", oldErr)
	case oldWhy != "":
		return nil, "as it was captured: " + oldWhy, nil
	case !room:
		return nil, "its files lie in too many pieces", nil
	}
	// In a sound filesystem nothing is in both, but for blocks that files share.
	return extent.Subtract(extent.FromUnsorted(good), extent.FromUnsorted(bad)), "", nil
}

// isSwap tells whether a file is a swap file, to which the kernel writes past the filesystem.
func isSwap(r io.ReaderAt, f fact.File) (bool, error) {
	const page, least = 4096, 10 * 4096 // bytes; Linux takes none that is smaller
	if f.Size%page != 0 || f.Size < least || len(f.Extents) == 0 {
		return false, nil
	}
	var head []byte
	for _, e := range f.Extents {
		at := len(head)
		if at == 64<<10 {
			break
		}
		head = append(head, make([]byte, min(64<<10-int64(at), e.Len))...)
		if n, err := r.ReadAt(head[at:], e.Off); n < len(head)-at {
			return false, fmt.Errorf("read the start of file %d: %w", f.Nr, err)
		}
	}
	return swap.Is(head), nil
}

// unchangedInside does the same for each volume inside another, where both states hold them in the same places.
func unchangedInside(now, before Disk, i int, typ string, depth int) (extent.List, []string, error) {
	have, err := now.Inside(i, typ)
	if err != nil {
		return nil, nil, err
	}
	had, err := before.Inside(i, typ)
	if err != nil {
		return nil, nil, fmt.Errorf("read what it held before: %w", err)
	}
	was := map[string]Inner{}
	for _, in := range had {
		was[in.Name] = in
	}
	var all []extent.Extent
	var whys []string
	say := func(in Inner, why string) { whys = append(whys, in.Name+": "+why) }
	for _, in := range have {
		old, ok := was[in.Name]
		switch {
		case Holds(in.Type):
			continue // what is inside comes by itself
		case !ok || old.Part.UUID != in.Part.UUID || !sameStart(in.Part.Spans, old.Part.Spans):
			say(in, "it did not lie there before")
			continue
		case in.Part.Whole != "":
			say(in, in.Part.Whole)
			continue
		case in.Rows != nil:
			say(in, "it has parity, which is read with it")
			continue
		}
		same, why, err := unchanged(single(in.Reader(now.ReaderAt), in.Size), single(old.Reader(before.ReaderAt), old.Size), 0, old.Type, old.Usage.UUID, depth+1)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", in.Name, err)
		}
		for _, w := range why {
			say(in, w)
		}
		all = append(all, in.OuterList(same)...)
	}
	return extent.FromUnsorted(all), whys, nil
}

// sameStart tells whether a part begins with what it was before: it may have grown.
func sameStart(now, before []fact.Span) bool {
	for i, b := range before {
		if i >= len(now) || !now[i].Same(b) || now[i].Len < b.Len || now[i].Len > b.Len && i < len(before)-1 {
			return false
		}
	}
	return len(before) > 0
}
