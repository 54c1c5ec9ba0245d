package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"

	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/chunk"
	"mimeo/internal/imaging/disk"
	"mimeo/internal/imaging/layout"
	"mimeo/internal/imaging/leaveout"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/dir"
	"mimeo/internal/imaging/store/keys"
)

// ingest measures what a store costs a capture: with nothing behind the pipeline, with a store, and with one that is
// encrypted. Then it repacks the store.
func (b *session) ingest(w io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	key := b.path("key")
	if err := keys.NewFile(key); err != nil {
		return err
	}
	const none, plain, sealed = "the pipeline, and nothing behind it", "into a store", "into an encrypted store"
	b.samples = map[string][]sample{}
	for i := range b.runs + 1 {
		if i == 1 {
			clear(b.samples)
		}
		for _, step := range [][]string{{none, "", ""}, {plain, b.path("plain"), ""}, {sealed, b.path("sealed"), key}} {
			if err := os.RemoveAll(step[1]); step[1] != "" && err != nil {
				return err
			}
			cmd := exec.CommandContext(b.ctx, self, "-into", step[1], "-key", step[2], "-plan", b.disk)
			s, err := b.pipe(cmd, exec.CommandContext(b.ctx, "cat"))
			if err != nil {
				return err
			}
			b.add(step[0], s)
		}
	}
	fmt.Fprintf(w, "| capture, codec zstd | wall s | ratio | cpu s | ratio |\n|---|---|---|---|---|\n")
	first := b.median(none)
	for _, name := range []string{none, plain, sealed} {
		s := b.median(name)
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %.2f | %.2f |\n", name, s.wall.Seconds(), s.wall.Seconds()/first.wall.Seconds(), s.cpu.Seconds(), s.cpu.Seconds()/first.cpu.Seconds())
	}
	var r struct{ Bytes, After, Freed int64 }
	fmt.Fprintf(w, "\n| store repack | MiB before | after | ratio | s | cpu s |\n|---|---|---|---|---|---|\n")
	for _, level := range []string{"7", "19"} {
		s, err := b.ours(&r, "store", "repack", "--store", "dir:"+b.path("plain"), "--level", level, "--json")
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "| --level %s | %d | %d | %.2f | %.1f | %.1f |\n", level, r.Bytes>>20, r.After>>20, float64(r.After)/float64(r.Bytes), s.wall.Seconds(), s.cpu.Seconds())
	}
	return nil
}

// into captures a disk into the store in a folder, or, without one, into nothing.
func into(ctx context.Context, path, folder, keyFile string) error {
	debug.SetGCPercent(30) // as mimeo-agent has it
	debug.SetMemoryLimit(160 << 20)
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
	if err != nil {
		return err
	}
	src := capture.Source{ReaderAt: d, Disk: d.Info()}
	opts := capture.Options{Codec: capture.Zstd}
	if folder == "" {
		_, err = capture.Run(ctx, src, p, nowhere{}, opts)
		return err
	}
	o := dir.Options{Create: true}
	if keyFile != "" {
		if o.Key, err = keys.Read(keyFile); err != nil {
			return err
		}
	}
	st, err := dir.Open(folder, o)
	if err != nil {
		return err
	}
	res, err := capture.Run(ctx, src, p, st, opts)
	if err == nil {
		_, err = st.Publish(ctx, "bench", res.ID)
	}
	if cerr := st.Close(); err == nil {
		err = cerr
	}
	return err
}

// nowhere is a store that forgets all at once.
type nowhere struct{ store.Reader }

func (nowhere) Missing(_ context.Context, ids []chunk.ID) ([]chunk.ID, error) { return ids, nil }

func (nowhere) Put(_ context.Context, chunks []chunk.Encoded) (res store.PutResult, err error) {
	for _, c := range chunks {
		res.Add(store.PutResult{New: 1, NewRaw: int64(c.RawLen), NewStored: int64(len(c.Data))})
	}
	return res, nil
}

func (nowhere) Flush(context.Context) error { return nil }

func (nowhere) Stage(_ context.Context, m *manifest.Manifest) (manifest.ID, error) {
	b, err := manifest.Encode(m)
	return manifest.Sum(b), err
}
