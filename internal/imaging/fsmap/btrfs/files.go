package btrfs

import (
	"errors"
	"io"
	"iter"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

const (
	treeSums   = 7
	objSums    = 1<<64 - 10
	itemSums   = 128
	extentData = 1 // a flag of an extent item
)

// sumSizes are the bytes of a checksum of each kind.
var sumSizes = [sumKinds]int{sumCRC32C: 4, sumXXHash: 8, sumSHA256: 32, 3: 32}

// Files calls file with the extents of data whose every write leaves a mark, in ascending order: btrfs writes data to a
// new place, and then the extent is one of a later generation; where it writes in place there are no checksums. A File is
// such an extent, its Nr the logical address. other is called with what else has an owner. why says why nothing of that
// may be believed, and is empty where it may. An error means that the volume could not be read, or comes from file.
func Files(r io.ReaderAt, size int64, file func(fact.File) error, other func(extent.Extent)) (why string, err error) {
	fs := &filesystem{r: r, size: size}
	err = fs.files(file, other)
	if d := damage(""); errors.As(err, &d) {
		return string(d), nil
	}
	return "", err
}

func (fs *filesystem) files(file func(fact.File) error, other func(extent.Extent)) error {
	if err := fs.readSuper(); err != nil {
		return err
	}
	if fs.logRoot.logical != 0 {
		return damaged("it was not unmounted cleanly: its log was not replayed")
	}
	fs.left = int(fs.dev.total / fs.node)
	if err := fs.readChunks(); err != nil {
		return err
	}
	roots := map[uint64]ref{}
	if err := fs.walkTree("root", treeRoot, fs.root, func(k key, data []byte) error {
		if k.typ != itemRoot || k.obj != treeExtent && k.obj != treeSums {
			return nil
		}
		r, err := parseRoot(data)
		roots[k.obj] = r
		return err
	}); err != nil {
		return err
	}
	if len(roots) != 2 {
		return damaged("root tree: there is no tree of extents, or none of checksums")
	}
	next, stop := iter.Pull2(fs.sums(roots[treeSums]))
	defer stop()
	s := &sumReader{next: next, size: sumSizes[fs.sumKind], sector: fs.sector}
	var f fact.File
	end := uint64(0)
	return fs.walkTree("extent", treeExtent, roots[treeExtent], func(k key, data []byte) error {
		if k.typ != itemExtent && k.typ != itemMetadata {
			return nil
		}
		n := k.off
		if k.typ == itemMetadata {
			n = fs.node
		}
		c := fs.chunks.find(k.obj)
		if len(data) < 24 || c == nil || n == 0 || n > c.end()-k.obj || n%fs.sector != 0 {
			return damaged("an extent of %d bytes is not within a chunk", n)
		}
		if k.obj < end {
			return damaged("it lies on the extent before, which ends at %d", end)
		}
		end = k.obj + n
		f = fact.File{Nr: k.obj, Mark: f.Mark[:0], Extents: f.Extents[:0]}
		c.place(k.obj-c.start, k.obj-c.start+n, func(e extent.Extent) { f.Extents = append(f.Extents, e) })
		if len(f.Extents) == 0 {
			return nil // on another device
		}
		f.Mark = le.AppendUint64(f.Mark, n)
		f.Mark = append(f.Mark, data[8:16]...) // its generation
		for _, e := range f.Extents {
			f.Mark = le.AppendUint64(le.AppendUint64(f.Mark, uint64(e.Off)), uint64(e.Len))
		}
		marked := k.typ == itemExtent && le.Uint64(data[16:])&extentData != 0 && c.typ&(typeRAID5|typeRAID6) == 0
		if marked {
			var err error
			if f.Mark, marked, err = s.add(f.Mark, k.obj, n); err != nil {
				return err
			}
		}
		if marked {
			return file(f)
		}
		for _, e := range f.Extents {
			other(e)
		}
		return nil
	})
}

// walkTree reads a tree without asking whether its blocks are in extents.
func (fs *filesystem) walkTree(name string, owner uint64, root ref, item func(k key, data []byte) error) error {
	return (&btree{fs: fs, name: name, owner: owner, blocks: func(uint64) {}, item: item}).walk(root)
}

// sumRun are the checksums of the sectors from a logical address on.
type sumRun struct {
	start uint64
	sums  []byte
}

// sums returns the items of the tree of checksums, in ascending order.
func (fs *filesystem) sums(root ref) iter.Seq2[sumRun, error] {
	size := sumSizes[fs.sumKind]
	return func(yield func(sumRun, error) bool) {
		end := uint64(0)
		err := fs.walkTree("checksum", treeSums, root, func(k key, data []byte) error {
			if k.obj != objSums || k.typ != itemSums {
				return nil
			}
			n := uint64(len(data)/size) * fs.sector
			if len(data) == 0 || len(data)%size != 0 || k.off%fs.sector != 0 || k.off < end || k.off > maxLogical {
				return damaged("%d bytes of checksums for address %d", len(data), k.off)
			}
			if end = k.off + n; !yield(sumRun{k.off, data}, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(sumRun{}, err)
		}
	}
}

// sumReader gathers the checksums of extents, which come in ascending order.
type sumReader struct {
	next   func() (sumRun, error, bool)
	size   int
	sector uint64
	at     sumRun
	end    bool
}

// add appends the checksums of n bytes from start on; false says that not every sector has one.
func (s *sumReader) add(to []byte, start, n uint64) ([]byte, bool, error) {
	for at := start; at < start+n; {
		last := s.at.start + uint64(len(s.at.sums)/s.size)*s.sector
		if last <= at {
			if s.end {
				return to, false, nil
			}
			run, err, more := s.next()
			if err != nil {
				return to, false, err
			}
			s.at, s.end = run, !more
			continue
		}
		if at < s.at.start {
			return to, false, nil
		}
		k := min(last, start+n) - at
		i := int((at - s.at.start) / s.sector)
		to = append(to, s.at.sums[i*s.size:][:int(k/s.sector)*s.size]...)
		at += k
	}
	return to, true, nil
}
