package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
)

// read reads a volume that must be good, and returns it with all that was found out.
func read(t testing.TB, img string) *volume {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	v := &volume{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := v.used(); err != nil {
		t.Fatal(err)
	}
	return v
}

// fragment fills a mounted volume, deletes every other file, and makes so many that the MFT must grow into the gaps.
func fragment(t testing.TB, dir string) {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 1500)
	for i := 0; ; i++ {
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("a%d", i)), b, 0o644)
		if errors.Is(err, unix.ENOSPC) {
			for j := 0; j < i; j += 2 {
				if err := os.Remove(filepath.Join(dir, fmt.Sprintf("a%d", j))); err != nil {
					t.Fatal(err)
				}
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 6000 {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("b%d", i)), nil, 0o644)
		if errors.Is(err, unix.ENOSPC) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFragmented has an MFT in so many pieces that its first record does not hold them, and grows it afterwards: then
// $Bitmap lies elsewhere, and the volume is marked as dirty.
func TestFragmented(t *testing.T) {
	t.Parallel()
	img := mkntfs(t, 8<<10, "-c", "512")
	mounted(t, img, "", func(dir string) { fragment(t, dir) })
	if out := tool(t, "ntfsinfo", "-i", "0", img); !bytes.Contains(out, []byte("Dumping attribute $ATTRIBUTE_LIST")) {
		t.Errorf("the MFT has no attribute list: %s", out)
	}
	if v := read(t, img); len(v.mft.runs) < 100 {
		t.Errorf("the MFT has %d runs", len(v.mft.runs))
	}
	judge(t, img)

	if err := os.Truncate(img, 700<<20); err != nil {
		t.Fatal(err)
	}
	before, _ := mapImage(t, img)
	tool(t, "sh", "-c", "yes | ntfsresize -ff --no-progress-bar "+img)
	after, used := mapImage(t, img)
	if after.Whole != "" || len(after.Notes) != 1 || !strings.Contains(after.Notes[0], "dirty") {
		t.Fatalf("grown: %+v", after)
	}
	if before.Len != 8<<20 || after.Len <= 699<<20 || used.Bytes() > 9<<20 {
		t.Errorf("from %d to %d bytes, %d in use", before.Len, after.Len, used.Bytes())
	}
	tool(t, "ntfsfix", "-d", img) // takes the mark away
	byFiles, byBitmap := ntfscluster(t, img)
	_, used = mapImage(t, img)
	if got := used.Clip(extent.Extent{Len: (after.Len - 1) / 512 * 512}).Bytes() / 512; got != byFiles || got != byBitmap {
		t.Errorf("%d clusters in use, ntfscluster says %d by files, %d by the bitmap", got, byFiles, byBitmap)
	}
	tool(t, "sh", "-c", "yes | ntfsresize -ff --no-progress-bar --size 40M "+img)
	if err := os.Truncate(img, 41<<20); err != nil {
		t.Fatal(err)
	}
	// It leaves no backup of the boot sector behind.
	if facts, _ := mapImage(t, img); facts.Whole != "" || len(facts.Notes) != 2 || !strings.Contains(facts.Notes[1], "backup of the boot sector") {
		t.Errorf("shrunk: %+v", facts)
	}
	tool(t, "ntfsfix", "-d", img)
	judge(t, img)
}

// TestBitmapInPieces moves $Bitmap so that its data runs lie in two other records, as on a volume that grew when it was
// nearly full. ntfs-3g must find it there too.
func TestBitmapInPieces(t *testing.T) {
	t.Parallel()
	img := mkntfs(t, 8<<10, "-c", "512")
	mounted(t, img, "", func(dir string) { fill(t, dir, 2<<20, 512) })
	e := openEditor(t, img)
	old := e.v.marked.s
	if len(old.runs) != 1 || old.runs[0].n != 4 {
		t.Fatalf("$Bitmap has runs %v", old.runs)
	}
	// Its four clusters go to three places, in the wrong order.
	var free []cluster
	for c := cluster(1000); len(free) < 4; c += 7 {
		if at, err := e.v.marked.clear(int64(c), 1); err != nil {
			t.Fatal(err)
		} else if at >= 0 {
			free = append(free, c)
		}
	}
	slices.Reverse(free[:3])
	content := make([]byte, old.size)
	if err := old.read(content, 0); err != nil {
		t.Fatal(err)
	}
	for i := range cluster(4) {
		content[(old.runs[0].lcn+i)/8] &^= 1 << ((old.runs[0].lcn + i) % 8)
		content[free[i]/8] |= 1 << (free[i] % 8)
	}
	for i, c := range free {
		copy(e.b[int64(c)*512:], content[i*512:(i+1)*512])
	}
	e.setRecordBits(16, 17)
	const dataInstance = 4
	var list []byte
	for _, p := range []struct {
		rec uint64
		vcn uint64
	}{{6, 0}, {16, 1}, {17, 3}} {
		entry := make([]byte, 0x20)
		le.PutUint32(entry, attrData)
		le.PutUint16(entry[4:], 0x20)
		entry[7] = 0x1a
		le.PutUint64(entry[8:], p.vcn)
		le.PutUint64(entry[0x10:], p.rec|uint64(e.seq(p.rec))<<48)
		le.PutUint16(entry[0x18:], dataInstance)
		list = append(list, entry...)
	}
	others := make([]byte, 0, 0x40) // $STANDARD_INFORMATION and $FILE_NAME
	for _, typ := range []uint32{0x10, attrFileName} {
		entry := make([]byte, 0x20)
		le.PutUint32(entry, typ)
		le.PutUint16(entry[4:], 0x20)
		entry[7] = 0x1a
		le.PutUint64(entry[0x10:], 6|uint64(e.seq(6))<<48)
		le.PutUint16(entry[0x18:], uint16(typ>>5)) // instances are given below: 0 and 1
		others = append(others, entry...)
	}
	list = append(others, list...)
	part := func(vcn cluster, size int64, lcns ...cluster) []byte {
		a := make([]byte, 0x48+8)
		le.PutUint32(a, attrData)
		le.PutUint32(a[4:], uint32(len(a)))
		a[8] = 1
		le.PutUint16(a[0x0a:], 0x40)
		le.PutUint16(a[0x0e:], dataInstance)
		le.PutUint64(a[0x10:], uint64(vcn))
		le.PutUint64(a[0x18:], uint64(int(vcn)+len(lcns)-1))
		le.PutUint16(a[0x20:], 0x40)
		if vcn == 0 {
			le.PutUint64(a[0x28:], uint64(size))
			le.PutUint64(a[0x30:], uint64(size))
			le.PutUint64(a[0x38:], uint64(size))
		}
		pairs, last := a[0x40:0x40], cluster(0)
		for _, lcn := range lcns {
			d := uint32(lcn - last)
			pairs = append(pairs, 0x31, 1, byte(d), byte(d>>8), byte(d>>16))
			last = lcn
		}
		return a
	}
	e.attrs(6, 0, func(as [][]byte) [][]byte {
		var out [][]byte
		for _, a := range as {
			switch le.Uint32(a) {
			case 0x10:
				le.PutUint16(a[0x0e:], 0)
				out = append(out, a, residentAttr(attrList, list, 3))
			case attrFileName:
				le.PutUint16(a[0x0e:], 1)
				out = append(out, a)
			case attrData:
				out = append(out, part(0, 2048, free[0]))
			}
		}
		return out
	})
	e.attrs(16, 6, func([][]byte) [][]byte { return [][]byte{part(1, 0, free[1], free[2])} })
	e.attrs(17, 6, func([][]byte) [][]byte { return [][]byte{part(3, 0, free[3])} })
	e.save()
	if v := read(t, img); len(v.marked.s.runs) != 4 {
		t.Errorf("$Bitmap has runs %v", v.marked.s.runs)
	}
	judge(t, img)
}

// TestResidentBitmap is a volume whose $Bitmap fits into its record.
func TestResidentBitmap(t *testing.T) {
	t.Parallel()
	img := mkntfs(t, 8<<10, "-c", "4096")
	mounted(t, img, "", func(dir string) { fill(t, dir, 2<<20, 4096) })
	e := openEditor(t, img)
	old := e.v.marked.s
	content := make([]byte, old.size)
	if err := old.read(content, 0); err != nil {
		t.Fatal(err)
	}
	for _, r := range old.runs {
		for c := r.lcn; c < r.lcn+r.n; c++ {
			content[c/8] &^= 1 << (c % 8)
		}
	}
	e.attrs(6, 0, func(as [][]byte) [][]byte {
		for i, a := range as {
			if le.Uint32(a) == attrData {
				as[i] = residentAttr(attrData, content, le.Uint16(a[0x0e:]))
			}
		}
		return as
	})
	e.save()
	if v := read(t, img); v.marked.s.resident == nil {
		t.Error("$Bitmap is not in its record")
	}
	judge(t, img)
}

// TestLarge is a volume of 2 TiB in a sparse file: little of it may be read.
func TestLarge(t *testing.T) {
	t.Parallel()
	img := mkntfs(t, 2<<30)
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := &counter{ReaderAt: f}
	facts, used, err := Used(c, 2<<40)
	if err != nil || facts.Whole != "" {
		t.Fatalf("%+v, %v", facts, err)
	}
	byFiles, byBitmap := ntfscluster(t, img)
	if got := used.Clip(extent.Extent{Len: (facts.Len - 1) / 4096 * 4096}).Bytes() / 4096; got != byFiles || got != byBitmap {
		t.Errorf("%d clusters in use, ntfscluster says %d by files, %d by the bitmap", got, byFiles, byBitmap)
	}
	if c.bytes > 80<<20 {
		t.Errorf("%d reads of %d bytes", c.reads, c.bytes)
	}
}

type counter struct {
	io.ReaderAt
	reads, bytes int
}

func (c *counter) ReadAt(b []byte, off int64) (int, error) {
	c.reads++
	c.bytes += len(b)
	return c.ReaderAt.ReadAt(b, off)
}
