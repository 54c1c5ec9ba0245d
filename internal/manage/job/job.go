// Package job carries work on nodes from queued to done.
//
// A job is a record in the inventory that changes by facts alone: a node fetched its script, an agent said hello, a
// time limit passed. Each change is written before it is acted on, so an Engine that starts again on the same
// inventory goes on where the last one stood. Whatever ends a job sets the node's boot state to disk in the same
// transaction: there is no reinstall loop.
package job

import (
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
)

// Record is a job as the inventory keeps it: what everybody may see, and what the engine needs to go on.
type Record struct {
	api.Job
	Request api.JobNew `json:"request"`
	Held    bool       `json:"held,omitempty"` // queued: waits for its turn; the node's boot state is as it was

	PhaseSince time.Time   `json:"phase_since"`        // when the phase began
	Heard      time.Time   `json:"heard"`              // last sign of life of the node
	BootID     string      `json:"boot_id,omitempty"`  // of the kernel that the agent runs on
	Nudged     bool        `json:"nudged,omitempty"`   // rebooting: power-cycled once, as the node did not come back
	Scripted   bool        `json:"scripted,omitempty"` // netbooting: the node has fetched its script
	Tasked     bool        `json:"tasked,omitempty"`   // an agent has the task
	DoneMsg    *api.Done   `json:"done_msg,omitempty"` // the agent's last word, until all that follows from it is done
	Manifest   manifest.ID `json:"manifest,omitzero"`  // deploy: from the start; capture: once staged
	PowerTries int         `json:"power_tries,omitempty"`
	TrySince   time.Time   `json:"try_since,omitzero"` // netbooting: when this netboot began
	Strayed    time.Time   `json:"strayed,omitzero"`   // netbooting: when an operating system asked for an address instead
	Moved      time.Time   `json:"moved,omitzero"`     // when an agent last told of something new
	Restarts   int         `json:"restarts,omitempty"` // of the agent, since the node's last boot
}

// Limits say how long the engine waits. Zero values mean the defaults.
type Limits struct {
	Netboot      time.Duration // from power-on, or the last step of the boot, to the next; 0 means 5 min (slow server firmware)
	AgentSilence time.Duration // without a word from the agent; 0 means 60 s (it speaks every 10 s)
	Reboot       time.Duration // from "reboot" until the node asks for its disk; 0 means 10 min; then it is cycled once, and waited for again
	Power        time.Duration // for one power command; 0 means 2 min
	Stall        time.Duration // without a byte of progress, from an agent that speaks; 0 means 30 min; postscripts have limits of their own
	SoftOff      time.Duration // for a running system to shut down before its disk is captured; 0 means 60 s; negative means it is not asked
}

func (l Limits) withDefaults() Limits {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&l.Netboot, 5*time.Minute)
	set(&l.AgentSilence, time.Minute)
	set(&l.Reboot, 10*time.Minute)
	set(&l.Power, 2*time.Minute)
	set(&l.Stall, 30*time.Minute)
	set(&l.SoftOff, time.Minute)
	return l
}

// defaultTries is how often a node netboots for one job before it fails.
const defaultTries = 3

// powerTries is how often a power command that failed is tried before its job fails, with powerPause in between.
const (
	powerTries = 3
	powerPause = 5 * time.Second
)

// slowBoots is how many times Limits.Netboot one netboot may take in all. Its steps are signs of life, but a firmware
// that asks for an address for ever and never gets further gives them, too.
const slowBoots = 6

// strayLimit is how long after an operating system asked for an address the boot script may still be asked for: some
// firmwares and loaders ask as an operating system does.
const strayLimit = time.Minute

// sameAsk is how soon a script that is fetched again belongs to the same netboot: loaders repeat what was lost.
const sameAsk = 3 * time.Second

// maxRestarts is how often an agent may start anew in one boot before it is taken to fail each time.
const maxRestarts = 20

// maxOutputs, maxText, maxLines and maxCounts bound what an agent adds to its job.
const (
	maxOutputs = 200
	maxText    = 64 << 10 // bytes of a postscript's output; as the agent keeps it
	maxLines   = 200      // of one message
	maxLine    = 4 << 10  // bytes
	maxCounts  = 50
)

// agentPhases are those in which an agent works on the node, and its silence means trouble.
var agentPhases = map[api.Phase]bool{
	api.PhaseAgent: true, api.PhasePre: true, api.PhaseMapping: true, api.PhaseCapturing: true, api.PhaseWriting: true,
	api.PhaseFinishing: true, api.PhaseRootPost: true, api.PhasePost: true,
}

// scriptPhases are agentPhases in which postscripts run, which say nothing for a long time and have limits of their own.
var scriptPhases = map[api.Phase]bool{api.PhasePre: true, api.PhaseRootPost: true, api.PhasePost: true}

// serverPhases follow from the agent's last word; the engine goes through them by itself.
var serverPhases = map[api.Phase]bool{api.PhaseVerifying: true, api.PhasePublishing: true, api.PhaseFlipping: true}

// setPhase changes the phase and counts how long the last one took.
func (r *Record) setPhase(p api.Phase, now time.Time) {
	if r.Phase == p {
		return
	}
	if r.PhaseMS == nil {
		r.PhaseMS = map[api.Phase]int64{}
	}
	if !r.PhaseSince.IsZero() {
		r.PhaseMS[r.Phase] += now.Sub(r.PhaseSince).Milliseconds()
	}
	r.Phase, r.PhaseSince = p, now
	r.Done, r.Total, r.Rate, r.ETAMS = 0, 0, 0, 0
	r.Waiting, r.Scripted, r.Strayed = "", false, time.Time{}
}

// newTry counts a netboot.
func (r *Record) newTry(now time.Time) {
	r.Try++
	r.Heard, r.TrySince = now, now
}

// end closes the record.
func (r *Record) end(p api.Phase, now time.Time) {
	r.setPhase(p, now)
	r.Active, r.Held = false, false
	r.Ended = &now
	r.DoneMsg = nil
}

// bootState is what the node boots while the job is on.
func bootState(k api.TaskKind) node.BootState {
	switch k {
	case api.TaskDeploy:
		return node.BootDeploy
	case api.TaskWipe:
		return node.BootWipe
	}
	return node.BootCapture
}

// writes tells whether a job of this kind changes the node's disk, and so has a point of no return.
func writes(k api.TaskKind) bool { return k == api.TaskDeploy || k == api.TaskWipe }
