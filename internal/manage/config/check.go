package config

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"mimeo/internal/manage/schedule"
)

// wrong is an error in a setting: where it stands, its key, and what is wrong.
func (c *Config) wrong(key, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	top, _, _ := strings.Cut(key, "[")
	if from := c.source[top]; from != "" {
		return fmt.Errorf("%s: %s: %s", from, key, text)
	}
	if line := c.line(key); line > 0 {
		return fmt.Errorf("%s:%d: %s: %s", c.file, line, key, text)
	}
	return fmt.Errorf("%s: %s", key, text)
}

// line is the line of the file where a key stands, or what it would be part of; 0 where neither is there.
func (c *Config) line(key string) int {
	if c.tree == nil {
		return 0
	}
	for key != "" {
		if p, err := yaml.PathString("$." + key); err == nil {
			if n, err := p.FilterFile(c.tree); err == nil && n != nil && n.GetToken() != nil {
				return n.GetToken().Position.Line
			}
		}
		key = key[:max(0, strings.LastIndexAny(key, ".["))]
	}
	return 0
}

func def(s *string, v string) {
	if *s == "" {
		*s = v
	}
}

// Complete fills the defaults and checks every field. Errors name the key, and the line or flag that it came from.
func (c *Config) Complete() (err error) {
	def(&c.State, "/var/lib/mimeo")
	def(&c.HTTP, ":4480")
	def(&c.HTTPS, ":4443")
	def(&c.GC, "daily 03:30")
	def(&c.Repack, "off")
	def(&c.TFTP, ":69")
	def(&c.NFS, ":4449")
	def(&c.Log, "text")
	def(&c.LogLevel, "info")
	if c.History.Keep == 0 {
		c.History.Keep = OrOff(90 * 24 * time.Hour)
	}
	if c.History.Jobs == 0 {
		c.History.Jobs = 20
	}
	if c.State, err = filepath.Abs(c.State); err != nil {
		return c.wrong("state", "%v", err)
	}
	def(&c.Store, "dir:"+filepath.Join(c.State, "store"))
	if c.Agent == "" {
		self, err := os.Executable()
		if err != nil {
			return c.wrong("agent", "%v", err)
		}
		c.Agent = filepath.Dir(self)
		if lib := filepath.Join(c.Agent, "../lib/mimeo"); filepath.Base(c.Agent) == "sbin" && isDir(lib) {
			c.Agent = lib // as the package installs them
		}
	}
	if err := c.checkStore(); err != nil {
		return err
	}
	if c.GC != "off" {
		if _, err := schedule.Parse(c.GC, time.Local); err != nil {
			return c.wrong("gc", "%v", err)
		}
	}
	if c.Repack != "off" {
		if _, err := schedule.Parse(c.Repack, time.Local); err != nil {
			return c.wrong("repack", "%v", err)
		}
	}
	if c.LogLevel != "info" && c.LogLevel != "debug" {
		return c.wrong("log_level", "%q: want info or debug", c.LogLevel)
	}
	if c.Log != "text" && c.Log != "json" {
		return c.wrong("log", "%q: want text or json", c.Log)
	}
	if err := c.checkPower(); err != nil {
		return err
	}
	if err := c.checkHooks(); err != nil {
		return err
	}
	if err := c.checkTrust(); err != nil {
		return err
	}
	if err := c.checkAccept(); err != nil {
		return err
	}
	if err := c.checkConsole(); err != nil {
		return err
	}
	if k := time.Duration(c.History.Keep); k > 0 && k < 24*time.Hour {
		return c.wrong("history.keep", "%v: want a day or more, or off", k)
	}
	if n := c.History.Jobs; n < 1 || n > 10000 {
		return c.wrong("history.jobs", "%d: want 1 to 10000", n)
	}
	for key, n := range map[string]int{"jobs.max_active": c.Jobs.MaxActive, "jobs.max_captures": c.Jobs.MaxCaptures, "jobs.max_deploys": c.Jobs.MaxDeploys} {
		if n < 0 {
			return c.wrong(key, "%d: want a number of jobs, or 0 for no bound", n)
		}
	}
	if err := c.checkAddresses(); err != nil {
		return err
	}
	seen := map[string]int{}
	for i := range c.Interfaces {
		f := &c.Interfaces[i]
		key := fmt.Sprintf("interfaces[%d].", i)
		if f.Name == "" {
			return c.wrong(key+"name", "is missing")
		}
		if first, ok := seen[f.Name]; ok {
			return c.wrong(key+"name", "%s is named twice, first by interfaces[%d]", f.Name, first)
		}
		seen[f.Name] = i
		if err := c.checkInterface(f, key); err != nil {
			return err
		}
	}
	return nil
}

// checkAddresses looks at the addresses of the listeners: four that differ, unless the system chooses the port.
func (c *Config) checkAddresses() error {
	tcp := map[string]string{}
	for _, l := range []struct{ key, addr string }{{"http", c.HTTP}, {"https", c.HTTPS}, {"tftp", c.TFTP}, {"nfs", c.NFS}} {
		host, port, err := net.SplitHostPort(l.addr)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || strings.ContainsAny(host, " /") {
			return c.wrong(l.key, "%q: want [ADDRESS]:PORT", l.addr)
		}
		if l.key == "tftp" || n == 0 { // TFTP is UDP
			continue
		}
		if other := tcp[l.addr]; other != "" {
			return c.wrong(l.key, "%s is the address of %s, too", l.addr, other)
		}
		tcp[l.addr] = l.key
	}
	return nil
}

