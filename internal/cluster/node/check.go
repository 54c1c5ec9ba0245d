package node

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

func oneOf(allowed ...string) func(string) (string, error) {
	return func(v string) (string, error) {
		if !slices.Contains(allowed, v) {
			return "", fmt.Errorf("%q is none of %s", v, strings.Join(allowed, ", "))
		}
		return v, nil
	}
}

func checkText(v string) (string, error) { return v, nil }

func checkBool(v string) (string, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return "", fmt.Errorf("%q: want true or false", v)
	}
	return strconv.FormatBool(b), nil
}

// IsGroup tells whether a text may name a group.
func IsGroup(g string) bool {
	return g != "" && len(g) <= 63 && g[0] != '-' && !strings.ContainsAny(g, "[]()@,/ =!^~;+\"'{}") && utf8.ValidString(g) && !strings.ContainsFunc(g, func(r rune) bool { return !unicode.IsPrint(r) })
}

// GroupAll is the group of all nodes. Each node inherits from it, after its own groups.
const GroupAll = "all"

func checkGroups(v string) (string, error) {
	var out []string
	for _, g := range List(v) {
		if g == GroupAll {
			return "", fmt.Errorf("every node is in the group all anyhow")
		}
		if !IsGroup(g) {
			return "", fmt.Errorf("%q is no name for a group", g)
		}
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return strings.Join(out, ","), nil
}

func checkMACs(v string) (string, error) {
	var out []string
	for _, m := range List(v) {
		hw, err := net.ParseMAC(m)
		if err != nil || len(hw) != 6 {
			return "", fmt.Errorf("%q is no MAC address", m)
		}
		if slices.Contains(out, hw.String()) {
			return "", fmt.Errorf("%s is there twice", hw)
		}
		out = append(out, hw.String())
	}
	return strings.Join(out, ","), nil
}

// checkIPs reads one address a card, in their order, with a hyphen for none.
func checkIPs(v string) (string, error) {
	var out []string
	for _, s := range List(v) {
		if s != "-" {
			a, err := netip.ParseAddr(s)
			if err != nil || !a.Is4() {
				return "", fmt.Errorf("%q is no IPv4 address", s)
			}
			if s = a.String(); slices.Contains(out, s) {
				return "", fmt.Errorf("%s is there twice", s)
			}
		}
		out = append(out, s)
	}
	for len(out) > 0 && out[len(out)-1] == "-" {
		out = out[:len(out)-1]
	}
	return strings.Join(out, ","), nil
}

func macs(n *Node) string {
	var out []string
	for _, c := range n.NICs {
		out = append(out, c.MAC)
	}
	return strings.Join(out, ",")
}

func putMACs(n *Node, v string) {
	n.NICs = nil
	for _, m := range List(v) {
		n.NICs = append(n.NICs, NIC{MAC: m})
	}
}

func ips(n *Node) string {
	var out []string
	for _, c := range n.NICs {
		if c.IP == "" {
			c.IP = "-"
		}
		out = append(out, c.IP)
	}
	v, _ := checkIPs(strings.Join(out, ","))
	return v
}

func putIPs(n *Node, v string) {
	for i, ip := range List(v) {
		if i < len(n.NICs) && ip != "-" {
			n.NICs[i].IP = ip
		}
	}
}

// OwnBMC tells whether a BMC's URL leads to one node alone, as that of a BMC on the network does. A person, a command and
// a magic packet are for any number of nodes.
func OwnBMC(url string) bool {
	return url != "" && url != "manual:" && !strings.HasPrefix(url, "exec:") && !strings.HasPrefix(url, "wol:")
}

// IsCommand tells whether a text can name a command of the server's configuration: letters, digits, - and _.
func IsCommand(name string) bool {
	return name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
}

func checkBMC(v string) (string, error) {
	if v == "manual:" {
		return v, nil
	}
	if name, ok := strings.CutPrefix(v, "exec:"); ok {
		if !IsCommand(name) {
			return "", fmt.Errorf("%q: want exec:NAME, with the name of a command in the configuration of mimeod", v)
		}
		return v, nil
	}
	if to, ok := strings.CutPrefix(v, "wol:"); ok {
		to, address := strings.CutPrefix(to, "//")
		_, err := netip.ParseAddrPort(to)
		_, err2 := netip.ParseAddr(strings.Trim(to, "[]"))
		if address && err != nil && err2 != nil || !address && (len(to) > 15 || strings.ContainsAny(to, " \t\n/:?#@")) {
			return "", fmt.Errorf("%q: want wol:, wol:INTERFACE, or wol://ADDRESS for the broadcast address of another network", v)
		}
		return v, nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Host == "" || !slices.Contains([]string{"ipmi", "redfish", "redfish+http"}, u.Scheme) {
		return "", fmt.Errorf("%q: want ipmi://ADDRESS, redfish://ADDRESS, exec:NAME, wol: or manual:", v)
	}
	if u.User != nil {
		return "", fmt.Errorf("put the user into bmc.user and the password into bmc.password, not into the URL")
	}
	return v, nil
}

func checkHostname(v string) (string, error) {
	if len(v) > 253 || strings.ContainsAny(v, " \t\n/") {
		return "", fmt.Errorf("%q is no host name", v)
	}
	return v, nil
}

func checkConsole(v string) (string, error) {
	if strings.ContainsAny(v, " \t\n$") {
		return "", fmt.Errorf("%q is no console", v)
	}
	return v, nil
}
