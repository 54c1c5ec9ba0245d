package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/open"
)

// keepSessions is how long a session with a BMC stays open for the next command. BMCs end idle ones after a minute.
const keepSessions = 20 * time.Second

// newPower makes the pool of ways to the nodes' power.
func newPower(cfg config.Config) *power.Pool {
	// Two of the same: one lets in, the other is held at the moment of each power-on, which may come much later.
	o := open.Options{Pace: power.NewPace(cfg.Power.Stagger), Programs: map[string]open.Program{}}
	for name, x := range cfg.Power.Exec {
		o.Programs[name] = open.Program{Run: x.Run, Timeout: time.Duration(x.Timeout)}
	}
	for _, f := range cfg.Interfaces {
		o.Interfaces = append(o.Interfaces, f.Name)
	}
	return power.NewPool(power.Options{Parallel: cfg.Power.Parallel, Pace: power.NewPace(cfg.Power.Stagger), Keep: keepSessions}, open.With(o))
}

// withPower opens the way to a node's power for the length of f, when it is its turn.
func (s *Server) withPower(ctx context.Context, n node.Node, f func(power.Controller) error) error {
	password, err := s.db.BMCPassword(ctx, n.Name)
	if err != nil {
		return err
	}
	if err := s.power.Do(ctx, n, password, f); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}

// powerAsk is what is asked of each of some nodes.
type powerAsk struct {
	action  string
	network bool           // set the next boot to the network before
	show    bool           // next-boot: only tell
	next    power.NextBoot // next-boot
	mode    string         // legacy, uefi, or what the node's firmware is
	clear   bool           // log
}

// powerActions are all of them.
var powerActions = []string{"on", "off", "soft", "cycle", "reset", "status", "identify-on", "identify-off", "next-boot", "sensors", "log"}

// bootDevices are the words for them in the API.
var bootDevices = map[string]power.Device{"network": power.DevicePXE, "disk": power.DeviceDisk, "setup": power.DeviceSetup, "none": power.DeviceNone}

// readPowerAsk checks a request.
func readPowerAsk(req api.PowerDo) (powerAsk, error) {
	bad := func(format string, args ...any) (powerAsk, error) {
		return powerAsk{}, &api.Error{Code: "bad_request", Message: fmt.Sprintf(format, args...)}
	}
	if device, ok := map[string]string{"pxe": "network", "disk": "disk"}[req.Action]; ok && req.Device == "" {
		req.Action, req.Device = "next-boot", device
	}
	a := powerAsk{action: req.Action, mode: req.Mode, clear: req.Clear}
	if !slices.Contains(powerActions, req.Action) {
		return bad("power action %q is none of %s", req.Action, strings.Join(powerActions, ", "))
	}
	if req.Action != "next-boot" && (req.Device != "" || req.Persistent || req.Mode != "") {
		return bad("device, persistent and mode are for next-boot, not for %s", req.Action)
	}
	if req.Clear && req.Action != "log" {
		return bad("clear is for log, not for %s", req.Action)
	}
	if req.Action != "next-boot" {
		return a, nil
	}
	if req.Mode != "" && req.Mode != "legacy" && req.Mode != "uefi" {
		return bad("mode %q is none of legacy, uefi", req.Mode)
	}
	path, uefi := strings.CutPrefix(req.Device, "uefi:")
	device, ok := bootDevices[req.Device]
	switch {
	case req.Device == "":
		a.show = true
		if req.Persistent || req.Mode != "" {
			return bad("persistent and mode want a device")
		}
	case uefi && path != "" && len(path) <= 500 && !strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }):
		if req.Mode == "legacy" {
			return bad("a UEFI device path is not for legacy boots")
		}
		a.mode = "uefi"
		a.next = power.NextBoot{Device: power.DeviceUEFI, Path: path}
	case ok:
		a.next.Device = device
	default:
		return bad("boot device %q is none of network, disk, setup, none, uefi:DEVICE-PATH", req.Device)
	}
	a.next.Persistent = req.Persistent
	return a, nil
}

// looks tells whether nothing is changed by it.
func (a powerAsk) looks() bool {
	return a.action == "status" || a.action == "sensors" || a.action == "next-boot" && a.show || a.action == "log" && !a.clear
}

