package deploy

import (
	"bytes"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
)

// loop makes a block device of an image file.
func loop(t *testing.T, path string, sector string) (device string, detach func()) {
	t.Helper()
	device = strings.TrimSpace(command(t, "", "losetup", "-f", "--show", "-b", sector, path))
	done := false
	detach = func() {
		if !done {
			done = true
			command(t, "", "losetup", "-d", device)
		}
	}
	t.Cleanup(detach)
	return device, detach
}

// TestBlockDevices captures and deploys block devices with sectors of 512 and 4096 bytes.
func TestBlockDevices(t *testing.T) {
	for _, sector := range []string{"512", "4096"} {
		rng := rand.New(rand.NewPCG(7, 7))
		from := imageFile(t, 32, "")
		source, detach := loop(t, from, sector)
		command(t, "label: gpt\nsize=24MiB\n", "sfdisk", "-q", source)
		detach()
		format(t, rng, from, 1<<20, 20<<20, "-t", "ext4", "-b", "4096")
		source, detach = loop(t, from, sector)
		st := mem.New()
		m, _ := captured(t, source, st, capture.Options{ChunkSize: 16 << 10})
		detach()
		if m.Table.Kind != "gpt" || len(m.Table.Partitions) != 1 || m.Volumes[0].Type != "ext4" {
			t.Fatalf("sectors of %s: captured %+v %+v", sector, m.Table, m.Volumes)
		}

		discards(t, rng, st, m, sector)
		to := imageFile(t, 48, "")
		fill(t, rng, to, 48)
		target, detach := loop(t, to, sector)
		res := deployed(t, target, st, m, Options{Compare: true, Verify: true, Grow: GrowLast})
		if sector == "512" {
			if out := command(t, "", "sgdisk", "-v", target); !strings.Contains(out, "No problems found") {
				t.Errorf("sgdisk: %s", out)
			}
		}
		if out, err := exec.Command("sfdisk", "-V", target).CombinedOutput(); err != nil {
			t.Errorf("sfdisk: %s", out)
		}
		p := res.Table.Partitions[0]
		if p.Off+p.Len != 47<<20 {
			t.Errorf("sectors of %s: the partition ends at %d", sector, p.Off+p.Len)
		}
		if err := GrowRange(t.Context(), target, p.Off, p.Len, "ext4"); err != nil {
			t.Error(err)
		}
		detach()
		command(t, "", "e2fsck", "-f", "-n", to+"?offset="+strconv.FormatInt(p.Off, 10))
	}
}

// TestGoesOn interrupts deploys by a write error, at another place each time, and runs them again: what was written is
// not written again.
func TestGoesOn(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	from := imageFile(t, 40, gptScript)
	format(t, rng, from, 2<<20, 20<<20, "-t", "ext4")
	st := mem.New()
	m, l := captured(t, from, st, capture.Options{ChunkSize: 4096})
	want := read(t, from)
	d := &fakeDisk{data: garbage(rng, 40<<20), sector: 512}
	var written int64
	for fails := 8; ; fails += 9 {
		d.fails = fails
		res, err := Run(t.Context(), st, m, d, Options{Compare: true, Workers: 2})
		written += res.Written
		if err == nil {
			break
		}
		if fails > 10_000 {
			t.Fatal(err)
		}
	}
	d.fails = 0
	checkDisk(t, d.data, want, l.Used)
	if most := l.Used.Bytes() + l.Used.Bytes()/2 + 4<<20; written > most {
		t.Errorf("%d bytes were written in all, of %d used", written, l.Used.Bytes())
	}
}

// discards deploys onto a disk full of other bytes, of a larger size and of the same: what the image leaves free is given back, and
// nothing else.
func discards(t *testing.T, rng *rand.Rand, st *mem.Store, m *manifest.Manifest, sector string) {
	t.Helper()
	for _, mib := range []int64{48, m.Disk.Size >> 20} {
		plain, given := imageFile(t, mib, ""), imageFile(t, mib, "")
		fill(t, rng, plain, int(mib))
		command(t, "", "cp", plain, given)
		var res *Result
		for _, path := range []string{plain, given} {
			target, detach := loop(t, path, sector)
			res = deployed(t, target, st, m, Options{Discard: path == given, Verify: true, Grow: GrowLast})
			detach()
		}
		used := extent.List{{Len: manifest.HeadLen}}
		for e, err := range manifest.Entries(t.Context(), st, m) {
			if err != nil {
				t.Fatal(err)
			}
			used.Add(extent.Extent{Off: e.Off, Len: e.Len})
		}
		a, b := read(t, plain), read(t, given)
		table := int64(len(a)) - m.BackupLen()
		if !bytes.Equal(a[table:], b[table:]) {
			t.Fatalf("%d MiB, sectors of %s: the backup table is not what it should be", mib, sector)
		}
		for off := int64(0); off+4096 <= table; off += 4096 {
			x, y := a[off:off+4096], b[off:off+4096]
			if bytes.Equal(x, y) {
				continue
			}
			if len(used.Clip(extent.Extent{Off: off, Len: 4096})) > 0 || !chunk.IsZero(y) {
				t.Fatalf("%d MiB, sectors of %s: the block at %d is not what it should be", mib, sector, off)
			}
		}
		if free := mib<<20 - used.Bytes(); res.CannotDiscard || res.Discarded < free/2 || res.Discarded > free {
			t.Errorf("%d MiB, sectors of %s: %d bytes discarded, %d are free", mib, sector, res.Discarded, free)
		}
	}
	disk := &fakeDisk{data: make([]byte, m.Disk.Size), sector: m.Disk.SectorSize}
	if res, err := Run(t.Context(), st, m, disk, Options{Discard: true}); err != nil || !res.CannotDiscard || res.Discarded != 0 {
		t.Errorf("a disk that cannot discard: %+v, %v", res, err)
	}
}
