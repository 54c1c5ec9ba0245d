package ntfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// restartPage makes a restart page of $LogFile, as NTFS has it while mounted or after.
func restartPage(lsn uint64, major, client, flags uint16) []byte {
	b := make([]byte, 4096)
	copy(b, "RSTR")
	le.PutUint16(b[4:], 0x1e)
	le.PutUint16(b[6:], 9)
	le.PutUint32(b[0x10:], 4096)
	le.PutUint32(b[0x14:], 4096)
	le.PutUint16(b[0x18:], 0x30)
	le.PutUint16(b[0x1a:], 1)
	le.PutUint16(b[0x1c:], major)
	area := b[0x30:]
	le.PutUint64(area, lsn)
	le.PutUint16(area[8:], 1)        // clients
	le.PutUint16(area[0xa:], 0xffff) // none of them free
	le.PutUint16(area[0xc:], client)
	le.PutUint16(area[0xe:], flags)
	le.PutUint32(area[0x10:], 67-22) // bits of the sequence number: of a log of 2 MiB
	le.PutUint16(area[0x14:], 0xe0)  // length of the area
	le.PutUint16(area[0x16:], 0x40)  // where the clients are
	le.PutUint64(area[0x18:], 2<<20)
	le.PutUint16(area[0x24:], 0x30) // header of a log record
	le.PutUint16(area[0x26:], 0x40) // data of a page
	c := area[0x40:]
	le.PutUint64(c, lsn)
	le.PutUint64(c[8:], lsn)
	le.PutUint16(c[0x10:], 0xffff)
	le.PutUint16(c[0x12:], 0xffff)
	le.PutUint32(c[0x1c:], 8)
	copy(c[0x20:], "N\x00T\x00F\x00S\x00")
	le.PutUint16(b[0x1e:], 7)
	protect(b)
	return b
}

// setLog writes two restart pages.
func setLog(e *editor, first, second []byte) {
	s, err := e.v.open(recLog, attrData)
	if err != nil || len(s.runs) != 1 {
		e.t.Fatalf("%v, %v", s.runs, err)
	}
	log := e.b[int64(s.runs[0].lcn)*e.v.clusterSize:][:s.size]
	copy(log, first)
	copy(log[4096:], second)
}

// volumeFlags sets the flags of $Volume.
func volumeFlags(e *editor, flags uint16) {
	e.attrs(recVolume, 0, func(as [][]byte) [][]byte {
		for _, a := range as {
			if le.Uint32(a) == attrVolumeInfo {
				le.PutUint16(a[le.Uint16(a[0x14:])+10:], flags)
			}
		}
		return as
	})
}

// data changes the $DATA of a record.
func data(e *editor, n uint64, f func(a []byte)) {
	e.attrs(n, 0, func(as [][]byte) [][]byte {
		for _, a := range as {
			if le.Uint32(a) == attrData && a[9] == 0 {
				f(a)
			}
		}
		return as
	})
}

// find returns the record of a file in the root.
func find(e *editor, name string) uint64 {
	e.t.Helper()
	for n := uint64(24); n < uint64(e.v.mft.init/e.v.recordSize); n++ {
		if rec, err := e.v.readRecord(n); err == nil && rec.named(name) {
			return n
		}
	}
	e.t.Fatalf("no file %s", name)
	return 0
}

func firstRun(e *editor, n uint64) run {
	e.t.Helper()
	s, err := e.v.open(n, attrData)
	if err != nil || len(s.runs) == 0 {
		e.t.Fatalf("%v, %v", s.runs, err)
	}
	return s.runs[0]
}

