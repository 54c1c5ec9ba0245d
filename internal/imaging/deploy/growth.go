package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"mimeo/internal/imaging/blockfile"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/tool"
	"mimeo/internal/imaging/view"
)

// Grown is what has become larger.
type Grown struct {
	What string `json:"what"` // "partition 2 (ext4)", "vg0/root (xfs)"
	From int64  `json:"from"` // bytes
	To   int64  `json:"to"`
}

// Growth is what came of growing a volume.
type Growth struct {
	Grown []Grown
	Notes []string // what keeps its size, and why: it works as it is
}

func (g *Growth) note(format string, args ...any) {
	g.Notes = append(g.Notes, fmt.Sprintf(format, args...))
}

const (
	member = "LVM2_member"
	// raidMember keeps its size: the superblock may lie at its end, and the other disks of the array keep theirs.
	raidMember = "linux_raid_member"
)

// growable are the filesystems that Grow knows.
var growable = []string{"ext2", "ext3", "ext4", "xfs", "btrfs", "ntfs", "vfat"}

// GrowVolume makes what lies in the volume that grew with the table as large as there is room: its filesystem or, in a
// physical volume of LVM, that and one logical volume with its filesystem. Of an unnamed one it is the only one of its
// group with a filesystem. now is the table as it is on the disk of size bytes, which lies at path and is not open.
func GrowVolume(ctx context.Context, path string, size int64, m *manifest.Manifest, now manifest.Table, grow string) (g Growth, err error) {
	v, wanted, ok, err := m.Grows(grow)
	if err != nil || !ok || size <= m.Disk.Size {
		return g, err
	}
	n, what := size, "the disk"
	if v.Partition > 0 {
		n, what = v.Len, fmt.Sprintf("partition %d", v.Partition)
		for _, p := range now.Partitions {
			if p.Number == v.Partition {
				n = p.Len
			}
		}
	}
	switch {
	case v.Type == raidMember:
		g.note("%s (%s) keeps its size: it is grown with mdadm, with all disks of the array", what, v.Type)
		return g, nil
	case n <= v.Len, v.Type == "swap":
		return g, nil
	case v.Type != member:
		return g, g.filesystem(fmt.Sprintf("%s (%s)", what, v.Type), v.Len, n, GrowRange(ctx, path, v.Off, n, v.Type))
	}
	return g, g.physical(ctx, path, m, v, n, what, wanted)
}

// filesystem notes how the growth of a filesystem ended.
func (g *Growth) filesystem(what string, from, to int64, err error) error {
	var kept *KeptError
	switch {
	case errors.As(err, &kept) && kept.Size > 0:
		g.note("%s: the filesystem grew to %d bytes: %s", what, kept.Size, kept.Why)
		to = kept.Size
	case errors.As(err, &kept):
		g.note("%s: the filesystem keeps its size: %s", what, kept.Why)
		return nil
	case errors.Is(err, ErrCannotGrow):
		g.note("%s: the filesystem keeps its size: %v", what, ErrCannotGrow)
		return nil
	case errors.Is(err, ErrSleeps):
		g.note("%s: the filesystem keeps its size: %v", what, ErrSleeps)
		return nil
	case err != nil:
		return err
	}
	g.Grown = append(g.Grown, Grown{what, from, to})
	return nil
}

// physical grows a physical volume to n bytes, and a logical volume of its group.
func (g *Growth) physical(ctx context.Context, path string, m *manifest.Manifest, v manifest.Volume, n int64, what, wanted string) error {
	volumes := slices.Clone(m.Volumes)
	var devices []string // the one that grows, then those of other physical volumes: they may be of the same group
	var detach []func() error
	free := func() (err error) {
		for _, f := range detach {
			err = errors.Join(err, f())
		}
		return err
	}
	for i, o := range volumes {
		if o.Off == v.Off {
			volumes[i].Len = n
		} else if o.Type != member {
			continue
		}
		device, f, err := attachLoop(path, o.Off, volumes[i].Len)
		if err != nil {
			return errors.Join(fmt.Errorf("make a loop device for %s of %s: %w", what, path, err), free())
		}
		detach = append(detach, f)
		if devices = append(devices, device); o.Off == v.Off {
			devices[0], devices[len(devices)-1] = device, devices[0]
		}
	}
	name, before, err := g.extend(ctx, path, volumes, devices, what, wanted)
	if err := errors.Join(err, free()); err != nil || name == "" {
		return err
	}
	inner, err := logicalOn(path, volumes, "")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(inner, func(in fsmap.Inner) bool { return in.Name == name })
	if i < 0 {
		return fmt.Errorf("%s is not to be found in %s any more", name, what)
	}
	in := inner[i]
	return g.filesystem(fmt.Sprintf("%s (%s)", name, in.Type), before, in.Size, growPart(ctx, path, in))
}

