package api

import (
	"time"

	"mimeo/internal/cluster/node"
)

// Kernel parameters of a stateless boot. The boot script carries them, the agent reads them from /proc/cmdline.
const (
	ParamServer     = "mimeo.server"     // https://ADDRESS:PORT of the API
	ParamPin        = "mimeo.pin"        // SHA-256 of the server key's SubjectPublicKeyInfo, hexadecimal
	ParamNode       = "mimeo.node"       // node's name
	ParamToken      = "mimeo.token"      // bearer token, good for this node and job (or boot) alone
	ParamRootURL    = "mimeo.rootimg"    // http URL of rootimg
	ParamRootSHA256 = "mimeo.rootsha256" // its SHA-256, hexadecimal
	ParamBuild      = "mimeo.build"      // ID of the stateless build; the initrd carries the same
	ParamBootIF     = "BOOTIF"           // 01-aa-bb-cc-dd-ee-ff: the network card it booted from
	ParamNTP        = "mimeo.time"       // server's Unix time when the script was made, for machines without a clock
	ParamHostname   = "mimeo.hostname"   // what the node is called, where that is not its name
	ParamInit       = "mimeo.init"       // process 1 of a stateless system with an init of its own; left out, it is the agent
)

// Paths of the agent's part of the API. All take "Authorization: Bearer TOKEN" and JSON unless said otherwise.
const (
	PathHello    = "/v1/agent/hello"    // POST Hello → Task
	PathProgress = "/v1/agent/progress" // POST Progress → ProgressReply; at least every 10 s while a task runs
	PathDone     = "/v1/agent/done"     // POST Done → DoneReply; repeated until answered, safe to repeat
	PathTrouble  = "/v1/agent/trouble"  // POST Trouble → 204; before Hello, when the stateless image cannot come up
)

// Hello is the agent's first message after each boot of the stateless image.
type Hello struct {
	Version  int      `json:"version"` // AgentVersion
	Agent    string   `json:"agent"`   // program version
	BootID   string   `json:"boot_id"` // kernel's boot_id: another one means that the node was rebooted
	Build    string   `json:"build"`   // of the stateless image it runs in
	BootMS   int64    `json:"boot_ms"` // milliseconds from kernel start to this message
	Hardware Hardware `json:"hardware"`
}

// Trouble says why the stateless image does not come up on a node. The node starts anew some seconds later.
type Trouble struct {
	BootID string `json:"boot_id"`
	Agent  string `json:"agent"` // program version
	Build  string `json:"build"` // of the initrd
	Stage  string `json:"stage"` // what it was at: network, rootimg, root, system
	Error  *Error `json:"error"`
}

// AgentVersion is the version of the messages between agent and server. History, newest first:
//
//	1: the first
const AgentVersion = 1

// Hardware is what a machine is made of.
type Hardware struct {
	Arch       node.Arch     `json:"arch"`
	Vendor     string        `json:"vendor,omitempty"`
	Product    string        `json:"product,omitempty"`
	Serial     string        `json:"serial,omitempty"`
	UUID       string        `json:"uuid,omitempty"`
	BIOS       string        `json:"bios,omitempty"` // vendor, version, date
	UEFI       bool          `json:"uefi"`
	SecureBoot bool          `json:"secure_boot"`
	CPU        string        `json:"cpu,omitempty"`
	CPUs       int           `json:"cpus"`
	Memory     int64         `json:"memory"` // bytes
	NICs       []HardwareNIC `json:"nics"`
	Disks      []Disk        `json:"disks"`
	BMC        *HardwareBMC  `json:"bmc,omitempty"`  // where the machine has one that answers
	Boot       *HardwareBoot `json:"boot,omitempty"` // UEFI
}

// HardwareBoot is what a UEFI firmware starts.
type HardwareBoot struct {
	Entries []BootEntry `json:"entries"`          // in the boot order, then the others
	Loader  string      `json:"loader,omitempty"` // of the system on the disk: a path on its EFI system partition, as \EFI\debian\shimx64.efi
}

// BootEntry is a boot entry of a UEFI firmware.
type BootEntry struct {
	Number    string `json:"number"` // four hexadecimal digits
	Name      string `json:"name"`
	Kind      string `json:"kind"`                // network, disk, firmware, other
	Path      string `json:"path,omitempty"`      // disk: of the file
	Partition string `json:"partition,omitempty"` // disk: GUID
	Active    bool   `json:"active"`
}

// HardwareNIC is a network card of the machine.
type HardwareNIC struct {
	Name   string `json:"name"`
	MAC    string `json:"mac"`
	Driver string `json:"driver,omitempty"`
	Link   bool   `json:"link"`
	Mbits  int    `json:"mbits,omitempty"`
	Booted bool   `json:"booted,omitempty"` // the one it netbooted from

	Switch *HardwareSwitch `json:"switch,omitempty"` // where it is plugged in
}

