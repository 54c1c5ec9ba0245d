package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/imaging/store"
	"mimeo/internal/imaging/store/mem"
	"mimeo/internal/imaging/store/storetest"
	"mimeo/internal/manage/inventory"
	"mimeo/internal/manage/power"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// rig is an engine on a real inventory, with a clock that stands still until it is moved and a BMC that does as told.
type rig struct {
	t     *testing.T
	dir   string
	db    *inventory.DB
	store *publisher
	e     *Engine
	bmc   *bmc

	mu    sync.Mutex
	clock time.Time
	boots int // of the kernel
	salt  uint64
}

const n1 = node.Name("n1")

func newRig(t *testing.T) *rig {
	r := &rig{t: t, dir: t.TempDir(), store: &publisher{Store: mem.New()}, bmc: &bmc{}, clock: time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)}
	r.open()
	t.Cleanup(func() { r.db.Close() })
	err := r.db.Update(t.Context(), func(tx *inventory.Tx) error {
		for i, name := range []node.Name{n1, "n2"} {
			if err := tx.PutNode(node.Node{Name: name, Boot: node.BootDisk, BMC: node.BMC{URL: "test:"}, NICs: []node.NIC{{MAC: fmt.Sprintf("52:54:00:00:00:%02x", i)}}}); err != nil {
				return err
			}
		}
		return nil
	})
	r.check(err)
	return r
}

func (r *rig) open() {
	r.t.Helper()
	var err error
	r.db, err = inventory.Open(r.t.Context(), r.dir)
	r.check(err)
	r.e, err = New(r.t.Context(), Options{DB: r.db, Store: r.store, Now: r.now,
		Power: func(ctx context.Context, n node.Node, f func(power.Controller) error) error {
			if n.BMC.HasPassword {
				return errors.New("a node's password is not for the engine")
			}
			return f(r.bmc)
		},
		Limits: Limits{SoftOff: -1, Power: 5 * time.Second}})
	r.check(err)
	r.e.powerPause = time.Millisecond
}

// restart is a daemon that dies and starts again: nothing but the inventory and the store is left.
func (r *rig) restart() {
	r.t.Helper()
	r.e.work.Wait()
	r.check(r.db.Close())
	r.open()
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clock
}

func (r *rig) wait(d time.Duration) {
	r.mu.Lock()
	r.clock = r.clock.Add(d)
	r.mu.Unlock()
}

func (r *rig) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// pump lets the engine do all that it does by itself just now.
func (r *rig) pump() {
	for range 8 {
		r.e.step(r.t.Context())
		r.e.work.Wait()
	}
}

func (r *rig) capture(key string) string {
	return r.start(api.JobNew{Key: key, Kind: api.TaskCapture, Image: "web"})
}

func (r *rig) deploy(key string) string {
	return r.start(api.JobNew{Key: key, Kind: api.TaskDeploy, Image: "web"})
}

func (r *rig) start(req api.JobNew) string {
	r.t.Helper()
	jobs, err := r.e.New(r.t.Context(), Work{Request: req, Nodes: []node.Name{n1}, Rev: 7, Manifest: manifest.Sum([]byte("x"))})
	r.check(err)
	return jobs[0].ID
}

func (r *rig) job(id string) Record {
	r.t.Helper()
	j, err := r.e.Get(r.t.Context(), id)
	r.check(err)
	return j
}

func (r *rig) boot() node.BootState {
	r.t.Helper()
	n, err := r.db.Node(r.t.Context(), n1)
	r.check(err)
	return n.Boot
}

// want checks phase and boot state.
func (r *rig) want(id string, p api.Phase, b node.BootState) {
	r.t.Helper()
	if j := r.job(id); j.Phase != p || r.boot() != b {
		r.t.Fatalf("job is %s (error %v), boot state %s; want %s, %s", j.Phase, j.Error, r.boot(), p, b)
	}
	if j := r.job(id); j.Active == (j.Ended != nil) {
		r.t.Fatalf("job is active %v, ended %v", j.Active, j.Ended)
	}
}

// script is the node asking for its boot script, as the server has it; it tells whether it got the stateless image.
func (r *rig) script(id string) bool {
	r.t.Helper()
	if r.boot() == node.BootDisk {
		r.check(r.e.ToldDisk(r.t.Context(), n1))
		return false
	}
	ok, err := r.e.Netbooted(r.t.Context(), id)
	r.check(err)
	if !ok && r.boot() == node.BootDisk {
		r.check(r.e.ToldDisk(r.t.Context(), n1))
	}
	return ok
}

