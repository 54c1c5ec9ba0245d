package vfat

import (
	"errors"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
)

// Pieces adds where the content of files lies. It ends where the volume is damaged; an error means that the volume could
// not be read.
func Pieces(r io.ReaderAt, size int64, add func(fact.Piece)) error {
	v := &volume{r: r, size: size}
	v.found = func(n cluster, size int64, folder bool) error {
		if folder {
			return nil
		}
		return v.eachRun(n, size, func(p fact.Piece) error {
			add(p)
			return nil
		})
	}
	err := v.readAll()
	if d := damage(""); errors.As(err, &d) {
		return nil
	}
	return err
}

// Claims adds every stretch of the volume that something says is its own: what lies before the clusters, folders and
// files. In a sound filesystem no two of them overlap. why says why not all could be told, or is empty.
func Claims(r io.ReaderAt, size int64, add func(extent.Extent)) (why string, err error) {
	v := &volume{r: r, size: size}
	v.found = func(n cluster, _ int64, _ bool) error {
		return v.eachRun(n, -1, func(p fact.Piece) error {
			add(extent.Extent{Off: p.Off, Len: p.Len})
			return nil
		})
	}
	err = v.readAll()
	if d := damage(""); errors.As(err, &d) {
		return err.Error(), nil
	}
	add(extent.Extent{Len: v.dataAt})
	return "", err
}

// readAll looks at all that tells of clusters in use.
func (v *volume) readAll() error {
	if err := v.readBoot(); err != nil {
		return err
	}
	if err := v.readBackup(); err != nil {
		return err
	}
	if err := v.readTable(); err != nil {
		return err
	}
	return v.walk()
}
