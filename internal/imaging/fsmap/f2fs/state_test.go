package f2fs

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// editor changes a filesystem.
type editor struct {
	b  []byte
	fs *filesystem
}

// super changes both superblocks.
func (e *editor) super(change func(b []byte)) {
	for _, at := range []int{superOff, blockSize + superOff} {
		change(e.b[at : at+superLen])
	}
}

// checkpoint changes both ends of the pack that counts, and makes their checksums good.
func (e *editor) checkpoint(change func(b []byte)) {
	for _, at := range []int64{0, e.fs.cp.blocks - 1} {
		b := e.block(e.fs.cp.at + blockNr(at))
		change(b)
		le.PutUint32(b[sumsHigh:], crc(superMagic, b[:sumsHigh]))
	}
}

func (e *editor) block(n blockNr) []byte { return e.b[int64(n)*blockSize:][:blockSize] }

// segment is the entry of a segment in the SIT.
func (e *editor) segment(seg int64) []byte {
	i := seg / sitPerBlock
	at := e.fs.sitAt + blockNr(i)
	if bit(e.fs.cp.sitCurrent, i) {
		at += blockNr(e.fs.sitBlocks)
	}
	return e.block(at)[seg%sitPerBlock*sitLen:][:sitLen]
}

// next is the block where the next node would be.
func (e *editor) next() []byte {
	return e.block(e.fs.mainAt + blockNr(e.fs.cp.seg[warmNode]*segBlocks+e.fs.cp.next[warmNode]))
}

func flags(f uint32) func(e *editor) {
	return func(e *editor) { e.checkpoint(func(b []byte) { le.PutUint32(b[132:], le.Uint32(b[132:])|f) }) }
}

var states = []struct {
	name   string
	change func(e *editor)
	whole  string // part of the reason; "" for none
	note   string // part of the one note
}{
	{"as it was", func(e *editor) {}, "", ""},
	{"blocks of 16 KiB", func(e *editor) { e.super(func(b []byte) { b[16] = 14 }) }, "blocks of 2^14", ""},
	{"zoned", func(e *editor) { e.super(func(b []byte) { b[2180] |= featureZoned }) }, "zoned disks", ""},
	{"unknown feature", func(e *editor) { e.super(func(b []byte) { b[2183] |= 0x40 }) }, "unknown features 0x40000000", ""},
	{"two disks", func(e *editor) { e.super(func(b []byte) { copy(b[2201:], "/dev/sda1") }) }, "several disks", ""},
	{"large", func(e *editor) { e.super(func(b []byte) { b[1664] = 1 }) }, "has no checksum", ""},
	{"errors in the superblock", func(e *editor) { e.super(func(b []byte) { b[2795] = 1 }) }, "Linux found errors", ""},
	{"superblocks differ", func(e *editor) { e.b[superOff+90] ^= 1 }, "the two superblocks differ", ""},
	{"checksum of a superblock", func(e *editor) { e.super(func(b []byte) { b[2181] |= featureSum >> 8 }) }, "checksum of a superblock", ""},
	{"gap", func(e *editor) { e.super(func(b []byte) { b[92]++ }) }, "the main area begins at block", ""},
	{"longer than the volume", func(e *editor) { e.super(func(b []byte) { b[69], b[49], b[40] = 1, 1, 1 }) }, "the volume has", ""},
	{"not unmounted", func(e *editor) { e.checkpoint(func(b []byte) { b[132] &^= flagUnmounted }) }, "not unmounted cleanly", ""},
	{"errors", flags(flagError), "Linux found errors", ""},
	{"fsck", flags(flagFsck), "Linux found errors", ""},
	{"no checkpoints", flags(flagDisabled), "switched off", ""},
	{"resizing", flags(flagResizing), "being resized", ""},
	{"quota", flags(flagQuota), "", "quota must be checked"},
	{"torn checkpoint", func(e *editor) { e.block(e.fs.cp.at + blockNr(e.fs.cp.blocks) - 1)[3] ^= 1 }, "its checksum is wrong", ""},
	{"torn old checkpoint", func(e *editor) { e.block(e.fs.cpAt + e.fs.cpAt + segBlocks - e.fs.cp.at)[3] ^= 1 }, "its checksum is wrong", ""},
	{"mixed checkpoint", func(e *editor) {
		b := e.block(e.fs.cp.at)
		b[0] ^= 1
		le.PutUint32(b[sumsHigh:], crc(superMagic, b[:sumsHigh]))
	}, "it begins with version", ""},
	{"total of blocks", func(e *editor) { e.checkpoint(func(b []byte) { le.PutUint64(b[16:], 7) }) }, "7 by the checkpoint", ""},
	{"free segments", func(e *editor) { e.checkpoint(func(b []byte) { b[32]++ }) }, "segments are free", ""},
	{"nodes", func(e *editor) { e.checkpoint(func(b []byte) { b[144]++ }) }, "nodes,", ""},
	{"log nowhere", func(e *editor) { e.checkpoint(func(b []byte) { b[86] = 1 }) }, "log 0 goes on at", ""},
	{"log over data", func(e *editor) { e.checkpoint(func(b []byte) { le.PutUint16(b[116:], 0) }) }, "new ones would be written over it", ""},
	{"count of a segment", func(e *editor) { e.segment(3)[0] ^= 1 }, "blocks in use by its bits", ""},
	{"type of a segment", func(e *editor) { e.segment(3)[1] |= 0x3c }, "of type 15", ""},
	{"another block of data", func(e *editor) {
		m := e.segment(3)[2:66] // its first block is free, the second in use
		m[0] ^= 0xc0
	}, "which is not marked as data", ""},
	{"another block of nodes", func(e *editor) {
		m := e.segment(1)[2:66]
		m[0] ^= 0xc0
	}, "which is not marked as one", ""},
	{"block of nobody", func(e *editor) {
		s := e.segment(3)
		s[0]++
		s[2] |= 0x80
	}, "", "1 blocks are marked as used and belong to no file"},
	{"written since", func(e *editor) {
		le.PutUint64(e.next()[footerOff+12:], e.fs.cp.version|uint64(e.fs.cp.sum)<<32)
	}, "written since its last checkpoint", ""},
	{"written since, by fsck's mark", func(e *editor) {
		flags(flagLow)(e)
		le.PutUint64(e.next()[footerOff+12:], e.fs.cp.version|77<<32)
	}, "written since its last checkpoint", ""},
	{"written long ago", func(e *editor) {
		le.PutUint64(e.next()[footerOff+12:], e.fs.cp.version|77<<32)
	}, "", ""},
	{"long journal", func(e *editor) { e.block(e.fs.cp.at + blockNr(e.fs.cp.sums))[journalLen] = 7 }, "a journal of 7 entries", ""},
	{"journal of another segment", func(e *editor) {
		j := e.block(e.fs.cp.at + blockNr(e.fs.cp.sums))[journalLen:]
		j[0] = 1
		le.PutUint32(j[2:], 45) // which is free
		copy(j[6:], e.segment(3))
		copy(e.segment(3), make([]byte, 66))
	}, "which is not marked as data", ""},
}

