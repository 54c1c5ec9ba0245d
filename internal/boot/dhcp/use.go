package dhcp

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Use says what of a subnet's pool is in use.
type Use struct {
	Subnet
	Size     int       // addresses in the pool that can be given at all
	Leased   int       // of these
	Declined int       // of these: another machine was found to use them
	Offered  int       // of these: offered a moment ago
	Refused  int       // requests that found no address there since the start
	Last     time.Time // of these; zero where there were none

	taken map[netip.Addr]bool // leased, declined or offered
}

// Idle tells whether an address is of the pool and nobody's just now.
func (u Use) Idle(a netip.Addr) bool { return inPool(u.Pool, a) && !u.taken[a] }

// Free is how many addresses could be given now.
func (u Use) Free() int { return max(0, u.Size-u.Leased-u.Declined-u.Offered) }

// Uses says what of the pools is in use now, in the order of s.Subnets. Listen must have been called; other goroutines
// may be in Serve.
func (s *Server) Uses() []Use {
	if s.book == nil {
		return nil
	}
	b := s.book
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	out := make([]Use, 0, len(s.Subnets))
	for _, sub := range s.Subnets {
		u := Use{Subnet: sub, Size: poolSize(sub), taken: map[netip.Addr]bool{}}
		if r, ok := b.refused[sub.Prefix]; ok {
			u.Refused, u.Last = r.n, r.last
		}
		for a, l := range b.leases {
			if !now.Before(l.Expires) || !inPool(sub.Pool, a) {
				continue
			}
			u.taken[a] = true
			if l.Declined {
				u.Declined++
			} else {
				u.Leased++
			}
		}
		for a, o := range b.inUse {
			if now.Before(o.until) && inPool(sub.Pool, a) && !u.taken[a] {
				u.taken[a] = true
				u.Declined++
			}
		}
		for a, o := range b.offers {
			if now.Before(o.until) && inPool(sub.Pool, a) && !u.taken[a] {
				u.taken[a] = true
				u.Offered++
			}
		}
		out = append(out, u)
	}
	return out
}

// poolSize is how many addresses of a subnet's pool can be given: not our own, not the gateway's, not the network's.
func poolSize(sub Subnet) int {
	never := []netip.Addr{sub.Server, sub.Gateway}
	if sub.Prefix.Bits() < 31 {
		never = append(never, sub.Prefix.Masked().Addr(), broadcast(sub.Prefix))
	}
	size := 0
	for _, r := range sub.Pool {
		from, to := r.From.As4(), r.To.As4()
		size += int(binary.BigEndian.Uint32(to[:])-binary.BigEndian.Uint32(from[:])) + 1
	}
	for i, a := range never {
		if a.IsValid() && inPool(sub.Pool, a) && (i == 0 || a != never[0]) {
			size--
		}
	}
	return size
}
