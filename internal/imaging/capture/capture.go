// Package capture reads a disk's used extents into a store.
//
// The bytes go one way, and every step has its bound:
//
//	reader    one goroutine; the used extents once, in ascending order, with reads of up to a block (4 MiB)
//	workers   one a core; zero test, BLAKE3; later, for what the store lacks, compression
//	askers    a few; which of a block's chunks are missing?
//	senders   a few; Put
//	entries   one goroutine; entries in ascending order into segments, which are chunks too
//
// The number of blocks is fixed up front, and a block goes back to the reader when its chunks are in the store: so
// memory is bounded for any disk, and the slowest step holds back the reader. Chunks reach the store in any order;
// only the manifest makes the image exist, and it comes last. A capture that was interrupted and is run again finds its
// chunks there.
package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
)

// Source is the disk that is read.
type Source struct {
	io.ReaderAt
	Disk manifest.Disk // its geometry and identity; Size and SectorSize must be set
}

// Info returns what is known of the disk.
func (s Source) Info() manifest.Disk { return s.Disk }

// Codec says how chunks are compressed.
type Codec int

// The choices of a codec.
const (
	Auto Codec = iota // for each block: s2 where the processor holds the capture up, zstd otherwise
	Zstd              // the smallest
	S2                // the fastest
)

// Phases of Progress.
const (
	PhaseCapturing = "capturing"
	PhaseStaging   = "staging"
)

// Progress is how far a capture is. Bytes are bytes of the disk unless said otherwise.
type Progress struct {
	Phase  string
	Done   int64  // of Total
	Total  int64  // bytes of all used extents
	Counts Counts // so far
}

// Counts are the numbers of a capture, in bytes.
type Counts struct {
	Read   int64 `json:"read"`   // of used extents
	Zero   int64 `json:"zero"`   // of these, all zero: kept as a length
	New    int64 `json:"new"`    // of these, in chunks that the store did not hold
	Sent   int64 `json:"sent"`   // given to the store, compressed
	Stored int64 `json:"stored"` // what the store grew by
	Reused int64 `json:"reused"` // of these, in chunks that were there, or came before on this disk
}

// Options say how to capture. The zero value is right for most.
type Options struct {
	Source    manifest.Source             // who captures, for the manifest; Arch is filled in where empty
	Workers   int                         // goroutines that hash and compress; 0 means one a core, at most 16
	Codec     Codec                       // how chunks are compressed
	ChunkSize int                         // bytes; 0 means chunk.DefaultSize
	Memory    int64                       // bytes of all buffers; 0 means DefaultMemory
	Now       func() time.Time            // the clock of Manifest.Created; nil means time.Now
	Progress  func(Progress)              // called from one goroutine, a few times a second, and at the end; nil means none
	Recheck   func(context.Context) error // called when all is read: an error (the disk is mounted by now) fails the capture
}

// DefaultMemory bounds the buffers of a capture, so that the agent does well in a node of 512 MiB: there, kernel and
// system in RAM take some 200 MiB.
const DefaultMemory = 80 << 20

// minChunkSize keeps manifests and indexes small.
const minChunkSize = 4 << 10

// Result is a captured disk.
type Result struct {
	ID       manifest.ID // of the staged manifest
	Manifest *manifest.Manifest
	Counts   Counts
}

// ReadError says which bytes of the disk could not be read.
type ReadError struct {
	Off int64 // bytes from the start of the disk
	Len int64
	Err error
}

func (e *ReadError) Error() string {
	return fmt.Sprintf("read %d bytes at offset %d of the disk: %v", e.Len, e.Off, e.Err)
}
func (e *ReadError) Unwrap() error { return e.Err }

// ErrChanged says that somebody wrote to the disk while it was captured.
var ErrChanged = errors.New("the disk changed while it was captured")

// Run captures the extents of plan and stages the manifest; publishing it is the caller's. It returns when all its
// goroutines have stopped. After an error the store may hold chunks that no manifest names; the next capture uses them.
func Run(ctx context.Context, src Source, plan Plan, dst store.Writer, opts Options) (*Result, error) {
	if err := checkPlan(src, plan); err != nil {
		return nil, err
	}
	if err := opts.fill(); err != nil {
		return nil, err
	}
	if len(plan.LeftOut) > 0 {
		src.ReaderAt = masked{src.ReaderAt, plan.LeftOut}
	}
	r := newRun(src, plan, dst, opts)
	before, err := r.heads()
	if err != nil {
		return nil, err
	}
	stop := r.report()
	defer stop()

	group, gctx := errgroup.WithContext(ctx)
	r.start(gctx, group)
	if err := group.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}

	r.phase.Store(PhaseStaging)
	if opts.Recheck != nil {
		if err := opts.Recheck(ctx); err != nil {
			return nil, err
		}
	}
	after, err := r.heads()
	if err != nil {
		return nil, err
	}
	for i := range before {
		if before[i] != after[i] {
			return nil, fmt.Errorf("%s: %w", r.headName(i), ErrChanged)
		}
	}
	if err := dst.Flush(ctx); err != nil {
		return nil, fmt.Errorf("make the captured chunks durable: %w", err)
	}
	m := r.manifest()
	id, err := dst.Stage(ctx, m)
	if err != nil {
		return nil, fmt.Errorf("stage the manifest: %w", err)
	}
	return &Result{ID: id, Manifest: m, Counts: r.counts()}, nil
}

// fill puts defaults in and refuses what cannot work.
func (o *Options) fill() error {
	if o.Workers <= 0 {
		o.Workers = min(runtime.GOMAXPROCS(0), 16)
	}
	if o.ChunkSize == 0 {
		o.ChunkSize = chunk.DefaultSize
	}
	if o.ChunkSize < minChunkSize || o.ChunkSize > chunk.MaxLen || o.ChunkSize&(o.ChunkSize-1) != 0 {
		return fmt.Errorf("chunk size %d: must be a power of two from %d to %d bytes", o.ChunkSize, minChunkSize, chunk.MaxLen)
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Source.Arch == "" {
		if o.Source.Arch = runtime.GOARCH; o.Source.Arch == "ppc64le" {
			o.Source.Arch = "ppc64el" // as Debian and the manifest call it
		}
	}
	return nil
}

// checkPlan makes sure that the plan lies on the disk: what it says comes from parsed tables and filesystems.
func checkPlan(src Source, p Plan) error {
	if src.Disk.Size <= 0 || src.Disk.SectorSize <= 0 {
		return fmt.Errorf("disk of %d bytes with sectors of %d: unknown geometry", src.Disk.Size, src.Disk.SectorSize)
	}
	end := int64(0)
	for i, v := range p.Volumes {
		if v.Off < 0 || v.Len <= 0 || v.Len > src.Disk.Size-v.Off {
			return fmt.Errorf("volume %d (%d bytes at %d) does not lie on the disk of %d bytes", i, v.Len, v.Off, src.Disk.Size)
		}
	}
	for i, e := range p.Used {
		if e.Off < end || e.Len <= 0 || e.Len > src.Disk.Size-e.Off {
			return fmt.Errorf("used extent %d (%d bytes at %d) does not lie on the disk of %d bytes after the one before it", i, e.Len, e.Off, src.Disk.Size)
		}
		end = e.End()
	}
	return nil
}
