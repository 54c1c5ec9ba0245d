package console

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// maxQueue is how much waits for a viewer that reads slowly. What is older is skipped, and the viewer told so; the log
// has it.
const maxQueue = 256 << 10

// Attach says who attaches, and how.
type Attach struct {
	Who   string // token's name
	Addr  string
	Write bool // may type
	Share bool // although somebody else types
	Force bool // take the line from whoever has it in the BMC
}

func (a Attach) String() string {
	if a.Addr == "" {
		return a.Who
	}
	return a.Who + " from " + a.Addr
}

// Viewer is somebody who is attached. Close it at the end.
type Viewer struct {
	Way    string   // how the console is reached
	Past   []byte   // what came last, before it attached
	Others []string // who else is attached

	o        Attach
	c        *console
	since    time.Time
	attached bool
	ready    chan error // while it waits for the line; the console's lock guards it

	mu      sync.Mutex
	queue   []Message
	size    int
	skipped int64
	end     error
	ring    chan struct{}
	once    sync.Once
}

// Message is what a viewer gets: one of these.
type Message struct {
	Data    []byte
	Note    string
	Skipped int64 // bytes that came while the viewer did not read
}

// Attach waits until the node's line is open, or cannot be opened. Of those who may type there is one, unless who comes
// later shares.
func (k *Keeper) Attach(ctx context.Context, n node.Node, o Attach) (*Viewer, error) {
	if _, err := checkBMC(n); err != nil {
		return nil, err
	}
	ready := make(chan error, 1)
	v := &Viewer{o: o, since: time.Now(), ready: ready, ring: make(chan struct{}, 1)}
	if err := k.join(n, v); err != nil {
		return nil, err
	}
	select {
	case err := <-ready:
		if err != nil {
			v.Close()
			return nil, fmt.Errorf("%s: %w", n.Name, err)
		}
	case <-ctx.Done():
		v.Close()
		return nil, ctx.Err()
	}
	v.attached = true
	k.o.Event(n.Name, o.Addr, fmt.Sprintf("serial console: %s attached%s", o.Who, map[bool]string{false: ", to watch"}[o.Write]))
	return v, nil
}

// join puts a viewer to a node's console, which is started where it is not there.
func (k *Keeper) join(n node.Node, v *Viewer) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return &api.Error{Code: "busy", Message: "mimeod is being stopped"}
	}
	c := k.on[n.Name]
	if c == nil {
		c = k.start(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for other := range c.viewers {
		if v.o.Write && other.o.Write && !v.o.Share {
			return &api.Error{Code: "conflict", Message: fmt.Sprintf("%s types at the console of %s, since %s", other.o, n.Name, other.since.Format(time.TimeOnly)),
				Hint: "look on with --watch, or type too with --share"}
		}
		v.Others = append(v.Others, other.o.String())
	}
	slices.Sort(v.Others)
	v.c = c
	how := " attached"
	if !v.o.Write {
		how = " attached, to watch"
	}
	if c.line != nil {
		c.note(v.o.String() + how)
		c.admit(v)
		c.viewers[v] = true
	} else {
		c.viewers[v] = true
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	k.all.Add(1)
	return nil
}

// admit tells a viewer that the line is open. The caller holds the lock.
func (c *console) admit(v *Viewer) {
	v.Way, v.Past = c.way, append([]byte(nil), c.ring[max(0, len(c.ring)-ringSize):]...)
	v.ready <- nil
	v.ready = nil
}

// Close leaves. A line that nobody needs any more is closed.
func (v *Viewer) Close() {
	v.once.Do(func() {
		k, c := v.c.k, v.c
		defer k.all.Done()
		k.mu.Lock()
		c.mu.Lock()
		if v.ready == nil && c.viewers[v] {
			c.note(v.o.String() + " left")
		}
		delete(c.viewers, v)
		v.ready = nil
		c.mu.Unlock()
		k.dropIdle(c)
		k.mu.Unlock()
		if v.attached {
			k.o.Event(c.name, v.o.Addr, fmt.Sprintf("serial console: %s left", v.o.Who))
		}
	})
}

// push adds a message. The slices that it holds stay as they are.
func (v *Viewer) push(m Message) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.end != nil {
		return
	}
	v.queue = append(v.queue, m)
	v.size += len(m.Data) + len(m.Note)
	for v.size > maxQueue && len(v.queue) > 1 {
		old := v.queue[0]
		v.queue = v.queue[1:]
		v.size -= len(old.Data) + len(old.Note)
		v.skipped += int64(len(old.Data))
	}
	v.tell()
}

func (v *Viewer) tell() {
	select {
	case v.ring <- struct{}{}:
	default:
	}
}

// finish ends the viewer: when it has read what is there, it gets the error.
func (v *Viewer) finish(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.end == nil {
		v.end = err
	}
	v.tell()
}

// Next returns what came, in order; small pieces of data are joined. Its error tells why no more will come.
func (v *Viewer) Next(ctx context.Context) (Message, error) {
	for {
		if m, ok, err := v.take(); ok || err != nil {
			return m, err
		}
		select {
		case <-v.ring:
		case <-ctx.Done():
			return Message{}, ctx.Err()
		}
	}
}

func (v *Viewer) take() (m Message, ok bool, err error) {
	const most = 16 << 10
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.skipped > 0 {
		m.Skipped, v.skipped = v.skipped, 0
		return m, true, nil
	}
	if len(v.queue) == 0 {
		return m, false, v.end
	}
	if v.queue[0].Note != "" {
		m = v.queue[0]
		v.queue = v.queue[1:]
		v.size -= len(m.Note)
		return m, true, nil
	}
	for len(v.queue) > 0 && v.queue[0].Note == "" && (len(m.Data) == 0 || len(m.Data)+len(v.queue[0].Data) <= most) {
		m.Data = append(m.Data, v.queue[0].Data...)
		v.size -= len(v.queue[0].Data)
		v.queue = v.queue[1:]
	}
	return m, true, nil
}

// Send types data, or a break where it is nil. While the line is not open nothing is kept for later: the viewer is told
// that it was lost.
func (v *Viewer) Send(ctx context.Context, data []byte) error {
	if !v.o.Write {
		return &api.Error{Code: "forbidden", Message: "this console was attached to watch"}
	}
	v.c.mu.Lock()
	line := v.c.line
	v.c.mu.Unlock()
	err := errors.New("the line is not open")
	if line != nil {
		if data == nil {
			err = line.Break(ctx)
		} else {
			err = line.Send(ctx, data)
		}
	}
	if err != nil && ctx.Err() == nil {
		v.push(Message{Note: "what was typed is lost: " + err.Error()})
	}
	return ctx.Err()
}

func schemeOf(url string) string {
	scheme, _, _ := strings.Cut(url, ":")
	return strings.ToLower(scheme)
}

// Tell shows a note to this viewer alone.
func (v *Viewer) Tell(note string) { v.push(Message{Note: note}) }