// extend has LVM's own program give the new space to the physical volume on the first device, and to a logical volume, which it
// returns with its old size; "" where none is to grow.
func (g *Growth) extend(ctx context.Context, path string, volumes []manifest.Volume, devices []string, what, wanted string) (name string, before int64, err error) {
	out, err := lvm(ctx, devices, "pvs", "--noheadings", "--separator", ":", "-o", "vg_name,vg_missing_pv_count,vg_exported", devices[0])
	if err != nil {
		return "", 0, err
	}
	facts := strings.Split(strings.TrimSpace(out), ":")
	if len(facts) != 3 || facts[0] == "" {
		g.note("%s (%s) keeps its size: it belongs to no volume group", what, member)
		return "", 0, nil
	}
	group := facts[0]
	if facts[1] != "0" || facts[2] != "" {
		g.note("%s (%s) keeps its size: volume group %s lies on other disks, too, or is exported, and is not changed through one of them", what, member, group)
		return "", 0, nil
	}
	inner, err := logicalOn(path, volumes, group)
	if err != nil {
		return "", 0, err
	}
	if _, err := lvm(ctx, devices, "pvresize", devices[0]); err != nil {
		return "", 0, err
	}
	in, why := chooseLogical(inner, wanted)
	if why != "" {
		g.note("volume group %s has the new space of %s, and no logical volume grew: %s", group, what, why)
		return "", 0, nil
	}
	free, err := lvm(ctx, devices, "vgs", "--noheadings", "-o", "vg_free_count", group)
	if err != nil {
		return "", 0, err
	}
	if strings.TrimSpace(free) == "0" {
		return "", 0, nil // less than an extent has come
	}
	if _, err := lvm(ctx, devices, "lvextend", "-l", "+100%FREE", in.Name); err != nil {
		return "", 0, err
	}
	return in.Name, in.Size, nil
}

// chooseLogical returns the logical volume that grows, or says why there is none.
func chooseLogical(inner []fsmap.Inner, wanted string) (in fsmap.Inner, why string) {
	var names []string
	for _, c := range inner {
		switch {
		case strings.Count(c.Name, "/") != 1:
		case wanted != "" && c.Name == wanted:
			if c.Part.Whole != "" {
				return in, fmt.Sprintf("of %s: %s", c.Name, c.Part.Whole)
			}
			if c.Part.Striped() {
				return in, fmt.Sprintf("%s is striped, and its other stripes did not get more room: let it grow on the node, by lvextend", c.Name)
			}
			if c.Part.Leg {
				return in, fmt.Sprintf("%s is mirrored, and its other leg lies elsewhere: let it grow on the node, by lvextend", c.Name)
			}
			return c, ""
		case wanted == "" && c.Part.Whole == "" && !c.Part.Leg && !c.Part.Striped() && slices.Contains(growable, c.Type):
			in, names = c, append(names, c.Name)
		}
	}
	switch {
	case wanted != "":
		return in, "there is no " + wanted
	case len(names) == 0:
		return in, "none has a filesystem that can grow"
	case len(names) > 1:
		return in, fmt.Sprintf("name one of %s for it", strings.Join(names, ", "))
	}
	return in, ""
}

// growPart grows the filesystem of a logical volume of a disk.
func growPart(ctx context.Context, path string, in fsmap.Inner) (err error) {
	if off, ok := in.Piece(); ok {
		return GrowRange(ctx, path, off, in.Size, in.Type)
	}
	if !slices.Contains(growable, in.Type) {
		return ErrCannotGrow
	}
	disk, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Sync(), disk.Close()) }()
	f, err := blockfile.Start(fact.Bytes{Part: in.Part, Disk: disk}, in.Size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Err(), f.Close()) }()
	return GrowRange(ctx, f.Path, 0, in.Size, in.Type)
}

// logical returns the logical volumes on a disk with volumes as a manifest lists them; of one group, where that is not "".
func logical(disk io.ReaderAt, volumes []manifest.Volume, group string) (all []fsmap.Inner, err error) {
	d := fsmap.DiskOf(disk, volumes)
	for i, v := range volumes {
		if v.Type != member {
			continue
		}
		inner, err := d.Inside(i, member)
		if err != nil {
			return nil, fmt.Errorf("partition %d: read the volume group: %w", v.Partition, err)
		}
		all = append(all, inner...)
	}
	return slices.DeleteFunc(all, func(in fsmap.Inner) bool { return group != "" && !strings.HasPrefix(in.Name, group+"/") }), nil
}

// logicalOn does that with the disk at path.
func logicalOn(path string, volumes []manifest.Volume, group string) ([]fsmap.Inner, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	inner, err := logical(f, volumes, group)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return inner, nil
}

// lvm runs one of LVM's commands on these devices alone. The kernel is not asked: no logical volume becomes active.
func lvm(ctx context.Context, devices []string, command string, args ...string) (string, error) {
	filter := ""
	for _, d := range devices {
		filter += fmt.Sprintf(`"a|^%s$|",`, d)
	}
	config := fmt.Sprintf(`backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[%s"r|.*|"]} activation{udev_sync=0 udev_rules=0}`, filter)
	return tool.Run(ctx, 0, "lvm", append([]string{command, "--driverloaded", "n", "--config", config}, args...)...)
}

// checkGrow makes sure, before the first write, that what was named can grow.
func (r *run) checkGrow(ctx context.Context) error {
	_, wanted, ok, err := r.m.Grows(r.opts.Grow)
	if err != nil || !ok || r.opts.Grow == GrowLast || r.t.Size() <= r.m.Disk.Size {
		return err
	}
	if err := r.shift(); err != nil {
		return err
	}
	if wanted == "" {
		return nil
	}
	d, err := view.Open(ctx, r.from, r.image)
	if err != nil {
		return fmt.Errorf("read the image's contents: %w", err)
	}
	inner, err := logical(d, r.m.Volumes, "")
	if err != nil {
		return fmt.Errorf("read the image's contents: %w", err)
	}
	if _, why := chooseLogical(inner, wanted); why != "" {
		return &manifest.GrowError{Name: wanted, Why: why}
	}
	return nil
}