// HardwareSwitch is what a switch says of a port by LLDP.
type HardwareSwitch struct {
	Chassis         string `json:"chassis"` // a MAC, or what the switch has for a name
	Name            string `json:"name,omitempty"`
	Port            string `json:"port"`
	PortDescription string `json:"port_description,omitempty"`
	VLAN            int    `json:"vlan,omitempty"` // of the port, untagged
}

// Disk is a whole disk of the machine.
type Disk struct {
	Name       string `json:"name"` // sda; for people only, never for choosing
	Size       int64  `json:"size"` // bytes
	SectorSize int    `json:"sector_size"`
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Bus        string `json:"bus,omitempty"` // nvme, sata, scsi, virtio, usb, mmc
	ByPath     string `json:"by_path,omitempty"`
	Removable  bool   `json:"removable,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
	Rotational bool   `json:"rotational,omitempty"`
}

// TaskKind is what the agent is asked to do.
type TaskKind string

// The kinds of task.
const (
	TaskNone      TaskKind = "none" // nothing: wait and ask again after Retry
	TaskCapture   TaskKind = "capture"
	TaskDeploy    TaskKind = "deploy"
	TaskWipe      TaskKind = "wipe"
	TaskShell     TaskKind = "shell"     // offer a shell until told otherwise
	TaskStateless TaskKind = "stateless" // run the node's postscripts, then stay
	TaskReboot    TaskKind = "reboot"    // nothing left to do here: reboot (to disk)
)

// Task is the one piece of work that the agent pulls.
type Task struct {
	Kind     TaskKind          `json:"kind"`
	Job      string            `json:"job,omitempty"`
	Node     node.Name         `json:"node"`
	Disk     node.DiskRule     `json:"disk"`
	Image    string            `json:"image,omitempty"`
	Manifest string            `json:"manifest,omitempty"`   // deploy: manifest.ID as text
	Rev      int               `json:"rev,omitempty"`        // deploy: revision number
	Trust    []TrustedKey      `json:"trust,omitempty"`      // deploy: keys, by one of which the revision must be signed
	Hostname string            `json:"hostname,omitempty"`   // deploy: the node's own
	Force    bool              `json:"force,omitempty"`      // deploy: onto a disk that is not empty; the server sets it, as the job names the node
	Grow     string            `json:"grow,omitempty"`       // deploy: "last" (default), "none", or the name of a volume
	LeaveOut []string          `json:"leave_out,omitempty"`  // capture: files to take as zeros
	KeepAll  bool              `json:"keep_all,omitempty"`   // capture: swap, page and hibernation files, too
	Shrink   bool              `json:"shrink,omitempty"`     // capture: as a smaller disk, its filesystems just large enough
	Method   string            `json:"method,omitempty"`     // wipe: one of WipeMethods
	AllDisks bool              `json:"all_disks,omitempty"`  // wipe: every fixed disk, whatever Disk says
	Discard  bool              `json:"discard,omitempty"`    // deploy: tell the disk which blocks the image leaves free
	NoNVRAM  bool              `json:"no_nvram,omitempty"`   // deploy: leave the firmware's boot entries as they are
	Compare  bool              `json:"compare"`              // deploy: read the disk first and write only what differs
	Last     *TrustLast        `json:"trust_last,omitempty"` // deploy: with Compare, do not read files that nobody wrote to since
	Attrs    map[string]string `json:"attrs,omitempty"`      // environment of the postscripts
	Mounts   []Mount           `json:"mounts,omitempty"`
	Pre      []Postscript      `json:"pre,omitempty"`      // before the task, in the stateless image
	Post     []Postscript      `json:"post,omitempty"`     // after it, in the stateless image
	Root     []Postscript      `json:"root,omitempty"`     // deploy: in the deployed system's root, before Post
	First    []Postscript      `json:"first,omitempty"`    // deploy: by the deployed system itself, at its first boot
	UUIDs    string            `json:"uuids,omitempty"`    // deploy: which get new ones: node.UUIDsFilesystems, UUIDsPartitions, UUIDsAll; "" is none
	Unattend []byte            `json:"unattend,omitempty"` // deploy: answer file for the setup of Windows
	SSHKeys  []string          `json:"ssh_keys,omitempty"` // shell, stateless: authorized_keys lines
	HostKey  string            `json:"host_key,omitempty"` // stateless: the node's SSH host key (Ed25519), in OpenSSH's format
	Say      string            `json:"say,omitempty"`      // none: for the person at the console
	RetryMS  int64             `json:"retry_ms,omitempty"`
}

// TrustLast asks for a deploy that does not read what the last one wrote and nobody has written to since.
type TrustLast struct {
	Deploy *LastDeploy `json:"deploy,omitempty"` // nil where nothing is known of it: then all is read
}

// LastDeploy is what a deploy left on a disk.
type LastDeploy struct {
	Image    string    `json:"image"`
	Rev      int       `json:"rev"`
	Manifest string    `json:"manifest"` // manifest.ID as text
	Disk     Disk      `json:"disk"`     // size, serial number and WWN tell whether it is the same
	Job      string    `json:"job"`
	Time     time.Time `json:"time"`
}

// Mount is an NFS mount of the profile.
type Mount struct {
	Source  string `json:"source"`  // ADDRESS:/path
	Target  string `json:"target"`  // absolute path in the stateless image
	Options string `json:"options"` // as mount -o takes them
}

// Postscript is a program that the node runs.
type Postscript struct {
	Name      string `json:"name"`
	Path      string `json:"path,omitempty"`    // on a mount of the stateless image; or
	Content   []byte `json:"content,omitempty"` // the program itself
	TimeoutMS int64  `json:"timeout_ms,omitempty"`
}

// Phase is a step of a job as DESIGN's life of a capture names it.
type Phase string

// The phases, in the order of a capture; deploy has "writing" for mapping and capturing, and "finishing".
const (
	PhaseQueued     Phase = "queued"
	PhasePowering   Phase = "powering"
	PhaseNetbooting Phase = "netbooting"
	PhaseAgent      Phase = "agent"
	PhasePre        Phase = "pre-postscripts"
	PhaseMapping    Phase = "mapping"
	PhaseCapturing  Phase = "capturing"
	PhaseWriting    Phase = "writing"   // deploy: point of no return is its start
	PhaseFinishing  Phase = "finishing" // deploy: table, growth, identity, boot entries
	PhaseRootPost   Phase = "root-postscripts"
	PhasePost       Phase = "post-postscripts"
	PhaseVerifying  Phase = "verifying"
	PhasePublishing Phase = "publishing"
	PhaseFlipping   Phase = "flipping"
	PhaseRebooting  Phase = "rebooting"
	PhaseDone       Phase = "done"
	PhaseFailed     Phase = "failed"
	PhaseCancelling Phase = "cancelling"
	PhaseCancelled  Phase = "cancelled"
	PhaseLost       Phase = "lost"
)

// Progress is a one-way stream of numbers.
type Progress struct {
	Job     string           `json:"job"`
	BootID  string           `json:"boot_id"`
	Phase   Phase            `json:"phase"`
	Done    int64            `json:"done"`              // bytes of the phase
	Total   int64            `json:"total"`             // bytes of the phase; 0 where unknown
	Counts  map[string]int64 `json:"counts,omitempty"`  // read, new, sent, written, skipped, zero: bytes so far
	Outputs []Output         `json:"outputs,omitempty"` // postscripts that ended since the last message
	Log     []string         `json:"log,omitempty"`     // lines for the job's event log since the last message
}

// Output is what a postscript left.
type Output struct {
	Name   string `json:"name"`
	Stage  Phase  `json:"stage"`  // PhasePre, PhasePost or PhaseRootPost
	Exit   int    `json:"exit"`   // exit status; -1 where it did not run or was killed
	Output string `json:"output"` // both streams, the last 64 KiB
	MS     int64  `json:"ms"`
}

// ProgressReply tells the agent whether to go on.
type ProgressReply struct {
	Cancel bool `json:"cancel,omitempty"` // stop, leave the disk as it is, and send Done with Cancelled
}

// Done is the agent's last word on its task.
type Done struct {
	Job       string           `json:"job"`
	BootID    string           `json:"boot_id"`
	OK        bool             `json:"ok"`
	Cancelled bool             `json:"cancelled,omitempty"`
	Touched   bool             `json:"touched,omitempty"` // deploy: the disk was written to
	Error     *Error           `json:"error,omitempty"`
	Manifest  string           `json:"manifest,omitempty"` // capture: ID of the staged manifest
	Counts    map[string]int64 `json:"counts,omitempty"`
	PhaseMS   map[Phase]int64  `json:"phase_ms,omitempty"`
	Disk      Disk             `json:"disk"` // the one that was chosen
	Outputs   []Output         `json:"outputs,omitempty"`
	Log       []string         `json:"log,omitempty"`  // lines that no progress has brought
	Wipe      *WipeReport      `json:"wipe,omitempty"` // wipe: what became of the disks
	Boot      *HardwareBoot    `json:"boot,omitempty"` // deploy: what the firmware starts now
	Time      time.Time        `json:"time"`
}

// DoneReply comes only after the server has done its part (published, flipped the boot state).
type DoneReply struct {
	Action  string `json:"action"` // "reboot", "poweroff" or "wait" (not finished here: repeat Done after RetryMS)
	RetryMS int64  `json:"retry_ms,omitempty"`
}
