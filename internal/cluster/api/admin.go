package api

import (
	"time"

	"mimeo/internal/cluster/node"
)

// Paths of the admin's part of the API, which the command line and the web page use. All take and give JSON, with
// "Authorization: Bearer TOKEN"; an answer of 4xx or 5xx carries an Error. RANGE is a noderange.
//
//	GET    /v1/status                         → ServerStatus
//	PUT    /v1/backup                         → application/gzip
//	GET    /v1/metrics                        → text, for Prometheus
//	GET    /v1/dhcp                           → DHCPStatus
//	GET    /v1/dhcp/snippet?server=KIND&interface=NAME → DHCPSnippet
//	GET    /v1/nodes?range=RANGE              → []NodeStatus (all where range is left out)
//	POST   /v1/nodes            NodeAdd       → []NodeStatus
//	PATCH  /v1/nodes            NodeSet       → []NodeStatus
//	DELETE /v1/nodes?range=RANGE              → Affected
//	GET    /v1/nodes/{name}/events?limit=N    → []Event, oldest first
//	GET    /v1/nodes/{name}/boot              → BootExplain
//	POST   /v1/boot             BootSet       → []NodeStatus
//	POST   /v1/power            PowerDo       → []PowerResult
//	POST   /v1/power?stream=1   PowerDo       → text/event-stream of PowerProgress; the last has Finished
//	GET    /v1/images                         → []Image
//	GET    /v1/images/{name}                  → Image
//	GET    /v1/images/{name}/{rev}            → ImageDetail
//	DELETE /v1/images/{name}/{rev}            → Affected
//	POST   /v1/images/{name}/{rev}/verify     → text/event-stream of VerifyProgress; the last has Finished
//	POST   /v1/images/{name}/{rev}/boot-test  BootTestNew → text/event-stream of BootTestProgress; the last has Finished
//	GET    /v1/images/{name}/{rev}/boot-test/screen → a PNG
//	GET    /v1/images/{name}/{rev}/files?path=PATH&recursive=1&partition=N    → text/event-stream of ImageFiles
//	GET    /v1/images/{name}/{rev}/content?path=PATH&partition=N              → the bytes of a file
//	GET    /v1/images/{name}/{rev}/diff?with=NAME@REV&partition=N             → text/event-stream of ImageDiff
//	GET    /v1/stateless                      → []Stateless
//	GET    /v1/stateless/{profile}            → []Stateless (one an architecture)
//	POST   /v1/stateless        StatelessNew  → text/event-stream of StatelessProgress; the last has Finished
//	DELETE /v1/stateless/{profile}?arch=ARCH  → Affected

// ServerStatus is what the management node says of itself.
type ServerStatus struct {
	Version    string            `json:"version"`
	Started    time.Time         `json:"started"`
	StateDir   string            `json:"state_dir"`
	Interfaces []InterfaceStatus `json:"interfaces"`
	Nodes      int               `json:"nodes"`
	ActiveJobs int               `json:"active_jobs"`
	StoreBytes int64             `json:"store_bytes"`
	FreeBytes  int64             `json:"free_bytes"`     // on the store's filesystem; 0 where that cannot be told, as in S3
	Copy       *StoreCopy        `json:"copy,omitempty"` // left out where there is no second store
}

// StoreCopy says how the copying to the second store stands.
type StoreCopy struct {
	To       string    `json:"to"`                 // its place
	State    string    `json:"state"`              // waiting (nothing was tried yet), copying, done, failed
	Revision string    `json:"revision,omitempty"` // that is being copied, NAME@REV
	Done     int64     `json:"done,omitempty"`     // bytes of its disk
	Total    int64     `json:"total,omitempty"`
	Since    time.Time `json:"since"`              // of this state
	There    int       `json:"there"`              // revisions that it had when it was looked at last
	Problems []string  `json:"problems,omitempty"` // revisions that cannot be copied, and why
	Error    *Error    `json:"error,omitempty"`
}

// InterfaceStatus is one interface on which nodes are served.
type InterfaceStatus struct {
	Name string `json:"name"`
	Addr string `json:"addr"` // with prefix length
	DHCP string `json:"dhcp"` // full, proxy, off

	Networks []DHCPNetwork `json:"networks,omitempty"`
}

