// Package erase makes what a disk holds unreadable, and checks that it is.
//
// A disk's own erasure (ATA SECURITY ERASE UNIT, NVMe Format and Sanitize, SCSI SANITIZE) is used where the disk says
// that it has it. A command that was accepted proves nothing by itself: what can be read afterwards is compared with
// what could be read before. Nothing is replaced by something weaker without a word.
package erase

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"mimeo/internal/imaging/disk"
)

// Method is how a disk is erased.
type Method string

// The methods.
const (
	Auto    Method = "auto"         // the first of secure-erase, discard and zero that works, and says which
	Secure  Method = "secure-erase" // by the disk's own command: all that it holds, also what no address reaches
	Crypto  Method = "crypto"       // the disk forgets the key with which it encrypts all that it holds
	Discard Method = "discard"      // the disk forgets all blocks, where it says that they read as zeros from then on
	Zero    Method = "zero"         // zeros are written to every block, and read back
)

// Methods are all methods, for help and checks.
var Methods = []Method{Auto, Secure, Crypto, Discard, Zero}

// Valid tells whether there is such a method.
func (m Method) Valid() bool {
	for _, k := range Methods {
		if m == k {
			return true
		}
	}
	return false
}

// Disk is an open disk that can be erased. While it is open, nobody else can use it.
type Disk struct {
	*disk.Disk
	name, bus string
}

// Open opens a block device or image file alone. bus is how it is attached: nvme, sata, scsi, virtio, usb, mmc; of an
// image file it is "".
func Open(path, name, bus string, o disk.Options) (*Disk, error) {
	d, err := disk.OpenExclusive(path, o)
	if err != nil {
		return nil, err
	}
	if !d.IsBlock() {
		bus = ""
	}
	return &Disk{Disk: d, name: name, bus: bus}, nil
}

// way is one way to erase a disk, which it says it has.
type way struct {
	method   Method
	what     string        // the command, for people
	estimate time.Duration // as the disk says; 0 where it does not
	run      func(ctx context.Context, p *pace) error
	whole    bool // it runs block by block, and all is read back as zeros
	zeros    bool // what was erased reads as zeros
}

// Plan says how a disk will be erased. Nothing is written for it.
type Plan struct {
	Asked Method
	Notes []string // why better ways are left out
	ways  []way
}

// String says what will be done first.
func (p Plan) String() string { return p.ways[0].what }

// Plan finds the ways to erase a disk by a method. Where the disk has none the error says why.
func (d *Disk) Plan(m Method) (Plan, error) {
	p := Plan{Asked: m}
	var lacks []string
	try := func(w way, err error) {
		if err != nil {
			lacks = append(lacks, err.Error())
			return
		}
		p.ways = append(p.ways, w)
	}
	switch m {
	case Secure, Crypto:
		try(d.secure(m))
	case Discard:
		try(d.discard())
	case Zero:
		try(d.zero(), nil)
	case Auto:
		try(d.secure(Secure))
		try(d.discard())
		try(d.zero(), nil)
		p.Notes, lacks = lacks, nil
	default:
		return p, fmt.Errorf("method %q is none of auto, secure-erase, crypto, discard, zero", m)
	}
	if len(p.ways) == 0 {
		return p, &CannotError{Disk: d.name, Method: m, Why: strings.Join(lacks, "; ")}
	}
	return p, nil
}

// CannotError says that a disk cannot be erased by a method.
type CannotError struct {
	Disk   string
	Method Method
	Why    string
}

func (e *CannotError) Error() string {
	return fmt.Sprintf("disk %s cannot be erased by %s: %s", e.Disk, e.Method, e.Why)
}

// secure finds the disk's own erasure.
func (d *Disk) secure(m Method) (way, error) {
	switch d.bus {
	case "nvme":
		return d.nvme(m)
	case "sata":
		return d.ata(m)
	case "scsi":
		return d.scsi(m)
	case "":
		return way{}, fmt.Errorf("an image file has no %s", m)
	}
	return way{}, fmt.Errorf("no command for %s is known for disks on %s", m, d.bus)
}

// Result is what became of a disk.
type Result struct {
	Method  Method
	Command string   // what was done, for people
	Notes   []string // what else is to be known of it
	Start   time.Time
	End     time.Time
	Bytes   int64 // of the disk
	Check   Check
}

// Check is how the result was looked at.
type Check struct {
	Text    string // for people
	Read    int64  // bytes that were read back
	Samples int    // places that were looked at; 0 where all was
}

// Progress is how far an erasure is. Doing is what it is at.
type Progress struct {
	Doing       string
	Checking    bool
	Done, Total int64 // bytes
	Elapsed     time.Duration
}

// pace passes progress on; a nil function is good.
type pace struct {
	tell func(Progress)
	p    Progress
	from time.Time
}

func (p *pace) begin(doing string, checking bool, total int64) {
	p.p, p.from = Progress{Doing: doing, Checking: checking, Total: total}, time.Now()
	p.at(0)
}

func (p *pace) at(done int64) {
	p.p.Done, p.p.Elapsed = done, time.Since(p.from)
	if p.tell != nil {
		p.tell(p.p)
	}
}

// Run erases the disk as planned and checks it. Tables should have been called for all disks of a job before. A cancel
// counts between blocks; a command of the disk itself goes on until it is done.
func (d *Disk) Run(ctx context.Context, plan Plan, tell func(Progress)) (Result, error) {
	r := Result{Start: time.Now().UTC(), Notes: append([]string(nil), plan.Notes...), Bytes: d.Size()}
	p := &pace{tell: tell}
	before, err := d.sample(ctx)
	if err != nil {
		return r, fmt.Errorf("disk %s: read what it holds: %w", d.name, err)
	}
	for i, w := range plan.ways {
		r.Method, r.Command = w.method, w.what
		p.begin(w.what, false, d.Size())
		err := d.one(ctx, w, p)
		if err == nil {
			p.begin("reading back", true, d.Size())
			r.Check, err = d.check(ctx, w, before, p)
		}
		if err == nil {
			r.End = time.Now().UTC()
			return r, nil
		}
		err = fmt.Errorf("disk %s: %s: %w", d.name, w.what, err)
		if ctx.Err() != nil || i+1 == len(plan.ways) {
			return r, err
		}
		r.Notes = append(r.Notes, err.Error()+"; going on with "+plan.ways[i+1].what)
	}
	return r, errors.New("the plan is empty")
}

// one runs a way. The kernel's own memory of the disk is dropped after it.
func (d *Disk) one(ctx context.Context, w way, p *pace) error {
	if err := w.run(ctx, p); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return d.forget()
}

// patiently runs a command that the disk does by itself, and tells the time that has passed, as a share of what the
// disk said it would take.
func (d *Disk) patiently(p *pace, estimate time.Duration, command func() error) error {
	done := make(chan error, 1)
	go func() { done <- command() }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for start := time.Now(); ; {
		select {
		case err := <-done:
			return err
		case <-tick.C:
			part := 0.0
			if estimate > 0 {
				part = min(float64(time.Since(start))/float64(estimate), 0.99)
			}
			p.at(int64(part * float64(d.Size())))
		}
	}
}
