// Package shrink shows a disk as a smaller one: its ext and NTFS filesystems are made smaller by their own tools, on a view
// of the disk that keeps in memory what they change, and what lies behind them moves up. The disk is only read.
package shrink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mimeo/internal/imaging/blockfile"
	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/tool"
)

const (
	mib = 1 << 20
	// room is what a filesystem keeps beside what it needs: a twentieth, and so much. The tools tell only about what they
	// need, and a system should boot even where nothing grows on the disk that it is deployed to.
	room = 64 * mib
)

// Options say how to shrink.
type Options struct {
	Memory int64                            // bytes that the changes may take; 0 means half of what the machine has to spare
	Say    func(format string, args ...any) // what is done now, for a person; nil means nobody is told
}

// Disk is a disk as if it were smaller. It is a layout.Source, and stays right as long as the disk does not change.
type Disk struct {
	o     *overlay
	info  manifest.Disk
	heads []head
	// Notes say what was made smaller, and from what, for the manifest's warnings.
	Notes []string
}

// Info implements layout.Source: the size is the new one.
func (d *Disk) Info() manifest.Disk { return d.info }

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(b []byte, off int64) (int, error) {
	if off >= d.info.Size {
		return 0, io.EOF
	}
	if rest := d.info.Size - off; int64(len(b)) > rest {
		n, err := d.o.ReadAt(b[:rest], off)
		return n, cmp.Or(err, io.EOF)
	}
	return d.o.ReadAt(b, off)
}

// head is the start of the disk or of a volume as it was in the beginning: mounting a filesystem changes it.
type head struct {
	off int64
	sum chunk.ID
}

const headLen = 68 << 10 // as far as the last superblock, that of btrfs

func offsets(l *layout.Layout) []int64 {
	var out []int64
	for _, v := range l.Volumes {
		out = append(out, v.Off)
	}
	return out
}

