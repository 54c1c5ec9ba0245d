package xfs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"mimeo/internal/imaging/extent"
)

// manyFolders makes n folders with many files each.
func manyFolders(t testing.TB, dir string, n int) {
	t.Helper()
	for i := range n {
		d := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 40 {
			if err := os.WriteFile(filepath.Join(d, fmt.Sprintf("a-rather-long-name-so-that-it-takes-space-%d", j)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRenewLog writes an image onto a disk that held the same filesystem, and was in use since, and lets it crash. The image is one of
// an unmounted filesystem, or of one whose log must be replayed.
func TestRenewLog(t *testing.T) {
	var refused [2]atomic.Int32 // without a new log; the second for those that crashed before
	t.Run("all", func(t *testing.T) { renewLog(t, &refused) })
	if refused[0].Load() == 0 || refused[1].Load() == 0 {
		t.Errorf("without a new log all can be mounted, too (%d, %d): the test is for nothing", refused[0].Load(), refused[1].Load())
	}
}

// renew does what a deploy does that does not look at the log which is there.
func renew(v Volume, size int64, round uint32) error {
	l, err := ReadLog(v, size)
	if err != nil {
		return err
	}
	if l == nil {
		return Forget(v, size)
	}
	return l.Restart(v, round)
}

func renewLog(t *testing.T, refused *[2]atomic.Int32) {
	for k, args := range []string{"-l size=4m -b size=1024", "-l size=16m,su=256k -b size=1024 -d agcount=2", "-l size=5m -s size=4096",
		"-l size=4m -b size=1024"} {
		dirty := k >= 3
		for _, way := range []string{"restart", "continue", "forget", "nothing"} {
			if dirty && way == "continue" || k > 0 && way == "forget" { // what is dirty is forgotten anyway
				continue
			}
			t.Run(fmt.Sprint(args, dirty, way), func(t *testing.T) {
				t.Parallel()
				img := mkfs(t, 96*mib, args)
				var image string
				mounted(t, img, "rw", func(dir, _ string) {
					manyFolders(t, dir+"/1", 5)
					if tool(t, "sync", "-f", dir); dirty {
						image = snapshot(t, img)
					}
				})
				if !dirty {
					image = snapshot(t, img)
				}
				facts, used := mapImage(t, image)
				if facts.Whole != "" || dirty != (len(facts.Notes) > 0) {
					t.Fatalf("%+v", facts)
				}
				if way == "continue" { // an earlier deploy of the same image
					dst, err := os.OpenFile(img, os.O_RDWR, 0)
					if err != nil {
						t.Fatal(err)
					}
					if err := errors.Join(renew(dst, 96*mib, 200_000_000), dst.Close()); err != nil {
						t.Fatal(err)
					}
				}
				mounted(t, img, "rw", func(dir, _ string) {
					for range 15 {
						torn(t, dir+"/torn", 4096, 500)
					}
					manyFolders(t, dir+"/2", 60)
				})
				src, err := os.Open(image)
				if err != nil {
					t.Fatal(err)
				}
				defer src.Close()
				dst, err := os.OpenFile(img, os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer dst.Close()
				log, err := ReadLog(src, 96*mib)
				if err != nil || (log == nil) != dirty {
					t.Fatalf("%v, %v", log, err)
				}
				if way == "continue" {
					used = extent.Subtract(used, extent.List{log.Extent})
				}
				for _, e := range used {
					if _, err := io.Copy(io.NewOffsetWriter(dst, e.Off), io.NewSectionReader(src, e.Off, e.Len)); err != nil {
						t.Fatal(err)
					}
				}
				if way != "nothing" {
					if way == "restart" {
						err = renew(dst, 96*mib, 200_000_000)
					} else if way == "forget" { // on a leg of a mirror, whose log must stay
						err = Forget(dst, 96*mib)
					} else if ok, cerr := log.Continue(dst, 199_000_000); cerr != nil || !ok {
						t.Fatalf("the log does not go on: %v", cerr)
					}
					if err != nil {
						t.Fatal(err)
					}
					if !dirty {
						judge(t, img)
					} else if dup := snapshot(t, img); judgeCrash(t, dup).whole != "" {
						t.Error("captured whole")
					}
				}
				var crashed string
				mounted(t, img, "rw", func(dir, _ string) {
					manyFolders(t, dir+"/3", 50)
					tool(t, "sync", "-f", dir)
					crashed = snapshot(t, img)
				})
				check(t, img)
				compare(t, img)
				if way == "nothing" { // this is what it is for
					if !mountable(t, crashed) {
						refused[k/3].Add(1)
					}
					return
				}
				mounted(t, crashed, "rw", func(string, string) {})
				judge(t, crashed)
				if want, got := filesOf(t, img), filesOf(t, crashed); len(got) < 2000 || !maps.Equal(got, want) {
					t.Errorf("%d files, after the crash %d, and they are not the same", len(want), len(got))
				}
			})
		}
	}
}

// mountable tells whether the kernel mounts an image.
func mountable(t testing.TB, img string) (is bool) {
	t.Helper()
	alone(t, func() {
		dir := t.TempDir()
		loop := strings.TrimSpace(string(tool(t, "losetup", "--find", "--show", img)))
		defer tool(t, "losetup", "-d", loop)
		if is = command("mount", "-t", "xfs", "-o", "nouuid", loop, dir).Run() == nil; is {
			unmount(t, dir)
		}
	})
	return is
}
