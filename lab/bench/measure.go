package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// sample is one run of something.
type sample struct {
	wall, cpu time.Duration
	rss       int64 // bytes, of the process that took most
	size      int64 // bytes of the image or new in the store; 0 where nothing is kept
	fresh     int64 // bytes of the disk, raw, that the store did not have; of a deploy, that were trusted and not read
	used      int64 // bytes of the disk that are in use
}

// session is a run of the benchmark.
type session struct {
	ctx   context.Context
	work  string
	agent string
	runs  int
	fs    filesystem
	disk  string // image file of the disk that is captured
	size  int64  // bytes of the disk
	tree  tree

	samples map[string][]sample
	changed int64 // bytes of the files that were changed for the second capture
	differs int64 // bytes of the disk that this changed, in blocks of 4 KiB
	notes   []string
}

func (b *session) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: "+format+"\n", args...)
}

func (b *session) path(name string) string { return filepath.Join(b.work, name) }

// The measurements, in the order of the table.
const (
	peerCapture   = "partclone.FS -c \\| zstd -1 -T2" // FS stands for the filesystem's name
	peerNoSum     = "partclone.FS -c -a 0 \\| zstd -1 -T2"
	ourCapture    = "mimeo-agent capture --codec zstd"
	ourFast       = "mimeo-agent capture --codec auto"
	peerRestore   = "zstd -d \\| partclone.restore"
	ourDeploy     = "mimeo-agent deploy"
	ourSecond     = "mimeo-agent capture, 1 % of files changed"
	ourSecondOver = "mimeo-agent deploy, that onto the first"
	ourTrusted    = "mimeo-agent deploy --trust-last, that onto the first"
	ourFresh      = "mimeo-agent capture, the same files on a fresh filesystem"
)

// all takes every measurement. Ours and the peer's take turns, so that what else the machine does falls on both.
func (b *session) all() error {
	b.samples = map[string][]sample{}
	b.logf("one round that does not count, so that all memory and programs are warm")
	for i := range b.runs + 1 {
		if i == 1 {
			clear(b.samples)
		}
		if i > 0 {
			b.logf("round %d of %d", i, b.runs)
		}
		for _, step := range []func() error{
			func() error { return b.peerCapture(peerNoSum, "-a", "0") },
			func() error { return b.peerCapture(peerCapture) },
			func() error { return b.capture(ourFast, b.disk, "fast", "auto") },
			func() error { return os.RemoveAll(b.path("fast")) },
			func() error { return os.RemoveAll(b.path("store")) },
			func() error { return b.capture(ourCapture, b.disk, "store", "zstd") },
			b.peerRestore,
			b.deploy,
		} {
			if err := step(); err != nil {
				return err
			}
		}
	}
	if err := b.second(); err != nil {
		return err
	}
	return b.fresh()
}

// fresh captures a second disk, whose filesystem was made anew and holds the same files, into a store as the first
// capture left it.
func (b *session) fresh() error {
	disk, t := b.path("fresh.img"), b.tree
	t.shuffle = true
	if err := makeDisk(b.ctx, b.fs, b.fs.fresh, disk, b.size, t); err != nil {
		return err
	}
	for range b.runs {
		if err := run(b.ctx, "cp", "-a", b.path("store"), b.path("again")); err != nil {
			return err
		}
		if err := b.capture(ourFresh, disk, "again", "zstd"); err != nil {
			return err
		}
		if err := os.RemoveAll(b.path("again")); err != nil {
			return err
		}
	}
	return os.Remove(disk)
}

const blockLen = 4096

