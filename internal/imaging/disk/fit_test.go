package disk

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	"mimeo/internal/imaging/manifest"
)

// verify holds a table that we wrote against the tools.
func verify(t testing.TB, path string, want manifest.Table) {
	t.Helper()
	same(t, withoutAttrs(want), sfdisk(t, path))
	if out := run(t, "", "sfdisk", "--verify", path); !strings.Contains(out, "No errors detected") {
		t.Errorf("sfdisk --verify:\n%s", out)
	}
	if out, err := try("", "parted", "-s", "-m", path, "unit", "s", "print"); err != nil || strings.Contains(out, "Warning") || strings.Contains(out, "Error") {
		t.Errorf("parted: %v\n%s", err, out)
	}
	if want.Kind == "gpt" {
		if out := run(t, "", "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
			t.Errorf("sgdisk -v:\n%s", out)
		}
	}
}

// transplant copies the table from one disk to a new one of another size, as a deploy does: the start of the disk, and
// the tables of logical partitions.
func transplant(t testing.TB, from string, tab *Table, size int64) string {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	path := image(t, size)
	dst, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	for _, e := range tab.Regions {
		if tab.Kind == "gpt" && e.Off > 1<<20 {
			continue // the backup
		}
		b := make([]byte, e.Len)
		if _, err := src.ReadAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
		if _, err := dst.WriteAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func fit(t testing.TB, path string, tab manifest.Table, o Options, f Fit) (manifest.Table, error) {
	t.Helper()
	d, err := OpenExclusive(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	before := make([]byte, 440)
	if _, err := d.ReadAt(before, 0); err != nil {
		t.Fatal(err)
	}
	now, err := FitTable(d, tab, d.Size(), d.SectorSize(), f)
	after := make([]byte, 440)
	if _, err := d.ReadAt(after, 0); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the boot code changed (%v)", err)
	}
	return now, err
}

func TestFitGPT(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   int64
		fit    Fit
		part   int   // that grows
		length int64 // to
		break_ func(b []byte)
	}{
		{name: "same size", size: 64 * mib},
		{name: "larger", size: 100*mib + 512},
		{name: "larger, last grows", size: 100 * mib, fit: Fit{Grow: GrowLast}, part: 4, length: 59 * mib},
		{name: "larger, last grows to a length", size: 100 * mib, fit: Fit{Grow: GrowLast, Len: 50 * mib}, part: 4, length: 50 * mib},
		{name: "larger, another grows", size: 100 * mib, fit: Fit{Grow: 2}, part: 2, length: 28 * mib},
		{name: "much larger", size: 3 << 40, fit: Fit{Grow: GrowLast}, part: 4, length: 3<<40 - 41*mib},
		{name: "smaller", size: 63 * mib},
		{name: "no primary", size: 100 * mib, fit: Fit{Grow: GrowLast}, part: 4, length: 59 * mib, break_: func(b []byte) { clear(b[512:mib]) }},
		{name: "no mbr", size: 100 * mib, break_: func(b []byte) { clear(b[440:512]) }},
		{name: "not the primary that was captured", size: 100 * mib, break_: func(b []byte) { b[1024+56]++; reseal(b, 512) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src := image(t, 64*mib)
			script := gptScript
			if c.name == "smaller" {
				script = strings.Replace(script, "size=+,", "size=10MiB,", 1)
			}
			run(t, script, "sfdisk", "-q", src)
			tab, _ := read(t, src, Options{})
			dst := transplant(t, src, tab, c.size)
			if c.break_ != nil {
				edit(t, dst, c.break_)
			}
			now, err := fit(t, dst, tab.Table, Options{SectorSize: 512}, c.fit)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range now.Partitions {
				want := tab.Partitions[i]
				if p.Number == c.part {
					// The partition that reaches to the end begins at 40 MiB, and ends with a whole MiB.
					want.Len = c.length
				}
				if p != want {
					t.Errorf("partition %+v, want %+v", p, want)
				}
			}
			verify(t, dst, now)
			again, _ := read(t, dst, Options{})
			if len(again.Notes) > 0 || !slices.Equal(again.Partitions, now.Partitions) {
				t.Errorf("read back: notes %q, %+v", again.Notes, again.Partitions)
			}
		})
	}
}

func TestFitGPT4096(t *testing.T) {
	t.Parallel()
	src, dst := image(t, 64*mib), image(t, 96*mib)
	run(t, gptScript, "sfdisk", "-q", loop(t, src, 4096))
	tab, _ := read(t, src, Options{})
	b, err := os.ReadFile(src)
	if err != nil {
		t.Fatal(err)
	}
	edit(t, dst, func(d []byte) { copy(d, b[:mib]) })
	now, err := fit(t, dst, tab.Table, Options{}, Fit{Grow: GrowLast})
	if err != nil {
		t.Fatal(err)
	}
	if p := now.Partitions[3]; p.Off+p.Len != 95*mib {
		t.Errorf("the last partition ends at %d", p.Off+p.Len)
	}
	verify(t, loop(t, dst, 4096), now)
}

func TestFitMBR(t *testing.T) {
	const primary = "label: dos\nlabel-id: 0x1234abcd\nsize=8MiB, type=c, bootable\nsize=7MiB, type=83\n"
	for _, c := range []struct {
		name, script string
		size         int64
		fit          Fit
		part         int
		end          int64
	}{
		{name: "kept", script: mbrScript, size: 100 * mib},
		{name: "last primary", script: primary, size: 100 * mib, fit: Fit{Grow: GrowLast}, part: 2, end: 100 * mib},
		{name: "last primary to a length", script: primary, size: 100 * mib, fit: Fit{Grow: 2, Len: 9 * mib}, part: 2, end: 18 * mib},
		{name: "first up to the second", script: strings.Replace(primary, "size=7MiB", "start=20MiB,size=7MiB", 1), size: 100 * mib, fit: Fit{Grow: 1}, part: 1, end: 20 * mib},
		{name: "last logical", script: mbrScript, size: 100 * mib, fit: Fit{Grow: GrowLast}, part: 8, end: 100 * mib},
		{name: "logical with the next table right behind it", script: strings.Replace(mbrScript, "size=4MiB, type=82", "start=46MiB, size=2MiB, type=82", 1), size: 100 * mib, fit: Fit{Grow: 6}, part: 6, end: 38 * mib},
		{name: "beyond 2 TiB", script: primary, size: 3 << 40, fit: Fit{Grow: GrowLast}, part: 2, end: 2<<40 - mib},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src := image(t, 64*mib)
			run(t, c.script, "sfdisk", "-q", src)
			tab, _ := read(t, src, Options{})
			dst := transplant(t, src, tab, c.size)
			now, err := fit(t, dst, tab.Table, Options{}, c.fit)
			if err != nil {
				t.Fatal(err)
			}
			for i, p := range now.Partitions {
				want := tab.Partitions[i]
				if p.Number == c.part {
					want.Len = c.end - want.Off
				}
				if isExtended(p) && c.part >= 5 {
					want.Len = max(want.Len, c.end-want.Off)
				}
				if p != want {
					t.Errorf("partition %+v, want %+v", p, want)
				}
			}
			verify(t, dst, now)
			again, _ := read(t, dst, Options{})
			if len(again.Notes) > 0 || !slices.Equal(again.Partitions, now.Partitions) {
				t.Errorf("read back: notes %q, %+v", again.Notes, again.Partitions)
			}
		})
	}
}