// NodeStatus is a node with what is known of it just now. Power, presence and job are separate facts.
type NodeStatus struct {
	node.Node
	Hardware  *Hardware  `json:"hardware,omitempty"`   // as last reported
	SeenAt    *time.Time `json:"seen_at,omitempty"`    // last heard of in any way
	LastEvent string     `json:"last_event,omitempty"` // kind of the newest event
	Job       string     `json:"job,omitempty"`        // active job
	JobPhase  Phase      `json:"job_phase,omitempty"`
}

// NodeAdd makes nodes. Range is expanded without looking at the inventory. What differs from node to node is in PerNode:
// the command line spreads "redfish://10.0.9.[1-40]" over it.
type NodeAdd struct {
	Range   string                          `json:"range"`
	Set     map[string]string               `json:"set"`                // as NodeSet.Set
	PerNode map[node.Name]map[string]string `json:"per_node,omitempty"` // goes before Set
}

// NodeSet changes nodes. Keys are those of node.Keys and label.KEY; groups+ and groups- add groups and take them away.
// An empty value unsets, so that what is inherited counts again.
type NodeSet struct {
	Range  string            `json:"range"`
	Set    map[string]string `json:"set"`
	Expect string            `json:"expect,omitempty"` // Plan.ID of a plan: refused with "conflict" where it would change otherwise by now
}

// Affected says what a change touched.
type Affected struct {
	Names []string `json:"names"`
}

// BootSet changes what nodes boot next.
type BootSet struct {
	Range   string         `json:"range"`
	State   node.BootState `json:"state"` // disk, shell, stateless, memtest, discover
	Profile string         `json:"profile,omitempty"`
	Once    bool           `json:"once,omitempty"`
	Cycle   bool           `json:"cycle,omitempty"`    // power-cycle them now
	SSHKeys []string       `json:"ssh_keys,omitempty"` // shell
}

// BootExplain says what a node would be offered now, and why.
type BootExplain struct {
	Node     node.Name     `json:"node"`
	Arch     node.Arch     `json:"arch"`
	Firmware node.Firmware `json:"firmware"`
	From     string        `json:"firmware_from,omitempty"` // who said so: "learnt" from its own requests, "own", "group"
	DHCP     string        `json:"dhcp,omitempty"`          // who answers it, in words
	Address  string        `json:"address,omitempty"`       // that it would get, and why, in words
	Decision string        `json:"decision"`                // "disk", "stateless imaging", "nothing"
	Why      string        `json:"why"`
	Loader   string        `json:"loader,omitempty"`
	Script   string        `json:"script,omitempty"` // with the token blanked
}

// Event is something that happened to a node or job.
type Event struct {
	ID   int64     `json:"id"`
	Time time.Time `json:"time"`
	Node node.Name `json:"node,omitempty"`
	Job  string    `json:"job,omitempty"`
	Kind string    `json:"kind"`           // dhcp-offer, loader, script, kernel, initrd, rootimg, agent, phase, told-disk, power, ...
	Addr string    `json:"addr,omitempty"` // who asked
	Text string    `json:"text"`
}

// Image is a named line of captured disks.
type Image struct {
	Name      string            `json:"name"`
	Revisions []Revision        `json:"revisions"`
	Set       map[string]string `json:"set,omitempty"` // what was said of it: values by key
}

// ImageSet changes what is said of an image, in all its revisions. An empty value unsets.
type ImageSet struct {
	Set map[string]string `json:"set"`
}

// Revision is one captured disk.
type Revision struct {
	Image    string    `json:"image"`
	Rev      int       `json:"rev"`
	ID       string    `json:"id"` // root hash
	Created  time.Time `json:"created"`
	Node     string    `json:"node,omitempty"`
	DiskSize int64     `json:"disk_size"`
	Used     int64     `json:"used"`
	New      int64     `json:"new"`    // raw bytes that the store did not have before
	Stored   int64     `json:"stored"` // bytes that they took in the store
	Pinned   bool      `json:"pinned"` // it is not removed

	Trusted    bool        `json:"trusted"` // it is signed by a key that counts: it can be deployed
	Signatures []Signature `json:"signatures,omitempty"`
}

