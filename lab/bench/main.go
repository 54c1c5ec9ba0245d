// Command bench measures capture and deploy next to partclone, on the same disk and machine. The script ./bench builds
// what it needs and runs it; docs/benchmarks.md holds what came out, and says how to read it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

func bench(ctx context.Context) (err error) {
	var (
		agent = flag.String("agent", "mimeo-agent", "the program `file` that is measured")
		dir   = flag.String("dir", "", "work in a new folder below `DIR`; by default /dev/shm where there is room, else TMPDIR")
		runs  = flag.Int("n", 3, "`runs` of each measurement; the table has the medians")
		used  = flag.Float64("used", 5, "`GiB` of files")
		disk  = flag.Int64("disk", 16, "`GiB` of the disk")
		kind  = flag.String("fs", "ext4", "the `filesystem` on it: ext4, xfs, btrfs or ntfs")
		keep  = flag.Bool("keep", false, "leave the disk and the images there, and say where")
		days  = flag.Int("days", 0, "instead: capture on so many `days`, 2 % of the files changed each day, next to restic and casync")
		huge  = flag.Int("huge", 0, "instead: look at 1 TiB with so many `million` files; takes minutes, and 0.5 GiB for each million")
		look  = flag.String("plan", "", "what -huge runs: plan the capture of `DISK`")
		store = flag.Bool("store", false, "instead: what a store costs a capture, and what repacking it brings")
		to    = flag.String("into", "", "with -plan, what -store runs: capture into the store in `FOLDER`")
		key   = flag.String("key", "", "key `FILE` of that")
		check = flag.Bool("check", false, "fail where a goal is missed")
	)
	flag.Parse()
	set := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { set[f.Name] = true })
	if set["into"] {
		return into(ctx, *look, *to, *key)
	} else if set["plan"] {
		return plan(*look)
	}
	fs, ok := filesystems[*kind]
	if !ok {
		return fmt.Errorf("-fs %s: want ext4, xfs, btrfs or ntfs", *kind)
	}
	needs := []string{"partclone." + fs.name, "partclone.restore", "zstd", fs.make[0], "mount", fs.check[0]}
	if *days > 0 {
		needs = append(needs, "restic", "casync")
	}
	for _, name := range needs {
		if _, err := exec.LookPath(name); err != nil {
			return fmt.Errorf("%w (Debian packages: partclone zstd e2fsprogs xfsprogs btrfs-progs ntfs-3g mount, with -days restic casync)", err)
		}
	}
	usedBytes := int64(*used * (1 << 30))
	if *huge > 0 {
		usedBytes = int64(*huge) << 27
	}
	base, err := place(*dir, usedBytes)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(base, "mimeo-bench-")
	if err != nil {
		return err
	}
	if *keep {
		defer fmt.Fprintln(os.Stderr, "kept:", work)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	}
	b := &session{ctx: ctx, work: work, agent: *agent, runs: *runs, fs: fs,
		disk: filepath.Join(work, "disk.img"), size: *disk << 30, tree: tree{used: usedBytes, seed: 1}}
	if *huge > 0 {
		return b.huge(os.Stdout, *huge)
	}
	b.logf("making a disk of %d GiB, %s with %.1f GiB of files, in %s", *disk, fs.name, *used, work)
	if err := makeDisk(ctx, fs, fs.make, b.disk, b.size, b.tree); err != nil {
		return err
	}
	if *days > 0 {
		return b.daily(os.Stdout, *days)
	} else if *store {
		return b.ingest(os.Stdout)
	}
	if err := b.all(); err != nil {
		return err
	}
	missed := b.print(os.Stdout)
	if *check && missed > 0 {
		return fmt.Errorf("%d goals missed", missed)
	}
	return nil
}

// place finds a folder with room for the disk twice, its images twice, and what warm writes. Memory is better than a disk, whose own
// speed would hide what is measured.
func place(dir string, used int64) (string, error) {
	room := func(dir string) int64 {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			return 0
		}
		return int64(s.Bavail) * s.Bsize
	}
	need := used*11/2 + 1<<30
	if dir == "" {
		if dir = "/dev/shm"; min(room(dir), freeMemory()) < need {
			dir = os.TempDir()
		}
	}
	if have := room(dir); have < need {
		return "", fmt.Errorf("%s has %d MiB of room, %d are needed: say -dir, or a smaller -used", dir, have>>20, need>>20)
	}
	return dir, nil
}

// freeMemory returns the memory that can be had without swapping, in bytes, with 2 GiB left over.
func freeMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	var kib int64
	for line := range lines(b) {
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			break
		}
	}
	return kib<<10 - 2<<30
}