// blocks returns a short hash of each block of a disk.
func blocks(disk string) ([]uint64, error) {
	f, err := os.Open(disk)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []uint64
	for buf := make([]byte, 256*blockLen); ; {
		n, err := io.ReadFull(f, buf)
		for at := 0; at < n; at += blockLen {
			list = append(list, maphash.Bytes(seed, buf[at:min(at+blockLen, n)]))
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return list, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

var seed = maphash.MakeSeed()

// second changes the disk and measures captures of what is new, each into a store as the first capture left it.
func (b *session) second() error {
	var n int
	before, err := blocks(b.disk)
	if err != nil {
		return err
	}
	err = withMount(b.ctx, b.fs, b.disk, func(dir string) (err error) {
		n, b.changed, err = b.tree.change(dir, 0.01, 1)
		return err
	})
	if err != nil {
		return err
	}
	after, err := blocks(b.disk)
	if err != nil {
		return err
	}
	for i := range after {
		if after[i] != before[i] {
			b.differs += blockLen
		}
	}
	b.notes = append(b.notes, fmt.Sprintf("changed for the second capture: %d files of %d, %.0f MiB; the filesystem changed %.0f MiB of the disk for them", n, len(b.tree.files()), float64(b.changed)/(1<<20), float64(b.differs)/(1<<20)))
	b.logf("changed %d files", n)
	for range b.runs {
		if err := run(b.ctx, "cp", "-a", b.path("store"), b.path("again")); err != nil {
			return err
		}
		if err := b.capture(ourSecond, b.disk, "again", "zstd"); err != nil {
			return err
		}
		if err := b.deployOver(); err != nil {
			return err
		}
		if err := os.RemoveAll(b.path("again")); err != nil {
			return err
		}
	}
	return nil
}

func (b *session) peerCapture(name string, args ...string) error {
	out := b.path("disk.partclone.zst")
	args = append([]string{"-c", "-s", b.disk, "-o", "-", "-q", "-L", b.path("partclone.log")}, args...)
	s, err := b.pipe(exec.CommandContext(b.ctx, "partclone."+b.fs.name, args...),
		exec.CommandContext(b.ctx, "zstd", "-1", "-T2", "-q", "-f", "-o", out))
	if err != nil {
		return err
	}
	st, err := os.Stat(out)
	if err != nil {
		return err
	}
	s.size = st.Size()
	b.add(name, s)
	return nil
}

func (b *session) peerRestore() error {
	// Made anew here: partclone.restore now and then fails with "No such file" where it must make it.
	target := b.path("target.img")
	if err := os.WriteFile(target, nil, 0o600); err != nil {
		return err
	}
	s, err := b.pipe(exec.CommandContext(b.ctx, "zstd", "-q", "-dc", b.path("disk.partclone.zst")),
		exec.CommandContext(b.ctx, "partclone.restore", "-s", "-", "-O", target, "-C", "-q", "-L", b.path("partclone.log")))
	if err != nil {
		said, _ := os.ReadFile(b.path("partclone.log"))
		return fmt.Errorf("%w; partclone's log: %s", err, bytes.TrimSpace(said))
	}
	b.add(peerRestore, s)
	return os.Remove(target)
}

func (b *session) capture(name, disk, store, codec string) error {
	var res struct {
		Used, New, Stored int64
	}
	s, err := b.ours(&res, "capture", disk, "--store", "dir:"+b.path(store), "--image", "bench", "--codec", codec, "--json")
	if err != nil {
		return err
	}
	s.size, s.fresh, s.used = res.Stored, res.New, res.Used
	b.add(name, s)
	return nil
}

func (b *session) deploy() error {
	target := b.path("target.img")
	if err := os.RemoveAll(target); err != nil {
		return err
	}
	s, err := b.ours(&struct{}{}, "deploy", "bench", target, "--store", "dir:"+b.path("store"), "--json")
	if err != nil {
		return err
	}
	b.add(ourDeploy, s)
	if err := run(b.ctx, b.fs.check[0], append(b.fs.check[1:], target)...); err != nil {
		return fmt.Errorf("the deployed filesystem is not clean: %w", err)
	}
	return nil
}

func (b *session) deployOver() error {
	target := b.path("target.img")
	for _, way := range []struct {
		name string
		args []string
	}{{ourSecondOver, nil}, {ourTrusted, []string{"--trust-last", "bench@1"}}} {
		// A new file each time: in the free space of a filesystem that never overwrites, the other revision would lie already.
		if err := os.RemoveAll(target); err != nil {
			return err
		}
		if _, err := b.ours(&struct{}{}, "deploy", "bench@1", target, "--store", "dir:"+b.path("again"), "--force", "--json"); err != nil {
			return err
		}
		var res struct {
			Written int64 `json:"written"`
			Skipped int64 `json:"skipped"`
			Trusted int64 `json:"trusted"`
		}
		s, err := b.ours(&res, append([]string{"deploy", "bench", target, "--store", "dir:" + b.path("again"), "--force", "--json"}, way.args...)...)
		if err != nil {
			return err
		}
		s.size, s.fresh, s.used = res.Written, res.Trusted, res.Written+res.Skipped+res.Trusted
		b.add(way.name, s)
	}
	return nil
}

// ours runs the agent and reads its JSON into res.
func (b *session) ours(res any, args ...string) (sample, error) {
	cmd := exec.CommandContext(b.ctx, b.agent, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := b.warm(); err != nil {
		return sample{}, err
	}
	start := time.Now()
	err := cmd.Run()
	s := sample{wall: time.Since(start)}
	if err != nil {
		return s, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, tail(errs.Bytes()))
	}
	s.count(cmd)
	if err := json.Unmarshal(out.Bytes(), res); err != nil {
		return s, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, tail(out.Bytes()))
	}
	return s, nil
}

// pipe runs two programs, the output of the first into the second.
func (b *session) pipe(from, to *exec.Cmd) (sample, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return sample{}, err
	}
	var errs bytes.Buffer
	from.Stdout, to.Stdin = w, r
	to.Stderr = &errs
	err = b.warm()
	start := time.Now()
	if err == nil {
		err = from.Start()
	}
	if err == nil {
		err = to.Start()
	}
	w.Close()
	r.Close()
	if err != nil {
		return sample{}, err
	}
	ferr, terr := from.Wait(), to.Wait()
	s := sample{wall: time.Since(start)}
	if ferr != nil {
		return s, fmt.Errorf("%s: %w", strings.Join(from.Args, " "), ferr)
	}
	if terr != nil {
		return s, fmt.Errorf("%s: %w: %s", strings.Join(to.Args, " "), terr, tail(errs.Bytes()))
	}
	s.count(from)
	s.count(to)
	return s, nil
}

// warm takes as much memory as a program may write, and gives it back. A virtual machine's free memory may be lent to others;
// fetching it again takes seconds, which say nothing of the program that happens to be next.
func (b *session) warm() error {
	f, err := os.Create(b.path("warm"))
	if err != nil {
		return err
	}
	buf := make([]byte, 4<<20)
	for n := int64(0); n < b.tree.used && err == nil; n += int64(len(buf)) {
		_, err = f.Write(buf)
	}
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// count adds what a finished program took.
func (s *sample) count(cmd *exec.Cmd) {
	s.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.rss = max(s.rss, ru.Maxrss<<10)
	}
}

func (b *session) add(name string, s sample) {
	b.logf("  %-50s %6.2f s, cpu %6.2f s", strings.NewReplacer("\\", "", "FS", b.fs.name).Replace(name), s.wall.Seconds(), s.cpu.Seconds())
	b.samples[name] = append(b.samples[name], s)
}

// median returns the median of each number.
func (b *session) median(name string) sample {
	of := func(get func(sample) int64) int64 {
		var all []int64
		for _, s := range b.samples[name] {
			all = append(all, get(s))
		}
		slices.Sort(all)
		if len(all) == 0 {
			return 0
		}
		return all[len(all)/2]
	}
	return sample{
		wall: time.Duration(of(func(s sample) int64 { return int64(s.wall) })),
		cpu:  time.Duration(of(func(s sample) int64 { return int64(s.cpu) })),
		rss:  of(func(s sample) int64 { return s.rss }),
		size: of(func(s sample) int64 { return s.size }),

		fresh: of(func(s sample) int64 { return s.fresh }),
		used:  of(func(s sample) int64 { return s.used }),
	}
}

// print writes the tables and returns how many goals were missed.
func (b *session) print(w io.Writer) (missed int) {
	ratio := func(a, b float64) string {
		if b == 0 {
			return ""
		}
		return fmt.Sprintf("%.2f", a/b)
	}
	fmt.Fprintf(w, "| what | wall s | ratio | cpu s | ratio | MiB kept | ratio | peak MiB |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range []struct{ name, peer string }{
		{peerCapture, peerCapture}, {peerNoSum, peerCapture}, {ourCapture, peerCapture}, {ourFast, peerCapture}, {ourSecond, peerCapture}, {ourFresh, peerCapture},
		{peerRestore, peerRestore}, {ourDeploy, peerRestore}, {ourSecondOver, peerRestore}, {ourTrusted, peerRestore},
	} {
		s, p := b.median(row.name), b.median(row.peer)
		kept := ""
		if s.size > 0 {
			kept = fmt.Sprintf("%.0f", float64(s.size)/(1<<20))
		}
		sizes := ratio(float64(s.size), float64(p.size))
		if row.name == ourSecondOver || row.name == ourTrusted {
			sizes, kept = "", fmt.Sprintf("%s written, %d of %d not read", kept, s.fresh>>20, s.used>>20)
		}
		fmt.Fprintf(w, "| `%s` | %.2f | %s | %.2f | %s | %s | %s | %d |\n", strings.ReplaceAll(row.name, "FS", b.fs.name), s.wall.Seconds(), ratio(s.wall.Seconds(), p.wall.Seconds()),
			s.cpu.Seconds(), ratio(s.cpu.Seconds(), p.cpu.Seconds()), kept, sizes, s.rss>>20)
	}
	fmt.Fprintf(w, "\n| goal | at most | measured | |\n|---|---|---|---|\n")
	goal := func(what string, most, got float64, unit string) {
		verdict := "reached"
		if !(got <= most) {
			verdict = "MISSED"
			missed++
		}
		fmt.Fprintf(w, "| %s | %.4g%s | %.3g%s | %s |\n", what, most, unit, got, unit, verdict)
	}
	wall := func(a, p string) float64 { return b.median(a).wall.Seconds() / b.median(p).wall.Seconds() }
	goal("capture, wall", 0.5, wall(ourCapture, peerCapture), "×")
	goal("capture, wall, next to partclone without checksums", 1, wall(ourCapture, peerNoSum), "×")
	goal("capture, size", 1.05, float64(b.median(ourCapture).size)/float64(b.median(peerCapture).size), "×")
	goal("capture with the adaptive codec, wall", 0.25, wall(ourFast, peerCapture), "×")
	goal("second capture, wall", 0.12, wall(ourSecond, peerCapture), "×")
	goal("second capture, new data of the bytes changed", 1.5, float64(b.median(ourSecond).fresh)/float64(b.changed), "×")
	goal("second capture, new data of the bytes that differ on the disk", 1.5, float64(b.median(ourSecond).fresh)/float64(b.differs), "×")
	goal("the same files on a fresh filesystem, new data of the bytes used", 0.06, float64(b.median(ourFresh).fresh)/float64(b.median(ourFresh).used), "×")
	goal("deploy, wall", 0.6, wall(ourDeploy, peerRestore), "×")
	goal("deploy onto the first revision, wall", 0.2, wall(ourSecondOver, peerRestore), "×")
	goal("deploy onto the first revision with --trust-last, read of what is there", 0.1, 1-float64(b.median(ourTrusted).fresh)/float64(b.median(ourTrusted).used), "×")
	goal("deploy onto the first revision, written of the bytes changed", 1.3, float64(b.median(ourSecondOver).size)/float64(b.changed), "×")
	goal("deploy onto the first revision, written of the bytes that differ on the disk", 1.3, float64(b.median(ourSecondOver).size)/float64(b.differs), "×")
	most := int64(0)
	for _, name := range []string{ourCapture, ourFast, ourSecond, ourFresh, ourDeploy, ourSecondOver, ourTrusted} {
		for _, s := range b.samples[name] {
			most = max(most, s.rss)
		}
	}
	goal("agent's peak memory", 512, float64(most>>20), " MiB")
	fmt.Fprintln(w)
	for _, n := range b.notes {
		fmt.Fprintln(w, n)
	}
	return missed
}

func tail(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[max(len(b)-500, 0):])
}

func lines(b []byte) iter.Seq[string] { return strings.Lines(string(b)) }
