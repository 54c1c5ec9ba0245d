package hwinfo

import (
	"fmt"
	"os"
	"path/filepath"

	"mimeo/internal/cluster/api"
)

// ImageDisk returns an image file as a disk with sectors of 512 bytes. Its name is its serial number too, so that a
// rule can choose it.
func ImageDisk(path string) (Disk, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return Disk{}, err
	}
	st, err := os.Stat(abs)
	if err != nil {
		return Disk{}, fmt.Errorf("look at disk image: %w", err)
	}
	if !st.Mode().IsRegular() {
		return Disk{}, fmt.Errorf("disk image %s is no regular file", abs)
	}
	name := filepath.Base(abs)
	return Disk{Path: abs, PhysicalSector: 512, Image: true,
		Disk: api.Disk{Name: name, Size: st.Size() / 512 * 512, SectorSize: 512, Model: "image file", Serial: name, Bus: "file"}}, nil
}
