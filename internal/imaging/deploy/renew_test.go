package deploy

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
)

// TestRenew deploys an XFS onto a disk full of other bytes: its log begins anew, in a round of this day, all else is as
// it was captured.
func TestRenew(t *testing.T) {
	const size = 320 << 20
	img := filepath.Join(t.TempDir(), "img")
	command(t, "", "sh", "-euc", `truncate -s 320M "$1"; mkfs.xfs -q "$1"`, "sh", img)
	data, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	u, st, image := bareCaptured(t, data)
	d := &fakeDisk{data: garbage(rand.New(rand.NewPCG(1, 2)), size), sector: 512}
	if _, err := Run(t.Context(), st, image, d, Options{Verify: true}); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out, d.data, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "", "xfs_repair", "-n", "-f", out)
	changed := int64(0)
	for _, e := range u.Used {
		for at := e.Off; at < e.End(); at += 512 {
			if !bytes.Equal(data[at:at+512], d.data[at:at+512]) {
				changed++
			}
		}
	}
	// The log that mkfs.xfs makes of so small a filesystem has 64 MiB; records have the round behind their magic number.
	record := bytes.Index(d.data[:size], []byte("\xfe\xed\xba\xbe"))
	if changed*512 != 64<<20 || record < 0 || d.data[record+4] < 0x0c {
		t.Errorf("%d sectors differ, the record of round %x at %d", changed, d.data[record+4:record+8], record)
	}

	// Once more onto the same disk: its log is known to be the newest, and goes on.
	before := bytes.Clone(d.data)
	again, err := Run(t.Context(), st, image, d, Options{Compare: true, Verify: true})
	if err != nil {
		t.Fatal(err)
	}
	log := extent.List{{Off: int64(record), Len: 64 << 20}}
	wrote := 0
	for at := 0; at < size; at += 512 {
		if e := (extent.Extent{Off: int64(at), Len: 512}); !bytes.Equal(before[at:at+512], d.data[at:at+512]) {
			if wrote++; !log.ContainsAll(e) || at < record+512 {
				t.Errorf("the second deploy changed sector %d", at/512)
			}
		}
	}
	if wrote == 0 || wrote > 2 || again.Written > 256<<10 {
		t.Errorf("the second deploy changed %d sectors of the log, and wrote %d bytes", wrote, again.Written)
	}
	if err := os.WriteFile(out, d.data, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, "", "xfs_repair", "-n", "-f", out)

	// After a deploy that was broken off, the log may be older than what lies in free space.
	table := bytes.Clone(d.data[:headLen])
	clear(d.data[:headLen])
	if again, err = Run(t.Context(), st, image, d, Options{Compare: true}); err != nil || again.Written < 64<<20 {
		t.Errorf("after a deploy that was broken off %d bytes were written, %v", again.Written, err)
	}
	if !bytes.Equal(d.data[:headLen], table) {
		t.Error("the start of the disk differs")
	}

	// Where the log is not whole, all of it is written.
	d.data[record+32<<20]++
	if again, err = Run(t.Context(), st, image, d, Options{Compare: true}); err != nil || again.Written < 64<<20 {
		t.Errorf("onto a damaged log %d bytes were written, %v", again.Written, err)
	}

	// A log of a later round than today's is of a disk whose node had a clock that was ahead.
	for at := record; at < record+64<<20; at += 512 {
		round := d.data[at : at+4]
		if at == record {
			round = d.data[at+4 : at+8]
		}
		round[0] += 0x40
	}
	ahead := d.data[record+4]
	if _, err = Run(t.Context(), st, image, d, Options{}); err != nil || d.data[record+4] != ahead || d.data[record+7] == 0 {
		t.Errorf("after a log of round %x.. it begins in round %x, %v", ahead, d.data[record+4:record+8], err)
	}

	// What is written to the log is verified, too.
	lying := &forgetful{fakeDisk: fakeDisk{data: d.data, sector: 512}, at: int64(record) + 40<<20}
	lying.data[record+32<<20]++
	var wrong *VerifyError
	if _, err := Run(t.Context(), st, image, lying, Options{Compare: true, Verify: true}); !errors.As(err, &wrong) || wrong.Off > lying.at || lying.at >= wrong.Off+wrong.Len {
		t.Errorf("a disk that forgets what is in the log: %v", err)
	}
}

