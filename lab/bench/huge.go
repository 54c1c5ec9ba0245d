package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
)

// hugeSize is the disk of the benchmark below. It is a sparse file.
const hugeSize = 1 << 40

// huge looks at a disk of 1 TiB with millions of files: how long that takes, and how much memory.
func (b *session) huge(w io.Writer, millions int) error {
	if err := b.makeHuge(millions); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	const ourMap, ourPlan, bitmaps, check = "mimeo-agent map", "what a capture plans: the map, and where files lie", "dumpe2fs", "e2fsck -fn"
	b.samples = map[string][]sample{}
	for i := range b.runs + 1 {
		if i == 1 {
			clear(b.samples) // the first round warms what can be kept in memory
		}
		for _, step := range []struct {
			name string
			cmd  *exec.Cmd
		}{
			{ourMap, exec.CommandContext(b.ctx, b.agent, "map", b.disk)},
			{bitmaps, exec.CommandContext(b.ctx, "dumpe2fs", b.disk)},
			{ourPlan, exec.CommandContext(b.ctx, self, "-plan", b.disk)},
			{check, exec.CommandContext(b.ctx, "e2fsck", "-fn", b.disk)},
		} {
			if step.name == check && i > 0 {
				continue // it takes minutes
			}
			s, err := b.pipe(step.cmd, exec.CommandContext(b.ctx, "wc", "-c"))
			if err != nil {
				return err
			}
			b.add(step.name, s)
			if step.name == check {
				b.notes = append(b.notes, fmt.Sprintf("%s, once, after the first map: %.0f s, peak %d MiB", check, s.wall.Seconds(), s.rss>>20))
			}
		}
	}
	fmt.Fprintf(w, "| %d million files on 1 TiB | wall s | cpu s | peak MiB |\n|---|---|---|---|\n", millions)
	for _, name := range []string{ourMap, bitmaps, ourPlan} {
		s := b.median(name)
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %d |\n", name, s.wall.Seconds(), s.cpu.Seconds(), s.rss>>20)
	}
	for _, n := range b.notes {
		fmt.Fprintf(w, "\n%s\n", n)
	}
	return nil
}

// plan does what a capture does before it reads the first chunk, for the process that huge starts.
func plan(path string) error {
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		return err
	}
	defer d.Close()
	l, err := layout.Plan(d)
	if err != nil {
		return err
	}
	p, err := capture.NewPlan(d, l, leaveout.Rules{Swap: true})
	if err == nil {
		fmt.Printf("%d MiB in %d extents, %d pieces of files\n", p.Used.Bytes()>>20, len(p.Used), len(p.Pieces))
	}
	return err
}

// makeHuge makes the filesystem by mkfs and fills it by the kernel, but for the bytes of the files: of these only the room
// is allocated, which the extents in the inodes then say to be written. So the sparse file takes some GiB.
func (b *session) makeHuge(millions int) error {
	f, err := os.Create(b.disk)
	if err != nil {
		return err
	}
	err = errors.Join(f.Truncate(hugeSize), f.Close())
	if err != nil {
		return err
	}
	// Without checksums, which the change of the extents would break.
	if err := run(b.ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum,^has_journal", "-E", "lazy_itable_init=1,nodiscard",
		"-N", strconv.Itoa(millions*1_100_000), b.disk); err != nil {
		return err
	}
	ext4 := filesystems["ext4"]
	if err := withMount(b.ctx, ext4, b.disk, func(dir string) error { return b.fillHuge(dir, millions) }); err != nil {
		return err
	}
	b.logf("saying that what is allocated is written")
	return written(b.disk)
}

// fillHuge makes folders of a thousand files of 1 to 16 blocks each.
func (b *session) fillHuge(dir string, millions int) error {
	b.logf("making %d million files", millions)
	g, ctx := errgroup.WithContext(b.ctx)
	const workers = 2
	for w := range workers {
		g.Go(func() error {
			for d := w; d < millions*1000; d += workers {
				if err := ctx.Err(); err != nil {
					return err
				}
				if d%100_000 == 0 && d > 0 {
					b.logf("%d million are made", d/1000)
				}
				sub := filepath.Join(dir, fmt.Sprintf("d%05d", d))
				if err := os.Mkdir(sub, 0o755); err != nil {
					return err
				}
				for i := range 1000 {
					fd, err := unix.Open(sub+"/f"+strconv.Itoa(i), unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
					if err != nil {
						return err
					}
					err = unix.Fallocate(fd, 0, 0, int64(1+(d+i)%16)<<12)
					if err = errors.Join(err, unix.Close(fd)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// written goes over all inodes of an ext4 without checksums, and takes the mark off extents that nothing was written to.
func written(path string) error {
	head, err := exec.Command("dumpe2fs", "-g", path).Output() // a line for each group: number, blocks, superblock, ..., inode table, free ...
	if err != nil {
		return fmt.Errorf("dumpe2fs -g: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, 1024); err != nil {
		return err
	}
	le := binary.LittleEndian
	perGroup, size := int64(le.Uint32(super[40:])), int64(le.Uint16(super[88:]))
	table := make([]byte, perGroup*size)
	changed := 0
	for line := range bytes.Lines(head) {
		// group:block:super:gdt:bbitmap:ibitmap:itable
		fields := strings.Split(strings.TrimSpace(string(line)), ":")
		at, err := strconv.ParseInt(fields[len(fields)-1], 10, 64)
		if len(fields) != 7 || err != nil {
			continue // the heading
		}
		if _, err := f.ReadAt(table, at<<12); err != nil {
			return err
		}
		before := changed
		for off := int64(0); off < int64(len(table)); off += size {
			root := table[off+40:][:60]
			if le.Uint16(root) != 0xf30a || le.Uint16(root[6:]) != 0 || le.Uint16(table[off+26:]) == 0 {
				continue // no extents in the inode, or not in use
			}
			for i := range min(4, int(le.Uint16(root[2:]))) {
				if e := root[12+12*i:]; le.Uint16(e[4:]) > 1<<15 {
					le.PutUint16(e[4:], le.Uint16(e[4:])-1<<15)
					changed++
				}
			}
		}
		if changed > before {
			if _, err := f.WriteAt(table, at<<12); err != nil {
				return err
			}
		}
	}
	if changed == 0 {
		return errors.New("no extent was changed: is it ext4 with blocks of 4 KiB?")
	}
	return f.Sync()
}
