package erase

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"mimeo/internal/imaging/disk"
)

// noise makes a file of n bytes that no zero byte range of a sector stands in.
func noise(t *testing.T, n int64) string {
	t.Helper()
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{7})
	rng.Read(b)
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// loop makes a block device of a file.
func loop(t *testing.T, file string) string {
	t.Helper()
	out, err := exec.Command("losetup", "-f", "--show", file).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", dev).Run() })
	return dev
}

func open(t *testing.T, path, bus string) *Disk {
	t.Helper()
	d, err := Open(path, filepath.Base(path), bus, disk.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// allZero is what cmp says of a file beside /dev/zero.
func allZero(t *testing.T, path string, n int64) {
	t.Helper()
	if out, err := exec.Command("cmp", "-n", fmt.Sprint(n), path, "/dev/zero").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestErase(t *testing.T) {
	const size = 24<<20 + 12288
	for _, c := range []struct {
		method Method
		device bool
		want   string
		read   int64 // at least
	}{
		{Zero, false, "zeros written", size},
		{Zero, true, "zeros written", size},
		{Discard, false, "given back", 2 << 20},
		{Discard, true, "given back", 2 << 20},
		{Auto, false, "given back", 2 << 20},
		{Auto, true, "given back", 2 << 20},
	} {
		t.Run(fmt.Sprint(c.method, c.device), func(t *testing.T) {
			file := noise(t, size)
			path, bus := file, ""
			if c.device {
				path, bus = loop(t, file), "virtio"
			}
			d := open(t, path, bus)
			plan, err := d.Plan(c.method)
			if err != nil {
				t.Fatal(err)
			}
			if err := d.Tables(t.Context()); err != nil {
				t.Fatal(err)
			}
			var last Progress
			seen := map[string]bool{}
			r, err := d.Run(t.Context(), plan, func(p Progress) {
				if p.Doing == last.Doing && p.Done < last.Done || p.Done > p.Total {
					t.Errorf("progress goes from %+v to %+v", last, p)
				}
				last, seen[p.Doing] = p, true
			})
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(r.Command, c.want) || r.Check.Read < c.read || r.Check.Text == "" || r.Bytes != size || r.End.Before(r.Start) {
				t.Errorf("%+v", r)
			}
			if auto := c.method == Auto; auto != (len(r.Notes) > 0) || auto && !strings.Contains(r.Notes[0], "secure-erase") {
				t.Errorf("notes %q", r.Notes)
			}
			if last.Done != size || len(seen) != 2 {
				t.Errorf("last progress %+v, of %v", last, seen)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if c.device {
				exec.Command("losetup", "-d", path).Run()
			}
			allZero(t, file, size)
		})
	}
}

// What cannot be done is said before anything is written.
func TestCannot(t *testing.T) {
	file := noise(t, 4<<20)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, loop(t, file), "virtio")
	for _, m := range []Method{Secure, Crypto} {
		var cannot *CannotError
		if _, err := d.Plan(m); !errors.As(err, &cannot) || !strings.Contains(err.Error(), "virtio") {
			t.Errorf("%s: %v", m, err)
		}
	}
	// Questions to a driver that does not know them are answered with an error, not with a plan.
	for _, bus := range []string{"nvme", "sata", "scsi"} {
		d.bus = bus
		if _, err := d.Plan(Secure); err == nil {
			t.Errorf("a loop device erases itself by %s", bus)
		} else {
			t.Log(err)
		}
		if p, err := d.Plan(Auto); err != nil || len(p.Notes) == 0 || p.ways[0].method == Secure {
			t.Errorf("%s: %+v, %v", bus, p, err)
		}
	}
	if _, err := d.Plan("shred"); err == nil || Method("shred").Valid() || !Auto.Valid() {
		t.Error("any method will do")
	}
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("a plan has changed the disk: %v", err)
	}
}

// A disk that says it is erased and still holds what it held is found out.
func TestLiar(t *testing.T) {
	d := open(t, noise(t, 70<<20+4096), "")
	for _, c := range []struct {
		w    way
		want string
	}{
		{way{method: Secure, what: "lie", run: func(context.Context, *pace) error { return nil }}, "holds at byte"},
		{way{method: Discard, what: "lie", zeros: true, run: func(context.Context, *pace) error { return nil }}, "is not zero"},
		{way{method: Zero, what: "lie", zeros: true, whole: true, run: func(context.Context, *pace) error { return nil }}, "is not zero"},
		{way{method: Secure, what: "fails", run: func(context.Context, *pace) error { return errors.New("no") }}, "fails: no"},
	} {
		r, err := d.Run(t.Context(), Plan{ways: []way{c.w}}, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) || !r.End.IsZero() {
			t.Errorf("%s: %v, %+v", c.w.what, err, r)
		}
		// Where there is another way it is gone, and that is said.
		r, err = d.Run(t.Context(), Plan{ways: []way{c.w, {method: Secure, what: "shuffle", run: func(context.Context, *pace) error { return shuffle(d) }}}}, nil)
		if err != nil || r.Command != "shuffle" || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], c.want) || r.Check.Samples < 1000 {
			t.Errorf("%s: %v, %+v", c.w.what, err, r)
		}
	}
}

// shuffle stands for a disk whose key is gone: other noise.
func shuffle(d *Disk) error {
	b := make([]byte, d.Size())
	rng := rand.NewChaCha8([32]byte{byte(rand.Int()), 1})
	rng.Read(b)
	_, err := d.WriteAt(b, 0)
	return err
}

func TestCancel(t *testing.T) {
	d := open(t, noise(t, 32<<20), "")
	plan, err := d.Plan(Zero)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	why := errors.New("the job was cancelled")
	_, err = d.Run(ctx, plan, func(p Progress) {
		if p.Done >= 8<<20 {
			stop(why)
		}
	})
	if !errors.Is(err, why) {
		t.Error(err)
	}
	b := make([]byte, 4096)
	if _, err := d.ReadAt(b, 28<<20); err != nil || notZero(b) < 0 {
		t.Errorf("it went on to the end: %v", err)
	}
}

// Partition tables at both ends go first, of small disks too.
func TestTables(t *testing.T) {
	for _, size := range []int64{512 << 10, 1<<20 + 4096, 8 << 20} {
		file := noise(t, size)
		d := open(t, file, "")
		if err := d.Tables(t.Context()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil || notZero(b[:min(size, ends)]) >= 0 || notZero(b[max(0, size-ends):]) >= 0 {
			t.Errorf("%d bytes: %v", size, err)
		}
		if size > 2*ends && notZero(b[ends:size-ends]) < 0 {
			t.Error("all is zero")
		}
	}
}