// stateImage is a volume with some files; tests make copies.
func stateImage(t testing.TB) []byte {
	t.Helper()
	img := mkntfs(t, 8<<10, "-c", "4096")
	mounted(t, img, "", func(dir string) {
		for _, name := range []string{"one", "two", "hiberfil.sys"} {
			if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("-"+name), 3000), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "folder", "hiberfil.sys"), []byte("hibr"), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestStates sets what a volume says of its state, and damages it. probe is what
// ntfs-3g.probe answers to whether it would be mounted: 14 for a hibernated Windows, 15 for one that was not shut down.
func TestStates(t *testing.T) {
	const clean, inUse = 2, 0
	base := stateImage(t)
	hiber := func(magic string) func(e *editor) {
		return func(e *editor) {
			n := find(e, "hiberfil.sys")
			copy(e.b[int64(firstRun(e, n).lcn)*4096:], magic)
		}
	}
	log := func(first, second []byte) func(e *editor) { return func(e *editor) { setLog(e, first, second) } }
	for _, c := range []struct {
		name  string
		set   func(e *editor)
		whole string // why; "" where it is captured by used blocks
		note  string
		probe int // -1: not asked
	}{
		{"clean", func(e *editor) {}, "", "", 0},
		{"dirty", func(e *editor) { volumeFlags(e, volumeDirty) }, "", "marked as dirty", -1},
		{"chkdsk at work", func(e *editor) { volumeFlags(e, volumeChkdsk) }, "chkdsk is at work", "", -1},
		{"version 4", func(e *editor) {
			e.attrs(recVolume, 0, func(as [][]byte) [][]byte {
				for _, a := range as {
					if le.Uint32(a) == attrVolumeInfo {
						a[le.Uint16(a[0x14:])+8] = 4
					}
				}
				return as
			})
		}, "version 4.1 is unknown", "", -1},

		{"log of a clean shutdown", log(restartPage(100, 1, 0, clean), restartPage(90, 1, 0, inUse)), "", "", 0},
		{"log that nobody has open", log(restartPage(100, 1, logNobody, inUse), restartPage(90, 1, 0, inUse)), "", "", 0},
		{"log in use", log(restartPage(100, 1, 0, inUse), restartPage(90, 1, 0, clean)), "not shut down cleanly", "", 15},
		{"log in use by the second page", log(restartPage(90, 1, 0, clean), restartPage(100, 1, 0, inUse)), "not shut down cleanly", "", 15},
		{"log of fast startup", log(restartPage(100, 2, 0, inUse), restartPage(90, 2, 0, inUse)), "did not let go", "", 15},
		{"log of fast startup that says clean", log(restartPage(100, 2, 0, clean), restartPage(90, 2, 0, clean)), "did not let go", "", 15},
		{"log with one page torn", log(restartPage(100, 1, 0, clean), bytes.Repeat([]byte("x"), 4096)), "second restart page", "", -1},
		{"log with both pages torn", log(restartPage(100, 1, 0, clean)[:3000], restartPage(90, 1, 0, clean)[:1000]), "first restart page", "", -1},
		{"log without a page", log(bytes.Repeat([]byte{0}, 4096), nil), "first restart page", "", -1},

		{"hibernated", hiber("hibr"), "", "sleeps in hiberfil.sys", 14},
		{"hibernated, version 8", hiber("HIBR"), "", "sleeps in hiberfil.sys", 14},
		{"hibernated with its log", func(e *editor) {
			hiber("HIBR")(e)
			setLog(e, restartPage(100, 2, 0, inUse), restartPage(90, 2, 0, inUse))
		}, "did not let go", "sleeps in hiberfil.sys", 14},
		{"awake", hiber("wake"), "", "", 0},
		{"never slept", hiber("\x00\x00\x00\x00"), "", "", 0},

		{"mirror", func(e *editor) {
			e.b[int64(e.v.mirrorAt)*4096+3*1024+0x10]++
		}, "differs from its copy in $MFTMirr", "", -1},
		{"mirror cannot be read", func(e *editor) {
			e.b[int64(e.v.mirrorAt)*4096] = 'X'
		}, `copy in $MFTMirr of MFT record 0: it starts with "XILE"`, "", -1},
		{"mirror elsewhere", func(e *editor) { e.b[0x38]++ }, "$MFTMirr is not where the boot sector says", "", -1},
		{"MFT elsewhere", func(e *editor) { e.b[0x30]++ }, "by its own word it is record", "", -1},
		{"record half written", func(e *editor) {
			e.b[e.at(find(e, "one"))+510]++
		}, "written in part", "", -1},
		{"record not that of $Bitmap", func(e *editor) {
			e.record(recBitmap, func(b []byte) { copy(b, bytes.ReplaceAll(b, []byte("B\x00i\x00t"), []byte("C\x00i\x00t"))) })
		}, "MFT record 6 is not that of $bitmap", "", -1},
		{"record of $Bitmap not in use", func(e *editor) {
			e.record(recBitmap, func(b []byte) { b[0x16] = 0 })
		}, "MFT record 6: it is not in use", "", -1},
		{"record that is free damaged", func(e *editor) { clear(e.b[e.at(20):][:1024]) }, "", "", 0},
		{"record set aside without content", func(e *editor) {
			e.setRecordBits(20)
			clear(e.b[e.at(20):][:1024])
		}, "", "", 0},
		{"record in use without content", func(e *editor) { clear(e.b[e.at(find(e, "one")):][:1024]) }, `it starts with "\x00`, "", -1},
		{"bitmap with too few bits", func(e *editor) {
			data(e, recBitmap, func(a []byte) { le.PutUint64(a[0x30:], 200); le.PutUint64(a[0x38:], 200) })
		}, "$Bitmap has 200 bytes", "", -1},
		{"bitmap with bits never written", func(e *editor) {
			data(e, recBitmap, func(a []byte) { le.PutUint64(a[0x38:], 200) })
		}, "only 200 were written", "", -1},
		{"bitmap sparse", func(e *editor) {
			data(e, recBitmap, func(a []byte) { le.PutUint16(a[0x0c:], 0x8000) })
		}, "compressed, encrypted or sparse", "", -1},
		{"file's cluster free", func(e *editor) {
			e.clusterBit(firstRun(e, find(e, "two")).lcn+1, false)
		}, "not marked as such in $Bitmap", "", -1},
		{"first cluster free", func(e *editor) { e.clusterBit(0, false) }, "cluster 0 is in use and not marked", "", -1},
		{"cluster of nobody", func(e *editor) {
			free, err := e.v.marked.clear(0, int64(e.v.clusters))
			if err != nil || free < 0 {
				t.Fatal(free, err)
			}
			e.clusterBit(cluster(free), true)
		}, "", "1 clusters are marked as used and belong to no file", -1},
		{"file with the clusters of another", func(e *editor) {
			var pairs []byte
			data(e, find(e, "one"), func(a []byte) { pairs = bytes.Clone(a[0x40:]) })
			r := firstRun(e, find(e, "two"))
			data(e, find(e, "two"), func(a []byte) { copy(a[0x40:], pairs) })
			for c := r.lcn; c < r.lcn+r.n; c++ {
				e.clusterBit(c, false)
			}
		}, "some belong to two files", "", -1},
		{"file beyond the end", func(e *editor) {
			data(e, find(e, "one"), func(a []byte) { a[0x42], a[0x43] = 0xff, 0x7f })
		}, "it has a data run", "", -1},
		{"no backup of the boot sector", func(e *editor) { clear(e.b[len(e.b)-512:]) }, "", "backup of the boot sector", 0},
		{"last sector cut off", func(e *editor) {
			e.b = e.b[:len(e.b)-512]
		}, "", "backup of the boot sector", -1},
		{"volume cut off", func(e *editor) { e.b = e.b[:len(e.b)-1024] }, "more than the volume", "", -1},
		{"boot sector of FAT", func(e *editor) { e.b[0x16] = 9 }, "of NTFS it is zero", "", -1},
		{"clusters of 4 MiB", func(e *editor) { e.b[0x0d] = 0xf3 }, "clusters of", "", -1},
		{"records of 3 KiB", func(e *editor) { e.b[0x40] = 3 }, "size of MFT records", "", -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			if err := os.WriteFile(img, base, 0o600); err != nil {
				t.Fatal(err)
			}
			e := openEditor(t, img)
			c.set(e)
			e.save()
			facts, _ := mapImage(t, img)
			if c.whole == "" && facts.Whole != "" || !strings.Contains(facts.Whole, c.whole) {
				t.Errorf("whole %q, want %q", facts.Whole, c.whole)
			}
			notes := strings.Join(facts.Notes, "\n")
			if !strings.Contains(notes, c.note) || c.note == "" && notes != "" || len(facts.Notes) > 1 {
				t.Errorf("notes %q, want %q", facts.Notes, c.note)
			}
			if c.probe >= 0 {
				err := command("ntfs-3g.probe", "--readwrite", img).Run()
				code := 0
				if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
					code = exit.ExitCode()
				}
				if code != c.probe {
					t.Errorf("ntfs-3g.probe answers %d, want %d", code, c.probe)
				}
			}
		})
	}
}

