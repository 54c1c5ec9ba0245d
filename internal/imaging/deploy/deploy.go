// Package deploy writes a captured image onto a disk.
//
// It is the mirror of a capture. Everything is checked before the first byte is written: the disk's size and sectors,
// all segments of the manifest, that the store has every chunk. Then, past the point of no return, the old partition
// table is wiped; chunks are fetched ahead of the writes by a few workers, checked against their names, and written by
// one goroutine in ascending order; and the partition table is written last, so that a half-written disk does not boot.
// All buffers are made up front: memory is bounded for any disk.
package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Target is the disk that is written. Its methods may be called from several goroutines.
type Target interface {
	io.ReaderAt
	io.WriterAt
	Size() int64     // bytes
	SectorSize() int // logical, bytes
	// Zero makes the range read as zeros, in the way that is cheapest here: a hole in a file stays a hole.
	Zero(off, n int64) error
	// Sync makes all that was written durable.
	Sync() error
	// Reread makes the kernel look at the partition table again; on a file it does nothing.
	Reread() error
}

// What grows on a larger disk, where it is no name of a volume. The table is Run's part, what lies in the volume GrowVolume's.
const (
	GrowNone = manifest.GrowNone
	GrowLast = manifest.GrowLast
)

// Phases of Progress.
const (
	PhaseChecking  = "checking"
	PhaseWriting   = "writing"
	PhaseVerifying = "verifying"
	PhaseClearing  = "clearing" // reading free space, for what an older use of the disk left there
	PhaseFinishing = "finishing"
)

// Progress is how far a deploy is, in bytes of the disk.
type Progress struct {
	Phase  string
	Done   int64 // of Total
	Total  int64 // bytes of all used extents; in PhaseClearing of the volumes that are read, at most
	Counts Counts
}

// Counts are the numbers of a deploy, in bytes.
type Counts struct {
	Written   int64 `json:"written"`   // to the disk
	Skipped   int64 `json:"skipped"`   // the disk had them already
	Trusted   int64 `json:"trusted"`   // not read and not written: by Options.Last the disk has them already
	Zeroed    int64 `json:"zeroed"`    // made to read as zeros
	Fetched   int64 `json:"fetched"`   // read from the store, compressed
	Discarded int64 `json:"discarded"` // given back, as no part of the image lies there
}

// Options say how to deploy. The zero value writes all, and leaves partitions as they are.
type Options struct {
	Workers  int                         // goroutines that fetch, check and compare; 0 means two more than cores, at most 16
	Memory   int64                       // bytes of all buffers; 0 means DefaultMemory
	Compare  bool                        // read the disk first and write only what differs
	Last     *manifest.Manifest          // with Compare: what the last deploy wrote; of that, files that nobody wrote to since are not read
	Discard  bool                        // tell the disk which of its blocks the image leaves free
	Verify   bool                        // read all back and compare it before the table is written
	Grow     string                      // as manifest.Grows takes it; "" means GrowNone
	Progress func(Progress)              // called from one goroutine, a few times a second; nil means none
	Commit   func(context.Context) error // the point of no return: called before the first write; an error stops there
}

// DefaultMemory bounds the buffers of a deploy, so that the agent does well in a node of 512 MiB.
const DefaultMemory = 64 << 20

// Result is what a deploy did. It is returned with an error as well.
type Result struct {
	Counts
	CannotDiscard bool           // Discard was asked for, and this disk cannot
	Repaired      bool           // the GPT that was captured was damaged, and is not any more
	Untrusted     []string       // with Options.Last: why something, or all, was read nonetheless
	Touched       bool           // the disk was written to; without, it is as it was
	Table         manifest.Table // as it is now on the disk; meaningful without an error only
	// Image is the manifest with its volumes where they lie on the disk: behind one that grows they may have moved.
	Image *manifest.Manifest
}

// SizeError says that the image does not fit.
type SizeError struct {
	Need, Have int64  // bytes
	Why        string // the image needs so much
}

func (e *SizeError) Error() string {
	return fmt.Sprintf("the disk is too small: the image needs %d bytes, the disk has %d (%d too few): %s", e.Need, e.Have, e.Need-e.Have, e.Why)
}

