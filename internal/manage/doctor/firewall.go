package doctor

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// filter is a set of rules that packets have to pass: a table of nftables, the old iptables, or firewalld.
type filter struct {
	kind  string   // nftables, iptables, ufw, firewalld
	rules []string // for what comes in, a rule a line, without counters; of firewalld what it says of a zone
}

// need is a port that nodes want to reach.
type need struct {
	proto string
	port  int
}

func (n need) String() string { return fmt.Sprintf("%d/%s", n.port, n.proto) }

// needs are mimeod's ports for nodes on an interface.
func (d *doctor) needs(dhcp string) []need {
	list := []need{{"udp", 69}}
	if dhcp != "off" {
		list = append(list, need{"udp", 67}, need{"udp", 4011})
	}
	for _, a := range []string{d.Config.HTTP, d.Config.HTTPS, d.Config.NFS} {
		if _, p, err := net.SplitHostPort(a); err == nil {
			if n, err := strconv.Atoi(p); err == nil {
				list = append(list, need{"tcp", n})
			}
		}
	}
	return list
}

// firewall looks for rules that keep nodes out. Which of several rules comes first is not looked at.
func (d *doctor) firewall(ctx context.Context) {
	filters, asked, err := filters(ctx)
	switch {
	case err != nil:
		d.add(Warn, "firewall", "run this as root", "its rules cannot be looked at: %v", err)
		return
	case !asked:
		d.add(OK, "firewall", "", "neither nft nor iptables is installed")
		return
	case len(filters) == 0:
		d.add(OK, "firewall", "", "nothing that comes in is dropped by default")
		return
	}
	for _, i := range d.Config.Interfaces {
		if _, err := net.InterfaceByName(i.Name); err != nil {
			continue
		}
		name, shut := "firewall on "+i.Name, false
		for _, f := range filters {
			var closed []string
			if f.kind == "firewalld" {
				f.rules = firewalldZone(ctx, i.Name)
			}
			for _, n := range d.needs(i.DHCP) {
				if !f.lets(i.Name, n) {
					closed = append(closed, n.String())
				}
			}
			if len(closed) > 0 {
				d.add(Warn, name, f.hint(i.Name), "%s drops what comes in, and lets nodes not reach %s", f.kind, join(closed))
				shut = true
			}
		}
		if !shut {
			d.add(OK, name, "", "%s lets nodes in", join(kinds(filters)))
		}
	}
}

func kinds(filters []filter) (out []string) {
	for _, f := range filters {
		if !slices.Contains(out, f.kind) {
			out = append(out, f.kind)
		}
	}
	return out
}

// hint says how all is let in on an interface.
func (f filter) hint(name string) string {
	switch f.kind {
	case "ufw":
		return "ufw allow in on " + name
	case "firewalld":
		return fmt.Sprintf("firewall-cmd --permanent --zone=trusted --change-interface=%s && firewall-cmd --reload", name)
	case "iptables":
		return fmt.Sprintf("iptables -I INPUT -i %s -j ACCEPT, and where your distribution keeps its rules", name)
	}
	return fmt.Sprintf("a rule in /etc/nftables.conf: iifname %q accept", name)
}

// filters are those that drop by default. asked says whether there was a tool to ask.
func filters(ctx context.Context) (out []filter, asked bool, err error) {
	if path := tool("nft"); path != "" {
		b, err := exec.CommandContext(ctx, path, "list", "ruleset").Output()
		if err != nil {
			return nil, true, err
		}
		out, asked = nftFilters(string(b)), true
	}
	// Where nobody uses the old tables, asking for them would make them. The new ones nft has shown.
	names, _ := os.ReadFile("/proc/net/ip_tables_names")
	for _, name := range []string{"iptables-legacy", "iptables"} {
		path := tool(name)
		if path == "" || asked && !slices.Contains(strings.Fields(string(names)), "filter") {
			continue
		}
		b, err := exec.CommandContext(ctx, path, "-S").Output()
		if err != nil {
			return nil, true, err
		}
		if rules, closed := iptablesRules(string(b)); closed {
			out = append(out, filter{iptablesKind(string(b)), rules})
		}
		return out, true, nil
	}
	return out, asked, nil
}

// tool finds a program, also where PATH has no sbin.
func tool(name string) string {
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if path := "/usr/sbin/" + name; exec.Command(path, "--version").Run() == nil {
		return path
	}
	return ""
}

func iptablesKind(text string) string {
	if strings.Contains(text, "ufw-before-input") {
		return "ufw"
	}
	return "iptables"
}

// elsewhere is a chain for what does not come in.
var elsewhere = regexp.MustCompile(`(?i)forward|output|fwd|prerouting|postrouting`)

// iptablesRules reads what "iptables -S" prints. closed says that what no rule lets in is dropped.
func iptablesRules(text string) (rules []string, closed bool) {
	last := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		if line == "-P INPUT DROP" {
			closed = true
		}
		if len(f) < 3 || f[0] != "-A" || elsewhere.MatchString(f[1]) {
			continue
		}
		if f[1] == "INPUT" {
			last = strings.Join(f[2:], " ")
		}
		rules = append(rules, strings.Join(f[2:], " "))
	}
	return rules, closed || strings.HasPrefix(last, "-j DROP") || strings.HasPrefix(last, "-j REJECT")
}

