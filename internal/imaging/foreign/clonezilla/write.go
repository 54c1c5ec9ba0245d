// Package clonezilla writes captured disks as folders that Clonezilla restores.
package clonezilla

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/foreign/partclone"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/view"
)

// Options are choices about a folder. The zero value is good.
type Options struct {
	Split    int64                   // bytes of a file at most; 0 for Clonezilla's own 4,096,000,000
	Progress func(done, total int64) // bytes of the volumes; nil for none
}

// Part is a partition, or the bare disk, in the folder.
type Part struct {
	Device string `json:"device"` // "sda1"
	Type   string `json:"type"`   // of its filesystem
	How    string `json:"how"`    // "partclone", "dd", or "mkswap": only its UUID and label are kept
}

// Result tells what is in a folder, and what could not be kept.
type Result struct {
	Parts []Part   `json:"parts"`
	Notes []string `json:"notes"` // for people
}

const (
	split     = 4096 * 1000 * 1000
	maxPieces = 26 * 26  // .aa to .zz
	maxHidden = 64 << 20 // bytes before the first partition; no more are captured
)

// names are the filesystems that partclone has programs for, by what the disk's reader calls them: what stands in an
// image, and in a file's name.
var names = map[string]struct{ image, file string }{
	"ext2": {"EXTFS", "ext2"}, "ext3": {"EXTFS", "ext3"}, "ext4": {"EXTFS", "ext4"}, "xfs": {"XFS", "xfs"},
	"btrfs": {"BTRFS", "btrfs"}, "ntfs": {"NTFS", "ntfs"}, "vfat": {"FAT32", "vfat"}, "exfat": {"EXFAT", "exfat"},
	"f2fs": {"F2FS", "f2fs"}, "hfsplus": {"HFS Plus", "hfsplus"}, "minix": {"MINIX", "minix"},
}

// ErrNoVolumes says that there is nothing on a disk that Clonezilla could restore by itself.
var ErrNoVolumes = errors.New("the disk has no partition table that can be believed, and no filesystem of its own")

// writer writes a folder.
type writer struct {
	ctx         context.Context
	d           *view.Disk
	m           *manifest.Manifest
	dir         string
	o           Options
	done, total int64
	res         Result
}

// Write writes a disk into a folder, which is there and empty. Every chunk is checked against its name.
func Write(ctx context.Context, d *view.Disk, dir string, o Options) (Result, error) {
	w := &writer{ctx: ctx, d: d, m: d.Manifest(), dir: dir, o: o, res: Result{Notes: []string{}}}
	if o.Split == 0 {
		w.o.Split = split
	}
	if w.m.Table.Kind == "none" && (len(w.m.Volumes) != 1 || w.m.Volumes[0].Type == "unknown") {
		return w.res, ErrNoVolumes
	}
	for _, v := range w.m.Volumes {
		switch w.how(v) {
		case "partclone":
			w.total += v.Used
		case "dd":
			w.total += v.Len
		}
	}
	for _, v := range w.m.Volumes {
		if err := w.volume(v); err != nil {
			return w.res, fmt.Errorf("%s: %w", device(v.Partition), err)
		}
	}
	if err := w.outside(); err != nil {
		return w.res, err
	}
	return w.res, w.texts()
}

// how tells how a volume is kept.
func (w *writer) how(v manifest.Volume) string {
	switch {
	case v.Type == "swap" && v.Method == manifest.MethodHead:
		return "mkswap"
	case names[v.Type].image != "" && v.Method == manifest.MethodUsed:
		return "partclone"
	}
	return "dd"
}

func (w *writer) volume(v manifest.Volume) error {
	p := Part{Device: device(v.Partition), Type: v.Type, How: w.how(v)}
	w.res.Parts = append(w.res.Parts, p)
	content := io.NewSectionReader(w.d, v.Off, v.Len)
	switch p.How {
	case "mkswap":
		label := v.Label
		if label != plain(label) { // a shell reads this file
			label = ""
			w.note("%s: the label of the swap volume has signs that Clonezilla cannot keep, and is left out", p.Device)
		}
		return w.file("swappt-"+p.Device+".info", fmt.Sprintf("UUID=\"%s\"\nLABEL=\"%s\"\n", plain(v.UUID), label))
	case "partclone":
		name := names[v.Type]
		if v.Type == "vfat" {
			name.image = "FAT16"
			boot := make([]byte, 90)
			if _, err := content.ReadAt(boot, 0); err != nil {
				return err
			}
			if bytes.Equal(boot[82:87], []byte("FAT32")) {
				name.image = "FAT32"
			}
		}
		block := int64(v.BlockSize)
		if block < 512 || block > 64<<10 || block&(block-1) != 0 {
			block = 4096
		}
		for v.Len%block != 0 && block > 512 {
			block /= 2 // so that the last sector of the volume is in a block, too
		}
		used, err := w.used(v, block)
		if err != nil {
			return err
		}
		before := w.done
		return w.pieces(fmt.Sprintf("%s.%s-ptcl-img.zst.", p.Device, name.file), v.Used, func(to io.Writer) error {
			out := bufio.NewWriterSize(to, 1<<20)
			err := partclone.Write(w.ctx, out, name.image, v.Len, int(block), used, content, func(done, _ int64) { w.progress(before + done - w.done) })
			return errors.Join(err, out.Flush())
		})
	}
	if v.Type == "LVM2_member" {
		w.note("%s: the LVM volume is kept as a whole: it can go to a partition of the same size or larger", p.Device)
	}
	return w.pieces(p.Device+".dd-img.", v.Len, func(to io.Writer) error {
		buf := make([]byte, 4<<20)
		for off := int64(0); off < v.Len; {
			if w.ctx.Err() != nil {
				return context.Cause(w.ctx)
			}
			b := buf[:min(int64(len(buf)), v.Len-off)]
			if _, err := content.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := to.Write(b); err != nil {
				return err
			}
			off += int64(len(b))
			w.progress(int64(len(b)))
		}
		return nil
	})
}

