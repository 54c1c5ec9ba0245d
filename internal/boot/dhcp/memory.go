package dhcp

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// Memory keeps leases until the process ends.
type Memory struct {
	mu     sync.Mutex
	leases map[netip.Addr]Lease
}

// DHCPLeases implements Leases.
func (m *Memory) DHCPLeases(context.Context) ([]Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := make([]Lease, 0, len(m.leases))
	for _, l := range m.leases {
		all = append(all, l)
	}
	return all, nil
}

// PutDHCPLease implements Leases.
func (m *Memory) PutDHCPLease(_ context.Context, l Lease, now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if old, ok := m.leases[l.Addr]; ok && old.MAC != l.MAC && !old.Declined && now.Before(old.Expires) {
		return ErrTaken
	}
	if m.leases == nil {
		m.leases = map[netip.Addr]Lease{}
	}
	m.leases[l.Addr] = l
	return nil
}

// DeleteDHCPLease implements Leases.
func (m *Memory) DeleteDHCPLease(_ context.Context, addr netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.leases, addr)
	return nil
}
