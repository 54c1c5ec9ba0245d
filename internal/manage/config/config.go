// Package config checks the one configuration file and fills its defaults.
//
// A setting comes from a flag, else from the environment (MIMEOD_HTTP, MIMEOD_LIMITS_NETBOOT), else from the file, else
// from its default. What is wrong is an error that says where it stands. docs/formats/config.md lists all keys.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// DefaultFile is read where it is there and no other is named.
const DefaultFile = "/etc/mimeo/mimeod.yaml"

// Config is the configuration of a management node. Zero values mean the defaults.
type Config struct {
	State      string      `yaml:"state"`     // folder for all that mimeod keeps
	Store      string      `yaml:"store"`     // dir:PATH or s3://BUCKET/PREFIX; default: store in the state folder
	StoreKey   string      `yaml:"store_key"` // file with what opens an encrypted store; a new one is made so
	S3         S3          `yaml:"s3"`        // how to get at the latter
	Copy       Copy        `yaml:"copy"`      // where a copy of each revision goes
	GC         string      `yaml:"gc"`        // when the store is cleaned up: "daily 03:30", "Sun 4:00", off
	Repack     string      `yaml:"repack"`    // when it is compressed again: likewise
	HTTP       string      `yaml:"http"`      // boot files
	HTTPS      string      `yaml:"https"`     // API
	TFTP       string      `yaml:"tftp"`
	NFS        string      `yaml:"nfs"`
	Agent      string      `yaml:"agent"`     // folder of mimeo-agent-ARCH; default: the folder of mimeod
	Log        string      `yaml:"log"`       // text or json
	LogLevel   string      `yaml:"log_level"` // info or debug
	Interfaces []Interface `yaml:"interfaces"`
	Limits     Limits      `yaml:"limits"`
	Jobs       Jobs        `yaml:"jobs"`
	History    History     `yaml:"history"`
	Power      Power       `yaml:"power"`
	Console    Console     `yaml:"console"`
	Hooks      Hooks       `yaml:"hooks"`
	Trust      []Trust     `yaml:"trust"`  // whose signatures of revisions count beside our own
	Accept     []Accept    `yaml:"accept"` // rules by which machines that were discovered become nodes

	file   string            // that was read
	tree   *ast.File         // what is in it, for the places of errors
	source map[string]string // settings that did not come from the file: key to what set it
}

// Interface is a network interface on which nodes are served.
type Interface struct {
	Name    string   `yaml:"name"`
	DHCP    string   `yaml:"dhcp"`    // full, proxy, off
	Pool    []string `yaml:"pool"`    // FROM-TO; full: default is the upper half of the interface's network
	Gateway string   `yaml:"gateway"` // full
	DNS     []string `yaml:"dns"`     // full
	Domain  string   `yaml:"domain"`  // full
	Lease   Duration `yaml:"lease"`   // full; default 1h
	RA      string   `yaml:"ra"`      // IPv6 router advertisements: auto, on, off

	Discovery string `yaml:"discovery"` // machines that are not known: on, off
	Probe     string `yaml:"probe"`     // full: ask by ARP whether an address is in use: on, off

	Reservations []Reservation `yaml:"reservations"` // full: of machines that are no nodes

	Networks []Network `yaml:"networks"` // others than the interface's own, on its wire or behind relays
}

// Reservation is the fixed address of a machine that is no node, as a BMC: it is given that, and nothing to boot.
type Reservation struct {
	MAC  string `yaml:"mac"`  // aa:bb:cc:dd:ee:ff
	IP   string `yaml:"ip"`   // in a network of the interface
	Name string `yaml:"name"` // host name that it is told; default none
}

// Network is a further network of an interface. All but Network is for full alone.
type Network struct {
	Network string   `yaml:"network"` // 10.8.0.0/16
	Pool    []string `yaml:"pool"`    // FROM-TO; default none
	Gateway string   `yaml:"gateway"`
	DNS     []string `yaml:"dns"`    // default: the interface's
	Domain  string   `yaml:"domain"` // default: the interface's
	Lease   Duration `yaml:"lease"`  // default: the interface's
}

// Prefix is the network, of which Complete checked the text.
func (n Network) Prefix() netip.Prefix {
	p, _ := netip.ParsePrefix(n.Network)
	return p
}

// Limits say how long jobs wait.
type Limits struct {
	Netboot      Duration `yaml:"netboot"`       // from power-on, or one step of the boot, to the next; default 5m
	AgentSilence Duration `yaml:"agent_silence"` // without a word from an agent; default 1m
	Reboot       Duration `yaml:"reboot"`        // until a node that was told to reboot asks for its disk; default 10m
	Power        Duration `yaml:"power"`         // for one power command; default 2m
	Stall        Duration `yaml:"stall"`         // without a byte of progress from an agent that speaks; default 30m
	SoftOff      OrOff    `yaml:"soft_off"`      // for a running system to shut down before a capture; default 1m; off: it is not asked
}

// Jobs says how many are at work at once; the others wait for their turn. Zero means no bound.
type Jobs struct {
	MaxActive   int `yaml:"max_active"`   // of all kinds
	MaxCaptures int `yaml:"max_captures"` // of captures
	MaxDeploys  int `yaml:"max_deploys"`  // of deploys
}

// History says for how long is remembered what was.
type History struct {
	Keep OrOff `yaml:"keep"` // jobs, batches and events since they ended; default 90d; off: for ever
	Jobs int   `yaml:"jobs"` // of each node the newest so many jobs stay, however old; default 20
}

// Duration is a time as 90s, 10m, 1h30m or 90d.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(b []byte) error {
	return d.parse(strings.Trim(strings.TrimSpace(string(b)), `"'`))
}

func (d *Duration) parse(s string) error {
	v, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || v < 0 {
		return fmt.Errorf("duration %q: want something like 90s, 10m, 1h30m or 90d", s)
	}
	*d = Duration(v)
	return nil
}

// OrOff is a Duration, or "off", which is negative.
type OrOff Duration

// UnmarshalYAML reads a duration, or "off".
func (d *OrOff) UnmarshalYAML(b []byte) error {
	return d.parse(strings.Trim(strings.TrimSpace(string(b)), `"'`))
}

func (d *OrOff) parse(s string) error {
	if s == "off" {
		*d = -1
		return nil
	}
	return (*Duration)(d).parse(s)
}

// Load reads a file; a missing DefaultFile is no error.
func Load(file string) (Config, error) {
	c := Config{file: file}
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) && file == DefaultFile {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return c, nil
	}
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, fmt.Errorf("read configuration %s:\n%s", file, yaml.FormatError(err, false, true))
	}
	c.file = file // a file of comments alone, as it is installed, leaves nothing of c
	if c.tree, err = parser.ParseBytes(b, 0); err != nil {
		return c, fmt.Errorf("read configuration %s:\n%s", file, yaml.FormatError(err, false, true))
	}
	return c, nil
}

// ParseInterface reads NAME or NAME=MODE, as on the command line.
func ParseInterface(s string) Interface {
	name, mode, ok := strings.Cut(s, "=")
	if !ok {
		mode = "full"
	}
	return Interface{Name: name, DHCP: mode}
}

// File is the configuration file that was read, or looked for.
func (c *Config) File() string { return c.file }