func (w *writer) note(format string, args ...any) {
	w.res.Notes = append(w.res.Notes, fmt.Sprintf(format, args...))
}

func (w *writer) progress(n int64) {
	if w.done += n; w.o.Progress != nil {
		w.o.Progress(min(w.done, w.total), w.total)
	}
}

// used returns the blocks of a volume of which anything was captured, in bytes from its start.
func (w *writer) used(v manifest.Volume, block int64) (extent.List, error) {
	var used []extent.Extent
	err := w.d.Entries(v.Off, v.Off+v.Len, func(e manifest.Entry) error {
		from := (max(e.Off, v.Off) - v.Off) / block * block
		to := (min(e.Off+e.Len, v.Off+v.Len) - v.Off + block - 1) / block * block
		if n := len(used); n > 0 && from <= used[n-1].End() {
			used[n-1].Len = to - used[n-1].Off
		} else {
			used = append(used, extent.Extent{Off: from, Len: to - from})
		}
		return nil
	})
	return extent.FromUnsorted(used), err
}

// outside keeps what lies in front of the partitions and behind them, as far as Clonezilla does.
func (w *writer) outside() error {
	t, sector := w.m.Table, int64(w.m.Disk.SectorSize)
	if t.Kind == "none" {
		return nil
	}
	gpt := 2*sector + 128*128
	kept := []extent.Extent{{Off: 0, Len: sector}}
	parts := map[string]extent.Extent{"-mbr": {Off: 0, Len: 512}}
	if t.Kind == "gpt" {
		parts["-gpt-1st"] = extent.Extent{Off: 0, Len: gpt}
		parts["-gpt-2nd"] = extent.Extent{Off: w.m.Disk.Size - (gpt - sector), Len: gpt - sector}
		kept = append(kept, parts["-gpt-1st"], parts["-gpt-2nd"])
	} else if n := min(firstSector(w.m)*sector, maxHidden) - sector; n > 0 {
		parts["-hidden-data-after-mbr"] = extent.Extent{Off: sector, Len: n}
		kept = append(kept, parts["-hidden-data-after-mbr"])
	}
	for _, p := range t.Partitions {
		if extended(p) {
			parts[fmt.Sprint(p.Number, "-ebr")] = extent.Extent{Off: p.Off, Len: 512}
		}
		if p.Logical {
			continue
		}
		kept = append(kept, extent.Extent{Off: p.Off, Len: p.Len})
	}
	for name, e := range parts {
		b := make([]byte, e.Len)
		if _, err := w.d.ReadAt(b, e.Off); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := w.file(diskName+name, string(b)); err != nil {
			return err
		}
	}
	return w.lost(extent.FromUnsorted(kept))
}

