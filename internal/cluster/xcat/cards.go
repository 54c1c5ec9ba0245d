package xcat

import (
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"mimeo/internal/cluster/node"
)

// card is one of a node's network cards.
type card struct {
	mac string
	ip  string // empty for one from the pool
}

var bareMAC = regexp.MustCompile(`^[0-9A-Fa-f]{12}$`)

// parseMAC reads an Ethernet address with colons, hyphens or nothing between its bytes.
func parseMAC(s string) (string, bool) {
	if bareMAC.MatchString(s) {
		s = s[:2] + ":" + s[2:4] + ":" + s[4:6] + ":" + s[6:8] + ":" + s[8:10] + ":" + s[10:]
	}
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", false
	}
	return hw.String(), true
}

// cards carries over a node's network cards with their addresses: mac.mac is "ADDRESS[!NAME]|..." (mac(5)), where no
// name means the node's own, and *NOIP* none. The card with the node's own name goes first.
func (im *importer) cards(d *draft) {
	ip, hasIP := im.get(d.name, d.own, "hosts", "ip")
	if hasIP {
		if a, err := netip.ParseAddr(strings.TrimSpace(ip.value)); err != nil || !a.Is4() {
			im.notes.add(Left, ip.at, d.name, "%q is no IPv4 address", clip(ip.value))
			hasIP = false
		} else {
			ip.value = a.String()
		}
	}
	mac, hasMAC := im.get(d.name, d.own, "mac", "mac")
	var own, others []card
	for entry := range strings.SplitSeq(mac.value, "|") {
		address, name, _ := strings.Cut(strings.TrimSpace(entry), "!")
		if address == "" {
			continue
		}
		m, ok := parseMAC(address)
		if !ok {
			im.notes.add(Left, mac.at, d.name, "%q is no Ethernet address", clip(address))
			continue
		}
		if slices.ContainsFunc(append(own, others...), func(c card) bool { return c.mac == m }) {
			continue
		}
		mine := name == "" || name == d.own
		switch {
		case mine && len(own) > 0:
			others = append(others, card{mac: m})
			im.notes.add(Check, mac.at, d.name, "several cards have the node's own name: the first is given its address, the others get one from the pool")
		case mine:
			c := card{mac: m}
			if hasIP {
				c.ip = ip.value
			}
			own = append(own, c)
		case name == "*NOIP*":
			others = append(others, card{mac: m})
		default:
			others = append(others, im.named(d, mac, m, name, ip))
		}
	}
	all := im.bootCard(d, append(own, others...))
	if len(all) == 0 {
		if !hasMAC {
			im.notes.put(Note{Kind: Check, Table: "mac", Column: "mac", Why: "it is not set: the node is not answered when it netboots, until it has one (mimeo node set NODE mac=...)"}, d.name)
		}
		if hasIP && im.set(d, "label.ip", ip.value, ip) {
			im.notes.add(Left, ip.at, d.name, "an address belongs to a network card, and the node has none yet: it is kept as the label ip")
		}
		return
	}
	if hasIP && len(own) == 0 {
		im.notes.add(Left, ip.at, d.name, "no card of mac.mac has the node's own name, which this address belongs to")
	}
	var macs, ips []string
	fixed := false
	for _, c := range all {
		macs = append(macs, c.mac)
		if c.ip == "" {
			ips = append(ips, "-")
			continue
		}
		fixed = true
		ips = append(ips, c.ip)
	}
	mac.group, ip.group = "", ""
	im.set(d, "mac", strings.Join(macs, ","), mac)
	if fixed {
		from := ip
		if !hasIP {
			from = mac
		}
		im.set(d, "ip", strings.TrimRight(strings.Join(ips, ","), "-,"), from)
	}
	if !hasIP {
		im.notes.put(Note{Kind: Check, Table: "hosts", Column: "ip", Why: "it is not set, and xCAT asked DNS: with Mimeo the node gets an address from the pool, unless ip says which"}, d.name)
	}
}

// named is a card with another name than the node's: its address is the one that the table hosts has for that name.
func (im *importer) named(d *draft, mac found, m, name string, ip found) card {
	a := im.names[name]
	switch {
	case a == "":
		im.notes.add(Check, mac.at, d.name, "the table hosts has no address for the name of a card: it gets one from the pool")
	case a == ip.value:
		im.notes.add(Check, mac.at, d.name, "several cards have the same address, as xCAT wants it for bonds: the first is given it, the others get one from the pool")
		a = ""
	case strings.Contains(a, ":"):
		im.notes.add(Left, mac.at, d.name, "the address of a card is IPv6: it gets an IPv4 address from the pool")
		a = ""
	}
	return card{m, a}
}

// bootCard puts the card first that noderes.installnic (or primarynic) names by its address.
func (im *importer) bootCard(d *draft, all []card) []card {
	nic, ok := im.get(d.name, d.own, "noderes", "installnic")
	primary, hasPrimary := im.get(d.name, d.own, "noderes", "primarynic")
	if !ok {
		nic, ok = primary, hasPrimary
	}
	if !ok || nic.value == "mac" {
		return all
	}
	if m, isMAC := parseMAC(nic.value); isMAC {
		i := slices.IndexFunc(all, func(c card) bool { return c.mac == m })
		if i < 0 {
			im.notes.add(Left, nic.at, d.name, "the card is not among those of mac.mac")
			return all
		}
		im.carry(nic.at.table, nic.at.column, "mac", d.name)
		return append([]card{all[i]}, slices.Delete(slices.Clone(all), i, i+1)...)
	}
	iface, _ := im.get("", d.own, "mac", "interface")
	if iface.value != nic.value && len(all) > 0 {
		im.notes.add(Left, nic.at, d.name, "Mimeo knows cards by their MAC address: the first of mac.mac is the one that it takes for booting, until another asks")
	}
	return all
}

// kind carries over a node's architecture, and its firmware where xCAT's way of netbooting tells it.
func (im *importer) kind(d *draft) {
	arch, hasArch := im.get(d.name, d.own, "nodetype", "arch")
	to := map[string]node.Arch{"x86_64": node.AMD64, "amd64": node.AMD64, "ppc64le": node.PPC64EL, "ppc64el": node.PPC64EL, "aarch64": node.ARM64, "arm64": node.ARM64}[strings.ToLower(arch.value)]
	if to != "" {
		im.set(d, "arch", string(to), arch)
	} else if hasArch {
		im.notes.add(Left, arch.at, d.name, "%s is none of Mimeo's architectures: amd64, arm64, ppc64el", clip(arch.value))
	}
	by, ok := im.get(d.name, d.own, "noderes", "netboot")
	if !ok {
		return
	}
	grub := strings.HasPrefix(by.value, "grub2")
	switch {
	case by.value == "petitboot" && (to == node.PPC64EL || !hasArch):
		im.set(d, "firmware", string(node.OPAL), by)
	case grub && to == node.PPC64EL:
		im.set(d, "firmware", string(node.OpenFirmware), by, arch)
	case grub && to == node.ARM64:
		im.set(d, "firmware", string(node.UEFI), by, arch)
	case to == node.AMD64 || !hasArch:
		im.notes.add(Left, by.at, d.name, "it does not tell BIOS from UEFI: Mimeo learns the firmware when the node netboots")
	default:
		im.notes.add(Left, by.at, d.name, "it tells no firmware of %s: Mimeo learns it when the node netboots", clip(arch.value))
	}
}