func TestStates(t *testing.T) {
	img := testdata(t, "default")
	_, want, err := Used(bytes.NewReader(img), int64(len(img)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range states {
		t.Run(c.name, func(t *testing.T) {
			e := &editor{bytes.Clone(img), open(t, img)}
			c.change(e)
			if !Is(e.b[:2*blockSize]) {
				t.Fatal("not seen")
			}
			facts, used, err := Used(bytes.NewReader(e.b), int64(len(e.b)))
			if err != nil {
				t.Fatal(err)
			}
			if (c.whole == "") != (facts.Whole == "") || !strings.Contains(facts.Whole, c.whole) {
				t.Errorf("whole because %q, want %q", facts.Whole, c.whole)
			}
			if c.whole != "" {
				return
			}
			if lost := extent.Subtract(want, used); len(lost) > 0 {
				t.Errorf("lost %v", lost)
			}
			if (c.note != "") != (len(facts.Notes) == 1) || c.note != "" && !strings.Contains(facts.Notes[0], c.note) {
				t.Errorf("notes %q, want %q", facts.Notes, c.note)
			}
		})
	}
}

// TestDirect holds the places of nodes in a file against the tree that they make: two direct nodes, two indirect ones
// with their direct nodes, and one of indirect nodes.
func TestDirect(t *testing.T) {
	var want []bool
	add := func(is bool, n int) {
		for range n {
			want = append(want, is)
		}
	}
	add(true, 3) // the inode, and two
	for range 2 {
		add(false, 1)
		add(true, 1018)
	}
	add(false, 1)
	for range 3 {
		add(false, 1)
		add(true, 1018)
	}
	for place, is := range want {
		if direct(uint32(place)) != is {
			t.Fatalf("place %d: %v", place, !is)
		}
	}
}

// TestUnreadable lets each read fail in turn.
func TestUnreadable(t *testing.T) {
	b := testdata(t, "default")
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
