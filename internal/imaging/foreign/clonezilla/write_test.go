package clonezilla

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/extent"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/view"
)

// command runs a program of the system, which judges what we do.
func command(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// captured captures a disk.
func captured(t *testing.T, path string) *view.Disk {
	t.Helper()
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err := layout.Plan(d)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := capture.NewPlan(d, l, leaveout.Rules{})
	if err != nil {
		t.Fatal(err)
	}
	st := mem.New()
	res, err := capture.Run(t.Context(), capture.Source{ReaderAt: d, Disk: d.Info()}, plan, st, capture.Options{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := view.Open(t.Context(), st, res.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// restored gives the volumes of a folder back as Clonezilla does, to a disk with the table that the folder has.
func restored(t *testing.T, dir string, d *view.Disk, parts []Part) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "restored")
	f, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(d.Size()); err != nil {
		t.Fatal(err)
	}
	if d.Manifest().Table.Kind != "none" {
		text, err := os.ReadFile(filepath.Join(dir, "sda-pt.sf"))
		if err != nil {
			t.Fatal(err)
		}
		command(t, string(text), "sfdisk", "-q", "--force", to)
	}
	for i, p := range parts {
		v := d.Manifest().Volumes[i]
		part := filepath.Join(t.TempDir(), p.Device)
		all := filepath.Join(dir, p.Device)
		switch p.How {
		case "mkswap":
			info, err := os.ReadFile(filepath.Join(dir, "swappt-"+p.Device+".info"))
			if err != nil || !strings.Contains(string(info), v.UUID) {
				t.Errorf("%s: %v: %s", p.Device, err, info)
			}
			continue
		case "dd":
			command(t, "", "sh", "-c", fmt.Sprintf("cat %s.dd-img.* | zstd -dc > %s", all, part))
		default:
			command(t, "", "sh", "-ec", fmt.Sprintf("cat %s.%s-ptcl-img.zst.* | zstd -dc > %[3]s.image; partclone.chkimg -B -L %[3]s.log -s %[3]s.image >&2; partclone.restore -q -C -W -L %[3]s.log -s %[3]s.image -o %[3]s", all, names[p.Type].file, part))
		}
		got, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, v.Len)
		if _, err := d.ReadAt(want, v.Off); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if got = append(got, make([]byte, max(0, v.Len-int64(len(got))))...); !bytes.Equal(got, want) {
			t.Errorf("%s (%s, by %s): %d bytes came back that differ", p.Device, p.Type, p.How, len(got))
		}
		if _, err := f.WriteAt(got, v.Off); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

var variable = regexp.MustCompile(`(?m)^device: .*$|^/\S+?(\d*) :`)

// table is what "sfdisk --dump" says of a disk, without where it is.
func table(t *testing.T, path string) string {
	t.Helper()
	return variable.ReplaceAllString(command(t, "", "sfdisk", "--dump", path), "$1")
}

func TestWrite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		script, parts string
		make          func(part func(n int) string) [][]string
	}{
		"gpt": {"label: gpt\nfirst-lba: 34\nsize=1M, type=21686148-6449-6E6F-744E-656564454649\nsize=40M, type=U, name=\"a \\x22b\\x22 $c\"\nsize=8M, type=S\nsize=24M, type=L, attrs=\"RequiredPartition GUID:60,63\"\ntype=L\n",
			"sda1 dd, sda2 vfat partclone, sda3 swap mkswap, sda4 ext4 partclone, sda5 ntfs partclone",
			func(part func(n int) string) [][]string {
				return [][]string{{"mkfs.vfat", "-F32", part(2)}, {"mkswap", "-L", "s w", part(3)}, {"mke2fs", "-q", "-F", "-t", "ext4", part(4)}, {"mkntfs", "-q", "-f", "-F", part(5)}}
			}},
		"mbr": {"label: dos\n,30M,83,*\n,,Ex\n,20M,83\n,8M,82\n",
			"sda1 ext2 partclone, sda5 ext4 partclone, sda6 swap mkswap",
			func(part func(n int) string) [][]string {
				return [][]string{{"mke2fs", "-q", "-F", "-t", "ext2", part(1)}, {"mke2fs", "-q", "-F", "-t", "ext4", part(5)}, {"mkswap", part(6)}}
			}},
		"bare": {"", "sda ext4 partclone", func(part func(n int) string) [][]string {
			return [][]string{{"mke2fs", "-q", "-F", "-t", "ext4", part(0)}}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // partclone waits a lot
			path := filepath.Join(t.TempDir(), "disk")
			command(t, "", "truncate", "-s", "120M", path)
			if c.script != "" {
				command(t, c.script, "sfdisk", "-q", path)
			}
			where := map[int]manifest.Partition{}
			if c.script != "" {
				f, err := disk.Open(path, disk.Options{})
				if err != nil {
					t.Fatal(err)
				}
				tab, err := disk.ReadTable(f, f.Size(), 512)
				if err = errors.Join(err, f.Close()); err != nil {
					t.Fatal(err)
				}
				for _, p := range tab.Partitions {
					where[p.Number] = p
				}
			}
			dir := t.TempDir()
			for _, line := range c.make(func(n int) string { return filepath.Join(dir, fmt.Sprint(n)) }) {
				var n int
				part := line[len(line)-1]
				fmt.Sscan(filepath.Base(part), &n)
				size := int64(120 << 20)
				if n > 0 {
					size = where[n].Len
				}
				command(t, "", "truncate", "-s", fmt.Sprint(size), part)
				command(t, "", line[0], line[1:]...)
				command(t, "", "dd", "if="+part, "of="+path, "bs=512", "conv=notrunc,sparse", fmt.Sprint("seek=", where[n].Off/512))
			}
			d := captured(t, path)
			out := t.TempDir()
			var last, total int64
			res, err := Write(t.Context(), d, out, Options{Split: 70_000, Progress: func(done, all int64) { last, total = done, all }})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range res.Parts {
				got = append(got, strings.ReplaceAll(p.Device+" "+p.Type+" "+p.How, "unknown ", ""))
			}
			if s := strings.Join(got, ", "); s != c.parts || last != total {
				t.Errorf("%s; %d of %d bytes, %v", s, last, total, res.Notes)
			}
			to := restored(t, out, d, res.Parts)
			if c.script != "" {
				if got, want := table(t, to), table(t, path); got != want {
					t.Errorf("the table is\n%s, was\n%s", got, want)
				}
				pt, err := os.ReadFile(filepath.Join(out, "sda-pt.parted"))
				if want := command(t, "", "parted", "-s", path, "unit", "s", "print"); err != nil || !sameRows(string(pt), want) {
					t.Errorf("%v: sda-pt.parted is\n%s, parted says\n%s", err, pt, want)
				}
				for _, name := range []string{"sda-mbr", map[string]string{"gpt": "sda-gpt-1st", "mbr": "sda-hidden-data-after-mbr"}[name]} {
					if _, err := os.Stat(filepath.Join(out, name)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// sameRows compares number, start, end and size of the partitions.
func sameRows(a, b string) bool {
	rows := regexp.MustCompile(`(?m)^ *\d+ +\d+s +\d+s +\d+s`)
	fields := func(s string) (out []string) {
		for _, row := range rows.FindAllString(s, -1) {
			out = append(out, strings.Join(strings.Fields(row), " "))
		}
		return out
	}
	return len(fields(a)) > 0 && strings.Join(fields(a), "\n") == strings.Join(fields(b), "\n")
}

func TestUnknownDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte("what"), 1<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	d := captured(t, path)
	if _, err := Write(t.Context(), d, t.TempDir(), Options{}); !errors.Is(err, ErrNoVolumes) {
		t.Error(err)
	}
	w := &writer{ctx: t.Context(), d: d, m: d.Manifest()}
	if err := w.lost(extent.List{{Off: 4096, Len: 1 << 19}}); err != nil || len(w.res.Notes) != 1 {
		t.Error(err, w.res.Notes)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	w = &writer{ctx: stopped, d: d, m: d.Manifest(), dir: t.TempDir(), o: Options{Split: split}}
	if err := w.volume(manifest.Volume{Len: 1 << 20, Type: "unknown", Method: manifest.MethodWhole}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
