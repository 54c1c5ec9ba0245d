package xfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/fact"
	"mimeo/internal/imaging/fsmap/tree"
	"mimeo/internal/imaging/uml"
)

// seal makes the checksum of b good, which lies at byte at of it.
func seal(b []byte, at int) {
	clear(b[at : at+4])
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b, castagnoli))
}

// TestWhole changes single things of a good filesystem, each of which is a reason to capture it whole.
func TestWhole(t *testing.T) {
	four, err := os.ReadFile(mkfs(t, 32*mib, "-m crc=0 -d agcount=2 -b size=1024 -p "+sampleTree(t, 100)))
	if err != nil {
		t.Fatal(err)
	}
	five, err := os.ReadFile(mkfs(t, 32*mib, "-m rmapbt=1 -d agcount=2 -b size=1024 -p "+sampleTree(t, 100)))
	if err != nil {
		t.Fatal(err)
	}
	fs := &filesystem{r: bytes.NewReader(five), size: int64(len(five))}
	if err := fs.readSuper(); err != nil {
		t.Fatal(err)
	}
	log := fs.logExtent().Off
	tree := fs.bytes(1, agBlock(be.Uint32(five[fs.bytes(1, 0, 1).Off+sector+16:])), 1).Off
	super := func(at int, c byte) func(b []byte) {
		return func(b []byte) {
			b[at] = c
			seal(b[:sector], sumOff)
		}
	}
	header := func(at int, c byte) func(b []byte) {
		return func(b []byte) {
			b[sector+at] = c
			seal(b[sector:2*sector], groupSum)
		}
	}
	for _, c := range []struct {
		b      []byte
		change func(b []byte)
		reason string
	}{
		{five, func(b []byte) { b[150]++ }, "superblock: the checksum is wrong"},
		{five, super(101, 6), "version 6"},
		{five, super(218, 0x40), "unknown incompatible features 0x4000"},
		{five, super(214, 0x40), "unknown features 0x4000"},
		{five, super(219, 0x10|five[219]), "xfs_repair it"},
		{five, super(218, 2), "zones on the same device"},
		{five, super(126, 1), "being made or grown"},
		{five, super(151, five[151]+1), "free blocks, the allocation groups"},
		{five, super(15, five[15]-1), "blocks"},
		{five, super(11, 1), "blocks"},
		{five, super(124, 30), "allocation groups of"},
		{five, super(122, 9+five[122]), "inodes of"},
		{five, super(54, 0xff), "a log of"},
		{five, super(98, 0x7f), "a log of"},
		{four, func(b []byte) { b[100] |= 0x02 }, "features 0x200"},
		{four, func(b []byte) { b[200] |= 0x40 }, "unknown features 0x40000000"},
		{four, func(b []byte) { b[101] = b[101]&0xf0 | 3 }, "version 3"},
		{five, header(0, 0), "allocation group 0: header: the magic number"},
		{five, header(11, 1), "it is that of group 1"},
		{five, header(64, 1+five[sector+64]), "of another filesystem"},
		{five, header(55, 1+five[sector+55]), "free blocks"},
		{five, header(59, 1+five[sector+59]), "free blocks"},
		{five, header(31, 40), "40 levels"},
		{five, header(31, 2), "tree by place: block"},
		{five, header(83, 9), "the superblock counts"},
		{five, header(51, 0xff), "list of kept blocks"},
		{five, func(b []byte) { b[3*sector+40]++ }, "list of kept blocks: the checksum"},
		{five, func(b []byte) { b[tree+100]++ }, "allocation group 1: tree by place: block 2: the checksum"},
		{five, func(b []byte) { b[tree+59]++; b[tree+63]--; seal(b[tree:tree+1024], 52) }, "do not agree"},
		{five, func(b []byte) { b[tree+51]++; seal(b[tree:tree+1024], 52) }, "of another place"},
		{five, func(b []byte) { b[log+9*sector+3]++ }, "not replayed"},
		{five, func(b []byte) { clear(b[log : log+sector]) }, "it was never written"},
		{five, func(b []byte) { b[log+310]++ }, "log: it is of another filesystem"},
		{five, func(b []byte) { b[log+sector+9] = 0 }, "the checksum of the record at sector 0"},
		{five, func(b []byte) { b[log+43] = 2 }, "the checksum of the record at sector 0"},
		{five, func(b []byte) { b[log+14]++ }, "its end cannot be told"},
		{five, func(b []byte) { b[log+19] = 2 }, "the record at sector 0"},
		{five, func(b []byte) { b[log+33] = 2 }, "the checksum of the record at sector 0"},
		{five[:20*mib], func([]byte) {}, "more than the volume"},
		{five[:100], func([]byte) {}, "too small"},
	} {
		b := bytes.Clone(c.b)
		c.change(b)
		facts, _, err := Used(bytes.NewReader(b), int64(len(b)))
		if err != nil || !strings.Contains(facts.Whole, c.reason) {
			t.Errorf("%q, %v; want %q", facts.Whole, err, c.reason)
		}
	}
	if Is(four[:100]) || !Is(four) || Is(make([]byte, 1000)) {
		t.Error("Is")
	}
}

