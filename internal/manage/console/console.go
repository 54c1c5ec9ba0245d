// Package console keeps the serial consoles of nodes: one line to each, whoever looks at it, and a log of what it showed.
package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Line is an open serial console of a node.
type Line interface {
	// Receive returns the next bytes of the node, or a note of what happened on the line. Its error says why the line
	// has ended.
	Receive(ctx context.Context) (data []byte, note string, err error)
	// Send returns when all of data was taken. Calls may come from several goroutines, beside Receive.
	Send(ctx context.Context, data []byte) error
	Break(ctx context.Context) error
	Close() error
}

// Way leads to one node's serial console.
type Way interface {
	// Dial opens the line. Where somebody else has it, it fails unless force is set: then it takes it. Calls do not
	// overlap.
	Dial(ctx context.Context, force bool) (Line, error)
	String() string // as "IPMI Serial over LAN"
}

// Policies say when a console is logged. A node's own is its label node.LabelConsoleLog.
const (
	LogAll      = "all"      // always: the line is kept open
	LogAttached = "attached" // while somebody is attached
	LogNone     = "none"
)

// Options of a Keeper. All but Retry, Poll and Log must be set.
type Options struct {
	Dir    string // has a folder for each node
	Policy string // of nodes that say nothing else
	Size   int64  // of a log file in bytes, after which a new one is begun
	Keep   int    // old log files of a node

	Nodes func(context.Context) ([]node.Node, error)
	// Open finds the way to a node's console, and does not go it yet. It gives back the one of the last time where nothing
	// has changed: that may remember something.
	Open  func(ctx context.Context, n node.Node, last Way) (Way, error)
	Event func(n node.Name, addr, text string)
	Log   *slog.Logger

	Retry time.Duration // before a lost line is opened again, at first; 0 means 1 s. It doubles, up to a minute
	Poll  time.Duration // between two looks at the nodes; 0 means 10 s
}

// Keeper keeps consoles. Make one with New, and let Run run.
type Keeper struct {
	o     Options
	dials *semaphore.Weighted // of lines that nobody waits for
	all   sync.WaitGroup      // consoles and viewers

	mu      sync.Mutex
	on      map[node.Name]*console
	leaving map[node.Name]*console // the newest of a node that is closing its line
	ended   bool
}

// dials is how many lines are opened at once where nobody waits for one: at a start with hundreds of nodes.
const dials = 32

// New makes a keeper.
func New(o Options) *Keeper {
	if o.Retry == 0 {
		o.Retry = time.Second
	}
	if o.Poll == 0 {
		o.Poll = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{o: o, dials: semaphore.NewWeighted(dials), on: map[node.Name]*console{}, leaving: map[node.Name]*console{}}
}

// Run keeps the lines of nodes that are always logged, until ctx is done. It returns when all lines are closed and all
// viewers have left.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.o.Poll)
	defer tick.Stop()
	for {
		if err := k.look(ctx); err != nil && ctx.Err() == nil {
			k.o.Log.Error("look for consoles to be logged", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			k.end()
			return nil
		}
	}
}

func (k *Keeper) end() {
	k.mu.Lock()
	k.ended = true
	for _, c := range k.on {
		c.leaveAll(&api.Error{Code: "unreachable", Message: "mimeod is being stopped", Hint: "attach again when it runs"})
		k.drop(c)
	}
	k.mu.Unlock()
	k.all.Wait()
}

func (k *Keeper) policy(n node.Node) string {
	if p := n.Labels[node.LabelConsoleLog]; p != "" {
		return p
	}
	return k.o.Policy
}

// look starts and ends what the inventory asks for by now.
func (k *Keeper) look(ctx context.Context) error {
	asked := time.Now()
	nodes, err := k.o.Nodes(ctx)
	if err != nil {
		return err
	}
	there := map[node.Name]node.Node{}
	for _, n := range nodes {
		there[n.Name] = n
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, c := range maps.Clone(k.on) {
		n, ok := there[name]
		if !ok && c.made.After(asked) {
			continue // the node may be newer than what was read
		}
		if !ok {
			c.leaveAll(&api.Error{Code: "not_found", Message: fmt.Sprintf("%s was removed", name)})
			k.drop(c)
			continue
		}
		c.change(n, k.policy(n))
		k.dropIdle(c)
	}
	for _, n := range there {
		if k.policy(n) == LogAll && k.on[n.Name] == nil && hasConsole(n) {
			k.start(n)
		}
	}
	return nil
}

// hasConsole tells whether a node may have a console at all.
func hasConsole(n node.Node) bool {
	_, err := checkBMC(n)
	return err == nil
}

// start makes a node's console. The caller holds the lock.
func (k *Keeper) start(n node.Node) *console {
	ctx, stop := context.WithCancel(context.Background())
	c := &console{k: k, name: n.Name, made: time.Now(), node: n, policy: k.policy(n), stop: stop, wake: make(chan struct{}, 1), viewers: map[*Viewer]bool{}, done: make(chan struct{})}
	before := k.leaving[n.Name]
	k.on[n.Name] = c
	k.all.Go(func() {
		defer close(c.done)
		if before != nil {
			<-before.done // a BMC has one line, and a log one writer
		}
		c.run(ctx)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.leaving[n.Name] == c {
			delete(k.leaving, n.Name)
		}
	})
	return c
}

// drop ends a console. The caller holds the lock.
func (k *Keeper) drop(c *console) {
	if k.on[c.name] == c {
		delete(k.on, c.name)
		k.leaving[c.name] = c
	}
	c.stop()
}

// dropIdle ends a console that nobody looks at and that is not to be logged. The caller holds the lock.
func (k *Keeper) dropIdle(c *console) {
	if c.idle() {
		k.drop(c)
	}
}

// Dir is the folder of a node's log.
func (k *Keeper) Dir(n node.Name) string { return filepath.Join(k.o.Dir, string(n)) }

var errStopped = errors.New("the console was stopped")