// TestBackup finds the copy of the boot sector in all places where it may be.
func TestBackup(t *testing.T) {
	const size = 100 << 10
	for _, c := range []struct {
		at   int64
		want extent.List
	}{
		{79 << 9, extent.List{{Off: 72 << 9, Len: 8 << 9}}},                          // behind the last sector of the filesystem
		{199 << 9, extent.List{{Off: 79 << 9, Len: 512}, {Off: 199 << 9, Len: 512}}}, // at the end of the volume
		{39 << 9, extent.List{{Off: 39 << 9, Len: 512}, {Off: 79 << 9, Len: 512}}},   // in the middle
		{38 << 9, extent.List{{Off: 79 << 9, Len: 512}}},                             // nowhere
	} {
		b := make([]byte, size)
		raw := bytes.Repeat([]byte("boot"), 128)
		copy(b[c.at:], raw)
		v := volume{r: bytes.NewReader(b), size: size, boot: boot{raw: raw, sector: 512, sectors: 79, clusterSize: 4096, clusters: 9}}
		v.facts.Len = 80 << 9
		got, err := v.outside()
		if err != nil || !slices.Equal(got, c.want) || (len(v.facts.Notes) > 0) != (c.at == 38<<9) {
			t.Errorf("backup at %d: %v, %v, %q", c.at, got, err, v.facts.Notes)
		}
	}
}