// TestReadErrors has each read fail once: that is an error, and no reason to capture it whole.
func TestReadErrors(t *testing.T) {
	b, err := os.ReadFile(mkfs(t, 32*mib, "-d agcount=2"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		f := &failing{b: b, after: n}
		_, used, err := Used(f, int64(len(b)))
		if f.after >= 0 {
			if n < 20 {
				t.Errorf("only %d reads", n)
			}
			break
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || used != nil {
			t.Fatalf("read %d failed: %v, %v", n, used, err)
		}
	}
}

type failing struct {
	b     []byte
	after int // so many reads are good
}

func (f *failing) ReadAt(b []byte, off int64) (int, error) {
	if f.after--; f.after < 0 {
		return 0, io.EOF
	}
	return bytes.NewReader(f.b).ReadAt(b, off)
}

// TestOtherDevices has Linux 6.1 write to filesystems whose log, or realtime files, lie elsewhere.
func TestOtherDevices(t *testing.T) {
	t.Parallel()
	log, rt := sparse(t, 16*mib), sparse(t, 32*mib)
	away, img := mkfs(t, 64*mib, "-l logdev="+log), mkfs(t, 64*mib, "-d rtinherit=1 -r extsize=4096,rtdev="+rt)
	uml.Run(t, `mkdir m; mount -t xfs -o logdev=/dev/ubdb /dev/ubda m; seq 9999 >m/f; umount m
mount -t xfs -o rtdev=/dev/ubdd /dev/ubdc m; seq 99999 >m/file; mkdir m/d; ln -s file m/link; umount m`, away, log, img, rt)
	if facts, _ := mapImage(t, away); !strings.Contains(facts.Whole, "its log lies on another device") {
		t.Errorf("%+v", facts)
	}
	facts, used := mapImage(t, img)
	if facts.Whole != "" || len(facts.Notes) != 1 || !strings.Contains(facts.Notes[0], "lies on another device") {
		t.Errorf("%+v", facts)
	}
	fs := open(t, img)
	want := extent.Subtract(extent.List{{Len: facts.Len}}, freesp(t, img, fs))
	if lost := extent.Subtract(want, used); len(lost) > 0 || used.Bytes()-want.Bytes() != keptBlocks(t, img, fs)*fs.blockSize {
		t.Errorf("used by xfs_db and not by us: %v", lost)
	}
	var all []extent.Extent
	why, err := Claims(fs.r, fs.size, func(e extent.Extent) { all = append(all, e) })
	if claimed := extent.FromUnsorted(all); err != nil || why != "" || len(extent.Subtract(used, claimed))+len(extent.Subtract(claimed, used)) > 0 {
		t.Errorf("claimed: %v, %q, %v", claimed, why, err)
	}
	tr, err := OpenTree(fs.r, fs.size)
	if err != nil {
		t.Fatal(err)
	}
	f, err := tree.Lookup(tr, "/link", true)
	if err != nil || f.Size != 588_888 {
		t.Fatalf("%+v, %v", f, err)
	}
	if _, err := tr.Open(f.Inode); err == nil || !strings.Contains(err.Error(), "for realtime") {
		t.Errorf("a realtime file: %v", err)
	}
	n := 0
	if err := Pieces(fs.r, fs.size, func(fact.Piece) { n++ }); err != nil || n != 2 { // the maps of the realtime device
		t.Errorf("%d pieces, %v", n, err)
	}
}

// TestChangedUUID has xfs_admin write a new UUID: that of the metadata stays.
func TestChangedUUID(t *testing.T) {
	img := mkfs(t, 64*mib, "-p "+sampleTree(t, 100))
	tool(t, "xfs_admin", "-U", "generate", img)
	judge(t, img)
	mounted(t, judge(t, img), "rw", func(dir, _ string) { change(t, dir, mib) })
	mounted(t, img, "rw", func(dir, _ string) {
		change(t, dir, mib)
		img = snapshot(t, img)
	})
	tool(t, "xfs_repair", "-L", img)
	mounted(t, judge(t, img), "rw", func(dir, _ string) { change(t, dir, mib) })
}

// TestLarge reads a filesystem of 64 TiB, which is a file of holes.
func TestLarge(t *testing.T) {
	img := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(img, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 64 << 40
	if err := os.Truncate(img, size); err != nil {
		t.Fatal(err)
	}
	tool(t, "mkfs.xfs", "-q", "-l", "size=64m", img)
	facts, used := mapImage(t, img)
	if facts.Whole != "" || facts.Len > size || facts.Len < size-mib || used.Bytes() > 200*mib {
		t.Errorf("%+v: %d bytes used", facts, used.Bytes())
	}
}