// Signature is one that a revision has.
type Signature struct {
	Key   string `json:"key"`            // base64; as the store has it
	Name  string `json:"name,omitempty"` // of the key, where it is trusted
	State string `json:"state"`          // trusted, unknown (right, by another key), wrong
}

// RevisionNew publishes a manifest that was staged.
type RevisionNew struct {
	ID     string `json:"id"`     // of the manifest
	New    int64  `json:"new"`    // bytes of the disk in chunks that the store did not hold
	Stored int64  `json:"stored"` // bytes that the store grew by

	// Of a revision of another store, which keeps its number and its signatures.
	Rev        int               `json:"rev,omitempty"` // 0: the image's next
	Published  time.Time         `json:"published,omitzero"`
	Signatures []RevisionNewSign `json:"signatures,omitempty"`
}

// RevisionNewSign is a signature that a revision has in another store.
type RevisionNewSign struct {
	Key string `json:"key"`
	Sig string `json:"sig"`
}

// TrustedKey is a public key whose signatures of revisions count.
type TrustedKey struct {
	Name string `json:"name,omitempty"`
	Key  string `json:"key"`           // Ed25519, base64
	Own  bool   `json:"own,omitempty"` // the management node's
}

// ImageDetail is a revision with its manifest.
type ImageDetail struct {
	Revision
	Manifest any       `json:"manifest"`            // as docs/formats/manifest.md has it
	BootTest *BootTest `json:"boot_test,omitempty"` // the last
}

// VerifyProgress is how far a read-back of a revision is.
type VerifyProgress struct {
	Done     int64  `json:"done"` // raw bytes read back
	Total    int64  `json:"total"`
	Finished bool   `json:"finished"`
	Error    *Error `json:"error,omitempty"`
}

// Stateless is a built stateless image.
type Stateless struct {
	Profile  string                   `json:"profile"`
	Arch     node.Arch                `json:"arch"`
	Build    string                   `json:"build"` // ID of the build: hash over its three files
	Created  time.Time                `json:"created"`
	Kernel   string                   `json:"kernel"` // version
	Files    map[string]StatelessFile `json:"files"`  // vmlinuz, initrd.img, rootimg
	InUse    bool                     `json:"in_use"`
	Packages []string                 `json:"packages,omitempty"` // name=version
}

// StatelessFile is one file of a stateless image.
type StatelessFile struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// StatelessNew asks for a build.
type StatelessNew struct {
	Profile string      `json:"profile"`
	Archs   []node.Arch `json:"archs"` // empty means the management node's own
}

// StatelessProgress is one message of a build.
type StatelessProgress struct {
	Line     string      `json:"line,omitempty"`
	Finished bool        `json:"finished"`
	Built    []Stateless `json:"built,omitempty"`
	Error    *Error      `json:"error,omitempty"`
}

// ReadyScript is a postscript that comes with the management node.
type ReadyScript struct {
	Name    string `json:"name"`
	Stage   string `json:"stage"`
	About   string `json:"about"`
	Content string `json:"content,omitempty"` // the program; left out in lists
}

// Who names a postscript, beside node.FromGroup.
const (
	FromProfile = "profile"
	FromImage   = "image"
	FromNode    = "node"
)

// ScriptPlan are the postscripts that a node would run in a task.
type ScriptPlan struct {
	Node    node.Name       `json:"node"`
	Task    TaskKind        `json:"task"`
	Image   string          `json:"image,omitempty"`
	Profile string          `json:"profile"`
	Scripts []PlannedScript `json:"scripts"`           // in the order in which they run
	Dropped []PlannedScript `json:"dropped,omitempty"` // those that a nearer one has taken away or replaced
}

// PlannedScript is a postscript and who names it.
type PlannedScript struct {
	Stage     string `json:"stage"`
	Name      string `json:"name"`
	From      string `json:"from"`                 // profile, group, image, node
	Of        string `json:"of"`                   // which one
	Key       string `json:"key,omitempty"`        // under which it is named; a profile has none
	Program   string `json:"program"`              // where the program lies
	TimeoutMS int64  `json:"timeout_ms,omitempty"` // 0 means the agent's own
	DroppedBy string `json:"dropped_by,omitempty"`
	Error     *Error `json:"error,omitempty"` // why it cannot run
}
