package api

import (
	"time"

	"mimeo/internal/cluster/node"
)

// Paths for work on nodes, now and at other times.
//
//	POST   /v1/jobs             JobNew        → []Job (one a node)
//	POST   /v1/jobs/preflight   JobNew        → Preflight; nothing is made
//	POST   /v1/jobs/retry       JobRetry      → []Job (new ones)
//	GET    /v1/jobs?range=RANGE&batch=ID&active=1&failed=1  → []Job, newest first, without Outputs
//	GET    /v1/jobs/{id}                      → Job
//	GET    /v1/jobs/{id}/events               → []Event, oldest first
//	GET    /v1/jobs/{id}/watch                → text/event-stream of Watch, until the job ends
//	POST   /v1/jobs/{id}/cancel               → Job
//	POST   /v1/jobs/{id}/retry                → Job (a new one)
//	GET    /v1/watch?batch=ID&job=ID...       → text/event-stream of WatchJobs, until all of them have ended
//	GET    /v1/batches/{id}                   → Batch
//	POST   /v1/batches/{id}/cancel            → []Job, all of the batch
//	GET    /v1/schedules                      → []Schedule
//	POST   /v1/schedules        ScheduleNew   → Schedule
//	GET    /v1/schedules/{id}                 → Schedule
//	DELETE /v1/schedules/{id}                 → Affected
//	POST   /v1/schedules/{id}/run   ScheduleRun    → []Job: now, beside its times
//	POST   /v1/schedules/{id}/pause SchedulePause  → Schedule

// JobNew asks for work on nodes. With several nodes, or any of Max, WithinMS and FailFast, the jobs are a batch.
type JobNew struct {
	Key      string   `json:"key"`  // made by the client; the same key twice gives the same jobs
	Kind     TaskKind `json:"kind"` // capture, deploy, wipe
	Range    string   `json:"range"`
	Image    string   `json:"image"`                // NAME; for deploy NAME or NAME@REV (the newest where left out)
	Grow     string   `json:"grow,omitempty"`       // deploy: "last" (default), "none", or the name of a volume
	Tries    int      `json:"tries,omitempty"`      // netboots before giving up; 0 means 3
	Full     bool     `json:"full,omitempty"`       // deploy: write all, do not compare first
	Trust    bool     `json:"trust_last,omitempty"` // deploy: do not read files that nobody wrote to since the last one
	Discard  bool     `json:"discard,omitempty"`    // deploy: tell the disk which blocks the image leaves free
	Verify   bool     `json:"verify,omitempty"`     // capture: read every chunk back before publishing
	LeaveOut []string `json:"leave_out,omitempty"`  // capture: files to take as zeros
	KeepAll  bool     `json:"keep_all,omitempty"`   // capture: swap, page and hibernation files, too
	Shrink   bool     `json:"shrink,omitempty"`     // capture: as a smaller disk
	Method   string   `json:"method,omitempty"`     // wipe: one of WipeMethods; empty means auto
	AllDisks bool     `json:"all_disks,omitempty"`  // wipe: every fixed disk, not the one that the disk rule names
	Max      int      `json:"max,omitempty"`        // so many of them at a time; 0 means all
	WithinMS int64    `json:"within_ms,omitempty"`  // a job that has not begun by then fails; 0 means that it waits for its turn
	FailFast bool     `json:"fail_fast,omitempty"`  // with the first that fails, those fail that have not begun
	Skip     bool     `json:"skip,omitempty"`       // nodes that cannot take it get a job that has failed already; without it, they refuse the whole
}

// Job is work on one node.
type Job struct {
	ID           string           `json:"id"`
	Batch        string           `json:"batch,omitempty"`
	Kind         TaskKind         `json:"kind"`
	Node         node.Name        `json:"node"`
	Image        string           `json:"image"`
	Rev          int              `json:"rev,omitempty"` // capture: once published; deploy: from the start
	Phase        Phase            `json:"phase"`
	Active       bool             `json:"active"`
	Try          int              `json:"try"` // netboots so far
	Tries        int              `json:"tries"`
	Done         int64            `json:"done"`  // bytes of the phase
	Total        int64            `json:"total"` // 0 where unknown
	Rate         int64            `json:"rate"`  // bytes a second, over the last seconds
	ETAMS        int64            `json:"eta_ms,omitempty"`
	Counts       map[string]int64 `json:"counts,omitempty"`
	PhaseMS      map[Phase]int64  `json:"phase_ms,omitempty"` // how long each phase took
	Error        *Error           `json:"error,omitempty"`
	Outputs      []Output         `json:"outputs,omitempty"`
	Touched      bool             `json:"touched,omitempty"` // deploy: past the point of no return
	Created      time.Time        `json:"created"`
	StartBy      *time.Time       `json:"start_by,omitempty"` // it fails where it has not begun by then
	Started      *time.Time       `json:"started,omitempty"`
	Ended        *time.Time       `json:"ended,omitempty"`
	LastProgress *time.Time       `json:"last_progress,omitempty"`
	Waiting      string           `json:"waiting,omitempty"` // what a person must do, as "switch n07 on"
}

