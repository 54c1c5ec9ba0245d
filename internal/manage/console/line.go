package console

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/cluster/transcript"
)

// ringSize is how much of what came last is shown to who attaches.
const ringSize = 32 << 10

// dialTime bounds one try to open a line.
const dialTime = time.Minute

// maxRetry is the longest pause between two of them.
const maxRetry = time.Minute

// console is one node's.
type console struct {
	k    *Keeper
	name node.Name
	made time.Time
	stop context.CancelFunc
	wake chan struct{} // try to open the line now
	done chan struct{}
	last Way // that run went

	mu      sync.Mutex
	node    node.Node
	policy  string
	way     string
	line    Line // nil while it is not open
	cut     context.CancelFunc
	down    bool // that it could not be opened was told
	ring    []byte
	log     *logFile
	broken  bool // the log cannot be written
	viewers map[*Viewer]bool
}

// run keeps the line open until ctx is done.
func (c *console) run(ctx context.Context) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.log != nil {
			c.log.close()
		}
	}()
	c.begin()
	for pause := c.k.o.Retry; ctx.Err() == nil; {
		line, force, err := c.open(ctx)
		if err != nil {
			if again := c.failed(err, force); again {
				continue
			}
			select {
			case <-ctx.Done():
			case <-c.wake:
				pause = c.k.o.Retry
			case <-time.After(pause):
				pause = min(2*pause, maxRetry)
			}
			continue
		}
		up := time.Now()
		err = c.pump(ctx, line)
		line.Close()
		c.lost(ctx, err)
		if time.Since(up) > maxRetry {
			pause = c.k.o.Retry
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-time.After(pause):
			pause = min(2*pause, maxRetry)
		}
	}
}

// begin opens the log, and takes what came last from there.
func (c *console) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ring = append(c.ring, tail(c.k.Dir(c.name), ringSize)...)
}

// open finds the way anew, as the node or its BMC may have changed, and goes it.
func (c *console) open(ctx context.Context) (line Line, force bool, err error) {
	c.mu.Lock()
	n := c.node
	wanted := false
	for v := range c.viewers {
		wanted = wanted || v.ready != nil
		force = force || v.ready != nil && v.o.Force
	}
	c.mu.Unlock()
	if !wanted {
		if err := c.k.dials.Acquire(ctx, 1); err != nil {
			return nil, false, err
		}
		defer c.k.dials.Release(1)
	}
	way, err := c.k.o.Open(ctx, n, c.last)
	if err != nil {
		return nil, force, err
	}
	c.last = way
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	line, err = way.Dial(ctx, force)
	c.mu.Lock()
	c.way = way.String()
	c.mu.Unlock()
	return line, force, err
}

// failed tells who waits for the line that it cannot be opened. It returns true where somebody waits who would take it by
// force, which was not tried.
func (c *console) failed(err error, force bool) (again bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := false
	for v := range c.viewers {
		switch {
		case v.ready == nil:
		case v.o.Force && !force:
			again = true
		default:
			v.ready <- err
			v.ready = nil
			delete(c.viewers, v)
			told = true
		}
	}
	if !again && !told && !c.down && !errors.Is(err, context.Canceled) {
		c.down = true
		c.note("the line cannot be opened: " + err.Error())
		c.k.o.Event(c.name, "", "serial console: "+err.Error())
	}
	return again
}

// pump passes on what the line brings, until it ends.
func (c *console) pump(ctx context.Context, line Line) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	c.mu.Lock()
	c.line, c.cut = line, cut
	if c.down {
		c.k.o.Event(c.name, "", "serial console: the line is open again")
	}
	c.down = false
	c.note("the line is open, by " + c.way)
	for v := range c.viewers {
		if v.ready != nil {
			c.admit(v)
		}
	}
	c.mu.Unlock()
	for {
		data, note, err := line.Receive(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		if len(data) > 0 {
			c.output(data)
		}
		if note != "" {
			c.note(note)
		}
		c.mu.Unlock()
	}
}

// lost tells that the line has ended, unless that was wanted.
func (c *console) lost(ctx context.Context, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.line, c.cut = nil, nil
	switch {
	case ctx.Err() != nil:
		c.note("the line is closed")
	case errors.Is(err, context.Canceled):
		c.note("the line is closed: its BMC was changed")
	default:
		c.note(fmt.Sprintf("the line is lost, and will be opened again: %v", err))
		c.down = true
		c.k.o.Event(c.name, "", "serial console: the line is lost: "+err.Error())
	}
}

// output keeps and shows what the node sent. The caller holds the lock.
func (c *console) output(data []byte) {
	if c.ring = append(c.ring, data...); len(c.ring) > 4*ringSize {
		c.ring = append([]byte(nil), c.ring[len(c.ring)-ringSize:]...)
	}
	c.record(transcript.Record{Kind: transcript.Output, Time: time.Now(), Data: data})
	for v := range c.viewers {
		v.push(Message{Data: data})
	}
}

// note keeps and shows what happened. The caller holds the lock.
func (c *console) note(text string) {
	c.record(transcript.Record{Kind: transcript.Note, Time: time.Now(), Data: []byte(text)})
	for v := range c.viewers {
		v.push(Message{Note: text})
	}
}

// record writes into the log where there shall be one. A log that cannot be written does not end the console.
func (c *console) record(r transcript.Record) {
	logged := c.policy == LogAll || c.policy == LogAttached && len(c.viewers) > 0
	if !logged {
		return
	}
	var err error
	if c.log == nil {
		c.log, err = openLog(c.k.Dir(c.name), c.k.o.Size, c.k.o.Keep, func(err error) { c.k.o.Log.Error("console log", "node", c.name, "err", err) })
	}
	if err == nil {
		err = c.log.add(r)
	}
	if err != nil && !c.broken {
		c.k.o.Log.Error("console log", "node", c.name, "err", err)
		for v := range c.viewers {
			v.push(Message{Note: "what comes is not logged: " + err.Error()})
		}
	}
	c.broken = err != nil
}

// change takes over what the inventory says by now. Another BMC means another line.
func (c *console) change(n node.Node, policy string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.BMC != c.node.BMC && c.cut != nil {
		c.cut()
	}
	c.node, c.policy = n, policy
}

// idle tells whether nobody looks, and nothing is to be logged.
func (c *console) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.viewers) == 0 && (c.policy != LogAll || !hasConsole(c.node))
}

// leaveAll ends all viewers.
func (c *console) leaveAll(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for v := range c.viewers {
		if v.ready != nil {
			v.ready <- why
			v.ready = nil
		}
		v.finish(why)
		delete(c.viewers, v)
	}
}

// checkBMC tells why a node has no console.
func checkBMC(n node.Node) (scheme string, err error) {
	scheme = schemeOf(n.BMC.URL)
	switch scheme {
	case "ipmi", "redfish", "redfish+http":
		return scheme, nil
	case "", "manual":
		return "", &api.Error{Code: "by_hand", Message: fmt.Sprintf("%s has no BMC, which its serial console could be reached through", n.Name), Hint: fmt.Sprintf(`give it one with "mimeo node set %s bmc=ipmi://ADDRESS bmc.user=USER", if it has one`, n.Name)}
	}
	return "", &api.Error{Code: "by_hand", Message: fmt.Sprintf("%s is switched by %s, which leads to no serial console", n.Name, n.BMC.URL), Hint: "consoles are reached by ipmi:// and redfish://"}
}
