package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func wantUse(t *testing.T, err error, what string) {
	t.Helper()
	var use *InUseError
	if !errors.As(err, &use) || !strings.Contains(err.Error(), what) {
		t.Errorf("error %v, want one that names %q", err, what)
	}
}

// settle waits until nobody looks at what was just given back: on a busy machine other programs open new devices.
func settle(t *testing.T, name string, args ...string) {
	t.Helper()
	for i := 0; ; i++ {
		err := exec.Command(name, args...).Run()
		if err == nil {
			return
		}
		if i == 50 {
			t.Fatalf("%s %v: %v", name, args, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestInUse(t *testing.T) {
	path := image(t, 32*mib)
	run(t, "", "mke2fs", "-q", "-F", path)
	dev := loop(t, path, 512)
	free := func(when string) {
		t.Helper()
		for _, p := range []string{dev, path} {
			if err := InUse(p); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		d, err := OpenExclusive(dev, Options{})
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		d.Close()
	}
	free("only attached")

	at := filepath.Join(t.TempDir(), "mount point with blanks")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "", "mount", dev, at)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			exec.Command("umount", at).Run()
		}
	})
	for _, p := range []string{dev, path} {
		wantUse(t, InUse(p), dev+" is mounted on "+at)
		_, err := OpenExclusive(p, Options{})
		wantUse(t, err, "is mounted on")
	}
	if d, err := Open(dev, Options{}); err != nil {
		t.Errorf("a mounted disk can be read: %v", err)
	} else {
		d.Close()
	}
	settle(t, "umount", at)
	mounted = false
	free("unmounted")

	// Held without a name in any list.
	holder, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenExclusive(dev, Options{})
	wantUse(t, err, "something else in the kernel")
	holder.Close()

	run(t, "", "mkswap", "-q", dev)
	run(t, "", "swapon", dev)
	err = InUse(dev)
	settle(t, "swapoff", dev)
	wantUse(t, err, dev+" is swapped to")
	free("swapped off")
}

func TestLockedImage(t *testing.T) {
	path := image(t, mib)
	d, err := OpenExclusive(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = OpenExclusive(path, Options{})
	wantUse(t, err, "holds a lock")
	d.Close()
	d, err = OpenExclusive(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}

// TestQEMU holds us against a virtual machine that has the image open.
func TestQEMU(t *testing.T) {
	path := image(t, mib)
	pidfile := filepath.Join(t.TempDir(), "pid")
	cmd := exec.Command("qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "16", "-S", "-nodefaults", "-display", "none",
		"-drive", "format=raw,if=virtio,file="+path, "-daemonize", "-pidfile", pidfile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(pidfile)
	if err != nil {
		t.Fatal(err)
	}
	pid := strings.TrimSpace(string(b))
	wantUse(t, InUse(path), "a virtual machine?")
	_, err = OpenExclusive(path, Options{})
	wantUse(t, err, "lock")
	run(t, "", "kill", pid)
	for i := 0; InUse(path) != nil; i++ {
		if i == 100 {
			t.Fatal("the virtual machine does not end")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{empty, dir, "/dev/null", filepath.Join(dir, "nothing")} {
		if d, err := Open(p, Options{}); err == nil {
			d.Close()
			t.Errorf("%s was opened", p)
		}
	}
	if _, err := Open(image(t, mib), Options{SectorSize: 513}); err == nil {
		t.Error("sectors of 513 bytes were taken")
	}
	path := image(t, mib)
	d, err := OpenExclusive(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.WriteAt([]byte("beyond"), mib-2); err == nil {
		t.Error("a write past the end was done")
	}
	if st, _ := os.Stat(path); st.Size() != mib {
		t.Errorf("the file has %d bytes now", st.Size())
	}
	dev := loop(t, path, 4096)
	b, err := Open(dev, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if i := b.Info(); i.Size != mib || i.SectorSize != 4096 || i.PhysicalSector != 4096 || !b.IsBlock() {
		t.Errorf("info %+v", i)
	}
	st, _ := os.Stat(dev)
	if n := rdev(st); unix.Major(uint64(n)) != 7 || devName(n) != dev {
		t.Errorf("device number %v is %s", n, devName(n))
	}
	if err := d.Sync(); err != nil {
		t.Error(err)
	}
}
