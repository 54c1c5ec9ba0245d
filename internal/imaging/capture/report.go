package capture

import (
	"time"

	"mimeo/internal/imaging/manifest"
)

func (r *run) counts() Counts {
	c := Counts{Read: r.read.Load(), Zero: r.zero.Load(), New: r.fresh.Load(), Sent: r.sent.Load(), Stored: r.stored.Load()}
	c.Reused = max(c.Read-c.Zero-c.New, 0)
	return c
}

// report starts the calls of Progress; stop makes the last one and ends them.
func (r *run) report() (stop func()) {
	if r.opts.Progress == nil {
		return func() {}
	}
	total := int64(0)
	for _, e := range r.plan.Used {
		total += e.Len
	}
	tell := func() {
		c := r.counts()
		r.opts.Progress(Progress{Phase: r.phase.Load().(string), Done: c.Read, Total: total, Counts: c})
	}
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				tell()
			case <-quit:
				tell()
				return
			}
		}
	}()
	return func() { close(quit); <-done }
}

// manifest returns the contents page of what was captured.
func (r *run) manifest() *manifest.Manifest {
	return &manifest.Manifest{
		Version:  manifest.Version,
		Hash:     "blake3",
		Created:  r.opts.Now().UTC().Truncate(time.Microsecond),
		Source:   r.opts.Source,
		Disk:     r.src.Disk,
		Table:    r.plan.Table,
		Volumes:  r.plan.Volumes,
		Content:  r.content,
		Warnings: r.plan.Warnings,
	}
}
