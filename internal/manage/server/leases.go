package server

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"mimeo/internal/boot/dhcp"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// dhcpStatus says what addresses there are and who has them.
func (s *Server) dhcpStatus(r *http.Request) (any, error) {
	ctx := r.Context()
	nodes, err := s.db.Nodes(ctx)
	if err != nil {
		return nil, err
	}
	leases, err := s.db.DHCPLeases(ctx)
	if err != nil {
		return nil, err
	}
	out := api.DHCPStatus{Networks: []api.DHCPNetwork{}, Leases: []api.DHCPLease{}}
	for _, f := range s.ifaces {
		out.Networks = append(out.Networks, s.dhcpNetworks(f, nodes)...)
	}
	slices.SortFunc(leases, func(a, b dhcp.Lease) int { return a.Addr.Compare(b.Addr) })
	now := time.Now()
	for _, l := range leases {
		a := api.DHCPLease{Addr: l.Addr.String(), MAC: l.MAC, Node: l.Node, State: api.LeaseActive, Expires: l.Expires}
		switch {
		case !now.Before(l.Expires):
			a.State = api.LeaseEnded
		case l.Declined:
			a.State = api.LeaseConflict
		}
		out.Leases = append(out.Leases, a)
	}
	return out, nil
}

// dhcpNetworks are the networks of an interface and what of their pools is in use.
func (s *Server) dhcpNetworks(f iface, nodes []node.Node) []api.DHCPNetwork {
	uses := map[netip.Prefix]dhcp.Use{}
	for _, d := range s.dhcp {
		if d.Interface == f.Name {
			for _, u := range d.Uses() {
				uses[u.Prefix] = u
			}
		}
	}
	out := []api.DHCPNetwork{}
	for _, sub := range f.subnets {
		u := uses[sub.Prefix]
		n := api.DHCPNetwork{Interface: f.Name, DHCP: f.DHCP, Network: sub.Prefix.String(), Server: text(sub.Server), Gateway: text(sub.Gateway),
			Size: u.Size, Leased: u.Leased, Conflicts: u.Declined, Refused: u.Refused}
		for _, r := range sub.Pool {
			n.Pool = append(n.Pool, r.From.String()+"-"+r.To.String())
		}
		if !u.Last.IsZero() {
			n.RefusedAt = &u.Last
		}
		n.Reserved = s.reservedIn(u, nodes)
		n.Free = max(0, u.Free()-n.Reserved)
		out = append(out, n)
	}
	return out
}

// reservedIn counts the fixed addresses of nodes in a pool that are not leased: nobody else gets them.
func (s *Server) reservedIn(u dhcp.Use, nodes []node.Node) (n int) {
	for _, nd := range nodes {
		for _, nic := range nd.NICs {
			if a, err := netip.ParseAddr(nic.IP); err == nil && u.Idle(a) {
				n++
			}
		}
	}
	return n
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// forgetLeases drops ended leases of networks that are served no more: what is kept is bounded by the networks' size.
func (s *Server) forgetLeases(ctx context.Context) error {
	leases, err := s.db.DHCPLeases(ctx)
	if err != nil {
		return fmt.Errorf("read DHCP leases: %w", err)
	}
	for _, l := range leases {
		if _, served := s.ifaceOf(l.Addr); served || time.Now().Before(l.Expires) {
			continue
		}
		if err := s.db.DeleteDHCPLease(ctx, l.Addr); err != nil {
			return fmt.Errorf("forget DHCP lease of %s: %w", l.Addr, err)
		}
	}
	return nil
}
