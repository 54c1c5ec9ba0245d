package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"mimeo/internal/agent/identity"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/tool"
)

// newUUIDs gives filesystems and partitions UUIDs of their own, where the task says so, and tells the deployed Linux: first the
// files in which it names them, then the filesystems, which are not mounted then, and the partition table. It returns the image as
// it is on the disk now.
func (j *job) newUUIDs(ctx context.Context, m *manifest.Manifest) (*manifest.Manifest, error) {
	of := j.task.UUIDs
	if of == "" {
		return m, nil
	}
	vols, err := volumes(j.disk, m)
	if err != nil {
		return nil, err
	}
	names := map[string]string{} // the new ones by the old ones
	n := *m
	n.Volumes = slices.Clone(m.Volumes)
	type change struct {
		volume
		id string
	}
	var changes []change
	for _, v := range vols {
		switch {
		case of == node.UUIDsPartitions || v.UUID == "":
		case v.part != nil || !deploy.TakesUUID(v.Type):
			j.report.say(fmt.Sprintf("partition %d: %s keeps its UUID", v.Partition, v.Type))
		default:
			c := change{v, newUUID()}
			if len(v.UUID) == 9 { // a serial number of FAT
				c.id = strings.ToUpper(c.id[:4] + "-" + c.id[4:8])
			}
			changes = append(changes, c)
			names[strings.ToLower(v.UUID)] = c.id
			for i := range n.Volumes {
				if n.Volumes[i].Partition == v.Partition && n.Volumes[i].Off == v.Off {
					n.Volumes[i].UUID = c.id
				}
			}
		}
	}
	table, err := j.newTable(of, names)
	if err != nil {
		return nil, err
	}
	esps := j.esps(vols, m)
	if err := j.noneBuiltIn(esps, names); err != nil {
		return nil, err
	}
	if err := j.renameIn(ctx, m, esps, names); err != nil {
		return nil, err
	}
	for _, c := range changes {
		dev, detach, err := device(j.disk, c.volume, false)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(deploy.SetUUID(ctx, dev, c.Type, c.id), detach()); err != nil {
			return nil, toolError(err)
		}
	}
	for _, p := range table {
		if err := deploy.SetPartitionUUID(ctx, j.disk.Path, p.number, p.id); err != nil {
			return nil, toolError(err)
		}
	}
	j.report.say(fmt.Sprintf("new UUIDs: of %d filesystems, of the disk and its partitions %d", len(changes), len(table)))
	return &n, nil
}

// toolError says which package the stateless image lacks.
func toolError(err error) error {
	if name, missing := tool.MissingPackage(err); missing {
		return &api.Error{Code: "no_tool", Message: err.Error(), Hint: "the stateless image's profile needs the package " + name}
	}
	return err
}

// partitionID is another UUID for a partition, or with number 0 for the disk.
type partitionID struct {
	number int
	id     string
}

// newTable chooses UUIDs for the disk and its partitions, and adds them to names.
func (j *job) newTable(of string, names map[string]string) ([]partitionID, error) {
	if of == node.UUIDsFilesystems {
		return nil, nil
	}
	f, err := disk.Open(j.disk.Path, disk.Options{})
	if err != nil {
		return nil, err
	}
	t, err := disk.ReadTable(f, f.Size(), f.SectorSize())
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read the deployed partition table: %w", err)
	}
	switch t.Kind {
	case "gpt":
		out := []partitionID{{0, newUUID()}}
		names[strings.ToLower(t.ID)] = out[0].id
		for _, p := range t.Partitions {
			out = append(out, partitionID{p.Number, newUUID()})
			names[strings.ToLower(p.UUID)] = out[len(out)-1].id
		}
		return out, nil
	case "mbr":
		id := newUUID()[:8]
		for _, p := range t.Partitions {
			names[fmt.Sprintf("%s-%02x", strings.ToLower(t.ID), p.Number)] = fmt.Sprintf("%s-%02x", id, p.Number)
		}
		return []partitionID{{0, "0x" + id}}, nil
	}
	return nil, nil
}

// noneBuiltIn refuses a loader that would not find its menu any more, unless it is installed anew.
func (j *job) noneBuiltIn(esps []volume, names map[string]string) error {
	if slices.ContainsFunc(j.task.Root, func(p api.Postscript) bool { return p.Name == "grub" }) {
		return nil
	}
	for _, esp := range esps {
		err := j.onESP(esp, true, func(dir string) error {
			loader, err := identity.BuiltIn(dir, names)
			if err == nil && loader != "" {
				err = &api.Error{Code: "refused", Message: fmt.Sprintf("the loader /%s on partition %d has a UUID built in, and would not find its menu under a new one", loader, esp.Partition),
					Hint: "let the postscript grub install it anew: label.postscripts.root=grub"}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// renameIn puts the new names into the files of the deployed Linux, and of its loader.
func (j *job) renameIn(ctx context.Context, m *manifest.Manifest, esps []volume, names map[string]string) (err error) {
	t, err := j.mountTarget(ctx, m)
	if err != nil {
		return err
	}
	if t == nil {
		return &api.Error{Code: "no_root", Message: "new UUIDs were asked for, and the image has no root filesystem of Linux whose tables could be told",
			Hint: "take the label " + node.LabelUUIDs + " away from the node"}
	}
	changed, err := identity.Rename(t.dir, names)
	if err := errors.Join(err, t.unmount()); err != nil {
		return err
	}
	for _, esp := range esps {
		err := j.onESP(esp, false, func(dir string) error {
			more, err := identity.Rename(dir, names)
			changed = append(changed, more...)
			return err
		})
		if err != nil {
			return err
		}
	}
	if len(changed) > 0 {
		j.report.say("new UUIDs are in " + strings.Join(changed, ", "))
	}
	return nil
}

// makeInitramfs has the system make its initramfs anew, by its own program.
const makeInitramfs = `#!/bin/sh
if command -v update-initramfs >/dev/null; then exec update-initramfs -u -k all; fi
if command -v dracut >/dev/null; then exec dracut --force --regenerate-all; fi
if command -v mkinitcpio >/dev/null; then exec mkinitcpio -P; fi
echo "no program that makes an initramfs: it stays as it is"
`

// newInitramfs makes the initramfs of a system anew that has new UUIDs, as it may wait for a device by the old one.
func (j *job) newInitramfs(ctx context.Context, t *target) (err error) {
	if j.task.UUIDs == "" {
		return nil
	}
	return j.inRoot(ctx, t, []api.Postscript{{Name: "initramfs", Content: []byte(makeInitramfs)}})
}

// newUUID makes a random one (RFC 9562, section 5.4).
func newUUID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