func sum(r io.ReaderAt, off, size int64) (chunk.ID, error) {
	b := make([]byte, min(headLen, size-off))
	if n, err := r.ReadAt(b, off); n < len(b) {
		return chunk.ID{}, fmt.Errorf("read %d bytes at offset %d of the disk: %w", len(b), off, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return chunk.Sum(b), nil
}

// Recheck returns capture.ErrChanged where the disk itself has changed since Run began: what was read of it then, and what is
// read now, may not belong together. It is for the end of a capture.
func (d *Disk) Recheck() error {
	for _, h := range d.heads {
		now, err := sum(d.o.src, h.off, d.o.size)
		if err != nil {
			return err
		}
		if now != h.sum {
			return fmt.Errorf("offset %d of the disk: %w", h.off, capture.ErrChanged)
		}
	}
	return nil
}

// check looks whether the small disk holds what the large one did.
func (d *Disk) check(was *layout.Layout) error {
	is, err := layout.Plan(d)
	if err != nil {
		return err
	}
	if is.Table.Kind != was.Table.Kind || len(is.Volumes) != len(was.Volumes) {
		return &Error{Why: fmt.Sprintf("its new table has %d volumes, the old one %d", len(is.Volumes), len(was.Volumes))}
	}
	for i, v := range is.Volumes {
		if w := was.Volumes[i]; v.Partition != w.Partition || v.Type != w.Type || v.UUID != w.UUID || v.Method != w.Method {
			return &Error{Partition: w.Partition, Why: fmt.Sprintf("it was %s (%s), and came out as %s (%s): %s", w.Type, w.Method, v.Type, v.Method, v.Reason)}
		}
	}
	return nil
}

// Error says why a disk cannot be shown as a smaller one.
type Error struct {
	Partition int // 0: the disk
	Why       string
	Err       error // nil, or the cause
}

func (e *Error) Error() string {
	where := "the disk"
	if e.Partition > 0 {
		where = fmt.Sprintf("partition %d", e.Partition)
	}
	s := where + " cannot shrink: " + e.Why
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}
func (e *Error) Unwrap() error { return e.Err }

// shrinker is a disk at work.
type shrinker struct {
	o     *overlay
	l     *layout.Layout
	table manifest.Table // as it will be
	opts  Options
	notes []string
}

// Run makes the filesystems of src smaller on a view of it. An *Error says what cannot be; with ErrScratch in it there is
// too little memory. The kernel must have FUSE.
func Run(ctx context.Context, src layout.Source, opts Options) (*Disk, error) {
	if opts.Memory <= 0 {
		opts.Memory = spare() / 2
	}
	if opts.Say == nil {
		opts.Say = func(string, ...any) {}
	}
	l, err := layout.Plan(src)
	if err != nil {
		return nil, err
	}
	if l.Table.Kind == "none" {
		return nil, &Error{Why: "it has no partition table that can be believed, and so no partition that could become shorter"}
	}
	var heads []head
	for _, off := range append([]int64{0}, offsets(l)...) {
		h := head{off: off}
		if h.sum, err = sum(src, off, l.Disk.Size); err != nil {
			return nil, err
		}
		heads = append(heads, h)
	}
	s := &shrinker{o: newOverlay(src, l.Disk.Size, opts.Memory), l: l, table: l.Table.Table, opts: opts}
	s.table.Partitions = slices.Clone(s.table.Partitions)
	for _, v := range l.Volumes {
		if v.Partition == 0 || v.Method != manifest.MethodUsed || !slices.Contains([]string{"ext2", "ext3", "ext4", "ntfs"}, v.Type) {
			continue
		}
		if err := s.volume(ctx, v.Volume); err != nil {
			return nil, s.why(v.Partition, err)
		}
	}
	if len(s.notes) == 0 {
		why := "it has no ext or NTFS filesystem whose shrinking would save as much as a twentieth of it"
		if slices.ContainsFunc(l.Volumes, func(v layout.Volume) bool { return v.Type == "LVM2_member" }) {
			why += "; what lies in LVM keeps its size"
		}
		return nil, &Error{Why: why}
	}
	before := s.needs(l.Table.Table)
	if err := s.pack(); err != nil {
		return nil, s.why(0, err)
	}
	size := s.needs(s.table)
	if size >= before {
		return nil, &Error{Why: "what lies last on it stays where it is (" + strings.Join(s.notes, "; ") + ")"}
	}
	if err := disk.ReplaceTable(s.o, s.table, size, l.Disk.SectorSize); err != nil {
		return nil, s.why(0, err)
	}
	s.o.recent = nil // from here on it is only read
	d := &Disk{o: s.o, info: l.Disk, heads: heads}
	d.info.Size = size
	if err := d.check(l); err != nil {
		return nil, err
	}
	d.Notes = append(s.notes, fmt.Sprintf("the disk of %d MiB is captured as one of %d MiB", l.Disk.Size/mib, size/mib))
	return d, nil
}

func (s *shrinker) why(partition int, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Partition: partition, Why: "it was tried", Err: err}
}

func (s *shrinker) partition(number int) *manifest.Partition {
	i := slices.IndexFunc(s.table.Partitions, func(p manifest.Partition) bool { return p.Number == number })
	return &s.table.Partitions[i] // every volume with a number has a partition
}

// window is a part of the overlay.
type window struct {
	*overlay
	off, n int64
}

func (w window) ReadAt(b []byte, off int64) (int, error) {
	return io.NewSectionReader(w.overlay, w.off, w.n).ReadAt(b, off)
}

func (w window) WriteAt(b []byte, off int64) (int, error) {
	if off < 0 || int64(len(b)) > w.n-off {
		return 0, fmt.Errorf("write %d bytes at offset %d of %d", len(b), off, w.n)
	}
	return w.overlay.WriteAt(b, w.off+off)
}

// volume makes a filesystem and its partition smaller, where that is worth it.
func (s *shrinker) volume(ctx context.Context, v manifest.Volume) (err error) {
	f, err := blockfile.Start(window{s.o, v.Off, v.Len}, v.Len)
	if err != nil {
		return err
	}
	defer func() {
		if why := f.Err(); why != nil {
			err = errors.Join(why, err)
		}
		err = errors.Join(err, f.Close())
	}()
	least, resize := leastExt, resizeExt
	if v.Type == "ntfs" {
		least, resize = leastNTFS, resizeNTFS
	}
	s.opts.Say("partition %d (%s): looking how small it can be", v.Partition, v.Type)
	need, err := least(ctx, f.Path, v)
	if err != nil {
		return err
	}
	to := (need + need/20 + room + mib - 1) / mib * mib
	if v.Len-to < s.l.Disk.Size/20 {
		return nil
	}
	s.opts.Say("partition %d (%s): shrinking from %d to %d MiB", v.Partition, v.Type, v.Len/mib, to/mib)
	if err := resize(ctx, f.Path, to); err != nil {
		return err
	}
	s.partition(v.Partition).Len = to
	s.notes = append(s.notes, fmt.Sprintf("partition %d (%s) was shrunk for this image, from %d to %d MiB", v.Partition, v.Type, v.Len/mib, to/mib))
	return nil
}

var (
	extLeast  = regexp.MustCompile(`minimum size of the filesystem: ([0-9]+)`)
	ntfsLeast = regexp.MustCompile(`resize at ([0-9]+) bytes`)
)

// number finds what a tool says in bytes, or in units of some.
func number(re *regexp.Regexp, text string, unit, most int64) (int64, error) {
	m := re.FindStringSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("its tool does not say how small it can be: %s", strings.Join(strings.Fields(text), " "))
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || n <= 0 || n > most/unit {
		return 0, fmt.Errorf("its tool says that it can be %s units of %d bytes small", m[1], unit)
	}
	return n * unit, nil
}

func leastExt(ctx context.Context, path string, v manifest.Volume) (int64, error) {
	// resize2fs insists on a check that is younger than the last mount; it is the view that is mended.
	if _, err := tool.Run(ctx, 1, "e2fsck", "-f", "-p", path); err != nil {
		return 0, fmt.Errorf("check the filesystem: %w", err)
	}
	out, err := tool.Run(ctx, 0, "resize2fs", "-P", path)
	if err != nil {
		return 0, err
	}
	return number(extLeast, out, int64(max(v.BlockSize, 1024)), v.Len)
}

func resizeExt(ctx context.Context, path string, to int64) error {
	if _, err := tool.Run(ctx, 0, "resize2fs", path, fmt.Sprintf("%dK", to>>10)); err != nil {
		return err
	}
	_, err := tool.Run(ctx, 0, "e2fsck", "-f", "-n", path)
	return err
}

func leastNTFS(ctx context.Context, path string, v manifest.Volume) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if fs, err := fsmap.Tree(f, v.Len, "ntfs"); err != nil {
		return 0, err
	} else if leaveout.Sleeps(fs) {
		return 0, &Error{Partition: v.Partition, Why: "a hibernated Windows sleeps on it; shut it down with \"shutdown /s /t 0\", which leaves nothing asleep"}
	}
	// Without force, so that a volume that Windows wants to check first is refused.
	out, err := tool.Run(ctx, 0, "ntfsresize", "--info", "--no-progress-bar", path)
	if err != nil {
		return 0, err
	}
	return number(ntfsLeast, out, 1, v.Len)
}

func resizeNTFS(ctx context.Context, path string, to int64) error {
	_, err := tool.Run(ctx, 0, "ntfsresize", "--no-progress-bar", "--force", "--force", "--size", strconv.FormatInt(to, 10), path)
	return err
}

// spare is how much memory the machine has to spare, in bytes.
func spare() int64 {
	const little = 256 * mib
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return little
	}
	for line := range strings.Lines(string(b)) {
		if w := strings.Fields(line); len(w) >= 2 && w[0] == "MemAvailable:" {
			if n, err := strconv.ParseInt(w[1], 10, 64); err == nil {
				return max(n<<10, little)
			}
		}
	}
	return little
}
