package xfs

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/maptest"
)

// unreplayed is a small filesystem after a crash, whose log changes trees of free space.
func unreplayed(t testing.TB) []byte {
	t.Helper()
	img := mkfs(t, 32*mib, "-b size=1024 -d agcount=2 -l size=4m")
	mounted(t, img, "rw", func(dir, _ string) {
		w := &work{t: t, dir: dir, r: rand.New(rand.NewPCG(7, 8)), block: 1024}
		w.do(700)
		tool(t, "xfs_io", "-x", "-c", "shutdown -f", dir)
	})
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// logged returns where the records of a log are that count.
func logged(t testing.TB, b []byte) (fs *filesystem, records []extent.Extent) {
	t.Helper()
	fs = &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := fs.used(); err != nil || fs.log == nil || len(fs.log.blocks) < 5 {
		t.Fatalf("the image is not what it should be: %v, %+v", err, fs.log)
	}
	l := fs.ring()
	tail, head, err := l.live()
	if err != nil {
		t.Fatal(err)
	}
	at := tail
	if err := l.records(tail, head, func(r *record) error {
		if at+r.n <= l.n {
			records = append(records, extent.Extent{Off: l.off + at*sector, Len: r.n * sector})
		}
		at = (at + r.n) % l.n
		return nil
	}); err != nil || len(records) < 3 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	return fs, records
}

// sealRecord makes the checksum of a record good.
func sealRecord(b []byte) {
	headers, content := recordSize(b)
	if headers == 0 || int64(len(b)) < headers*sector+content {
		return
	}
	clear(b[32:36])
	c := crc32.Update(0, castagnoli, b[:recordLen+4])
	for i := int64(1); i < headers; i++ {
		c = crc32.Update(c, castagnoli, b[i*sector:][:4+recordCycles/sector*4])
	}
	binary.LittleEndian.PutUint32(b[32:], crc32.Update(c, castagnoli, b[headers*sector:][:content]))
}

// TestFlippedBitsAfterACrash damages what counts after a crash bit by bit. Nothing that is in use after the replay may be left out.
func TestFlippedBitsAfterACrash(t *testing.T) {
	flipDirty(t, unreplayed(t), 700)
}

func flipDirty(t *testing.T, b []byte, tries int) {
	_, want, err := Used(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	fs, records := logged(t, b)
	ps := []part{{extent.Extent{Len: fs.sectorSize}, sumOff}}
	for n := range fs.agCount {
		at := fs.bytes(n, 0, 1).Off
		f := slices.Clone(b[at+fs.sectorSize:][:fs.sectorSize])
		fs.log.overlay(f, at+fs.sectorSize)
		ps = append(ps, part{extent.Extent{Off: at + fs.sectorSize, Len: fs.sectorSize}, groupSum}, part{extent.Extent{Off: at + 3*fs.sectorSize, Len: fs.sectorSize}, listSum})
		for i, k := range []kind{byPlace, byLength} {
			if _, err := fs.walk(k, n, agBlock(be.Uint32(f[16+4*i:])), be.Uint32(f[28+4*i:]), func(e extent.Extent) {
				ps = append(ps, part{e, 52})
			}, func([]byte) error { return nil }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if fs.version == 4 {
		for i := range ps {
			ps[i].sum = -1
		}
	}
	onDisk := len(ps)
	for _, e := range records {
		ps = append(ps, part{e, -1}, part{extent.Extent{Off: e.Off, Len: 2 * sector}, -1})
	}
	l := fs.ring()
	end := records[len(records)-1].End()
	for _, e := range []extent.Extent{{Off: l.off, Len: sector}, {Off: l.off + (l.n-1)*sector, Len: sector}, {Off: end - sector, Len: 3 * sector}} {
		if e.End() <= l.off+l.n*sector {
			ps = append(ps, part{e, -1})
		}
	}
	r := rand.New(rand.NewPCG(9, 6))
	whole, same := 0, 0
	for i := range tries {
		p := ps[r.IntN(len(ps))]
		if i%2 == 0 {
			p = ps[r.IntN(onDisk)]
		}
		piece := b[p.at.Off:p.at.End()]
		old := slices.Clone(piece)
		at := r.IntN(len(piece))
		if i%3 == 0 {
			at = r.IntN(min(len(piece), 270))
		} else if i%3 == 1 && p.sum < 0 {
			at = r.IntN(len(piece)/sector)*sector + r.IntN(8) // rounds
		}
		for range 1 + i%3/2 {
			piece[min(at+r.IntN(9), len(piece)-1)] ^= 1 << r.IntN(8)
		}
		if p.sum >= 0 && i%8 > 0 {
			seal(piece, p.sum)
		}
		facts, got, err := Used(bytes.NewReader(b), int64(len(b)))
		copy(piece, old)
		if err != nil {
			t.Fatalf("byte %d of %v: %v", at, p.at, err)
		}
		if facts.Whole != "" {
			whole++
			continue
		}
		got = extent.Union(got, extent.List{{Off: facts.Len, Len: int64(len(b)) - facts.Len}})
		if lost := extent.Subtract(want, got); len(lost) > 0 {
			t.Errorf("byte %d of %v: lost %v", at, p.at, lost)
		}
		if len(extent.Subtract(got, want)) == 0 {
			same++
		}
	}
	t.Logf("%d of %d whole, %d the same", whole, tries, same)
	if whole < tries/5 {
		t.Errorf("only %d of %d flips were noticed", whole, tries)
	}
}

// TestWholeAfterACrash changes single things of a log, with good checksums, each of which is a reason to capture it whole.
func TestWholeAfterACrash(t *testing.T) {
	good := unreplayed(t)
	fs, records := logged(t, good)
	log := fs.logExtent()
	last := records[len(records)-1]
	// find returns the first operation that begins an item of a kind, in the content of a record, and what follows.
	inRecords := func(b []byte, kind uint16, f func(op []byte)) bool {
		for _, e := range records {
			headers, content := recordSize(b[e.Off:])
			c := b[e.Off+headers*sector:][:content]
			for at := 0; at+28 < len(c); {
				n := int(be.Uint32(c[at+4:]))
				if at/sector == (at+40)/sector && at%sector > 4 && n >= 16 && le.Uint16(c[at+12:]) == kind && c[at+9] == 0 {
					f(c[at:])
					return true
				}
				at += 12 + n
			}
		}
		return false
	}
	change := func(kind uint16, f func(op []byte)) func(b []byte) {
		return func(b []byte) {
			if !inRecords(b, kind, f) {
				t.Errorf("no item %#x", kind)
			}
		}
	}
	first := records[0].Off
	for _, c := range []struct {
		name, reason string
		change       func(b []byte)
	}{
		{"other byte order", "another byte order", func(b []byte) { b[first+303] = 2 }},
		{"other filesystem", "of another filesystem", func(b []byte) { b[first+304]++ }},
		{"version 1", "has version 1", func(b []byte) { b[first+11] = 1 }},
		{"place", "there is no record", func(b []byte) { b[first+23]++ }},
		{"tail too early", "it is said to begin at", func(b []byte) { b[last.Off+27] += 5 }},
		{"tail between records", "there is no record", func(b []byte) { b[last.Off+31] ^= 3 }},
		{"unknown item", "unknown kind, 0x1235", change(itemInode, func(b []byte) { b[12] = 0x35 })},
		{"quota off", "quotas were being turned off", change(itemInode, func(b []byte) { b[12] = 0x3e })},
		{"realtime", "unknown kind, 0x124a", change(itemInode, func(b []byte) { b[12] = 0x4a })},
		{"inode elsewhere", "it leads to", change(itemInode, func(b []byte) { b[12+47] = 0x40 })},
		{"regions", "of", change(itemBuffer, func(b []byte) { b[12+2]++ })},
		{"buffer elsewhere", "a buffer at", change(itemBuffer, func(b []byte) { b[12+15] = 0x40 })},
		{"client", "client 0x1", change(itemBuffer, func(b []byte) { b[8] = 1 })},
		{"flags", "an operation of kind", change(itemBuffer, func(b []byte) { b[9] = 0x40 })},
		{"a record under way", "is one of", func(b []byte) { copy(b[last.End():], b[last.Off:][:2*sector]) }},
		{"a sector missing", "its end cannot be told", func(b []byte) { b[last.End()-sector+3]-- }},
		{"zeros", "it was never written", func(b []byte) { clear(b[log.Off:log.End()]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := bytes.Clone(good)
			c.change(b)
			for _, e := range records {
				sealRecord(b[e.Off:e.End()])
			}
			facts, _, err := Used(bytes.NewReader(b), int64(len(b)))
			if err != nil || !strings.Contains(facts.Whole, c.reason) {
				t.Errorf("%q, %v; want %q", facts.Whole, err, c.reason)
			}
		})
	}
	maptest.Unreadable(t, Used, good)
}

// FuzzLog writes anything into the records of a log, and makes their checksums good again.
func FuzzLog(f *testing.F) {
	base := unreplayed(f)
	_, records := logged(f, base)
	f.Add([]byte{})
	for i := range byte(60) {
		f.Add([]byte{i, 0, i * 4, 1, i, 2, i + 12, 0xff})
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		p := &patched{base: base, blocks: map[int64][]byte{}}
		for ; len(ops) >= 4; ops = ops[4:] {
			e := records[int(ops[0])%len(records)]
			if p.blocks[e.Off] == nil {
				p.blocks[e.Off] = slices.Clone(base[e.Off:e.End()])
			}
			b := p.blocks[e.Off]
			b[(int(ops[1])<<8|int(ops[2]))%len(b)] = ops[3]
		}
		for _, b := range p.blocks {
			sealRecord(b)
		}
		facts, used, err := Used(p, int64(len(base)))
		if err != nil {
			t.Fatal(err)
		}
		if facts.Whole == "" && (used.Valid() != nil || used[len(used)-1].End() > facts.Len) {
			t.Fatalf("%v of %d bytes", used, len(base))
		}
		w := &writes{patched: p}
		if err := renew(w, int64(len(base)), 99); err != nil {
			t.Fatal(err)
		}
		if written := extent.FromUnsorted(w.list); facts.Whole == "" && len(facts.Notes) > 0 && len(extent.Intersect(written, used)) > 0 {
			t.Fatalf("RenewLog wrote to %v, which is in use", written)
		}
	})
}

// TestManyIntents reads a log in which things are begun under the same number again and again, or ever more buffers are cancelled.
func TestManyIntents(t *testing.T) {
	fs := &filesystem{super: super{version: 5, blockSize: 4096, sectorSize: 512, blocks: 1 << 20, agBlocks: 1 << 20, agCount: 1, agLog: 20}}
	fs.facts.Len = 1 << 32
	p := &replay{fs: fs, touched: []extent.Extent{{Len: 512}}, cancels: map[buffer]int{}, intents: map[intent][][]extent.Extent{}}
	const extents = 16
	begin := make([]byte, 16+16*extents)
	le.PutUint16(begin, itemFree)
	le.PutUint32(begin[4:], extents)
	for i := range extents {
		le.PutUint64(begin[16+16*i:], uint64(100+i))
		le.PutUint32(begin[24+16*i:], 1)
	}
	end := make([]byte, 16)
	le.PutUint16(end, itemFreed)
	for range maxUnfinished {
		for _, b := range [][]byte{begin, end} {
			if err := p.lookAt(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	var err error
	n := 0
	for ; err == nil && n < maxUnfinished; n++ {
		err = p.lookAt(begin)
	}
	if err == nil || n > maxUnfinished/extents {
		t.Errorf("after %d things that were begun: %v", n, err)
	}
	cancel := make([]byte, 24)
	le.PutUint16(cancel, itemBuffer)
	le.PutUint16(cancel[4:], bufferCancel)
	le.PutUint16(cancel[6:], 8)
	for n, err = 0, nil; err == nil && n <= 1<<21; n++ {
		le.PutUint64(cancel[8:], uint64(n))
		err = p.lookAt(cancel)
	}
	if err == nil || n > maxCancels+1 {
		t.Errorf("after %d buffers that were cancelled: %v", n, err)
	}
}