var (
	counter = regexp.MustCompile(`counter packets \d+ bytes \d+ ?`)
	comment = regexp.MustCompile(` ?comment "[^"]*"`)
	refusal = regexp.MustCompile(`^(drop|reject.*)$`)
)

// nftFilters reads what "nft list ruleset" prints (nft(8)), and returns the tables for IPv4 that drop by default.
func nftFilters(text string) (out []filter) {
	var f filter
	var chain string
	var family, table string
	var closed, input, skip bool
	last := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(comment.ReplaceAllString(counter.ReplaceAllString(line, ""), ""))
		word := strings.Fields(line)
		switch {
		case len(word) == 4 && word[0] == "table":
			family, table, f, closed = word[1], word[2], filter{kind: "nftables"}, false
			if strings.Contains(line, "firewalld") {
				f.kind = "firewalld"
			}
		case len(word) == 3 && word[0] == "chain":
			chain, input, last = word[1], false, ""
			skip = elsewhere.MatchString(chain)
			if strings.HasPrefix(chain, "ufw-") {
				f.kind = "ufw"
			} else if chain == "INPUT" && f.kind == "nftables" && family == "ip" && table == "filter" {
				f.kind = "iptables"
			}
		case line == "}" && chain != "":
			closed = closed || input && refusal.MatchString(last)
			chain = ""
		case line == "}":
			if closed && (family == "ip" || family == "inet") {
				out = append(out, f)
			}
		case strings.HasPrefix(line, "type ") && strings.Contains(line, " hook "):
			input = strings.Contains(line, " hook input ") && strings.HasPrefix(line, "type filter")
			skip = !input
			closed = closed || input && strings.Contains(line, "policy drop")
		case chain != "" && line != "":
			last = line
			if !skip {
				f.rules = append(f.rules, line)
			}
		}
	}
	return out
}

var (
	nftRule      = regexp.MustCompile(`^(?:(?:iifname|iif) (?P<in>"[^"]+"|\{[^}]*\}) )?(?:(?:meta l4proto (?:tcp|udp) )?(?P<proto>tcp|udp) dport (?P<port>[\d-]+|\{[^}]*\}) )?accept$`)
	iptablesRule = regexp.MustCompile(`^(?:-i (?P<in>\S+) )?(?:-p (?P<proto>tcp|udp) (?:-m (?:tcp|udp) )?(?:(?:--dport|-m multiport --dports) (?P<port>[\d:,]+) ))?-j ACCEPT$`)
)

// lets tells whether a rule lets in what a node sends to a port.
func (f filter) lets(name string, n need) bool {
	if f.kind == "firewalld" {
		return zoneLets(f.rules, n)
	}
	for _, rule := range f.rules {
		for _, form := range []*regexp.Regexp{nftRule, iptablesRule} {
			m := form.FindStringSubmatch(rule)
			if m == nil || m[1] == "" && m[2] == "" {
				continue
			}
			in := strings.FieldsFunc(m[1], func(r rune) bool { return strings.ContainsRune(`"{}, `, r) })
			if m[1] != "" && !slices.ContainsFunc(in, func(s string) bool {
				prefix, any := strings.CutSuffix(strings.TrimSuffix(s, "*"), "+")
				return s == name || (any || strings.HasSuffix(s, "*")) && strings.HasPrefix(name, prefix)
			}) {
				continue
			}
			if m[2] == "" || m[2] == n.proto && hasPort(m[3], n.port) {
				return true
			}
		}
	}
	return false
}

// hasPort tells whether a port is in a list such as "67, 4000-4100" or "67,4000:4100".
func hasPort(list string, port int) bool {
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune("{}, ", r) }) {
		from, to, isRange := strings.Cut(strings.ReplaceAll(s, ":", "-"), "-")
		if !isRange {
			to = from
		}
		a, err := strconv.Atoi(from)
		b, err2 := strconv.Atoi(to)
		if err == nil && err2 == nil && a <= port && port <= b {
			return true
		}
	}
	return false
}

// firewalldZone is what firewalld, by its tool, says of the zone that an interface is in, a line a setting.
func firewalldZone(ctx context.Context, name string) []string {
	path := tool("firewall-cmd")
	if path == "" {
		return nil
	}
	zone, err := exec.CommandContext(ctx, path, "--get-zone-of-interface="+name).Output()
	if err != nil {
		if zone, err = exec.CommandContext(ctx, path, "--get-default-zone").Output(); err != nil {
			return nil
		}
	}
	b, err := exec.CommandContext(ctx, path, "--zone="+strings.TrimSpace(string(zone)), "--list-all").Output()
	if err != nil {
		return nil
	}
	return strings.Split(string(b), "\n")
}

// firewalldServices are the names under which firewalld knows ports.
var firewalldServices = map[need]string{{"udp", 67}: "dhcp", {"udp", 69}: "tftp", {"udp", 4011}: "proxy-dhcp"}

// zoneLets tells whether a zone lets in what is sent to a port.
func zoneLets(zone []string, n need) bool {
	for _, line := range zone {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch {
		case key == "target" && value == "ACCEPT":
			return true
		case key == "services" && firewalldServices[n] != "" && slices.Contains(strings.Fields(value), firewalldServices[n]):
			return true
		case key == "ports":
			for _, p := range strings.Fields(value) {
				if ports, proto, _ := strings.Cut(p, "/"); proto == n.proto && hasPort(ports, n.port) {
					return true
				}
			}
		}
	}
	return false
}
