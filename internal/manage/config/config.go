// Package config checks the one configuration file and fills its defaults.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
)

// DefaultFile is read where it is there and no other is named.
const DefaultFile = "/etc/mimeo/mimeod.yaml"

// Config is the configuration of a management node. Zero values mean the defaults.
type Config struct {
	State      string      `yaml:"state"` // folder for all that mimeod keeps
	Store      string      `yaml:"store"` // dir:PATH; default: store in the state folder
	HTTP       string      `yaml:"http"`  // boot files
	HTTPS      string      `yaml:"https"` // API
	TFTP       string      `yaml:"tftp"`
	NFS        string      `yaml:"nfs"`
	Agent      string      `yaml:"agent"` // folder of mimeo-agent-ARCH; default: the folder of mimeod
	Log        string      `yaml:"log"`   // text or json
	Interfaces []Interface `yaml:"interfaces"`
	Limits     Limits      `yaml:"limits"`
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
}

// Limits say how long jobs wait, and how much is done at once.
type Limits struct {
	Netboot      Duration `yaml:"netboot"`       // from power-on, or one step of the boot, to the next; default 5m
	AgentSilence Duration `yaml:"agent_silence"` // without a word from an agent; default 1m
	Reboot       Duration `yaml:"reboot"`        // until a node that was told to reboot asks for its disk; default 10m
	Power        Duration `yaml:"power"`         // for one power command; default 2m
	SoftOff      Duration `yaml:"soft_off"`      // for a running system to shut down before a capture; default 1m
	BMCs         int      `yaml:"bmcs"`          // power commands at once; default 16
}

// Duration is a time as 90s, 10m or 1h30m.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(b []byte) error {
	v, err := time.ParseDuration(strings.Trim(strings.TrimSpace(string(b)), `"'`))
	if err == nil && v < 0 {
		err = errors.New("is negative")
	}
	if err != nil {
		return fmt.Errorf("duration %s: want something like 90s, 10m or 1h30m", strings.TrimSpace(string(b)))
	}
	*d = Duration(v)
	return nil
}

// Load reads a file; a missing DefaultFile is no error.
func Load(file string) (Config, error) {
	var c Config
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
	if err := yaml.NewDecoder(bytes.NewReader(b), yaml.Strict()).Decode(&c); err != nil {
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

// Complete fills the defaults and checks every field. Errors name the key.
func (c *Config) Complete() error {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.State, "/var/lib/mimeo")
	def(&c.HTTP, ":4480")
	def(&c.HTTPS, ":4443")
	def(&c.TFTP, ":69")
	def(&c.NFS, ":4449")
	def(&c.Log, "text")
	if c.Limits.BMCs == 0 {
		c.Limits.BMCs = 16
	}
	var err error
	if c.State, err = filepath.Abs(c.State); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	def(&c.Store, "dir:"+filepath.Join(c.State, "store"))
	if c.Agent == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		c.Agent = filepath.Dir(self)
	}
	if p, ok := strings.CutPrefix(c.Store, "dir:"); !ok || !filepath.IsAbs(p) {
		return fmt.Errorf("store: %q: want dir:/ABSOLUTE/PATH", c.Store)
	}
	for key, addr := range map[string]string{"http": c.HTTP, "https": c.HTTPS, "tftp": c.TFTP, "nfs": c.NFS} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return fmt.Errorf("%s: %q: want [ADDRESS]:PORT", key, addr)
		}
	}
	if c.Log != "text" && c.Log != "json" {
		return fmt.Errorf("log: %q: want text or json", c.Log)
	}
	if c.Limits.BMCs < 1 {
		return fmt.Errorf("limits.bmcs: %d: want at least 1", c.Limits.BMCs)
	}
	seen := map[string]bool{}
	for i := range c.Interfaces {
		f := &c.Interfaces[i]
		key := fmt.Sprintf("interfaces[%d]", i)
		if f.Name == "" {
			return fmt.Errorf("%s.name is missing", key)
		}
		if seen[f.Name] {
			return fmt.Errorf("%s.name: %s is named twice", key, f.Name)
		}
		seen[f.Name] = true
		def(&f.DHCP, "full")
		def(&f.RA, "auto")
		if f.DHCP != "full" && f.DHCP != "proxy" && f.DHCP != "off" {
			return fmt.Errorf("%s.dhcp: %q: want full, proxy or off", key, f.DHCP)
		}
		if f.RA != "auto" && f.RA != "on" && f.RA != "off" {
			return fmt.Errorf("%s.ra: %q: want auto, on or off", key, f.RA)
		}
		for _, p := range f.Pool {
			if _, _, err := ParseRange(p); err != nil {
				return fmt.Errorf("%s.pool: %w", key, err)
			}
		}
		for _, a := range append(append([]string{}, f.DNS...), f.Gateway) {
			if a == "" {
				continue
			}
			if ip, err := netip.ParseAddr(a); err != nil || !ip.Is4() {
				return fmt.Errorf("%s: %q is no IPv4 address", key, a)
			}
		}
	}
	return nil
}

// ParseRange reads FROM-TO.
func ParseRange(s string) (from, to netip.Addr, err error) {
	a, b, ok := strings.Cut(s, "-")
	from, err1 := netip.ParseAddr(strings.TrimSpace(a))
	to, err2 := netip.ParseAddr(strings.TrimSpace(b))
	if !ok || err1 != nil || err2 != nil || !from.Is4() || !to.Is4() || to.Less(from) {
		return from, to, fmt.Errorf("%q: want FROM-TO, two IPv4 addresses", s)
	}
	return from, to, nil
}
