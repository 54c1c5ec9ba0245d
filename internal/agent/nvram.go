package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"mimeo/internal/agent/bootentry"
	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/api"
	"mimeo/internal/imaging/manifest"
)

// espType is the type of an EFI system partition (UEFI 2.10 section 5.3.3), and espMBR the one that MBR has for it.
const (
	espType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	espMBR  = "ef"
)

// boot is what this machine's firmware starts; nil without UEFI, or where it does not show its variables.
func (a *agent) boot() *api.HardwareBoot {
	entries, err := bootentry.Read(bootentry.Dir)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			a.Log("%v", err)
		}
		return nil
	}
	return bootOf(entries)
}

// bootOf says it in the words of the API. The first entry of a disk that is active is the loader of the system there.
func bootOf(entries []bootentry.Entry) *api.HardwareBoot {
	b := &api.HardwareBoot{Entries: []api.BootEntry{}}
	for _, e := range entries {
		kind := e.Kind()
		out := api.BootEntry{Number: fmt.Sprintf("%04X", e.Number), Name: e.Name, Kind: string(kind), Active: e.Active()}
		if kind == bootentry.Disk {
			out.Path, out.Partition = e.File(), e.GUID()
			if b.Loader == "" && e.Active() {
				b.Loader = out.Path
			}
		}
		b.Entries = append(b.Entries, out)
	}
	return b
}

// bootEntries makes the firmware start the deployed system. That it cannot be done is told and is no failure: the
// removable path, or the server's boot script, may start the system all the same.
func (j *job) bootEntries(m *manifest.Manifest) error {
	if j.disk.Image || !hwinfo.UEFI("/") {
		return nil
	}
	vols, err := volumes(j.disk, m)
	if err != nil {
		return err
	}
	esps := j.esps(vols, m)
	if len(esps) == 0 {
		j.report.say("this machine boots by UEFI, and the image has no EFI system partition: it will not boot from this disk, unless its firmware can do as a BIOS does")
		return nil
	}
	esp := esps[0]
	loaders, removable, err := j.loaders(esp)
	if err != nil {
		j.report.say(fmt.Sprintf("the EFI system partition (partition %d) cannot be read, and boot entries stay as they are: %v", esp.Partition, err))
		return nil
	}
	if !removable {
		j.report.say(fmt.Sprintf("the EFI system partition (partition %d) has no loader at the removable path \\EFI\\BOOT: a firmware that loses its boot entries will not find the system", esp.Partition))
	}
	if len(loaders) == 0 {
		if !removable {
			j.report.say(fmt.Sprintf("no loader is known in the EFI system partition (partition %d): the system will not boot by itself", esp.Partition))
		}
		return nil
	}
	switch {
	case !j.Own:
		j.report.say("the firmware's boot entries stay as they are: this agent is a guest on its system")
	case j.task.NoNVRAM:
		j.report.say("the firmware's boot entries stay as they are: knobs.nvram is off")
	case esp.partUUID == "":
		j.report.say("the firmware's boot entries stay as they are: the disk's partition table is not a GPT")
	default:
		size := uint64(j.disk.SectorSize)
		p := bootentry.Partition{Number: uint32(esp.Partition), Start: uint64(esp.Off) / size, Len: uint64(esp.Len) / size, GUID: esp.partUUID}
		changes, err := bootentry.Set(bootentry.Dir, p, loaders)
		for _, c := range changes {
			j.report.say(c)
		}
		if err != nil {
			j.report.say(fmt.Sprintf("the firmware's boot entries: %v; look for a setting that locks them, or one that forgets old ones", err))
		}
	}
	if j.entries = j.boot(); j.entries == nil {
		j.entries = &api.HardwareBoot{Entries: []api.BootEntry{}}
	}
	j.entries.Loader = loaders[0].Path
	return nil
}

// esps are the EFI system partitions.
func (j *job) esps(vols []volume, m *manifest.Manifest) []volume {
	return slices.DeleteFunc(slices.Clone(vols), func(v volume) bool {
		return v.logical != "" || !slices.ContainsFunc(m.Table.Partitions, func(p manifest.Partition) bool {
			return p.Number == v.Partition && (strings.EqualFold(p.Type, espType) || strings.EqualFold(p.Type, espMBR))
		})
	})
}

// loaders looks into the EFI system partition, without changing it.
func (j *job) loaders(esp volume) (found []bootentry.Loader, removable bool, err error) {
	err = j.onESP(esp, true, func(dir string) (err error) {
		found, removable, err = bootentry.Loaders(os.DirFS(dir), string(hwinfo.Arch()))
		return err
	})
	return found, removable, err
}

// onESP mounts an EFI system partition while do runs; to look only, not a byte of it changes.
func (j *job) onESP(esp volume, look bool, do func(dir string) error) (err error) {
	dir, err := os.MkdirTemp("", "mimeo-esp-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	undo, err := mountVolume(j.disk, esp, dir, look)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	return do(dir)
}
