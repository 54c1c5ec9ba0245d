package nilfs2

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/fsmap/maptest"
	"mimeo/internal/night"
)

func TestMain(m *testing.M) { maptest.Main(m) }

func open(t testing.TB, b []byte) *filesystem {
	t.Helper()
	fs := &filesystem{r: bytes.NewReader(b), size: int64(len(b))}
	if _, err := fs.used(); err != nil {
		t.Fatal(err)
	}
	return fs
}

// usage returns where the blocks of the file of segments lie.
func usage(t testing.TB, fs *filesystem) (list extent.List) {
	t.Helper()
	for block := range (fs.segments+2)*fs.usageLen/fs.block + 1 {
		nr := le.Uint64(fs.sufile.bmap[8+8*block:])
		if nr == 0 {
			continue
		}
		at, err := fs.address(nr)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, extent.Extent{Off: int64(at) * fs.block, Len: fs.block})
	}
	return list
}

// metadata is where superblocks, the last log with the root, and the file of segments lie.
func metadata(t testing.TB, b []byte) extent.List {
	fs := open(t, b)
	return append(usage(t, fs), extent.Extent{Off: superOff, Len: superMin}, extent.Extent{Off: fs.secondOff(), Len: superMin},
		extent.Extent{Off: int64(fs.lastLog) * fs.block, Len: 8 * fs.block})
}

// clean has the cleaner free segments, and writes once more.
const clean = `mount -i -t nilfs2 $disk a; printf 'min_clean_segments 0\nclean_check_interval 1\ncleaning_interval 1\nnsegments_per_clean 50\n' >cleaner
	sleep 1; nilfs_cleanerd -p 1 -c /run/mnt/cleaner $disk /run/mnt/a; for i in $(seq 40); do echo $i >a/new; sync; sleep 0.5
	if lssu -a $disk | grep -q "^ *12 .* --- "; then break; fi; done
	kill $(pidof nilfs_cleanerd); while pidof nilfs_cleanerd >/dev/null; do sleep 0.1; done; perl -e "print qq(more) x 700000" >a/more; umount -i a; `

// segments tells which are in use.
const segments = `mount -i -t nilfs2 -o ro $disk a; echo "segments of $disk"; lssu -a $disk; echo "end of segments"; umount -i a`

func TestLinux(t *testing.T) {
	t.Parallel()
	all := []maptest.Volume{
		{Name: "small", Img: maptest.Make(t, 15<<20, "mkfs.nilfs2 -q -b 1024 -B 128 -L Gruesse"), KiB: 1500, Keep: "small", After: clean},
		{Name: "default", Img: maptest.Make(t, 150<<20+512, "mkfs.nilfs2 -q"), KiB: 1000, Night: true},
		{Name: "blocks", Img: maptest.Make(t, 100<<20, "mkfs.nilfs2 -q -b 2048 -B 64"), KiB: 1000},
	}
	all = maptest.Now(all)
	for i := range all {
		all[i].Mount, all[i].After = "-i -t nilfs2", all[i].After+segments
	}
	crashed := maptest.Volume{Name: "crashed", Img: maptest.Make(t, 15<<20, "mkfs.nilfs2 -q -B 128 -b 1024"), Mount: "-i -t nilfs2", Crash: "not unmounted cleanly"}
	said := maptest.Linux(t, Used, "modprobe nilfs2; mkdir -p /dev/shm; mount -t tmpfs tmp /dev/shm", append(all, crashed), func(t testing.TB, v maptest.Volume, used extent.List, dup string) {
		maptest.Good(t, Used, dup)
	})
	lists := strings.Split(said, "segments of /dev/ubd")[1:]
	if len(lists) != len(all) {
		t.Fatalf("%d lists: %s", len(lists), said)
	}
	for i, v := range all {
		text, _, _ := strings.Cut(lists[i], "end of segments")
		var want extent.List
		_, used := maptest.Map(t, Used, v.Img)
		fs := open(t, maptest.Load(t, v.Img))
		n := fs.perSegment * fs.block
		free := 0
		for _, m := range regexp.MustCompile(`(?m)^\s+(\d+)\s+\S+\s+\S+\s+([a-z-]{3})\s+\d+`).FindAllStringSubmatch(text, -1) {
			if nr, err := strconv.ParseInt(m[1], 10, 64); err != nil {
				t.Fatal(err)
			} else if strings.Contains(m[2], "d") {
				want.Add(extent.Extent{Off: max(nr*n, 4096), Len: min(n, (nr+1)*n-4096)})
			} else {
				free++
			}
		}
		if v.After != segments && (free < 10 || want[0].Off < 2*n) {
			t.Errorf("nothing was cleaned: %s", text)
		}
		maptest.Against(t, "lssu", want, extent.Subtract(used, extent.List{{Off: 0, Len: 4096}}))
	}
}

