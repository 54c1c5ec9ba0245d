package exfat

import (
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// Pieces adds where the content of files lies. It ends where the volume is damaged; an error means that the volume could
// not be read.
func Pieces(r io.ReaderAt, size int64, add func(fact.Piece)) error {
	v := &volume{r: r, size: size}
	v.found = func(s stream, file bool) error {
		if !file {
			return nil
		}
		return v.eachPiece(s, s.size, func(p fact.Piece) error {
			add(p)
			return nil
		})
	}
	err := v.look()
	if d := damage(""); errors.As(err, &d) {
		return nil
	}
	return err
}

// Claims adds every stretch of the volume that something says is its own: what lies before the clusters, what the
// filesystem keeps for itself, folders and files. In a sound filesystem no two of them overlap. why says why not all
// could be told, or is empty.
func Claims(r io.ReaderAt, size int64, add func(extent.Extent)) (why string, err error) {
	v := &volume{r: r, size: size}
	v.found = func(s stream, _ bool) error {
		return v.eachRun(s, func(r run) error {
			add(extent.Extent{Off: v.place(r.first), Len: int64(r.n) * v.clusterSize})
			return nil
		})
	}
	err = v.look()
	if d := damage(""); errors.As(err, &d) {
		return err.Error(), nil
	}
	add(extent.Extent{Len: v.heapAt})
	return "", err
}

// look looks at all that tells of clusters in use.
func (v *volume) look() error {
	if err := v.readBoot(); err != nil {
		return err
	}
	system, err := v.readRoot()
	if err != nil {
		return fmt.Errorf("the root: %w", err)
	}
	if err := v.readBitmaps(system); err != nil {
		return err
	}
	return v.walk(system)
}

// eachPiece calls fn with where the first size bytes of s lie, in order.
func (v *volume) eachPiece(s stream, size int64, fn func(fact.Piece) error) error {
	at := int64(0)
	return v.eachRun(s, func(r run) error {
		p := fact.Piece{Off: v.place(r.first), Len: min(int64(r.n)*v.clusterSize, size-at), At: at}
		if p.Len <= 0 {
			return nil
		}
		at += p.Len
		return fn(p)
	})
}
