package foreign

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/lvm"
)

// physical is a physical volume of LVM2 in a folder of Clonezilla.
type physical struct{ group, uuid string }

// physical reads lvm_vg_dev.list: volume group, device and UUID of each physical volume. The map is by the partition's name.
func (s Source) physical() (map[string]physical, error) {
	text, err := s.text("lvm_vg_dev.list")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	all := make(map[string]physical)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if len(f) != 3 || f[0] != path.Base(f[0]) || strings.HasPrefix(f[0], ".") || !strings.HasPrefix(f[1], "/dev/") {
			return nil, refuse("look into it", "%s/lvm_vg_dev.list: %.80q does not name a volume group, its device and a UUID", s.Path, line)
		}
		all[strings.TrimPrefix(f[1], "/dev/")] = physical{f[0], f[2]}
	}
	if len(all) == 0 {
		return nil, refuse("copy the whole folder", "%s/lvm_vg_dev.list names no LVM volume", s.Path)
	}
	return all, nil
}

// volumes finds the images of the logical volumes of a group, behind what makes the physical volume.
func (s Source) volumes(all []fs.DirEntry, pv physical) ([]piece, error) {
	text, err := s.text("lvm_logv.list")
	if err != nil {
		return nil, refuse("copy the whole folder", "%s: the logical volumes are not known: %v", s.Path, err)
	}
	list := []piece{{what: "volume group " + pv.group, kind: "lvm", volume: pv.group, uuid: pv.uuid}}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		rest, ok := strings.CutPrefix(f[0], "/dev/"+pv.group+"/")
		if !ok {
			continue
		}
		if rest == "" || strings.Contains(rest, "/") {
			return nil, refuse("look into it", "%s/lvm_logv.list: %.80q names no logical volume", s.Path, f[0])
		}
		found, err := s.images(all, pv.group+"-"+rest)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 && strings.Contains(strings.ToLower(line), "swap") {
			found = []piece{{what: "swap " + rest, kind: "swap"}} // without UUID and label
		}
		if len(found) == 0 {
			return nil, refuse("copy the whole folder", "%s holds no image of the logical volume %s/%s", s.Path, pv.group, rest)
		}
		for _, p := range found {
			p.volume = pv.group + "/" + rest
			list = append(list, p)
		}
	}
	return list, nil
}

// writePhysical makes the physical volume.
func (s Source) writePhysical(w io.WriterAt, size int64, p piece) error {
	conf := "lvm_" + p.volume + ".conf"
	text, err := s.text(conf)
	if errors.Is(err, os.ErrNotExist) {
		return refuse("copy the whole folder", "%s is missing", conf)
	} else if err != nil {
		return err
	}
	if err := lvm.Write(w, size, p.uuid, text); err != nil {
		return refuse("restore it with Clonezilla onto a disk, and capture that", "%s: %v", conf, err)
	}
	return nil
}

// logical returns where a logical volume is written, and its size in bytes.
func logical(f *os.File, off, size int64, name string) (io.WriterAt, int64, error) {
	c, why, err := lvm.Open(f, []extent.Extent{{Off: off, Len: size}}, 0)
	if err != nil {
		return nil, 0, err
	}
	if why != "" {
		return nil, 0, refuse("restore it with Clonezilla onto a disk, and capture that", "its volume group cannot be made: %s", why)
	}
	for _, p := range c.Parts {
		if p.Name == name && p.Whole == "" {
			return p.Writer(f), p.Size, nil
		} else if p.Name == name {
			return nil, 0, refuse("restore it with Clonezilla onto a disk, and capture that", "logical volume %s cannot be written here: %s", name, p.Whole)
		}
	}
	names := make([]string, 0, len(c.Parts))
	for _, p := range c.Parts {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	return nil, 0, refuse("look into the folder", "%s", fmt.Sprintf("logical volume %s does not lie on this partition, which has %s", name, strings.Join(names, ", ")))
}