func TestAgain(t *testing.T) {
	night.Only(t)
	t.Parallel()
	maptest.Again(t, Used, "modprobe nilfs2", "-i -t nilfs2", "small")
}

func TestFlippedBits(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "small")
	maptest.Flip(t, Used, b, metadata(t, b), 400)
}

// seal makes the checksums of the superblocks good.
func seal(b []byte) {
	if len(b) < superOff+superLen {
		return
	}
	for _, off := range []int{superOff, (len(b)/secondLen - 1) * secondLen} {
		s := b[off:]
		sum := crc(crc(le.Uint32(s[12:]), s[:sumOff]), make([]byte, 4))
		le.PutUint32(s[sumOff:], crc(sum, s[sumOff+4:superMin]))
	}
}

func TestStates(t *testing.T) {
	t.Parallel()
	b := maptest.Load(t, "small")
	fs := open(t, b)
	su := usage(t, fs)[0].Off
	log := int64(fs.lastLog) * fs.block
	n := int64(le.Uint32(b[log+40:])) // blocks of the last log
	super := func(at int, c byte) func(b []byte) {
		return func(b []byte) {
			b[superOff+at] = c
			b[fs.secondOff()+int64(at)] = c
			seal(b)
		}
	}
	check := maptest.Changes(t, Used, b)
	check("as it was", seal, "", "")
	check("checksum", func(b []byte) { b[superOff+30] ^= 1 }, "checksum of the superblock", "")
	check("revision", super(0, 3), "revision 3", "")
	check("blocks", super(20, 9), "blocks of", "")
	check("features", super(272, 2), "unknown features", "")
	check("mounted", super(116, 0), "not unmounted cleanly", "")
	check("errors", super(116, 3), "found errors", "")
	check("resizing", super(116, 5), "being resized", "")
	check("inodes", super(144, 3), "inodes of", "")
	check("longer", super(39, 1), "the volume has", "")
	check("more segments", super(27, 1), "bytes in all", "")
	check("last log", super(67, 1), "the last log", "")
	check("another log", super(72, byte(fs.lastSeq)+1), "the last log", "")
	check("second superblock", func(b []byte) {
		copy(b[superOff:superOff+superMin], b[fs.secondOff():])
		seal(b)
		b[fs.secondOff()+40] ^= 1
	}, "", "second superblock is damaged")
	check("newer second superblock", func(b []byte) {
		b[fs.secondOff()+58]++
		b[fs.secondOff()+72]++
		seal(b)
	}, "the last log", "")
	check("another second superblock", func(b []byte) {
		b[fs.secondOff()+152]++
		seal(b)
	}, "different filesystems", "")
	check("checksum of the log", func(b []byte) { b[log+100] ^= 1 }, "checksum of the last log", "")
	check("newer log", func(b []byte) {
		at := log + n*fs.block
		if int64(fs.lastLog)+n+2 > fs.segmentEnd(int64(fs.lastLog)) {
			at = int64(le.Uint64(b[log+32:])) * fs.block
		}
		copy(b[at:at+fs.block], b[log:])
	}, "written behind the one", "")
	check("count of segments", func(b []byte) { b[su+8]++ }, "by their count", "")
	check("free segment", func(b []byte) { b[su+2*fs.usageLen+12] ^= 2 }, "by their count", "")
	maptest.Unreadable(t, Used, b)
}

// TestTree looks blocks up in a tree of two levels.
func TestTree(t *testing.T) {
	b := make([]byte, 1<<20)
	fs := &filesystem{r: bytes.NewReader(b), size: 1 << 20, block: 1024, first: 4, perSegment: 1024, segments: 1}
	var f inode
	f.bmap[0], f.bmap[1], f.bmap[2] = large, 2, 2
	for i, key := range []uint64{0, 50} {
		le.PutUint64(f.bmap[nodeHead+8*i:], key)
		le.PutUint64(f.bmap[nodeHead+8*(rootNodes+i):], uint64(10+i))
		node := b[(10+i)*1024:]
		node[1], node[2] = 1, 40
		for j := range 40 {
			le.PutUint64(node[nodeHead+nodePad+8*j:], key+uint64(j))
			le.PutUint64(node[nodeHead+nodePad+8*(63+j):], key+uint64(100+j))
		}
	}
	for i := range 1024 {
		b[i*1024+1023] = byte(i)
	}
	page := make([]byte, 1024)
	for block := range int64(120) {
		there, err := fs.readFile(f, block, false, page)
		want := block < 40 || block >= 50 && block < 90
		if err != nil || there != want || want && page[1023] != byte(100+block) {
			t.Fatalf("block %d: %v, %d, %v", block, there, page[1023], err)
		}
	}
}

func FuzzUsed(f *testing.F) {
	b := maptest.Load(f, "small")
	maptest.Fuzz(f, Used, b, metadata(f, b), func(b []byte) {
		if len(b) > 1<<20 {
			seal(b)
		}
	})
}