// Watch is one message of a job's stream.
type Watch struct {
	Job   Job    `json:"job"`
	Event *Event `json:"event,omitempty"`
}

// WatchJobs is one message of the stream of several jobs: those that have changed since the last, in the first message
// all. Those that have ended have their Outputs.
type WatchJobs struct {
	Jobs  []Job `json:"jobs"`
	Ended bool  `json:"ended,omitempty"` // all have; the last message
}

// JobRetry asks for ended jobs again: the same work of the same revision, on the same nodes.
type JobRetry struct {
	Key  string   `json:"key"` // as in JobNew
	Jobs []string `json:"jobs"`
	Max  int      `json:"max,omitempty"` // as in JobNew; 0 means as before
}

// Preflight says what would become of a JobNew.
type Preflight struct {
	Image string          `json:"image"`
	Rev   int             `json:"rev,omitempty"`  // deploy
	Used  int64           `json:"used,omitempty"` // deploy: bytes of the image
	Need  int64           `json:"need,omitempty"` // deploy: bytes that a disk must have
	Nodes []PreflightNode `json:"nodes"`          // in the order of the range
}

// PreflightNode is what is known of a node, before anything is done to it.
type PreflightNode struct {
	Node     node.Name `json:"node"`
	Disk     *Disk     `json:"disk,omitempty"`     // deploy, wipe: that would be overwritten, as last reported
	Disks    []Disk    `json:"disks,omitempty"`    // wipe of all disks: likewise
	Problem  *Error    `json:"problem,omitempty"`  // why it cannot take it
	Warnings []string  `json:"warnings,omitempty"` // what a person should know
}

// Batch is jobs that were asked for together.
type Batch struct {
	ID       string        `json:"id"`
	Request  JobNew        `json:"request"`
	Schedule string        `json:"schedule,omitempty"` // that started it
	Created  time.Time     `json:"created"`
	Jobs     int           `json:"jobs"`
	Phases   map[Phase]int `json:"phases,omitempty"` // how many jobs are in each
	Active   int           `json:"active"`           // that have not ended
}

// ScheduleNew orders work for later. Exactly one of At and Every is set.
type ScheduleNew struct {
	Key     string `json:"key"`                // made by the client; the same key twice gives the same schedule
	Job     JobNew `json:"job"`                // its Key is not used; range and image are read when it runs
	At      string `json:"at,omitempty"`       // "02:00", "2026-03-04 02:00", or RFC 3339
	Every   string `json:"every,omitempty"`    // "[DAYS] TIMES [ZONE]", as "Mon-Fri 02:00"
	GraceMS *int64 `json:"grace_ms,omitempty"` // how late a run that was missed is still begun; 0 means never, left out one hour
}

// Schedule is work at times to come.
type Schedule struct {
	ID      string     `json:"id"`
	Job     JobNew     `json:"job"`
	At      *time.Time `json:"at,omitempty"`
	Every   string     `json:"every,omitempty"`
	Zone    string     `json:"zone"` // of the times in Every; "Local" is the management node's
	GraceMS int64      `json:"grace_ms"`
	Paused  bool       `json:"paused,omitempty"`
	Created time.Time  `json:"created"`
	Next    *time.Time `json:"next,omitempty"` // nothing for one that is over
	Last    *LastRun   `json:"last,omitempty"`
	Batches []string   `json:"batches,omitempty"` // that it started, newest first; with one schedule only
}

// LastRun is what became of a schedule's last time.
type LastRun struct {
	Planned time.Time  `json:"planned"`
	Began   *time.Time `json:"began,omitempty"` // nothing where it did not
	Batch   string     `json:"batch,omitempty"`
	Jobs    int        `json:"jobs,omitempty"`
	Error   *Error     `json:"error,omitempty"` // why it did not begin
}

// ScheduleRun starts a schedule's work now.
type ScheduleRun struct {
	Key string `json:"key"` // as in JobNew
}

// SchedulePause has a schedule rest, or go on.
type SchedulePause struct {
	Paused bool `json:"paused"`
}
