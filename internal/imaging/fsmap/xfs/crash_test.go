package xfs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/extent"
)

// work is what a machine does to a filesystem: anything, in no order.
type work struct {
	t     testing.TB
	dir   string
	r     *rand.Rand
	names []string
	block int
	n     int
}

func (w *work) name() string {
	w.n++
	d := filepath.Join(w.dir, fmt.Sprintf("d%d/e%d", w.r.IntN(5), w.r.IntN(9)))
	if err := os.MkdirAll(d, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return filepath.Join(d, fmt.Sprintf("%s-%d", strings.Repeat("n", 1+w.r.IntN(60)), w.n))
}

// do does n things. A filesystem that is full is no failure.
func (w *work) do(n int) {
	for range n {
		if err := w.step(); err != nil && !os.IsNotExist(err) && !strings.Contains(err.Error(), "no space") && !strings.Contains(err.Error(), "not supported") {
			w.t.Fatal(err)
		}
	}
}

func (w *work) step() error {
	r := w.r
	if len(w.names) < 20 || r.IntN(5) == 0 {
		name := w.name()
		w.names = append(w.names, name)
		return os.WriteFile(name, content(r.IntN(1000), 1+r.IntN(1<<(8+r.IntN(9)))), 0o644)
	}
	k := r.IntN(len(w.names))
	name := w.names[k]
	gone := func() { w.names = slices.Delete(w.names, k, k+1) }
	switch r.IntN(14) {
	case 0, 1, 2:
		gone()
		return os.Remove(name)
	case 3:
		return os.Truncate(name, int64(r.IntN(200_000)))
	case 4:
		to := w.name()
		w.names[k] = to
		return os.Rename(name, to)
	case 5:
		return unix.Setxattr(name, fmt.Sprintf("user.%d", r.IntN(5)), content(r.IntN(1000), 1+r.IntN(6000)), 0)
	case 6:
		return os.Symlink(strings.Repeat("link/", 1+r.IntN(150)), w.name())
	case 7:
		if r.IntN(20) == 0 {
			d := filepath.Dir(name)
			w.names = slices.DeleteFunc(w.names, func(s string) bool { return filepath.Dir(s) == d })
			return os.RemoveAll(d)
		}
		return nil
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	switch r.IntN(7) {
	case 0:
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(r.IntN(20))*int64(w.block), int64(1+r.IntN(3))*int64(w.block))
	case 1:
		return unix.Fallocate(int(f.Fd()), 0, 0, int64(1+r.IntN(300_000)))
	case 2:
		to := w.name()
		g, err := os.Create(to)
		if err != nil {
			return err
		}
		defer g.Close()
		w.names = append(w.names, to)
		return unix.IoctlFileClone(int(g.Fd()), int(f.Fd()))
	case 3:
		return f.Sync()
	}
	for range 1 + r.IntN(20) { // in pieces
		if _, err := f.WriteAt(content(r.IntN(1000), w.block), int64(r.IntN(100)*2*w.block)); err != nil {
			return err
		}
	}
	return nil
}

// crashed makes a filesystem as it is when the power fails: the kernel writes no more at a word of command, of what it
// has in memory sometimes the log.
func crashed(t testing.TB, mibs int64, args string, seed uint64) string {
	t.Helper()
	img := mkfs(t, mibs*mib, args)
	w := &work{t: t, r: rand.New(rand.NewPCG(seed, 1)), block: 4096}
	if strings.Contains(args, "-b size=1024") {
		w.block = 1024
	} else if strings.Contains(args, "-b size=65536") {
		w.block = 65536
	}
	for again := w.r.IntN(2) > 0; ; again = false {
		mounted(t, img, "rw", func(dir, _ string) {
			w.dir = dir
			for i := range w.names {
				w.names[i] = filepath.Join(dir, w.names[i])
			}
			for range 1 + w.r.IntN(4) {
				w.do(w.r.IntN(1500))
				if w.r.IntN(3) > 0 {
					tool(t, "sync", "-f", dir)
				}
			}
			how := []string{"shutdown", "shutdown -f"}[w.r.IntN(2)]
			if !again || w.r.IntN(2) == 0 {
				tool(t, "xfs_io", "-x", "-c", how, dir)
			}
			for i, name := range w.names {
				w.names[i] = strings.TrimPrefix(name, dir)
			}
		})
		if !again {
			return img
		}
	}
}

// outcome of a crash.
type outcome struct {
	whole      string
	clean      bool
	used, over int64 // bytes
	files      int
	round      uint32 // of the log
	around     bool   // what counts of it goes around its end
	pending    int    // things that a replay finishes
	changed    int    // blocks of interest that it changes
}

// judgeCrash replays a full copy of an image, and one of what is said to be in use of it.
func judgeCrash(t testing.TB, img string) (o outcome) {
	t.Helper()
	facts, used := mapImage(t, img)
	if o.whole, o.clean = facts.Whole, len(facts.Notes) == 0; o.whole != "" {
		return o
	}
	full, dup := snapshot(t, img), copyUsed(t, img, used)
	for _, img := range []string{full, dup} {
		mounted(t, img, "rw", func(string, string) {})
		check(t, img)
	}
	want, got := filesOf(t, full), filesOf(t, dup)
	if !maps.Equal(got, want) {
		t.Errorf("%d files, the copy has %d, and they are not the same", len(want), len(got))
	}
	need := extent.Subtract(extent.List{{Len: facts.Len}}, freesp(t, full, open(t, full)))
	if lost := extent.Subtract(need, used); len(lost) > 0 {
		t.Errorf("used after the replay and not by us: %v", lost)
	}
	if !o.clean {
		fs := open(t, img)
		l := fs.ring()
		tail, head, err := l.live()
		if err == nil {
			err = fs.readLog()
		}
		if err != nil {
			t.Fatal(err)
		}
		o.round, o.around, o.pending, o.changed = l.round, tail > head, len(fs.log.intents), len(fs.log.blocks)
	}
	o.used, o.over, o.files = used.Bytes(), extent.Subtract(used, need).Bytes(), len(want)
	return o
}

// crashVariants are what crashes. The first few do so each time, all of them where MIMEO_TEST_CRASHES says how often, and with which
// seeds.
var crashVariants = []struct {
	mib  int64
	args string
}{
	{96, ""},
	{64, "-b size=1024 -d agcount=2 -l size=4m"},
	{96, "-s size=4096 -m rmapbt=1"},
	{96, "-m rmapbt=1 -d agcount=3"},
	{64, "-s size=4096 -l size=5m"},
	{200, "-l su=64k,size=12m"},
	{300, "-b size=65536"},
	{96, "-m reflink=0,rmapbt=0,finobt=0,bigtime=0,inobtcount=0 -i sparse=0"},
	{96, "-i nrext64=1 -n size=65536 -m rmapbt=1"},
	{128, "-l su=256k,size=20m -d agcount=2"},
	{96, "-b size=1024 -m rmapbt=1 -i size=512 -d agcount=2"},
}

// TestAfterACrash has the kernel replay what is captured after a crash.
func TestAfterACrash(t *testing.T) {
	rounds, first := uint64(1), uint64(1000)
	variants := crashVariants[:3]
	if many := os.Getenv("MIMEO_TEST_CRASHES"); many != "" {
		fmt.Sscan(many, &rounds, &first)
		variants = crashVariants
	}
	for k, v := range variants {
		t.Run(v.args, func(t *testing.T) {
			t.Parallel()
			for seed := range rounds {
				img := crashed(t, v.mib, v.args, seed*100+uint64(k)+first)
				o := judgeCrash(t, img)
				t.Logf("seed %d: %+v", seed, o)
				if o.whole != "" && rounds == 1 {
					t.Error("captured whole")
				}
				if t.Failed() {
					return
				}
				os.Remove(img)
			}
		})
	}
}
