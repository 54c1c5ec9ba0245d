package lvm

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/extent"
)

// volume makes a physical volume with LVM2's own programs: vg0 with a (10 MiB in two pieces) and b (5 MiB).
func volume(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pv")
	cmd := exec.Command("sh", "-euc", `truncate -s 40M "$1"; dev=$(losetup -f --show "$1"); trap 'losetup -d $dev' EXIT
		run() { cmd=$1; shift; lvm "$cmd" --driverloaded n --config "backup{backup=0 archive=0} devices{use_devicesfile=0 filter=[\"a|^$dev\$|\",\"r|.*|\"]}" "$@" 2>&1; }
		run pvcreate -q $dev; run vgcreate -q -s 1M vg0 $dev
		run lvcreate -q -y -an -Zn -Wn -L 6M -n a vg0; run lvcreate -q -y -an -Zn -Wn -L 5M -n b vg0; run lvextend -q -y -L +4M vg0/a`, "sh", path)
	cmd.Env = append(os.Environ(), "LVM_SUPPRESS_FD_WARNINGS=1", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// retext changes the metadata's text and puts the checksums right.
func retext(t testing.TB, b []byte, change func(string) string) []byte {
	t.Helper()
	b = bytes.Clone(b)
	const at = 4096 // of the metadata area
	off, size := le.Uint64(b[at+40:]), le.Uint64(b[at+48:])
	text := change(string(b[at+off : at+off+size]))
	copy(b[at+off:], text)
	le.PutUint64(b[at+48:], uint64(len(text)))
	le.PutUint32(b[at+56:], sum([]byte(text)))
	le.PutUint32(b[at:], sum(b[at+4:at+512]))
	return b
}

// swap is a change that must find what it changes.
func swap(t testing.TB, from, to string) func(string) string {
	return func(s string) string {
		t.Helper()
		if !strings.Contains(s, from) {
			t.Fatalf("no %q in\n%s", from, s)
		}
		return strings.Replace(s, from, to, 1)
	}
}

func TestOpen(t *testing.T) {
	b := volume(t)
	const mib = 1 << 20
	describe := func(b []byte) string {
		t.Helper()
		c, why, err := Open(bytes.NewReader(b), []extent.Extent{{Len: int64(len(b))}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if why != "" {
			return "whole: " + why
		}
		var s []string
		for _, p := range c.Parts {
			one := p.Name
			for _, e := range p.Spans {
				one += fmt.Sprintf(" %d+%d@%d", e.At/mib, e.Len/mib, e.Off/mib)
			}
			if p.Whole != "" {
				one += " (" + p.Whole + ")"
			}
			s = append(s, one)
		}
		return strings.Join(s, "; ")
	}
	for _, tc := range []struct {
		name   string
		change func(string) string
		want   string
	}{
		{"as it is", func(s string) string { return s }, "vg0/a 0+6@1 6+4@12; vg0/b 0+5@7"},
		{"hidden", swap(t, `"VISIBLE"]`, `"MIRROR_IMAGE"]`), "vg0/a 0+6@1 6+4@12 (it is a part of another); vg0/b 0+5@7"},
		{"moving", swap(t, `"VISIBLE"]`, `"VISIBLE", "LOCKED"]`), "vg0/a 0+6@1 6+4@12 (it is being moved); vg0/b 0+5@7"},
		{"snapshot", swap(t, "logical_volumes {", "logical_volumes {\nsnapshot0 {\nsegment_count = 1\nstatus=[\"READ\"]\nsegment1 {\nstart_extent=0\nextent_count=10\ntype=\"snapshot\"\norigin=\"a\"\ncow_store=\"b\"\n}\n}\n"),
			"vg0/a 0+6@1 6+4@12 (another volume needs it, too (snapshot0)); vg0/b 0+5@7 (another volume needs it, too (snapshot0))"},
		{"a snapshot that is merged", swap(t, "logical_volumes {", "logical_volumes {\nsnapshot0 {\nsegment_count = 1\nstatus=[\"READ\"]\nsegment1 {\nstart_extent=0\nextent_count=10\ntype=\"snapshot\"\norigin=\"a\"\nmerging_store=\"b\"\n}\n}\n"),
			"vg0/a 0+6@1 6+4@12 (another volume needs it, too (snapshot0)); vg0/b 0+5@7 (another volume needs it, too (snapshot0))"},
		{"the origin of a thin volume", swap(t, "logical_volumes {", "logical_volumes {\nt {\nsegment_count = 1\nstatus=[\"READ\",\"VISIBLE\"]\nsegment1 {\nstart_extent=0\nextent_count=10\ntype=\"thin\"\nthin_pool=\"p\"\nexternal_origin=\"a\"\n}\n}\n"),
			"vg0/a 0+6@1 6+4@12 (another volume needs it, too (t)); vg0/b 0+5@7"},
		{"pvmove", swap(t, "logical_volumes {", "logical_volumes {\npvmove0 {\nsegment_count = 1\nstatus=[\"READ\"]\nsegment1 {\nstart_extent=0\nextent_count=5\ntype=\"mirror\"\nmirrors=[\n\"pv0\", 20, \"pv0\", 30]\n}\n}\n"),
			"whole: logical volume vg0/pvmove0: a segment of type mirror lies on this disk in a way that is not known (mirrors)"},
		{"a type of its own", swap(t, `type = "striped"`, `type = "vdo-pool"`), "vg0/a 0+6@1 6+4@12 (its type is vdo-pool); vg0/b 0+5@7"},
		{"elsewhere", swap(t, `"pv0", 0`, `"pv1", 0`), "vg0/a 6+4@12 (it lies on other disks, too); vg0/b 0+5@7"},
		{"two stripes", swap(t, `"pv0", 0`, `"pv0", 0, "pv0", 20`), `whole: logical volume vg0/a: its stripes have "" sectors`},
		{"two stripes, one elsewhere", swap(t, `"pv0", 0`, `"pv0", 0, "pv1", 20`), "vg0/a 0+3@1 6+4@12 (it lies on other disks, too); vg0/b 0+5@7"},
		{"stripes that do not fit", swap(t, `"pv0", 0`, `"pv0", 0, "pv0", 20, "pv0", 25, "pv0", 30`), "whole: logical volume vg0/a: 6 extents lie on 4 stripes"},
		{"two of one place", swap(t, `"pv0", 6`, `"pv0", 2`), "whole: logical volume vg0/b: extent 2 belongs to two logical volumes"},
		{"behind the end", swap(t, `"pv0", 6`, `"pv0", 38`), "whole: logical volume vg0/b: a segment has 5 extents at 38, there are 39"},
		{"a gap", swap(t, "start_extent = 6", "start_extent = 7"), "whole: logical volume vg0/a: its segments have a gap or an overlap at extent 6"},
		{"a segment missing", swap(t, "segment2 {", "segment3 {"), `whole: logical volume vg0/a: its text says start_extent = ""`},
		{"another disk", swap(t, `id = "`, `id = "x`), "vg0/a 0+6@1 6+4@12; vg0/b 0+5@7"},
		{"brackets", swap(t, "logical_volumes {", "logical_volumes { {"), `whole: its text has "{`},
		{"no end", func(s string) string { return s[:len(s)/2] }, "whole: its text has "},
		{"no group", func(s string) string { return "contents = \"x\"\n" }, "whole: its text has 0 volume groups"},
	} {
		if got := describe(retext(t, b, tc.change)); !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
	// The text goes on at the start of the ring.
	wrapped := bytes.Clone(b)
	const at = 4096
	off, size := le.Uint64(b[at+40:]), le.Uint64(b[at+48:])
	text := bytes.Clone(b[at+off : at+off+size])
	n := le.Uint64(b[at+32:])
	le.PutUint64(wrapped[at+40:], n-100)
	copy(wrapped[at+n-100:], text[:100])
	copy(wrapped[at+512:], text[100:])
	le.PutUint32(wrapped[at:], sum(wrapped[at+4:at+512]))
	if got := describe(wrapped); got != "vg0/a 0+6@1 6+4@12; vg0/b 0+5@7" {
		t.Errorf("wrapped: %s", got)
	}
}

// TestStackedMirrors has a mirror whose leg is a mirror, as LVM2 makes while it adds a leg, and mirrors that name a leg twice, or
// themselves: no extent of a leg is lost.
func TestStackedMirrors(t *testing.T) {
	b := volume(t)
	const mib = 1 << 20
	for _, at := range []int{4 * mib, 5 * mib} { // the logs of one region, in sync
		le.PutUint32(b[at:], logMagic)
		le.PutUint32(b[at+4:], 2)
		le.PutUint64(b[at+8:], 1)
		le.PutUint32(b[at+logBits:], 1)
	}
	linear := ""
	for i, name := range []string{"l0", "l1", "l2", "log0", "log1"} {
		linear += lvText(name, fmt.Sprintf("type = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", %d]", i))
	}
	mirror := func(name, log string, legs ...string) string {
		return lvText(name, fmt.Sprintf("type = \"mirror\"\nmirror_log = \"%s\"\nregion_size = 2048\nmirrors = [\"%s\", 0]", log, strings.Join(legs, "\", 0, \"")))
	}
	inner, outer := mirror("inner", "log0", "l0", "l1"), mirror("outer", "log1", "inner", "l2")
	for _, lvs := range []string{inner + outer + linear, outer + inner + linear, linear + inner + outer} {
		c, why, err := Open(bytes.NewReader(retext(t, b, func(text string) string { return withVolumes(t, text, lvs) })), []extent.Extent{{Len: int64(len(b))}}, 0)
		if err != nil || why != "" {
			t.Fatalf("%s, %v", why, err)
		}
		var all extent.List
		mirrored := false
		for _, p := range c.Parts {
			all = extent.Union(all, p.All())
			mirrored = mirrored || len(p.Twins) > 0
		}
		if !all.ContainsAll(extent.Extent{Off: mib, Len: 5 * mib}) || !mirrored {
			t.Errorf("captured are %v of\n%s", all, lvs)
		}
	}
	for _, legs := range [][]string{{"l0", "l0"}, {"l0", "m"}, {"m", "l0"}} {
		lvs := mirror("m", "log0", legs...) + linear
		_, why, err := Open(bytes.NewReader(retext(t, b, func(text string) string { return withVolumes(t, text, lvs) })), []extent.Extent{{Len: int64(len(b))}}, 0)
		if err != nil || !strings.Contains(why, "its leg twice") {
			t.Errorf("legs %v: %s, %v", legs, why, err)
		}
	}
}

// lvText is the text of a logical volume of one extent.
func lvText(name, segment string) string {
	return fmt.Sprintf("%s {\nid = \"x\"\nstatus = [\"READ\"]\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = 1\n%s\n}\n}\n", name, segment)
}

// withVolumes puts logical volumes in the place of those of a group's text.
func withVolumes(t testing.TB, text, lvs string) string {
	from := strings.Index(text, "logical_volumes {")
	end := strings.LastIndex(text, "\ncontents = ")
	if from < 0 || end < from {
		t.Fatal(text)
	}
	return text[:from] + "logical_volumes {\n" + lvs + "}\n" + text[strings.LastIndex(text[:end], "}"):]
}

func FuzzOpen(f *testing.F) {
	b := volume(f)
	const at = 4096
	off, size := le.Uint64(b[at+40:]), le.Uint64(b[at+48:])
	f.Add(string(b[at+off:at+off+size]), b[:1024])
	for _, typ := range []string{"raid5", "raid6_nr", "raid10", "raid4"} {
		f.Add(raidText(f, string(b[at+off:at+off+size]), typ), b[:1024])
	}
	f.Fuzz(func(t *testing.T, text string, head []byte) {
		if len(text) > 20<<10 || len(text) == 0 || len(head) > 4096 {
			return
		}
		disk := retext(t, b[:64<<10], func(string) string { return text }) // what lies behind is not read
		if len(head) > 0 {
			copy(disk, head)
		}
		c, why, err := Open(bytes.NewReader(disk), []extent.Extent{{Len: int64(len(b))}}, 0)
		if err != nil || why != "" {
			return
		}
		all := c.Meta
		for _, p := range c.Parts {
			if p.All().Valid() != nil {
				t.Fatalf("%+v", p)
			}
			all = extent.Union(all, p.All())
		}
		if len(all) > 0 && all[len(all)-1].End() > int64(len(b)) {
			t.Fatalf("%v of %d bytes", all, len(b))
		}
	})
}

// raidText puts a RAID of five or four images in the place of the volumes of a group's text.
func raidText(t testing.TB, text, typ string) string {
	t.Helper()
	n, data := 5, 4
	switch typ {
	case "raid6_nr":
		data = 3
	case "raid10":
		n, data = 4, 2
	}
	var lvs, names strings.Builder
	for i := range n {
		for k, kind := range []string{"rmeta", "rimage"} {
			fmt.Fprintf(&lvs, "v_%s_%d {\nid = \"x\"\nstatus = [\"READ\"]\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = %d\ntype = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", %d]\n}\n}\n",
				kind, i, 1+k, 3*i+k)
		}
		fmt.Fprintf(&names, "\"v_rmeta_%d\", \"v_rimage_%[1]d\", ", i)
	}
	return withVolumes(t, text, fmt.Sprintf("v {\nid = \"x\"\nstatus = [\"READ\", \"VISIBLE\"]\nsegment_count = 1\nsegment1 {\nstart_extent = 0\nextent_count = %d\ntype = \"%s\"\ndevice_count = %d\nstripe_size = 8\nraids = [%s]\n}\n}\n%s",
		2*data, typ, n, strings.TrimSuffix(names.String(), ", "), lvs.String()))
}