// bareCaptured captures a disk that is one volume, by what is in use.
func bareCaptured(t *testing.T, data []byte) (fsmap.Usage, *mem.Store, *manifest.Manifest) {
	t.Helper()
	size := int64(len(data))
	u, err := fsmap.Map(bytes.NewReader(data), size)
	if err != nil || u.Method != manifest.MethodUsed {
		t.Fatalf("%+v, %v", u, err)
	}
	st := mem.New()
	plan := capture.Plan{Table: manifest.Table{Kind: "none"}, Used: u.Used, Volumes: []manifest.Volume{{Len: size, Type: u.Type, Method: u.Method}}}
	done, err := capture.Run(t.Context(), capture.Source{ReaderAt: bytes.NewReader(data), Disk: manifest.Disk{Size: size, SectorSize: 512}}, plan, st, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return u, st, done.Manifest
}

// TestClear deploys an XFS that was not unmounted onto a disk on which the same filesystem was in use: of free space only what passes
// for its metadata is changed, and reading it counts as progress.
func TestClear(t *testing.T) {
	const size = 320 << 20
	img := filepath.Join(t.TempDir(), "img")
	command(t, "", "sh", "-euc", `truncate -s 320M "$1"; mkfs.xfs -q "$1"; mkdir "$1.dir"; mount -o loop "$1" "$1.dir"; trap 'umount "$1.dir"' EXIT
		echo hello >"$1.dir/file"; sync -f "$1.dir/file"; cp --sparse=always "$1" "$1.copy"`, "sh", img)
	data, err := os.ReadFile(img + ".copy")
	if err != nil {
		t.Fatal(err)
	}
	u, st, image := bareCaptured(t, data)
	if len(u.Notes) == 0 {
		t.Fatalf("it was unmounted: %+v", u)
	}
	d := &fakeDisk{data: garbage(rand.New(rand.NewPCG(1, 2)), size), sector: 512}
	const block = 4096
	free := u.Used.Complement(size)
	at := (free[len(free)-1].Off + block - 1) / block * block
	copy(d.data[at+24:], data[32:48]) // the UUID in the superblock
	want := bytes.Clone(d.data)
	clear(want[at : at+block])
	last := Progress{}
	if _, err := Run(t.Context(), st, image, slowDisk{d}, Options{Verify: true, Progress: func(p Progress) {
		if p.Phase == PhaseClearing {
			last = p
		}
	}}); err != nil {
		t.Fatal(err)
	}
	if last.Phase == "" || last.Total != size || last.Done <= 0 || last.Done > last.Total {
		t.Errorf("of the reading of free space was told %+v", last)
	}
	for _, e := range u.Used {
		copy(want[e.Off:e.End()], data[e.Off:e.End()])
	}
	same := func() {
		t.Helper()
		for off := 1 << 20; off < size-1<<20; off += block { // before and behind it tables are wiped
			if !bytes.Equal(d.data[off:off+block], want[off:off+block]) {
				t.Fatalf("block %d is not as it should be (the stale one is %d)", off/block, at/block)
			}
		}
	}
	same()

	// Broken off while it reads free space, the disk is left without a start, and the next deploy reads it again.
	copy(d.data[at+24:], data[32:48])
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := Run(ctx, st, image, slowDisk{d}, Options{Progress: func(p Progress) {
		if p.Phase == PhaseClearing {
			cancel()
		}
	}}); !errors.Is(err, context.Canceled) || !chunk.IsZero(d.data[:headLen]) || chunk.IsZero(d.data[at:at+block]) {
		t.Fatalf("broken off: %v", err)
	}
	if _, err := Run(t.Context(), st, image, d, Options{Compare: true, Verify: true}); err != nil {
		t.Fatal(err)
	}
	same()
}

// slowDisk takes its time for long reads.
type slowDisk struct{ *fakeDisk }

func (d slowDisk) ReadAt(b []byte, off int64) (int, error) {
	if len(b) >= 1<<20 {
		time.Sleep(3 * time.Millisecond)
	}
	return d.fakeDisk.ReadAt(b, off)
}
