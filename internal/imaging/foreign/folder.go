package foreign

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"mimeo/internal/imaging/tool"
)

// Clonezilla's folders are as its own programs write them (ocs-functions of the package clonezilla), FOG's as its
// (lib/common/partition-funcs.sh and funcs.sh of fogproject).

// maxText bounds a text file of a folder.
const maxText = 1 << 20

// detectFolder recognises a folder, and finds its disks.
func (s *Source) detectFolder() error {
	has := func(name string) bool {
		_, err := os.Stat(filepath.Join(s.Path, name))
		return err == nil
	}
	found := ""
	switch {
	case has("parts") && (has("disk") || has("Info-packages.txt") || has("clonezilla-img")):
		found = Clonezilla
	case has("d1.partitions") || has("d1.mbr"):
		found = FOG
	default:
		return refuse("images of Clonezilla and FOG are folders; name a file of any other", "%s holds no image that is known", s.Path)
	}
	if s.Format != "" && s.Format != found {
		return refuse("leave --format out", "%s looks like %s, not like %s", s.Path, found, s.Format)
	}
	s.Format = found
	if found == FOG {
		for i := 1; has(fmt.Sprintf("d%d.partitions", i)) || has(fmt.Sprintf("d%d.mbr", i)); i++ {
			s.Disks = append(s.Disks, fmt.Sprintf("d%d", i))
		}
		return nil
	}
	if !has("disk") {
		return refuse("an image of whole disks (savedisk) can be imported; restore this one, and capture the disk", "%s holds partitions without their disk", s.Path)
	}
	text, err := s.text("disk")
	if err != nil {
		return err
	}
	for _, d := range strings.Fields(text) {
		if !diskName.MatchString(d) {
			return refuse("look into its file disk", "%s: %q is no name of a disk", s.Path, d)
		}
		s.Disks = append(s.Disks, d)
	}
	if len(s.Disks) == 0 {
		return refuse("look into its file disk", "%s names no disk", s.Path)
	}
	return nil
}

var diskName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)