func (r *rig) bootID() string { return fmt.Sprint("boot-", r.boots) }

// hello is an agent that comes up after a new boot.
func (r *rig) hello(id string) bool {
	r.t.Helper()
	r.boots++
	return r.helloAgain(id)
}

func (r *rig) helloAgain(id string) bool {
	r.t.Helper()
	_, ok, err := r.e.Hello(r.t.Context(), id, api.Hello{Agent: "test", BootID: r.bootID()})
	r.check(err)
	return ok
}

func (r *rig) progress(id string, p api.Phase, done int64) bool {
	r.t.Helper()
	reply, err := r.e.Progress(r.t.Context(), id, api.Progress{Job: id, BootID: r.bootID(), Phase: p, Done: done, Total: 1000})
	r.check(err)
	return !reply.Cancel
}

// netboot takes a job to an agent that has its task.
func (r *rig) netboot(id string) {
	r.t.Helper()
	r.pump()
	r.wait(10 * time.Second)
	if !r.script(id) {
		r.t.Fatalf("no script: %+v", r.job(id).Job)
	}
	r.wait(20 * time.Second)
	if !r.hello(id) {
		r.t.Fatalf("no task: %+v", r.job(id).Job)
	}
}

// stage puts an image into the store and returns its manifest's ID.
func (r *rig) stage() string {
	r.t.Helper()
	r.salt += 1000
	m, err := storetest.Image(r.t.Context(), r.store, 8, func(i int) uint64 { return r.salt + uint64(i) })
	r.check(err)
	id, err := r.store.Stage(r.t.Context(), m)
	r.check(err)
	return id.String()
}

func (r *rig) done(id, manifest string) api.DoneReply {
	r.t.Helper()
	reply, err := r.e.Done(r.t.Context(), id, api.Done{Job: id, BootID: r.bootID(), OK: true, Manifest: manifest, Touched: manifest == "", Counts: map[string]int64{"new": 5, "stored": 4}})
	r.check(err)
	return reply
}

func (r *rig) revisions() int {
	r.t.Helper()
	revs, err := r.store.Revisions(r.t.Context(), "web")
	r.check(err)
	return len(revs)
}

// events are the texts of a job's events.
func (r *rig) events(id string) []string {
	r.t.Helper()
	evs, err := r.db.Events(r.t.Context(), "", id, 1000)
	r.check(err)
	var out []string
	for _, e := range evs {
		out = append(out, e.Kind+": "+e.Text)
	}
	return out
}

// publisher is a store that can fail, forget and be told what to do while it publishes.
type publisher struct {
	*mem.Store
	fail    error
	missing bool
	hook    func()
}

func (p *publisher) Publish(ctx context.Context, image string, id manifest.ID) (store.Revision, error) {
	if p.fail != nil {
		return store.Revision{}, p.fail
	}
	rev, err := p.Store.Publish(ctx, image, id)
	if p.hook != nil {
		p.hook()
	}
	return rev, err
}

func (p *publisher) Missing(ctx context.Context, ids []manifest.ID) ([]manifest.ID, error) {
	if p.missing {
		return ids[:1], nil
	}
	return p.Store.Missing(ctx, ids)
}

// bmc is a power.Controller that fails as often as told and writes down what it was asked.
type bmc struct {
	power.ByHand
	mu    sync.Mutex
	fails int   // how many cycles fail
	err   error // all cycles fail with it
	state power.State
	calls []string
	hook  func() // in the middle of a cycle
}

func (b *bmc) note(s string) {
	b.mu.Lock()
	b.calls = append(b.calls, s)
	b.mu.Unlock()
}

func (b *bmc) count(s string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.calls {
		if c == s {
			n++
		}
	}
	return n
}

func (b *bmc) has(calls ...string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Equal(b.calls, calls)
}

func (b *bmc) Status(context.Context) (power.State, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.state, nil
}
func (b *bmc) On(context.Context) error  { b.note("on"); return nil }
func (b *bmc) Off(context.Context) error { b.note("off"); return nil }
func (b *bmc) SoftOff(context.Context) error {
	b.note("soft")
	return nil
}
func (b *bmc) Reset(context.Context) error { b.note("reset"); return nil }
func (b *bmc) Close() error                { return nil }
func (b *bmc) SetNextBoot(_ context.Context, n power.NextBoot) error {
	b.note("next " + string(n.Device))
	return nil
}
func (b *bmc) Cycle(context.Context) error {
	b.note("cycle")
	if b.hook != nil {
		b.hook()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if b.fails > 0 {
		b.fails--
		return errors.New("BMC is asleep")
	}
	return nil
}
