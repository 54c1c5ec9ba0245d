package api

import (
	"time"

	"mimeo/internal/cluster/node"
)

// PowerDo asks the nodes' BMCs for something.
type PowerDo struct {
	Range string `json:"range"`
	// Action is one of on, off, soft, cycle, reset, status, identify-on, identify-off, next-boot, sensors, log; pxe and
	// disk are next-boot with the device network or disk.
	Action string `json:"action"`

	Device     string `json:"device,omitempty"`     // next-boot: network, disk, setup, none (its own order), uefi:DEVICE-PATH
	Persistent bool   `json:"persistent,omitempty"` // next-boot: for every boot from now on, not only for the next one
	Mode       string `json:"mode,omitempty"`       // next-boot: legacy or uefi; empty means what the node's firmware is
	Clear      bool   `json:"clear,omitempty"`      // log: empty it, once it was read
}

// PowerResult is what came of it on one node.
type PowerResult struct {
	Node  node.Name `json:"node"`
	State string    `json:"state,omitempty"` // on, off, unknown
	// Sent says that the command went out and nobody can tell what came of it: a magic packet is not answered.
	Sent    bool       `json:"sent,omitempty"`
	Note    string     `json:"note,omitempty"` // what else there is to know, as that the BMC does not give back what it was told
	Sensors []Sensor   `json:"sensors,omitempty"`
	Log     []LogEntry `json:"log,omitempty"`
	Cleared bool       `json:"cleared,omitempty"` // the log was emptied
	Error   *Error     `json:"error,omitempty"`
}

// PowerProgress is one message of the stream of a power command on many nodes.
type PowerProgress struct {
	Done     int          `json:"done"` // nodes
	Total    int          `json:"total"`
	Index    int          `json:"index"`            // of that node in the range, from 0 on
	Result   *PowerResult `json:"result,omitempty"` // of the node that was done just now
	Finished bool         `json:"finished,omitempty"`
}

// Sensor is what a BMC measures.
type Sensor struct {
	Name   string   `json:"name"`
	Kind   string   `json:"kind"`             // temperature, fan, voltage, current, power, other
	Value  *float64 `json:"value,omitempty"`  // missing where there is no reading just now
	Unit   string   `json:"unit,omitempty"`   // °C, rpm, %, V, A, W
	Health string   `json:"health,omitempty"` // ok, warning, critical; empty where the BMC does not say
	Text   string   `json:"text,omitempty"`   // of a sensor that has states and no number
}

// LogEntry is a line of a BMC's event log.
type LogEntry struct {
	ID       string     `json:"id"`
	Time     *time.Time `json:"time,omitempty"` // missing where the BMC's clock was not set
	Severity string     `json:"severity,omitempty"`
	Text     string     `json:"text"`
}
