package api

import "time"

// What bounds a boot test.
const (
	BootTestTimeout    = 5 * time.Minute  // where none is said
	BootTestMaxTimeout = time.Hour        //
	BootTestMemory     = 2048             // MiB, where none is said
	BootTestMaxMemory  = 64 << 10         // MiB
	BootTestWait       = 15 * time.Second // for the programs of a test to end after it was called off
)

// BootTestBuses are the ways to attach the disk of a boot test.
var BootTestBuses = []string{"ahci", "nvme", "virtio"}

// BootTestNew asks for a boot test of a revision.
type BootTestNew struct {
	Firmware  string `json:"firmware,omitempty"`   // bios or uefi; what the image is for where empty
	Bus       string `json:"bus,omitempty"`        // one of BootTestBuses, the first where empty
	Expect    string `json:"expect,omitempty"`     // regular expression; a login prompt where empty
	TimeoutMS int64  `json:"timeout_ms,omitempty"` // 0 means BootTestTimeout
	Memory    int    `json:"memory,omitempty"`     // MiB; 0 means BootTestMemory
}

// BootTest is what came of it.
type BootTest struct {
	Image    string    `json:"image"`
	Rev      int       `json:"rev"`
	ID       string    `json:"id"` // of the revision
	Time     time.Time `json:"time"`
	Booted   bool      `json:"booted"`
	Match    string    `json:"match,omitempty"` // what was said of what was waited for
	Why      string    `json:"why,omitempty"`   // why it counts as not booted
	Firmware string    `json:"firmware"`
	Accel    string    `json:"accel"` // kvm, or tcg: without the help of the processor
	TookMS   int64     `json:"took_ms"`
	Read     int64     `json:"read"`   // bytes that it read from its disk
	Resets   int       `json:"resets"` // how often it started anew by itself
	Console  string    `json:"console,omitempty"`
	Screen   bool      `json:"screen"` // there is a picture of the screen
}

// BootTestProgress is how long a boot test runs, and at last what came of it.
type BootTestProgress struct {
	RunningMS int64     `json:"running_ms"`
	Finished  bool      `json:"finished"`
	Result    *BootTest `json:"result,omitempty"`
	Error     *Error    `json:"error,omitempty"`
}
