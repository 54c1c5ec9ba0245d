package disk

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSizes reads, moves, damages and mends GPTs on the smallest and the largest disks. Files of 64 TiB need a filesystem in memory.
func TestSizes(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "mimeo-size-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	judge := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, tc := range []struct{ from, to, part int64 }{
		{1 << 20, 2 << 20, 256 << 10}, {2 << 30, 2<<30 + 512, 1 << 30}, {1 << 41, 1<<41 + 1<<20, 1 << 40}, {64 << 40, 64<<40 + 4096, 63 << 40},
	} {
		path := filepath.Join(dir, fmt.Sprint(tc.from))
		judge("truncate", "-s", fmt.Sprint(tc.from), path)
		run(t, fmt.Sprintf("label: gpt\nfirst-lba: 40\nstart=64,size=%d,name=first\n", tc.part/512), "sfdisk", "-q", path)
		judge("truncate", "-s", fmt.Sprint(tc.to), path)
		d, err := OpenExclusive(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		tab, err := ReadTable(d, tc.to, 512)
		if err != nil || tab.Whole != "" || len(tab.Partitions) != 1 || tab.Partitions[0].Len != tc.part {
			t.Fatalf("%d bytes: %+v, %v", tc.from, tab, err)
		}
		if sound, err := SoundGPT(d, tc.to, 512); sound || err != nil {
			t.Errorf("%d bytes: the backup does not lie at the end, and all is well: %v", tc.from, err)
		}
		if _, err := FitTable(d, tab.Table, tc.to, 512, Fit{}); err != nil {
			t.Fatal(err)
		}
		if sound, err := SoundGPT(d, tc.to, 512); !sound || err != nil {
			t.Errorf("%d bytes: %v, %v", tc.to, sound, err)
		}
		smaller := tab.Table
		smaller.Partitions = append(smaller.Partitions[:0:0], smaller.Partitions...)
		smaller.Partitions[0].Len /= 2
		if err := ReplaceTable(d, smaller, tc.to, 512); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if out := judge("sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
			t.Errorf("%d bytes: %s", tc.to, out)
		}
		if out := judge("sfdisk", "-d", path); !strings.Contains(out, fmt.Sprintf("size=%12d", tc.part/1024)) {
			t.Errorf("%d bytes: %s", tc.to, out)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReplaceMBR shortens a logical partition, moves the extended one with all in it, and has sfdisk judge.
func TestReplaceMBR(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 100<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "label: dos\nstart=2048,size=20480,bootable\nstart=61440,size=102400,type=5\nstart=63488,size=20480\nstart=86016,size=20480\n", "sfdisk", "-q", path)
	d, err := OpenExclusive(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	tab, err := ReadTable(d, d.Size(), 512)
	if err != nil || len(tab.Partitions) != 4 {
		t.Fatalf("%+v, %v", tab, err)
	}
	const by = 20480 * 512
	for _, e := range tab.Regions { // the tables of the logical partitions go along
		if e.Off >= 61440*512 {
			b := make([]byte, e.Len)
			if _, err := d.ReadAt(b, e.Off); err != nil {
				t.Fatal(err)
			}
			if _, err := d.WriteAt(b, e.Off-by); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range tab.Partitions {
		if p := &tab.Partitions[i]; p.Off >= 61440*512 {
			p.Off -= by
		}
	}
	tab.Partitions[0].Len /= 2
	tab.Partitions[3].Len /= 2
	if err := ReplaceTable(d, tab.Table, d.Size(), 512); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sfdisk", "-d", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"start=        2048, size=       10240", "start=       40960, size=      102400", "start=       43008, size=       20480", "start=       65536, size=       10240"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	again, err := ReadTable(d, d.Size(), 512)
	if err != nil || again.Whole != "" || len(again.Notes) > 0 {
		t.Errorf("%+v, %v", again, err)
	}
	for name, change := range map[string]func(i int){
		"past the end":           func(int) { tab.Partitions[0].Len = 200 << 20 },
		"logical one on its own": func(int) { tab.Partitions[0].Len = 5 << 20; tab.Partitions[2].Off += 512 },
	} {
		change(0)
		if err := ReplaceTable(d, tab.Table, d.Size(), 512); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
