package deploy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"mimeo/internal/imaging/tool"
)

// uuidTypes are the filesystems that can get another UUID.
var uuidTypes = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "swap", "vfat", "fat"}

// TakesUUID tells whether a filesystem of a type can get another UUID by SetUUID.
func TakesUUID(fsType string) bool { return slices.Contains(uuidTypes, fsType) }

// SetUUID gives the filesystem on a device, which is not mounted, another UUID, as text of the length that the type has.
func SetUUID(ctx context.Context, device, fsType, id string) error {
	run := func(mended int, name string, args ...string) error {
		_, err := tool.Run(ctx, mended, name, args...)
		return err
	}
	var err error
	switch fsType {
	case "ext2", "ext3", "ext4":
		// It asks for a filesystem that was checked just now where its checksums hang on the UUID.
		if err = run(1, "e2fsck", "-f", "-p", device); err == nil {
			err = run(0, "tune2fs", "-U", id, device)
		}
	case "xfs":
		err = run(0, "xfs_admin", "-U", id, device)
	case "btrfs":
		err = run(0, "btrfstune", "-f", "-U", id, device)
	case "swap":
		err = run(0, "swaplabel", "-U", id, device)
	case "vfat", "fat":
		err = setFAT(device, id)
	default:
		err = errors.New("no tool is known for this type")
	}
	if err != nil {
		return fmt.Errorf("give the %s filesystem on %s a new UUID: %w", fsType, device, err)
	}
	return nil
}

// setFAT writes a volume's serial number, as "1A2B-3C4D", into the boot sector and its copy (Microsoft, "FAT: General Overview
// of On-Disk Format", 1.03, "Boot Sector and BPB Structure").
func setFAT(device, id string) (err error) {
	n, err := strconv.ParseUint(strings.Replace(id, "-", "", 1), 16, 32)
	if err != nil || len(id) != 9 {
		return fmt.Errorf("%q is no serial number", id)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
	le := binary.LittleEndian
	boot := make([]byte, 512)
	if _, err := f.ReadAt(boot, 0); err != nil {
		return err
	}
	sector := int64(le.Uint16(boot[11:]))
	at, places := 38, []int64{0}
	if le.Uint16(boot[22:]) == 0 { // FAT32
		at = 66
		if copies := int64(le.Uint16(boot[50:])); copies != 0 && copies != 0xffff {
			places = append(places, copies*sector)
		}
	}
	if boot[510] != 0x55 || boot[511] != 0xaa || sector < 512 || sector > 4096 || sector&(sector-1) != 0 || boot[at] != 0x28 && boot[at] != 0x29 {
		return errors.New("its boot sector has no serial number")
	}
	for _, off := range places {
		b := make([]byte, 512)
		if _, err := f.ReadAt(b, off); err != nil {
			return err
		}
		if off > 0 && !bytes.Equal(b[11:at+5], boot[11:at+5]) {
			continue // no copy
		}
		le.PutUint32(b[at+1:], uint32(n))
		if _, err := f.WriteAt(b[at+1:at+5], off+int64(at)+1); err != nil {
			return err
		}
	}
	return nil
}

// SetPartitionUUID gives a partition of a GPT another GUID; number 0 means the disk itself, whose new name is a GUID, or with an MBR a
// signature as "0x1a2b3c4d". No partition of the disk is mounted.
func SetPartitionUUID(ctx context.Context, path string, number int, id string) error {
	args := []string{"--quiet", "--disk-id", path, id}
	if number > 0 {
		args = []string{"--quiet", "--part-uuid", path, strconv.Itoa(number), id}
	}
	if _, err := tool.Run(ctx, 0, "sfdisk", args...); err != nil {
		return fmt.Errorf("give partition %d of %s a new UUID: %w", number, path, err)
	}
	return nil
}
