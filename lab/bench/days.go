package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// keeper keeps the disk of each day beside those of the days before.
type keeper struct {
	name    string
	store   string // folder, in the work folder
	keep    func(day int) (sample, error)
	restore func(day int, target string) (sample, error)

	first, last sample
	next        []sample
	sizes       []int64 // of the store after each day
}

// daily keeps a disk on so many days and writes a table: what the first day took, a later one, and all of them in the
// end. Each program reads the same disk, restic also the mounted files.
func (b *session) daily(w io.Writer, days int) error {
	env := append(os.Environ(), "RESTIC_PASSWORD=bench", "RESTIC_CACHE_DIR="+b.path("restic-cache"))
	cmd := func(name string, args ...string) *exec.Cmd {
		c := exec.CommandContext(b.ctx, name, args...)
		c.Env = env
		return c
	}
	restic := func(store string, args ...string) *exec.Cmd {
		return cmd("restic", append([]string{"-q", "--compression", "auto", "-r", b.path(store)}, args...)...)
	}
	mounted := func(fn func(dir string) (sample, error)) (s sample, err error) {
		merr := withMount(b.ctx, b.fs, b.disk, func(dir string) error {
			s, err = fn(dir)
			return err
		})
		return s, merr
	}
	all := []*keeper{
		{name: "mimeo-agent capture", store: "mimeo",
			keep: func(int) (sample, error) {
				return b.ours(&struct{}{}, "capture", b.disk, "--store", "dir:"+b.path("mimeo"), "--image", "bench", "--json")
			},
			restore: func(day int, target string) (sample, error) {
				return b.ours(&struct{}{}, "deploy", "bench", target, "--store", "dir:"+b.path("mimeo"), "--json")
			}},
		{name: "restic backup, the disk", store: "restic-disk",
			keep: func(int) (sample, error) {
				c := restic("restic-disk", "backup", "--stdin", "--stdin-filename", "disk.img")
				f, err := os.Open(b.disk)
				if err != nil {
					return sample{}, err
				}
				defer f.Close()
				c.Stdin = f
				return one(c)
			},
			restore: func(day int, target string) (sample, error) {
				f, err := os.Create(target)
				if err != nil {
					return sample{}, err
				}
				defer f.Close()
				c := restic("restic-disk", "dump", "latest", "disk.img")
				c.Stdout = f
				return one(c)
			}},
		{name: "restic backup, the mounted files", store: "restic-files",
			keep: func(int) (sample, error) {
				return mounted(func(dir string) (sample, error) {
					c := restic("restic-files", "backup", "--ignore-inode", "--host", "bench", ".")
					c.Dir = dir
					return one(c)
				})
			},
			restore: func(day int, target string) (sample, error) {
				return one(restic("restic-files", "restore", "latest", "--target", target))
			}},
		{name: "casync make, the disk", store: "casync",
			keep: func(day int) (sample, error) {
				return one(cmd("casync", "make", "--store="+b.path("casync"), filepath.Join(b.path("casync"), fmt.Sprintf("%d.caibx", day)), b.disk))
			},
			restore: func(day int, target string) (sample, error) {
				return one(cmd("casync", "extract", "--store="+b.path("casync"), filepath.Join(b.path("casync"), fmt.Sprintf("%d.caibx", day)), target))
			}},
	}
	if err := os.Mkdir(b.path("casync"), 0o755); err != nil {
		return err
	}
	for _, store := range []string{"restic-disk", "restic-files"} {
		if _, err := one(restic(store, "init")); err != nil {
			return err
		}
	}
	var changed int64
	for day := range days {
		if day > 0 {
			err := withMount(b.ctx, b.fs, b.disk, func(dir string) error {
				_, n, err := b.tree.change(dir, 0.02, uint64(day))
				changed += n
				return err
			})
			if err != nil {
				return err
			}
		}
		for _, k := range all {
			s, err := k.keep(day)
			if err != nil {
				return err
			}
			size, err := sizeOf(b.path(k.store))
			if err != nil {
				return err
			}
			b.logf("day %2d: %-34s %7.2f s, cpu %7.2f s, %6d MiB in all", day+1, k.name, s.wall.Seconds(), s.cpu.Seconds(), size>>20)
			k.sizes = append(k.sizes, size)
			if day == 0 {
				k.first = s
			} else {
				k.next = append(k.next, s)
			}
		}
	}
	for _, k := range all {
		target := b.path("restored")
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if k.store != "mimeo" {
			if err := os.Mkdir(target, 0o755); err != nil {
				return err
			}
		}
		out := target
		if k.store == "restic-disk" || k.store == "casync" {
			out = filepath.Join(target, "disk.img")
		}
		s, err := k.restore(days-1, out)
		if err != nil {
			return err
		}
		k.last = s
		b.logf("the last day again: %-34s %7.2f s, cpu %7.2f s", k.name, s.wall.Seconds(), s.cpu.Seconds())
	}
	if err := os.RemoveAll(b.path("restored")); err != nil {
		return err
	}
	ours := all[0]
	b.samples = map[string][]sample{}
	fmt.Fprintf(w, "| %d days | first day s | ratio | a later day s | ratio | last day restored s | ratio | MiB after the first | after all | ratio | all of the first |\n|---|---|---|---|---|---|---|---|---|---|---|\n", days)
	for _, k := range all {
		b.samples[k.name] = k.next
		next, own := b.median(k.name), b.median(ours.name)
		size := k.sizes[len(k.sizes)-1]
		per := func(s, o sample) float64 { return s.wall.Seconds() / o.wall.Seconds() }
		fmt.Fprintf(w, "| `%s` | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %d | %d | %.2f | %.2f |\n", k.name, k.first.wall.Seconds(), per(k.first, ours.first),
			next.wall.Seconds(), per(next, own), k.last.wall.Seconds(), per(k.last, ours.last),
			k.sizes[0]>>20, size>>20, float64(size)/float64(ours.sizes[len(ours.sizes)-1]), float64(size)/float64(k.sizes[0]))
	}
	fmt.Fprintf(w, "\nchanged from day to day: %.0f MiB in all\n", float64(changed)/(1<<20))
	return nil
}

// one runs a program and measures it.
func one(cmd *exec.Cmd) (sample, error) {
	var said bytes.Buffer
	if cmd.Stderr = &said; cmd.Stdout == nil {
		cmd.Stdout = &said
	}
	start := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(start)}
	if err != nil {
		return s, fmt.Errorf("%s: %w: %s", cmd, err, tail(said.Bytes()))
	}
	s.count(cmd)
	return s, nil
}

// sizeOf is the length of all files in a folder, in bytes.
func sizeOf(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		n += info.Size()
		return nil
	})
	return n, err
}