// lost notes what was captured and is in no file.
func (w *writer) lost(kept extent.List) error {
	var lost int64
	buf := make([]byte, 1<<20)
	rest := []extent.Extent{} // between what is kept
	var end int64
	for _, e := range kept {
		rest = append(rest, extent.Extent{Off: end, Len: e.Off - end})
		end = e.End()
	}
	rest = append(rest, extent.Extent{Off: end, Len: w.d.Size() - end})
	for _, gap := range rest {
		if gap.Len <= 0 {
			continue
		}
		err := w.d.Entries(gap.Off, gap.End(), func(e manifest.Entry) error {
			from, to := max(e.Off, gap.Off), min(e.Off+e.Len, gap.End())
			if e.Zero {
				return nil
			}
			for from < to {
				b := buf[:min(to-from, int64(len(buf)))]
				if _, err := w.d.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				if !chunk.IsZero(b) {
					lost += int64(len(b))
				}
				from += int64(len(b))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if lost > 0 {
		w.note("%d bytes between the partitions are left out: Clonezilla has no file for them", lost)
	}
	return nil
}

// texts writes the lists.
func (w *writer) texts() error {
	var parts []string
	var fs, blkid, blkdev strings.Builder
	fs.WriteString("# <Device name>   <File system>   <Size>\n")
	fmt.Fprintf(&blkdev, "KNAME NAME SIZE TYPE FSTYPE MOUNTPOINT MODEL\n%s %s %s disk\n", diskName, diskName, compact(w.m.Disk.Size))
	for i, p := range w.res.Parts {
		v := w.m.Volumes[i]
		if p.How != "mkswap" {
			parts = append(parts, p.Device)
		}
		kind := v.Type
		if kind == "unknown" {
			kind = "dd"
		}
		fmt.Fprintf(&fs, "/dev/%s %s %s\n", p.Device, kind, compact(v.Len))
		fmt.Fprintf(&blkid, "/dev/%s:", p.Device)
		for _, f := range [][2]string{{"LABEL", v.Label}, {"UUID", v.UUID}, {"TYPE", strings.TrimPrefix(v.Type, "unknown")}} {
			if f[1] != "" {
				fmt.Fprintf(&blkid, " %s=\"%s\"", f[0], plain(f[1]))
			}
		}
		blkid.WriteByte('\n')
		if v.Partition > 0 {
			fmt.Fprintf(&blkdev, "%s |-%s %s part %s\n", p.Device, p.Device, compact(v.Len), strings.TrimPrefix(v.Type, "unknown"))
		}
	}
	sector := int64(w.m.Disk.SectorSize)
	sectors := func(n int64) string { return fmt.Sprintf("%ds", n/sector) }
	texts := map[string]string{
		"disk": diskName + "\n", "parts": strings.Join(parts, " ") + "\n",
		diskName + "-pt.parted":         parted(w.m, sectors),
		diskName + "-pt.parted.compact": parted(w.m, compact),
		diskName + "-chs.sf":            fmt.Sprintf("cylinders=%d\nheads=255\nsectors=63\n", w.m.Disk.Size/sector/255/63),
		"dev-fs.list":                   fs.String(), "blkid.list": blkid.String(), "blkdev.list": blkdev.String(),
		"Info-packages.txt": "Image was written by: mimeo\n",
		"clonezilla-img":    fmt.Sprintf("This image was written by Mimeo from a disk that was captured at %s.\n", w.m.Created.UTC().Format("2006-01-02 15:04:05 MST")),
	}
	if w.m.Table.Kind != "none" {
		header := make([]byte, sector)
		if _, err := w.d.ReadAt(header, sector); err != nil {
			return err
		}
		texts[diskName+"-pt.sf"] = sfdisk(w.m, header)
	}
	for name, text := range texts {
		if err := w.file(name, text); err != nil {
			return err
		}
	}
	return nil
}

// file writes a small file.
func (w *writer) file(name, text string) error {
	f, err := os.OpenFile(filepath.Join(w.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// pieces calls fn to write what is compressed and cut into files: name and aa, ab, ... raw is about how much comes.
func (w *writer) pieces(name string, raw int64, fn func(io.Writer) error) (err error) {
	p := &pieces{path: filepath.Join(w.dir, name), most: max(w.o.Split, raw/(maxPieces-76)+1)}
	defer func() { err = errors.Join(err, p.close()) }()
	z, err := zstd.NewWriter(p, zstd.WithEncoderConcurrency(2), zstd.WithEncoderCRC(true))
	if err != nil {
		return err
	}
	return errors.Join(fn(z), z.Close())
}

// pieces writes files of a size at most, one after the other.
type pieces struct {
	path string
	most int64
	n    int   // files begun
	left int64 // room in the last
	f    *os.File
}

func (p *pieces) Write(b []byte) (done int, err error) {
	for done < len(b) {
		if p.left == 0 {
			if err := p.next(); err != nil {
				return done, err
			}
		}
		n, err := p.f.Write(b[done:][:min(int64(len(b)-done), p.left)])
		done, p.left = done+n, p.left-int64(n)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (p *pieces) next() (err error) {
	if err := p.close(); err != nil {
		return err
	}
	if p.n >= maxPieces {
		return fmt.Errorf("%s: more than %d files", p.path, maxPieces)
	}
	ending := string([]byte{'a' + byte(p.n/26), 'a' + byte(p.n%26)})
	if p.f, err = os.OpenFile(p.path+ending, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644); err != nil {
		return err
	}
	p.n, p.left = p.n+1, p.most
	return nil
}

func (p *pieces) close() error {
	if p.f == nil {
		return nil
	}
	f := p.f
	p.f = nil
	return errors.Join(f.Sync(), f.Close())
}
