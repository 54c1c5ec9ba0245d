// Package fsmap tells which extents of a volume are in use.
package fsmap

import (
	"errors"
	"fmt"
	"io"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/btrfs"
	"mimeo/internal/imaging/fsmap/exfat"
	"mimeo/internal/imaging/fsmap/ext4"
	"mimeo/internal/imaging/fsmap/f2fs"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/fixed"
	"mimeo/internal/imaging/fsmap/hfsplus"
	"mimeo/internal/imaging/fsmap/jfs"
	"mimeo/internal/imaging/fsmap/minix"
	"mimeo/internal/imaging/fsmap/nilfs2"
	"mimeo/internal/imaging/fsmap/ntfs"
	"mimeo/internal/imaging/fsmap/reiserfs"
	"mimeo/internal/imaging/fsmap/swap"
	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/fsmap/ufs"
	"mimeo/internal/imaging/fsmap/vfat"
	"mimeo/internal/imaging/fsmap/xfs"
	"mimeo/internal/imaging/manifest"
)

// Usage is what was found on a volume. Offsets are bytes from the start of the volume.
type Usage struct {
	Type      string // "ext4", "swap", ..., "unknown"
	UUID      string // as blkid prints it
	Label     string
	BlockSize int         // bytes; 0 where unknown
	Method    string      // manifest.MethodUsed, MethodWhole or MethodHead
	Reason    string      // why not by used blocks
	Notes     []string    // what a person should know, such as a journal on another disk
	Used      extent.List // what must be captured
	Zeros     extent.List // what of that must be captured as zeros, whatever is there

	renews bool // a deploy has a log begin anew on it
}

// reader understands a kind of filesystem.
//
// used returns what the filesystem is and which of its bytes are in use. Where that cannot be believed, Facts.Whole says
// why, and the list does not count. An error means that the volume could not be read, never that its content is damaged.
type reader struct {
	is   func(head []byte) bool
	used func(r io.ReaderAt, size int64) (fact.Facts, extent.List, error)
}

// readers are the filesystems of which the used blocks are known.
var readers = []reader{
	{ext4.Is, ext4.Used}, // before btrfs, which keeps its superblock where mke2fs may leave an older one
	{btrfs.Is, btrfs.Used},
	{xfs.Is, xfs.Used},
	{ntfs.Is, ntfs.Used},
	{exfat.Is, exfat.Used},
	{f2fs.Is, f2fs.Used},
	{jfs.Is, jfs.Used},
	{reiserfs.Is, reiserfs.Used},
	{hfsplus.Is, hfsplus.Used},
	{nilfs2.Is, nilfs2.Used},
	{ufs.Is, ufs.Used},
	{minix.Is, minix.Used}, // its magic number is short
	{swap.Is, swap.Used},   // what is made in its place may leave the end of its first page
	{fixed.Is, fixed.Used},
	{vfat.Is, vfat.Used}, // last: other kinds of filesystem may leave the boot sector of an older FAT as it was
}

// pieces are the filesystems of which is known where their files lie, by type.
var pieces = map[string]func(r io.ReaderAt, size int64, add func(fact.Piece)) error{
	"btrfs": btrfs.Pieces, "ext2": ext4.Pieces, "ext3": ext4.Pieces, "ext4": ext4.Pieces, "exfat": exfat.Pieces, "f2fs": f2fs.Pieces, "ntfs": ntfs.Pieces, "vfat": vfat.Pieces, "xfs": xfs.Pieces,
}

// claims are the filesystems of which is known what belongs to what, by type.
var claims = map[string]func(r io.ReaderAt, size int64, add func(extent.Extent)) (why string, err error){
	"btrfs": btrfs.Claims, "ext2": ext4.Claims, "ext3": ext4.Claims, "ext4": ext4.Claims, "exfat": exfat.Claims, "f2fs": f2fs.Claims, "ntfs": ntfs.Claims, "vfat": vfat.Claims, "xfs": xfs.Claims,
}

// Claims calls add with every stretch of a volume of the given type that something of the filesystem says is its own, in
// any order. Where bytes come twice, two things claim them. why says why not all could be told, or is empty.
func Claims(r io.ReaderAt, size int64, typ string, add func(extent.Extent)) (why string, err error) {
	walk := claims[typ]
	if walk == nil {
		return "what belongs to which file is not known of " + typ, nil
	}
	if why, err = walk(r, size, add); err != nil {
		return "", fmt.Errorf("read the inodes of %s: %w", typ, err)
	}
	return why, nil
}