func TestFitRefuses(t *testing.T) {
	t.Parallel()
	src := image(t, 64*mib)
	run(t, gptScript, "sfdisk", "-q", src)
	gpt, _ := read(t, src, Options{})
	mbr := image(t, 64*mib)
	run(t, mbrScript, "sfdisk", "-q", mbr)
	dos, _ := read(t, mbr, Options{})
	for _, c := range []struct {
		path string
		tab  *Table
		size int64
		fit  Fit
		want string
	}{
		{src, gpt, 63 * mib, Fit{}, "the backup GPT of a disk"},
		{src, gpt, 100 * mib, Fit{Grow: 9}, "there is no partition 9"},
		{src, gpt, 100 * mib, Fit{Grow: 4, Len: 1 * mib}, "cannot grow to 1048576"},
		{src, gpt, 100 * mib, Fit{Grow: 4, Len: 90 * mib}, "there is room for"},
		{src, gpt, 100 * mib, Fit{Grow: 4, Len: 30*mib + 1}, "no number of whole sectors"},
		{mbr, dos, 100 * mib, Fit{Grow: 4}, "an extended one"},
	} {
		dst := transplant(t, c.path, c.tab, c.size)
		if _, err := fit(t, dst, c.tab.Table, Options{}, c.fit); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.fit, err)
		}
	}
	other := image(t, 64*mib)
	if _, err := fit(t, other, dos.Table, Options{}, Fit{Grow: GrowLast}); err == nil {
		t.Error("a disk without the table was fitted")
	}
}

func TestWipeTable(t *testing.T) {
	t.Parallel()
	for _, script := range []string{gptScript, mbrScript} {
		path := image(t, 64*mib)
		run(t, script, "sfdisk", "-q", path)
		d, err := OpenExclusive(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := WipeTable(d, d.Size(), d.SectorSize()); err != nil {
			t.Fatal(err)
		}
		d.Close()
		if out, err := try("", "sfdisk", "--dump", path); err == nil {
			t.Errorf("sfdisk still finds a table:\n%s", out)
		}
		if out := run(t, "", "wipefs", path); out != "" {
			t.Errorf("wipefs still finds\n%s", out)
		}
		if b, _ := os.ReadFile(path); !bytes.HasPrefix(b, bytes.Repeat([]byte("boot code "), 44)) {
			t.Error("the boot code is gone")
		}
	}
}

// TestWipeMovedBackup wipes a disk that has grown since its GPT was made: the backup lies in its middle.
func TestWipeMovedBackup(t *testing.T) {
	t.Parallel()
	path := image(t, 64*mib)
	run(t, gptScript, "sfdisk", "-q", path)
	if err := os.Truncate(path, 80*mib); err != nil {
		t.Fatal(err)
	}
	tab, d := read(t, path, Options{})
	if len(tab.Notes) != 1 || !strings.Contains(tab.Notes[0], "has changed its size") {
		t.Errorf("notes %q", tab.Notes)
	}
	w, err := OpenExclusive(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := WipeTable(w, w.Size(), 512); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(b, []byte(gptMagic)); i >= 0 {
		t.Errorf("a header is left at %d", i)
	}
}
