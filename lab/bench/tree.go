package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
)

// tree says what the generated filesystem holds. The same tree gives the same files.
type tree struct {
	used    int64 // bytes of files
	seed    uint64
	shuffle bool // written in another order
}

// file is one generated file.
type file struct {
	path string // relative
	size int64
	kind kind
	seed uint64
}

// files plans the tree: two fifths of the bytes in many small files, the rest in large ones; one file in twelve is a
// copy of an earlier one, as in real systems.
func (t tree) files() []file {
	rng := rand.New(rand.NewPCG(t.seed, 1))
	var all []file
	add := func(small bool, size int64) int64 {
		i := len(all)
		f := file{size: size, seed: t.seed + uint64(i)*7919}
		switch p := rng.IntN(100); {
		case p < 40:
			f.kind = text
		case p < 75:
			f.kind = binary_
		default:
			f.kind = packed
		}
		if small {
			f.path = fmt.Sprintf("usr/%02x/%02x/file%d", i>>6&63, i>>12, i)
			if i > 100 && rng.IntN(12) == 0 {
				twin := all[rng.IntN(i)]
				f.size, f.kind, f.seed = twin.size, twin.kind, twin.seed
			}
		} else {
			f.path = fmt.Sprintf("srv/%d/large%d", i%8, i)
		}
		all = append(all, f)
		return f.size
	}
	for left := t.used * 2 / 5; left > 0; {
		// Sizes of files lie around 10 KiB on a logarithmic scale, with a long tail.
		size := int64(math.Exp(rng.NormFloat64()*1.8 + 9.2))
		left -= add(true, min(max(size, 1), 8<<20))
	}
	for left := t.used * 3 / 5; left > 0; {
		left -= add(false, min(left, 1<<20<<rng.IntN(7)+int64(rng.IntN(1<<20))))
	}
	return all
}

// write makes the files below dir with two writers, as many as small machines have cores.
func (t tree) write(ctx context.Context, dir string) error {
	all := t.files()
	if t.shuffle { // where a file comes to lie is chance
		rng := rand.New(rand.NewPCG(t.seed, 3))
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	const writers = 2
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			buf := make([]byte, 1<<20)
			for i := w; i < len(all) && errs[w] == nil; i += writers {
				if errs[w] = ctx.Err(); errs[w] == nil {
					errs[w] = all[i].write(dir, buf)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (f file) write(dir string, buf []byte) error {
	path := filepath.Join(dir, f.path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	c := newContent(f.seed)
	for left := f.size; left > 0; {
		b := buf[:min(left, int64(len(buf)))]
		c.fill(f.kind, b)
		if _, err := out.Write(b); err != nil {
			return err
		}
		left -= int64(len(b))
	}
	return out.Close()
}

// change rewrites share of the files with other content and another size, as an update of packages does: a new file
// takes the place of the old one. Each day, from 1, changes others.
func (t tree) change(dir string, share float64, day uint64) (n int, bytes int64, err error) {
	rng := rand.New(rand.NewPCG(t.seed, 1+day))
	buf := make([]byte, 1<<20)
	for _, f := range t.files() {
		if rng.Float64() >= share {
			continue
		}
		f.seed ^= 0x5555_0000_0000 * day
		f.size += int64(rng.IntN(int(f.size/8 + 512)))
		final := f.path
		f.path += ".new"
		if err := f.write(dir, buf); err != nil {
			return n, bytes, err
		}
		if err := os.Rename(filepath.Join(dir, f.path), filepath.Join(dir, final)); err != nil {
			return n, bytes, err
		}
		n, bytes = n+1, bytes+f.size
	}
	return n, bytes, nil
}

// filesystem is one that the disk can have. To each command the disk is added.
type filesystem struct {
	name  string
	mount string // for mount -t
	make  []string
	fresh []string // makes another filesystem of the kind
	check []string
}

var filesystems = map[string]filesystem{
	"ext4": {"ext4", "ext4", []string{"mke2fs", "-q", "-F", "-t", "ext4", "-U", "5eed0000-0000-4000-8000-000000000001", "-L", "bench",
		"-E", "hash_seed=5eed0000-0000-4000-8000-000000000002,lazy_itable_init=0,nodiscard"},
		[]string{"mke2fs", "-q", "-F", "-t", "ext4", "-L", "fresh", "-E", "lazy_itable_init=0,nodiscard"}, []string{"e2fsck", "-fn"}},
	"xfs": {"xfs", "xfs", []string{"mkfs.xfs", "-q", "-m", "uuid=5eed0000-0000-4000-8000-000000000001", "-L", "bench", "-K"},
		[]string{"mkfs.xfs", "-q", "-L", "fresh", "-K"}, []string{"xfs_repair", "-n", "-f"}},
	"btrfs": {"btrfs", "btrfs", []string{"mkfs.btrfs", "-q", "-f", "-U", "5eed0000-0000-4000-8000-000000000001", "-L", "bench", "-K"},
		[]string{"mkfs.btrfs", "-q", "-f", "-L", "fresh", "-K"}, []string{"btrfs", "check", "-p"}},
	"ntfs": {"ntfs", "ntfs-3g", []string{"mkntfs", "-q", "-F", "-Q", "-L", "bench"},
		[]string{"mkntfs", "-q", "-F", "-Q", "-L", "fresh"}, []string{"ntfsfix", "-n"}},
}

// makeDisk makes an image file of size bytes with a filesystem, made by the command mkfs, that holds the tree.
func makeDisk(ctx context.Context, fs filesystem, mkfs []string, path string, size int64, t tree) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := run(ctx, mkfs[0], append(slices.Clone(mkfs[1:]), path)...); err != nil {
		return err
	}
	return withMount(ctx, fs, path, func(dir string) error { return t.write(ctx, dir) })
}

// withMount mounts the filesystem in an image file for the length of fn.
func withMount(ctx context.Context, fs filesystem, path string, fn func(dir string) error) error {
	dir, err := os.MkdirTemp("", "bench-mount-")
	if err != nil {
		return err
	}
	defer os.Remove(dir)
	if err := run(ctx, "mount", "-t", fs.mount, "-o", "loop,noatime", path, dir); err != nil {
		return err
	}
	ferr := fn(dir)
	if err := run(context.WithoutCancel(ctx), "umount", dir); err != nil {
		return err
	}
	return ferr
}

func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}