// trees are the filesystems of which the files can be read, by type.
var trees = map[string]func(r io.ReaderAt, size int64) (tree.FS, error){
	"btrfs": btrfsTree, "ext2": ext4Tree, "ext3": ext4Tree, "ext4": ext4Tree, "exfat": exfatTree, "f2fs": f2fsTree, "ntfs": ntfsTree, "vfat": vfatTree, "xfs": xfsTree,
}

func btrfsTree(r io.ReaderAt, size int64) (tree.FS, error) { return btrfs.OpenTree(r, size) }

func ext4Tree(r io.ReaderAt, size int64) (tree.FS, error) { return ext4.OpenTree(r, size) }

func exfatTree(r io.ReaderAt, size int64) (tree.FS, error) { return exfat.OpenTree(r, size) }

func f2fsTree(r io.ReaderAt, size int64) (tree.FS, error) { return f2fs.OpenTree(r, size) }

func ntfsTree(r io.ReaderAt, size int64) (tree.FS, error) { return ntfs.OpenTree(r, size) }

func vfatTree(r io.ReaderAt, size int64) (tree.FS, error) { return vfat.OpenTree(r, size) }

func xfsTree(r io.ReaderAt, size int64) (tree.FS, error) { return xfs.OpenTree(r, size) }

// ErrNoTree says that the files of a kind of filesystem cannot be read.
var ErrNoTree = errors.New("the files of this kind of filesystem cannot be read")

// HasTree tells whether the files of a kind of filesystem can be read.
func HasTree(typ string) bool { return trees[typ] != nil }

// Tree opens the files of a volume of the given type.
func Tree(r io.ReaderAt, size int64, typ string) (tree.FS, error) {
	open := trees[typ]
	if open == nil {
		return nil, fmt.Errorf("%s: %w", typ, ErrNoTree)
	}
	t, err := open(r, size)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", typ, err)
	}
	return t, nil
}

// around are kinds of content that hold volumes of their own.
var around = map[string]bool{"crypto_LUKS": true, "BitLocker": true, "linux_raid_member": true, "bcache": true, "LVM2_member": true,
	"vdo": true, "stratis": true, "DM_verity_hash": true, "DM_integrity": true}

// headLen is as much of a volume as all magic numbers need: the last is that of btrfs, at 64 KiB.
const headLen = 68 << 10

// Map tells what is on a volume of size bytes, and which of its bytes must be captured. Damaged content gives a Usage
// with Method whole and a Reason; an error means that the volume could not be read.
func Map(r io.ReaderAt, size int64) (Usage, error) { return single(r, size).Map(0) }

// Map tells the same of the i-th volume, which may share volumes inside it with others of the disk.
func (d Disk) Map(i int) (Usage, error) { return d.mapVolume(i, 0) }

// maxInside is how deep volumes may lie in each other.
const maxInside = 3

// head reads the start of the i-th volume.
func (d Disk) head(i int) ([]byte, error) {
	head := make([]byte, min(headLen, d.Volumes[i].Len))
	if n, err := d.Volume(i).ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("read the first %d bytes: %w", len(head), err)
	}
	return head, nil
}

func (d Disk) mapVolume(i, depth int) (Usage, error) {
	r, size := d.Volume(i), d.Volumes[i].Len
	if size <= 0 {
		return Usage{Type: "unknown", Method: manifest.MethodWhole, Reason: "the volume is empty"}, nil
	}
	head, err := d.head(i)
	if err != nil {
		return Usage{}, err
	}
	// What is around a filesystem goes before it: a volume may carry the remains of an older one.
	u := Usage{Type: name(head)}
	for _, c := range containers {
		if depth < maxInside && c.is(head, r, size) {
			return d.container(c, head, i, depth)
		}
	}
	if 0 < depth && depth < maxInside && tables.is(head, r, size) {
		return d.container(tables, head, i, depth)
	}
	if around[u.Type] {
		if u.Reason = unread(u.Type); u.Type == "crypto_LUKS" {
			u.UUID, u.Label = luks(head)
		}
		return u.whole(size), nil
	}
	for _, f := range readers {
		if !f.is(head) {
			continue
		}
		v, used, err := f.used(r, size)
		if err != nil {
			return Usage{}, fmt.Errorf("read %s: %w", v.Type, err)
		}
		other := another(head, v.Type)
		if other == "" && copied[v.Type] {
			if other, err = beyond(r, size); err != nil {
				return Usage{}, fmt.Errorf("look for other content than %s: %w", v.Type, err)
			}
		}
		if v.Whole == "" && other != "" {
			v.Whole = "it has the marks of " + other + ", too"
		}
		u = Usage{Type: v.Type, UUID: v.UUID, Label: v.Label, BlockSize: v.BlockSize, Reason: v.Whole, Notes: v.Notes, Used: used, renews: v.Type == "xfs"}
		if v.Whole == "" && (used.Valid() != nil || len(used) > 0 && used[len(used)-1].End() > size || v.Len < 0 || v.Len > size) {
			u.Reason = "the map of used blocks makes no sense"
		}
		switch {
		case u.Reason != "":
			return u.whole(size), nil
		case v.Head:
			u.Method = manifest.MethodHead
			return u, nil
		}
		behind, note, err := tail(r, v.Len, size)
		if err != nil {
			return Usage{}, fmt.Errorf("read what lies behind the %s filesystem: %w", v.Type, err)
		}
		u.Method, u.Used = manifest.MethodUsed, extent.Union(used, behind)
		if note != "" {
			u.Notes = append(u.Notes, note)
		}
		return u, nil
	}
	if u.Type == "unknown" {
		other, err := beyond(r, size)
		if err != nil {
			return Usage{}, fmt.Errorf("look for what is further in: %w", err)
		}
		if other != "" {
			u.Type = other
		}
	}
	u.Reason = unread(u.Type)
	return u.whole(size), nil
}