// text reads a small file of the folder.
func (s Source) text(name string) (string, error) {
	f, err := os.Open(filepath.Join(s.Path, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(b) > maxText {
		err = fmt.Errorf("%s: longer than %d bytes", f.Name(), maxText)
	}
	return string(b), err
}

// partition is one of a table as sfdisk dumps it, in sectors.
type partition struct {
	number      int
	start, size int64
}

// table is a partition table as sfdisk dumps it.
type table struct {
	label  string // gpt or dos
	sector int
	last   int64 // of a GPT, the last sector that may be used; 0 where it is not told
	parts  []partition
	text   string // without names of devices, for sfdisk
}

// parseDump reads the output of "sfdisk --dump".
func parseDump(text string) (table, error) {
	t := table{label: "dos", sector: 512}
	var out strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		name, rest, ok := strings.Cut(line, ":")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		name, rest = strings.TrimSpace(name), strings.TrimSpace(rest)
		if !strings.HasPrefix(name, "/dev/") {
			switch name {
			case "label":
				t.label = rest
			case "sector-size":
				n, err := strconv.Atoi(rest)
				if err != nil || n != 512 {
					return t, fmt.Errorf("sectors of %s bytes, and 512 are read here", rest)
				}
			case "last-lba":
				n, err := strconv.ParseInt(rest, 10, 64)
				if err != nil || n < 0 || n > math.MaxInt64/8192 {
					return t, fmt.Errorf("last-lba %q", rest)
				}
				t.last = n
			case "label-id", "unit", "first-lba", "table-length":
			default:
				continue
			}
			if name != "last-lba" {
				fmt.Fprintf(&out, "%s: %s\n", name, rest)
			}
			continue
		}
		digits := len(name)
		for digits > 0 && name[digits-1] >= '0' && name[digits-1] <= '9' {
			digits--
		}
		number, err := strconv.Atoi(name[digits:])
		if err != nil || number < 1 || number > 1024 {
			return t, fmt.Errorf("%q: which partition is that?", name)
		}
		p := partition{number: number}
		for i, f := range strings.Split(rest, ",") {
			k, v, _ := strings.Cut(f, "=")
			if i > 1 {
				break
			}
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil || n < 0 || n > math.MaxInt64/8192 {
				return t, fmt.Errorf("partition %d: %q", number, f)
			}
			switch strings.TrimSpace(k) {
			case "start":
				p.start = n
			case "size":
				p.size = n
			}
		}
		if p.size == 0 {
			continue // old versions of sfdisk list empty entries
		}
		t.parts = append(t.parts, p)
		// sfdisk takes the number from the end of the name, whatever the device is.
		fmt.Fprintf(&out, "/dev/sda%d : %s\n", number, rest)
	}
	if len(t.parts) == 0 {
		return t, errors.New("it names no partition")
	}
	t.text = out.String()
	return t, nil
}

// end is the first byte behind all partitions, and, of a GPT, behind its backup.
func (t table) end() int64 {
	end := int64(0)
	for _, p := range t.parts {
		end = max(end, p.start+p.size)
	}
	if t.label == "gpt" {
		end = max(end, t.last+1) + int64((128*128+t.sector-1)/t.sector) + 1
	}
	return end * int64(t.sector)
}

// write has sfdisk write the table onto a disk.
func (t table) write(ctx context.Context, f *os.File) error {
	in := f.Name() + ".table"
	if err := os.WriteFile(in, []byte(t.text), 0o600); err != nil {
		return err
	}
	_, err := tool.Run(ctx, 0, "sh", "-c", `exec sfdisk --force --no-reread --no-tell-kernel --wipe never --wipe-partitions never "$1" <"$2"`, "sh", f.Name(), in)
	return errors.Join(err, os.Remove(in))
}

// piece is what is written to a place of the disk.
type piece struct {
	what   string // for people
	number int    // of the partition
	paths  []string
	kind   string // partclone, raw, swap or lvm
	volume string // logical volume on the partition, VG/LV; "" for the partition itself
	uuid   string // of a physical volume
	swap   string // UUID
	label  string
}

// unpackFolder writes one disk of a folder: its table, its boot code, its partitions.
func (s Source) unpackFolder(ctx context.Context, f *os.File, disk string, progress func(done, total int64)) (Disk, error) {
	switch {
	case disk == "" && len(s.Disks) == 1:
		disk = s.Disks[0]
	case disk == "":
		return Disk{}, refuse("say which one: --disk "+s.Disks[0], "%s holds %d disks: %s", s.Path, len(s.Disks), strings.Join(s.Disks, ", "))
	case !slices.Contains(s.Disks, disk):
		return Disk{}, refuse("it has "+strings.Join(s.Disks, ", "), "%s holds no disk %s", s.Path, disk)
	}
	dump, code := disk+"-pt.sf", []overlay{{disk + "-mbr", 0, 446}, {disk + "-hidden-data-after-mbr", 512, 0}}
	if s.Format == FOG {
		dump, code = disk+".partitions", []overlay{{disk + ".mbr", 0, 446}}
	}
	text, err := s.text(dump)
	if err != nil {
		return Disk{}, refuse("copy the whole folder", "%s: the partition table cannot be read: %v", s.Path, err)
	}
	t, err := parseDump(text)
	if err != nil {
		return Disk{}, refuse("look into it", "%s: %v", filepath.Join(s.Path, dump), err)
	}
	pieces, notes, err := s.pieces(disk, t)
	if err != nil {
		return Disk{}, err
	}
	d := Disk{Notes: notes, Size: max(t.end(), s.size(disk, t)), SectorSize: t.sector}
	if err := f.Truncate(d.Size); err != nil {
		return d, err
	}
	if err := t.write(ctx, f); err != nil {
		return d, fmt.Errorf("write the partition table: %w", err)
	}
	if t.label == "gpt" {
		// The MBR before a GPT says that the disk is full; sfdisk wrote it. What lies behind belongs to the GPT.
		code = code[:1]
	}
	first := int64(math.MaxInt64)
	for _, p := range t.parts {
		first = min(first, p.start*int64(t.sector))
	}
	for _, o := range code {
		if err := s.overlay(f, o, first); err != nil {
			return d, err
		}
	}
	for i, p := range pieces {
		if err := s.unpackPiece(ctx, f, t, p, func(done, total int64) {
			if progress != nil { // each piece counts the same: what they hold is known only when they are opened
				progress(int64(i)*1000+done*1000/max(total, 1), int64(len(pieces))*1000)
			}
		}); err != nil {
			return d, fmt.Errorf("%s: %w", p.what, err)
		}
	}
	return d, nil
}

// overlay is a file that is written over the start of the disk.
type overlay struct {
	name string
	off  int64
	most int64 // bytes; 0 for all
}

// overlay writes boot code, which is not there in every image; never onto a partition.
func (s Source) overlay(f *os.File, o overlay, first int64) error {
	b, err := os.ReadFile(filepath.Join(s.Path, o.name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if o.most > 0 {
		// FOG keeps of a GPT disk what sgdisk saves: that begins with the protective MBR, too.
		b = b[:min(int64(len(b)), o.most)]
	}
	b = b[:max(0, min(int64(len(b)), first-o.off))]
	_, err = f.WriteAt(b, o.off)
	return err
}

var partedSize = regexp.MustCompile(`(?m)^Disk /dev/[^:]+: ([0-9]+)s\r?$`)

// size is the disk's own size, where the folder tells it.
func (s Source) size(disk string, t table) int64 {
	sectors := int64(0)
	if s.Format == FOG {
		if text, err := s.text(disk + ".size"); err == nil {
			_, v, _ := strings.Cut(strings.TrimSpace(text), ":")
			if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil && n > 0 && n%512 == 0 {
				return min(n, maxDisk)
			}
		}
		return 0
	}
	if text, err := s.text(disk + "-pt.parted"); err == nil {
		if m := partedSize.FindStringSubmatch(text); m != nil {
			if n, err := strconv.ParseInt(m[1], 10, 64); err == nil {
				sectors = n
			}
		}
	}
	// The GPT's own head knows where its backup lies: in the last sector (UEFI specification, 5.3.2).
	if b, err := os.ReadFile(filepath.Join(s.Path, disk+"-gpt-1st")); sectors == 0 && err == nil && len(b) >= t.sector+40 && string(b[t.sector:t.sector+8]) == "EFI PART" {
		sectors = int64(binary.LittleEndian.Uint64(b[t.sector+32:]) + 1)
	}
	if sectors < 0 || sectors > maxDisk/int64(t.sector) {
		return 0
	}
	return sectors * int64(t.sector)
}

// maxDisk bounds what a folder says of a disk's size, in bytes.
const maxDisk = 1 << 56

// pieces finds the image of each partition.
func (s Source) pieces(disk string, t table) (list []piece, notes []string, err error) {
	if s.Format == FOG {
		swap, err := s.text(disk + ".original.swapuuids")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, err
		}
		for _, p := range t.parts {
			name := fmt.Sprintf("%sp%d.img", disk, p.number)
			paths, err := split(s.Path, name)
			if err != nil {
				return nil, nil, err
			}
			switch uuid := swapUUID(swap, p.number); {
			case len(paths) > 0:
				list = append(list, piece{what: name, number: p.number, paths: paths, kind: "partclone"})
			case uuid != "":
				list = append(list, piece{what: "swap of partition " + strconv.Itoa(p.number), number: p.number, kind: "swap", swap: uuid})
			default:
				notes = append(notes, fmt.Sprintf("partition %d: the image holds nothing of it", p.number))
			}
		}
		return list, notes, nil
	}
	physical, err := s.physical()
	if err != nil {
		return nil, nil, err
	}
	all, err := os.ReadDir(s.Path)
	if err != nil {
		return nil, nil, err
	}
	between := ""
	if c := disk[len(disk)-1]; c >= '0' && c <= '9' {
		between = "p" // nvme0n1p1
	}
	for _, p := range t.parts {
		name := fmt.Sprintf("%s%s%d", disk, between, p.number)
		var found []piece
		if pv, ok := physical[name]; ok {
			found, err = s.volumes(all, pv)
		} else {
			found, err = s.images(all, name)
		}
		if err != nil {
			return nil, nil, err
		}
		if len(found) == 0 {
			notes = append(notes, fmt.Sprintf("partition %d: the image holds nothing of it", p.number))
		}
		for _, f := range found {
			f.number = p.number
			list = append(list, f)
		}
		delete(physical, name)
	}
	for name, pv := range physical {
		if strings.HasPrefix(name, disk) {
			return nil, nil, refuse("look into lvm_vg_dev.list and "+disk+"-pt.sf", "%s: volume group %s lies on %s, which is no partition of its disk", s.Path, pv.group, name)
		}
	}
	return list, notes, nil
}

// images finds the image of a partition or logical volume by the name that its files have: at most one.
func (s Source) images(all []fs.DirEntry, name string) ([]piece, error) {
	if text, err := s.text("swappt-" + name + ".info"); err == nil {
		return []piece{{what: "swap " + name, kind: "swap", swap: quoted(text, "UUID"), label: quoted(text, "LABEL")}}, nil
	}
	bases := map[string]bool{}
	for _, e := range all {
		rest, ok := strings.CutPrefix(e.Name(), name+".")
		if !ok {
			continue
		}
		if base, _, ok := strings.Cut(rest, "-img"); ok && e.Type().IsRegular() {
			// What follows is the compression, and the ending of a piece.
			end := strings.TrimPrefix(rest, base+"-img")
			if k := strings.LastIndexByte(end, '.'); k >= 0 && isPiece(end[k+1:]) && !isCompression(end[k+1:]) {
				end = end[:k]
			}
			bases[name+"."+base+"-img"+end] = true
		}
	}
	if len(bases) > 1 {
		return nil, refuse("remove what does not belong there", "%s has several images of %s", s.Path, name)
	}
	for base := range bases {
		paths, err := split(s.Path, base)
		if err != nil {
			return nil, err
		}
		kind := "partclone"
		switch {
		case strings.Contains(base, "-ptcl-img"):
		case strings.Contains(base, ".dd-img"):
			kind = "raw"
		default:
			return nil, refuse("restore it with Clonezilla onto a disk, and capture that", "%s was not made by partclone or dd", base)
		}
		return []piece{{what: base, paths: paths, kind: kind}}, nil
	}
	return nil, nil
}

func isCompression(s string) bool {
	return slices.Contains([]string{"gz", "bz2", "lzo", "lzma", "xz", "lz", "lrz", "lz4", "zst"}, s)
}

// swapUUID finds a partition's line, "2 UUID".
func swapUUID(text string, number int) string {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == strconv.Itoa(number) {
			return f[1]
		}
	}
	return ""
}

// quoted finds KEY="value".
func quoted(text, key string) string {
	m := regexp.MustCompile(`(?m)^` + key + `="?([^"\n]*)"?\s*$`).FindStringSubmatch(text)
	if m == nil {
		return ""
	}
	return m[1]
}

// unpackPiece writes one partition, or a logical volume on it.
func (s Source) unpackPiece(ctx context.Context, f *os.File, t table, p piece, progress func(done, total int64)) error {
	i := slices.IndexFunc(t.parts, func(q partition) bool { return q.number == p.number })
	off, room := t.parts[i].start*int64(t.sector), t.parts[i].size*int64(t.sector)
	var w io.WriterAt = io.NewOffsetWriter(f, off)
	if p.kind == "lvm" {
		return s.writePhysical(w, room, p)
	}
	if p.volume != "" {
		var err error
		if w, room, err = logical(f, off, room, p.volume); err != nil {
			return err
		}
	}
	if p.kind == "swap" {
		return writeSwap(w, room, p.swap, p.label)
	}
	r, err := openParts(p.paths)
	if err != nil {
		return err
	}
	if p.kind == "raw" {
		n, err := copySparse(ctx, w, r, room)
		if err == nil && n < room {
			err = fmt.Errorf("it ends after %d of the %d bytes", n, room)
		}
		return errors.Join(err, r.Close())
	}
	_, err = restore(ctx, r, w, room, progress)
	return errors.Join(err, r.Close())
}

// copySparse writes what is not zero.
func copySparse(ctx context.Context, w io.WriterAt, r io.Reader, room int64) (n int64, err error) {
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		k, err := io.ReadFull(r, buf)
		if n+int64(k) > room {
			return n, fmt.Errorf("it is longer than the partition's %d bytes", room)
		}
		if string(buf[:k]) != string(zero[:k]) {
			if _, err := w.WriteAt(buf[:k], n); err != nil {
				return n, err
			}
		}
		n += int64(k)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return n, nil
		} else if err != nil {
			return n, err
		}
	}
}

// writeSwap writes the head of a swap partition (swap_header in the kernel's include/linux/swap.h), for pages of 4 KiB.
func writeSwap(w io.WriterAt, room int64, uuid, label string) error {
	const page = 4096
	if room < 10*page {
		return fmt.Errorf("a swap partition of %d bytes", room)
	}
	b := make([]byte, page)
	le := binary.LittleEndian
	le.PutUint32(b[1024:], 1)
	le.PutUint32(b[1028:], uint32(min(room/page-1, math.MaxUint32)))
	if hex := strings.ReplaceAll(uuid, "-", ""); len(hex) == 32 {
		for i := range 16 {
			v, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
			if err != nil {
				return fmt.Errorf("UUID %q", uuid)
			}
			b[1036+i] = byte(v)
		}
	} else if uuid != "" {
		return fmt.Errorf("UUID %q", uuid)
	}
	copy(b[1052:1068], label)
	copy(b[page-10:], "SWAPSPACE2")
	_, err := w.WriteAt(b, 0)
	return err
}