// TestBitLocker makes sure that an encrypted volume is not taken for NTFS: only the name in its boot sector differs.
func TestBitLocker(t *testing.T) {
	b := stateImage(t)
	if !Is(b) {
		t.Error("a volume is not recognised")
	}
	copy(b[3:], "-FVE-FS-")
	if Is(b) {
		t.Error("BitLocker is taken for NTFS")
	}
	for n := range 512 {
		if Is(b[:n]) {
			t.Errorf("%d bytes are taken for NTFS", n)
		}
	}
}

// TestUnreadable lets each read fail in turn.
func TestUnreadable(t *testing.T) {
	b := stateImage(t)
	for n := 0; ; n++ {
		r := &failing{ReaderAt: bytes.NewReader(b), after: n}
		_, _, err := Used(r, int64(len(b)))
		if !r.failed {
			if err != nil || n < 10 {
				t.Errorf("%d reads: %v", n, err)
			}
			return
		}
		if !errors.Is(err, errDisk) {
			t.Fatalf("read %d fails, and the answer is %v", n, err)
		}
	}
}

var errDisk = errors.New("the disk is broken")

type failing struct {
	io.ReaderAt
	after  int
	failed bool
}

func (r *failing) ReadAt(b []byte, off int64) (int, error) {
	if r.after--; r.after < 0 {
		r.failed = true
		return 0, errDisk
	}
	return r.ReaderAt.ReadAt(b, off)
}
