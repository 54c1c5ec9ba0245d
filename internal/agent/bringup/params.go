// Package bringup takes a node from the kernel's first process to the running stateless image.
//
// The same program runs three times. As /init of the initrd (Initrd) it loads network drivers, gets an address,
// fetches rootimg and moves into it. There, as process 1 (Init), it does nothing but start the agent as a child, reap
// orphans and reboot when the agent says so: a process 1 that waits for all children must not use os/exec. The child
// (System, then package agent) does the work.
package bringup

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// Params are the kernel parameters of a stateless boot.
type Params struct {
	Server, Pin, Token string
	Node               node.Name
	RootURL, RootSum   string
	Build              string
	BootIF             string
	Hostname           string    // where it is not the node's name
	Init               string    // process 1 of a system with an init of its own; "" for the agent
	Time               time.Time // of the server, when it made the boot script; zero where unknown
	Line               string    // the whole command line
}

// ParseParams reads a kernel command line. Words may be quoted with "". Of a parameter that is there twice, the last
// counts. What is missing is left empty.
func ParseParams(line string) Params {
	p := Params{Line: strings.TrimSpace(line)}
	for _, w := range words(line) {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case api.ParamServer:
			p.Server = value
		case api.ParamPin:
			p.Pin = value
		case api.ParamToken:
			p.Token = value
		case api.ParamNode:
			p.Node = node.Name(value)
		case api.ParamRootURL:
			p.RootURL = value
		case api.ParamRootSHA256:
			p.RootSum = strings.ToLower(value)
		case api.ParamBuild:
			p.Build = value
		case api.ParamBootIF:
			p.BootIF = value
		case api.ParamHostname:
			p.Hostname = value
		case api.ParamInit:
			p.Init = value
		case api.ParamNTP:
			if n, err := strconv.ParseInt(value, 10, 64); err == nil && n > 0 {
				p.Time = time.Unix(n, 0)
			}
		}
	}
	return p
}

// words splits a command line as the kernel's next_arg does: at blanks outside of double quotes, which are dropped.
func words(line string) []string {
	var out []string
	var w strings.Builder
	quoted, some := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, some = !quoted, true
		case !quoted && (r == ' ' || r == '\t' || r == '\n'):
			if some {
				out = append(out, w.String())
			}
			w.Reset()
			some = false
		default:
			w.WriteRune(r)
			some = true
		}
	}
	if some {
		out = append(out, w.String())
	}
	return out
}

// ReadParams reads the running kernel's command line.
func ReadParams() (Params, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return Params{}, fmt.Errorf("read kernel parameters: %w", err)
	}
	return ParseParams(string(b)), nil
}

// check says which parameter that the agent cannot do without is missing.
func (p Params) check() error {
	for _, n := range []struct{ name, value string }{
		{api.ParamServer, p.Server}, {api.ParamPin, p.Pin}, {api.ParamToken, p.Token}, {api.ParamNode, string(p.Node)},
		{api.ParamRootURL, p.RootURL}, {api.ParamRootSHA256, p.RootSum},
	} {
		if n.value == "" {
			return fmt.Errorf("kernel parameter %s is missing: this initrd is started by a Mimeo boot script", n.name)
		}
	}
	return nil
}

// Host is what this machine is called.
func (p Params) Host() string {
	if p.Hostname != "" {
		return p.Hostname
	}
	return string(p.Node)
}

// BootID returns the kernel's ID of this boot.
func BootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