// onlyLooks tells whether a power request, as it was sent, changes nothing: viewers may make it.
func onlyLooks(body []byte) bool {
	req, err := decode[api.PowerDo](bytes.NewReader(body))
	if err != nil {
		return false
	}
	ask, err := readPowerAsk(req)
	return err == nil && ask.looks()
}

func (s *Server) switchPower(w http.ResponseWriter, r *http.Request) {
	req, err := read[api.PowerDo](r)
	var ask powerAsk
	if err == nil {
		ask, err = readPowerAsk(req)
	}
	var nodes []node.Node
	if err == nil {
		nodes, err = s.expand(r.Context(), req.Range, false)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	if r.URL.Query().Get("stream") == "" {
		writeJSON(w, s.powerAll(r.Context(), nodes, ask, nil))
		return
	}
	send := sse(w)
	results := make(chan api.PowerProgress, len(nodes))
	go func() {
		defer close(results)
		s.powerAll(r.Context(), nodes, ask, func(i int, res api.PowerResult) { results <- api.PowerProgress{Index: i, Result: &res} })
	}()
	p := api.PowerProgress{Total: len(nodes)}
	beat := time.NewTicker(keepAlive)
	defer beat.Stop()
	_ = send(p)
	for {
		select {
		case <-beat.C:
			p.Result, p.Index = nil, 0
		case one, more := <-results:
			if !more {
				p.Result, p.Index, p.Finished = nil, 0, true
				_ = send(p)
				return
			}
			p.Done++
			p.Result, p.Index = one.Result, one.Index
		}
		_ = send(p) // where that fails nobody listens any more
	}
}

// powerAll does a power command on nodes, as many at once as the pool lets through. done, where it is given, gets each
// result at once, from several goroutines.
func (s *Server) powerAll(ctx context.Context, nodes []node.Node, ask powerAsk, done func(int, api.PowerResult)) []api.PowerResult {
	out := make([]api.PowerResult, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			out[i] = s.powerOne(ctx, n, ask)
			if done != nil {
				done(i, out[i])
			}
		})
	}
	wg.Wait()
	return out
}

// powerOne does it on one node, and writes down what it changed.
func (s *Server) powerOne(ctx context.Context, n node.Node, ask powerAsk) api.PowerResult {
	res := api.PowerResult{Node: n.Name}
	do := func(ask powerAsk) error {
		turn := ctx
		if ask.action == "on" || ask.action == "cycle" {
			turn = power.Starting(ctx)
		}
		return s.withPower(turn, n, func(c power.Controller) error {
			ctx, cancel := context.WithTimeout(ctx, s.powerLimit())
			defer cancel()
			return s.doPower(ctx, c, n, ask, &res)
		})
	}
	var err error
	if ask.action == "on" { // what is on need not queue with what is to be switched on
		err = do(powerAsk{action: "status"})
	}
	if err == nil && (ask.action != "on" || res.State != string(power.StateOn)) {
		res.State = ""
		err = do(ask)
	}
	if errors.Is(err, power.ErrSent) {
		res.Sent, res.State, res.Note, err = true, string(power.StateUnknown), err.Error(), nil
	}
	if err != nil {
		res.Error = asError(err)
	}
	if !ask.looks() {
		e := api.Event{Node: n.Name, Kind: "power", Text: ask.action + ": " + orDefault(strings.TrimSpace(res.State+" "+res.Note), "done")}
		if res.Error != nil {
			e.Text = ask.action + ": " + res.Error.Message
		}
		if res.Error != nil && res.Error.Code != "by_hand" {
			s.eventTold(context.WithoutCancel(ctx), e, "node.power-failed")
			return res
		}
		s.event(context.WithoutCancel(ctx), e)
	}
	return res
}

// powerLimit is how long a power command may take, once it is its turn.
func (s *Server) powerLimit() time.Duration {
	if d := time.Duration(s.cfg.Limits.Power); d > 0 {
		return d
	}
	return 2 * time.Minute
}