// parts are kinds of content that are meant to stay whole: which of their blocks are in use is known to what they are part of
// only, or can be told in no safe way.
var parts = map[string]string{
	"apfs":               "a container of APFS",
	"bcache":             "a disk of bcache",
	"bcachefs":           "a disk of bcachefs",
	"DM_integrity":       "a device of dm-integrity",
	"DM_verity_hash":     "a hash tree of dm-verity",
	"ceph_bluestore":     "a disk of a Ceph cluster (BlueStore)",
	"stratis":            "a disk of a Stratis pool",
	"vdo":                "a device of VDO",
	"VMFS":               "a VMware datastore (VMFS)",
	"VMFS_volume_member": "a disk of a VMware datastore (VMFS)",
	"zfs_member":         "a disk of a ZFS pool",
}

// unread says why a kind of content is captured whole.
func unread(typ string) string {
	switch typ {
	case "unknown":
		return "what is on it is not known"
	case "crypto_LUKS", "BitLocker":
		return "it is encrypted (" + typ + "): which of it is in use cannot be told without the key"
	}
	if what := parts[typ]; what != "" {
		return "it is " + what + ": which of its blocks are in use is not read"
	}
	return "no reader for " + typ + " yet"
}

// Pieces tells where the files of the i-th volume, of the given type, lie, in bytes of the disk, in ascending order and none on
// another; none where that is not known, and not all where there were too many. It is good for deciding where to cut, not for
// what to capture: damaged files are passed over. An error means that the disk could not be read.
func (d Disk) Pieces(i int, typ string) (list []fact.Piece, all bool, err error) {
	var found fact.Pieces
	if err := d.addPieces(i, typ, found.Add); err != nil {
		return nil, false, err
	}
	list = found.List()
	end := int64(0)
	for _, v := range d.Volumes {
		end = max(end, v.End())
	}
	if n := len(list); n > 0 && list[n-1].Off+list[n-1].Len > end {
		return nil, false, nil
	}
	return list, !found.Dropped(), nil
}

func (d Disk) addPieces(i int, typ string, add func(fact.Piece)) error {
	if walk := pieces[typ]; walk != nil {
		v := d.Volumes[i]
		err := walk(d.Volume(i), v.Len, func(f fact.Piece) {
			if f.Off >= 0 && f.Len > 0 && f.Len <= v.Len-f.Off {
				f.Off += v.Off
				add(f)
			}
		})
		if err != nil {
			return fmt.Errorf("read the inodes of %s: %w", typ, err)
		}
		return nil
	}
	inner, err := d.Inside(i, typ)
	if err != nil {
		return err
	}
	for _, in := range inner {
		if in.Method != manifest.MethodUsed || Holds(in.Type) {
			continue // what is inside comes by itself
		}
		if err := single(in.Reader(d.ReaderAt), in.Size).addPieces(0, in.Type, func(f fact.Piece) {
			in.Outer(f.Off, f.Len, func(at, off, n int64) { add(fact.Piece{Off: off, Len: n, At: f.At + at - f.Off}) })
		}); err != nil {
			return fmt.Errorf("%s: %w", in.Name, err)
		}
	}
	return nil
}

// whole captures all of it, and says what to do about that where something can be done.
func (u Usage) whole(size int64) Usage {
	u.Method, u.Used, u.Zeros = manifest.MethodWhole, extent.List{{Off: 0, Len: size}}, nil
	if h := hints[u.Type]; h != "" {
		u.Notes = append(u.Notes, "hint: "+h)
	}
	return u
}