// SectorError says that the disk's logical sectors are not those of the captured disk, and why the image needs those.
type SectorError struct {
	Image, Disk int // bytes
	Why         string
}

func (e *SectorError) Error() string {
	return fmt.Sprintf("the disk has sectors of %d bytes, the image was captured from one with %d: %s", e.Disk, e.Image, e.Why)
}

// VerifyError says that the disk does not hold what was written.
type VerifyError struct{ Off, Len int64 }

func (e *VerifyError) Error() string {
	return fmt.Sprintf("read back %d bytes at offset %d of the disk: not what was written", e.Len, e.Off)
}

// Run writes the image m onto t. It returns when all its goroutines have stopped. After an error with Touched the disk
// holds a part of the image and no partition table.
func Run(ctx context.Context, from store.Reader, m *manifest.Manifest, t Target, opts Options) (*Result, error) {
	r := newRun(from, m, t, opts)
	stop := r.report()
	defer stop()
	err := r.all(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(err, context.Canceled) {
		err = cause
	}
	image := *r.m
	image.Disk = m.Disk
	return &Result{Counts: r.counts(), Touched: r.touched.Load(), CannotDiscard: r.cannotDiscard, Repaired: r.repaired, Untrusted: r.untrusted, Table: r.table, Image: &image}, err
}

func (r *run) all(ctx context.Context) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	if r.opts.Commit != nil {
		if err := r.opts.Commit(ctx); err != nil {
			return err
		}
	}
	r.enter(PhaseWriting)
	if err := r.wipe(); err != nil {
		return fmt.Errorf("make the old content unreadable: %w", err)
	}
	if err := r.write(ctx); err != nil {
		return err
	}
	if err := r.t.Sync(); err != nil {
		return fmt.Errorf("make the written data durable: %w", err)
	}
	if r.opts.Discard {
		if err := r.discard(ctx); err != nil {
			return err
		}
	}
	if r.opts.Verify {
		r.enter(PhaseVerifying)
		if err := r.verify(ctx); err != nil {
			return err
		}
	}
	r.enter(PhaseFinishing)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := r.renew(ctx); err != nil {
		return err
	}
	return r.finish()
}

// lister is what a store has that can say which chunks it lacks.
type lister interface {
	Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error)
}

// check makes sure of all that can be known before the first write.
func (r *run) check(ctx context.Context) error {
	sized := *r.m
	if have, want := r.t.SectorSize(), r.m.Disk.SectorSize; have != want {
		if why := r.m.OtherSectors(have); why != "" {
			return &SectorError{Image: want, Disk: have, Why: why}
		}
		if sized.Disk.SectorSize = have; sized.Table.Kind == "gpt" {
			sized.Disk.Size += sized.BackupLen() // it may take more than the captured one
		}
	}
	if need := sized.Needed(); r.t.Size() < need {
		return &SizeError{Need: need, Have: r.t.Size(), Why: sized.NeededBy()}
	}
	if err := r.checkGrow(ctx); err != nil {
		return err
	}
	if err := r.trust(ctx); err != nil {
		return err
	}
	if err := r.planRenewals(ctx); err != nil {
		return err
	}
	const ask = 4096 // chunks in one question: 128 KiB
	ids := make([]chunk.ID, 0, ask)
	list, _ := r.from.(lister)
	flush := func() error {
		if list == nil || len(ids) == 0 {
			return nil
		}
		missing, err := list.Missing(ctx, ids)
		if err != nil {
			return fmt.Errorf("ask the store for the image's chunks: %w", err)
		}
		if len(missing) > 0 {
			return fmt.Errorf("the image is not complete: %w", &store.MissingError{ID: missing[0]})
		}
		ids = ids[:0]
		return nil
	}
	err := r.each(ctx, func(e manifest.Entry) error {
		if !r.placed(e) {
			return &SizeError{Need: e.Off + e.Len, Have: r.t.Size(), Why: "a piece of the image ends there"}
		}
		if !e.Zero {
			ids = append(ids, e.ID)
		}
		if len(ids) == ask {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

func (o *Options) fill() {
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0)+2, 16)
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Grow == "" {
		o.Grow = GrowNone
	}
}