func (s *Server) doPower(ctx context.Context, c power.Controller, n node.Node, ask powerAsk, res *api.PowerResult) (err error) {
	if ask.network {
		// Many nodes boot the network first anyhow, and some BMCs cannot choose.
		if err := c.SetNextBoot(ctx, nextBoot(power.NextBoot{Device: power.DevicePXE}, n, "")); err != nil && !errors.Is(err, power.ErrByHand) {
			s.event(context.WithoutCancel(ctx), api.Event{Node: n.Name, Kind: "power", Text: "next boot could not be set: " + err.Error()})
		}
	}
	switch ask.action {
	case "on":
		err = c.On(ctx)
	case "off":
		err = c.Off(ctx)
	case "soft":
		err = s.softOff(ctx, c)
	case "cycle":
		err = c.Cycle(ctx)
	case "reset":
		err = c.Reset(ctx)
	case "identify-on", "identify-off":
		return c.Identify(ctx, ask.action == "identify-on")
	case "next-boot":
		res.Note, err = choose(ctx, c, nextBoot(ask.next, n, ask.mode), ask.show)
		return err
	case "sensors":
		res.Sensors, err = c.Sensors(ctx)
		return err
	case "log":
		if res.Log, err = c.Log(ctx); err == nil && ask.clear {
			err = c.ClearLog(ctx)
			res.Cleared = err == nil
		}
		return err
	}
	if err != nil {
		return err
	}
	st, err := c.Status(ctx)
	res.State = string(st)
	return err
}

// softLimit is how long an operating system has to shut down.
const softLimit = 90 * time.Second

// softOff asks the operating system to shut down, and waits until the node is off.
func (s *Server) softOff(ctx context.Context, c power.Controller) error {
	if err := c.SoftOff(ctx); err != nil {
		return err
	}
	asked := time.Now()
	wait, cancel := context.WithTimeout(ctx, softLimit)
	defer cancel()
	for pause := 500 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
		st, err := c.Status(ctx)
		switch {
		case err != nil:
			return err
		case st == power.StateOff:
			return nil
		case st == power.StateUnknown:
			return &power.Error{Kind: power.ErrSent, Text: "it was asked to shut down; nobody tells whether it did"}
		}
		select {
		case <-wait.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return &power.Error{Kind: power.ErrState, Text: fmt.Sprintf("its operating system was asked to shut down, and it is still on after %s", time.Since(asked).Round(time.Second)), Hint: `it may take longer, or not listen to the power button; "mimeo power NODE off" cuts the power`}
		case <-time.After(pause):
		}
	}
}

// nextBoot fills in how a node boots.
func nextBoot(b power.NextBoot, n node.Node, mode string) power.NextBoot {
	switch {
	case mode == "legacy":
		b.Legacy = true
	case mode == "uefi", n.Firmware == node.UEFI, n.Firmware == node.UEFIHTTP:
		b.UEFI = true
		b.HTTP = n.Firmware == node.UEFIHTTP
	}
	return b
}

// choose sets the next boot, unless it is only asked for, and says in words what the BMC gives back.
func choose(ctx context.Context, c power.Controller, want power.NextBoot, show bool) (note string, err error) {
	if !show {
		if err := c.SetNextBoot(ctx, want); err != nil {
			return "", err
		}
	}
	got, err := c.NextBoot(ctx)
	switch {
	case err != nil && show:
		return "", err
	case err != nil:
		return bootWords(want) + "; it cannot be read back", nil
	case show:
		return bootWords(got), nil
	}
	note = bootWords(want)
	var not []string
	if want.Device != power.DeviceNone {
		if want.UEFI && !got.UEFI {
			not = append(not, "that it is by UEFI")
		}
		if want.Persistent && !got.Persistent {
			not = append(not, "that it is for every boot")
		}
	}
	if len(not) > 0 {
		note += "; the BMC does not give back " + strings.Join(not, " and ") + ": see what the node does"
	}
	return note, nil
}

// bootWords are the API's words for a next boot.
func bootWords(b power.NextBoot) string {
	word := "none"
	for w, d := range bootDevices {
		if d == b.Device {
			word = w
		}
	}
	if b.Device == power.DeviceUEFI {
		word = "uefi:" + b.Path
	}
	if b.Device == power.DeviceNone {
		return "none, by its own boot order"
	}
	if b.Persistent {
		word += ", for every boot"
	} else {
		word += ", once"
	}
	switch {
	case b.UEFI:
		word += ", UEFI"
	case b.Legacy:
		word += ", legacy"
	}
	return word
}
