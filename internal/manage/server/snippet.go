package server

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// dhcpSnippet prints configuration for the DHCP server of the site.
func (s *Server) dhcpSnippet(r *http.Request) (any, error) {
	server := r.FormValue("server")
	if !slices.Contains(netboot.DHCPServers, server) {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("there is no configuration for %q", server),
			Hint: "want one of " + strings.Join(netboot.DHCPServers, ", ")}
	}
	f, err := s.snippetIface(r.FormValue("interface"))
	if err != nil {
		return nil, err
	}
	all, err := s.db.Nodes(r.Context())
	if err != nil {
		return nil, err
	}
	site := netboot.Site{Server: f.prefix.Addr(), Base: s.bootBase(f.prefix.Addr()), Nodes: nodesOn(f, all),
		Again: fmt.Sprintf("mimeo dhcp snippet %s --interface %s", server, f.Name)}
	var b strings.Builder
	if err := netboot.Snippet(&b, server, site); err != nil {
		return nil, err
	}
	out := api.DHCPSnippet{Server: server, Interface: f.Name, Nodes: len(site.Nodes), Text: b.String()}
	switch {
	case f.DHCP == "full":
		out.Note = fmt.Sprintf("mimeod gives addresses on %s itself: set dhcp to off there before another server does", f.Name)
	case f.DHCP == "proxy":
		out.Note = fmt.Sprintf("mimeod adds the boot file on %s itself (dhcp: proxy), and needs none of this: set dhcp to off there to use it", f.Name)
	case len(site.Nodes) == 0:
		out.Note = "there is no node yet: print it anew when there are some"
	}
	return out, nil
}

// snippetIface is the interface of a name, or the one with dhcp off, or the only one.
func (s *Server) snippetIface(name string) (iface, error) {
	var fit, names []string
	for _, f := range s.ifaces {
		names = append(names, f.Name)
		if f.Name == name || name == "" && (f.DHCP == "off" || len(s.ifaces) == 1) {
			fit = append(fit, f.Name)
		}
	}
	switch {
	case len(fit) == 1:
		return s.ifaces[slices.Index(names, fit[0])], nil
	case len(s.ifaces) == 0:
		return iface{}, &api.Error{Code: "conflict", Message: "mimeod serves no interface, so no node can reach it",
			Hint: "name one in its configuration: interfaces: [{name: eth1, dhcp: off}]"}
	case name != "":
		return iface{}, &api.Error{Code: "not_found", Message: fmt.Sprintf("mimeod serves no interface %q", name), Hint: "there are " + strings.Join(names, ", ")}
	}
	return iface{}, &api.Error{Code: "bad_request", Message: "several interfaces come into question", Hint: "say which: --interface " + strings.Join(names, ", or ")}
}

// nodesOn are the nodes that may be on an interface: those without a fixed address, and with one in its networks.
func nodesOn(f iface, all []node.Node) (out []node.Node) {
	for _, n := range all {
		nics := slices.Clone(n.NICs)
		n.NICs = slices.DeleteFunc(nics, func(c node.NIC) bool {
			a, err := netip.ParseAddr(c.IP)
			if c.IP == "" || err != nil {
				return c.MAC == ""
			}
			_, on := f.subnet(a)
			return !on
		})
		if len(n.NICs) > 0 {
			out = append(out, n)
		}
	}
	return out
}