func (c *Config) checkInterface(f *Interface, key string) error {
	def(&f.DHCP, "full")
	def(&f.RA, "auto")
	def(&f.Discovery, "off")
	def(&f.Probe, "on")
	switch {
	case f.Probe != "on" && f.Probe != "off":
		return c.wrong(key+"probe", "%q: want on or off", f.Probe)
	case f.Discovery != "on" && f.Discovery != "off":
		return c.wrong(key+"discovery", "%q: want on or off", f.Discovery)
	case f.Discovery == "on" && f.DHCP == "off":
		return c.wrong(key+"discovery", "has no meaning where dhcp is off: nobody answers machines that are not known")
	}
	if f.DHCP != "full" && f.DHCP != "proxy" && f.DHCP != "off" {
		return c.wrong(key+"dhcp", "%q: want full, proxy or off", f.DHCP)
	}
	if f.RA != "auto" && f.RA != "on" && f.RA != "off" {
		return c.wrong(key+"ra", "%q: want auto, on or off", f.RA)
	}
	if err := c.checkReservations(f, key); err != nil {
		return err
	}
	own := Network{Pool: f.Pool, Gateway: f.Gateway, DNS: f.DNS, Domain: f.Domain, Lease: f.Lease}
	if err := c.checkNetwork(own, f.DHCP, key); err != nil {
		return err
	}
	return c.checkNetworks(f, key)
}

// checkReservations looks at the fixed addresses of machines that are no nodes, and brings their MACs to our form.
func (c *Config) checkReservations(f *Interface, key string) error {
	if len(f.Reservations) > 0 && f.DHCP != "full" {
		return c.wrong(key+"reservations", "has no meaning where dhcp is %s: another server gives the addresses", f.DHCP)
	}
	seen := map[string]int{}
	for i := range f.Reservations {
		r := &f.Reservations[i]
		key := fmt.Sprintf("%sreservations[%d].", key, i)
		hw, err := net.ParseMAC(r.MAC)
		switch {
		case err != nil || len(hw) != 6:
			return c.wrong(key+"mac", "%q: want a MAC address like 52:54:00:12:34:56", r.MAC)
		case !isIPv4(r.IP):
			return c.wrong(key+"ip", "%q is no IPv4 address", r.IP)
		case len(r.Name) > 253 || strings.ContainsAny(r.Name, " \t\n/"):
			return c.wrong(key+"name", "%q is no host name", r.Name)
		}
		r.MAC = hw.String()
		for k, v := range map[string]string{"mac": r.MAC, "ip": r.IP} {
			if first, ok := seen[v]; ok {
				return c.wrong(key+k, "%s is named twice, first by reservations[%d]", v, first)
			}
			seen[v] = i
		}
	}
	return nil
}

// checkNetworks looks at the further networks of an interface.
func (c *Config) checkNetworks(f *Interface, key string) error {
	for i := range f.Networks {
		n := &f.Networks[i]
		key := fmt.Sprintf("%snetworks[%d].", key, i)
		p, err := netip.ParsePrefix(n.Network)
		switch {
		case n.Network == "":
			return c.wrong(key+"network", "is missing")
		case err != nil || !p.Addr().Is4() || p.Bits() == 0 || p.Bits() > 30:
			return c.wrong(key+"network", "%q: want an IPv4 network like 10.8.0.0/16", n.Network)
		case p != p.Masked():
			return c.wrong(key+"network", "%s has bits of an address in it: want %s", p, p.Masked())
		}
		for k, other := range f.Networks[:i] {
			if p.Overlaps(other.Prefix()) {
				return c.wrong(key+"network", "%s and networks[%d], %s, overlap", p, k, other.Network)
			}
		}
		if err := c.checkNetwork(*n, f.DHCP, key); err != nil {
			return err
		}
		for i, r := range n.Pool {
			if from, to, err := ParseRange(r); err == nil && (!p.Contains(from) || !p.Contains(to)) {
				return c.wrong(fmt.Sprintf("%spool[%d]", key, i), "%s is not in %s", r, p)
			}
		}
		if n.Gateway != "" && !p.Contains(netip.MustParseAddr(n.Gateway)) {
			return c.wrong(key+"gateway", "%s is not in %s", n.Gateway, p)
		}
		if len(n.DNS) == 0 {
			n.DNS = f.DNS
		}
		def(&n.Domain, f.Domain)
		if n.Lease == 0 {
			n.Lease = f.Lease
		}
	}
	return nil
}

// checkNetwork looks at what is given with an address.
func (c *Config) checkNetwork(n Network, mode, key string) error {
	for k, set := range map[string]bool{"pool": len(n.Pool) > 0, "gateway": n.Gateway != "", "dns": len(n.DNS) > 0, "domain": n.Domain != "", "lease": n.Lease != 0} {
		if set && mode != "full" {
			return c.wrong(key+k, "has no meaning where dhcp is %s: another server gives the addresses", mode)
		}
	}
	for i, p := range n.Pool {
		if _, _, err := ParseRange(p); err != nil {
			return c.wrong(fmt.Sprintf("%spool[%d]", key, i), "%v", err)
		}
	}
	for i, a := range n.DNS {
		if !isIPv4(a) {
			return c.wrong(fmt.Sprintf("%sdns[%d]", key, i), "%q is no IPv4 address", a)
		}
	}
	if n.Gateway != "" && !isIPv4(n.Gateway) {
		return c.wrong(key+"gateway", "%q is no IPv4 address", n.Gateway)
	}
	if len(n.Domain) > 253 || strings.ContainsAny(n.Domain, " \t\n/") {
		return c.wrong(key+"domain", "%q is no domain name", n.Domain)
	}
	return nil
}

func isIPv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4()
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

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
