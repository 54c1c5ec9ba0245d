package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"mimeo/internal/cluster/node"
)

// Times of the book. An offer is held while a slow ROM makes up its mind; a declined address is left alone until
// somebody has had time to look.
const (
	offerHold   = 60 * time.Second
	declineHold = 15 * time.Minute
)

// book hands out addresses: no address is promised or leased to two network cards at once. What is leased is in the
// store; what is merely offered lives here, as RFC 2131 section 3.1 allows.
type book struct {
	store Leases
	now   func() time.Time
	owner func(ctx context.Context, addr netip.Addr) (string, bool, error)

	mu      sync.Mutex
	leases  map[netip.Addr]Lease
	cards   map[string][]netip.Addr // by MAC: the addresses whose last lease was this card's
	offers  map[netip.Addr]offer
	fresh   map[Range]netip.Addr      // where the addresses begin that nobody ever had
	inUse   map[netip.Addr]offer      // at which another machine was heard that was not given it: by whom, and until when that counts
	refused map[netip.Prefix]refusals // by the first network of those that were full
}

// refusals are requests that found a pool all in use.
type refusals struct {
	n    int
	last time.Time
}

type offer struct {
	mac   string
	until time.Time
}

// wish is what is asked of the book.
type wish struct {
	mac       string
	node      node.Name
	fixed     netip.Addr // zero where the node has none
	requested netip.Addr // by the node; a hint
	subnets   []Subnet   // of the wire that it is on, in the order in which their pools are used
	relay     netip.Addr // zero where there is none
}

// subnet is the one of w that addr is in.
func (w wish) subnet(addr netip.Addr) (Subnet, bool) {
	for _, n := range w.subnets {
		if n.Prefix.Contains(addr) {
			return n, true
		}
	}
	return Subnet{}, false
}

// networks names the subnets for people.
func (w wish) networks() string {
	var all []string
	for _, n := range w.subnets {
		all = append(all, n.Prefix.String())
	}
	return strings.Join(all, ", ")
}

// errNoAddress says why no address can be given; errExhausted, beside it, that a larger pool would help.
var (
	errNoAddress = errors.New("no address to give")
	errExhausted = errors.New("pool exhausted")
)

// load reads the leases from the store.
func (b *book) load(ctx context.Context) error {
	all, err := b.store.DHCPLeases(ctx)
	if err != nil {
		return fmt.Errorf("read DHCP leases: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leases = make(map[netip.Addr]Lease, len(all))
	b.cards, b.offers, b.fresh = map[string][]netip.Addr{}, map[netip.Addr]offer{}, map[Range]netip.Addr{}
	for _, l := range all {
		b.put(l)
	}
	return nil
}

// put takes a lease in place of the address's last one.
func (b *book) put(l Lease) {
	if old, ok := b.leases[l.Addr]; !ok || old.MAC != l.MAC {
		if left := slices.DeleteFunc(b.cards[old.MAC], func(a netip.Addr) bool { return a == l.Addr }); len(left) > 0 {
			b.cards[old.MAC] = left
		} else {
			delete(b.cards, old.MAC)
		}
		b.cards[l.MAC] = append(b.cards[l.MAC], l.Addr)
	}
	b.leases[l.Addr] = l
}

// offer chooses an address for w and holds it for a while.
func (b *book) offer(ctx context.Context, w wish) (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	addr, err := b.choose(ctx, w)
	if errors.Is(err, errExhausted) {
		if b.refused == nil {
			b.refused = map[netip.Prefix]refusals{}
		}
		p := w.subnets[0].Prefix
		b.refused[p] = refusals{b.refused[p].n + 1, now}
	}
	if err != nil {
		return netip.Addr{}, err
	}
	for a, o := range b.offers {
		if !now.Before(o.until) {
			delete(b.offers, a)
		}
	}
	b.offers[addr] = offer{w.mac, now.Add(offerHold)}
	return addr, nil
}

// lease gives addr to w for the time, durably. It is refused where addr is not what the book would offer.
func (b *book) lease(ctx context.Context, w wish, addr netip.Addr, d time.Duration) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.requested = addr
	if err := b.may(ctx, w, addr); err != nil {
		return err
	}
	now := b.now()
	l := Lease{Addr: addr, MAC: w.mac, Node: w.node, Expires: now.Add(d)}
	if err := b.store.PutDHCPLease(ctx, l, now); err != nil {
		return fmt.Errorf("keep lease of %s: %w", addr, err)
	}
	b.put(l)
	b.drop(w.mac)
	return b.endOthers(ctx, w, addr)
}

// endOthers ends the leases of other addresses that the network card had here: it holds one address, and a node that
// asks for another each time would empty the pool.
func (b *book) endOthers(ctx context.Context, w wish, keep netip.Addr) error {
	now := b.now()
	for _, a := range b.cards[w.mac] {
		l := b.leases[a]
		if a == keep || l.Declined || !now.Before(l.Expires) {
			continue
		}
		if _, here := w.subnet(a); !here {
			continue
		}
		l.Expires = now
		if err := b.store.PutDHCPLease(ctx, l, now); err != nil {
			return fmt.Errorf("end lease of %s: %w", a, err)
		}
		b.put(l)
	}
	return nil
}

// choose finds an address: the fixed one; the one it had; the one it was offered; the one it wishes; one that nobody
// ever had; the one that was given up longest ago.
func (b *book) choose(ctx context.Context, w wish) (netip.Addr, error) {
	if w.fixed.IsValid() {
		if err := b.may(ctx, w, w.fixed); err != nil {
			return netip.Addr{}, err
		}
		return w.fixed, nil
	}
	var had netip.Addr
	var hadUntil time.Time
	for _, a := range b.cards[w.mac] {
		if l := b.leases[a]; !l.Declined && l.Expires.After(hadUntil) && b.may(ctx, w, a) == nil {
			had, hadUntil = a, l.Expires
		}
	}
	if had.IsValid() {
		return had, nil
	}
	for a, o := range b.offers {
		if o.mac == w.mac && b.may(ctx, w, a) == nil {
			return a, nil
		}
	}
	if w.requested.IsValid() && b.may(ctx, w, w.requested) == nil {
		return w.requested, nil
	}
	pools := false
	for _, n := range w.subnets {
		for _, r := range n.Pool {
			pools = true
			if a := b.unused(ctx, w, r); a.IsValid() {
				return a, nil
			}
		}
	}
	if a := b.oldest(ctx, w); a.IsValid() {
		return a, nil
	}
	if !pools {
		return netip.Addr{}, fmt.Errorf("%w: the card has no fixed address, and %s has no pool", errNoAddress, w.networks())
	}
	return netip.Addr{}, fmt.Errorf("%w: %w: the pool of %s is all in use; a larger pool, or a shorter lease, would help", errNoAddress, errExhausted, w.networks())
}

// unused is the first address of a range that nobody ever had, and w can have.
func (b *book) unused(ctx context.Context, w wish, r Range) netip.Addr {
	from, ok := b.fresh[r]
	if !ok {
		from = r.From
	}
	first := true
	for a := from; a.IsValid() && a.Compare(r.To) <= 0; a = a.Next() {
		if _, known := b.leases[a]; known {
			continue
		}
		if first { // leases are never forgotten while we run: none before this one is worth a look again
			b.fresh[r], first = a, false
		}
		if b.may(ctx, w, a) == nil {
			return a
		}
	}
	if first {
		b.fresh[r] = netip.Addr{}
	}
	return netip.Addr{}
}

// oldest is the address that w can have whose last lease ended first.
func (b *book) oldest(ctx context.Context, w wish) (oldest netip.Addr) {
	now, end := b.now(), time.Time{}
	for a, l := range b.leases {
		if now.Before(l.Expires) || (oldest.IsValid() && !l.Expires.Before(end)) || b.may(ctx, w, a) != nil {
			continue
		}
		oldest, end = a, l.Expires
	}
	return oldest
}

// may says whether w can have addr now; nil means yes.
func (b *book) may(ctx context.Context, w wish, addr netip.Addr) error {
	now := b.now()
	sub, here := w.subnet(addr)
	switch {
	case !addr.Is4() || !here:
		return fmt.Errorf("%w: %s is not in %s", errNoAddress, addr, w.networks())
	case w.fixed.IsValid() && addr != w.fixed:
		return fmt.Errorf("%w: %s is not its fixed address %s", errNoAddress, addr, w.fixed)
	case !w.fixed.IsValid() && !inPool(sub.Pool, addr):
		return fmt.Errorf("%w: %s is not in the pool", errNoAddress, addr)
	}
	if addr == sub.Server || addr == sub.Gateway || addr == w.relay {
		return fmt.Errorf("%w: %s is the management node's, the gateway's or the relay's", errNoAddress, addr)
	}
	if p := sub.Prefix; p.Bits() < 31 && (addr == p.Masked().Addr() || addr == broadcast(p)) {
		return fmt.Errorf("%w: %s is the network's own", errNoAddress, addr)
	}
	if l, ok := b.leases[addr]; ok && now.Before(l.Expires) {
		switch {
		case l.Declined && !w.fixed.IsValid():
			return fmt.Errorf("%w: %s is in use by a machine that is not ours", errNoAddress, addr)
		case !l.Declined && l.MAC != w.mac:
			return fmt.Errorf("%w: %s is leased to %s until %s", errNoAddress, addr, l.MAC, l.Expires.UTC().Format(time.RFC3339))
		}
	}
	if u, ok := b.inUse[addr]; ok && u.mac != w.mac && now.Before(u.until) && !w.fixed.IsValid() {
		return fmt.Errorf("%w: %s is in use by %s, which was not given it", errNoAddress, addr, u.mac)
	}
	if o, ok := b.offers[addr]; ok && o.mac != w.mac && now.Before(o.until) {
		return fmt.Errorf("%w: %s was just offered to %s", errNoAddress, addr, o.mac)
	}
	if w.fixed.IsValid() || b.owner == nil {
		return nil
	}
	mac, ok, err := b.owner(ctx, addr)
	if err != nil {
		return fmt.Errorf("look up owner of %s: %w", addr, err)
	}
	if ok && mac != w.mac {
		return fmt.Errorf("%w: %s is the fixed address of %s", errNoAddress, addr, mac)
	}
	return nil
}

// used notes that a machine was heard at addr. It gives false where that is as it should be: the address is leased.
func (b *book) used(addr netip.Addr, mac string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if l, ok := b.leases[addr]; ok && now.Before(l.Expires) {
		return false
	}
	for a, u := range b.inUse {
		if !now.Before(u.until) {
			delete(b.inUse, a)
		}
	}
	if b.inUse == nil {
		b.inUse = map[netip.Addr]offer{}
	}
	b.inUse[addr] = offer{mac, now.Add(usedHold)}
	return true
}

// ahead are the next addresses that nobody ever had, n of each pool on our wire.
func (b *book) ahead(subnets []Subnet, n int) (out []netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, sub := range subnets {
		if !sub.Server.IsValid() {
			continue
		}
		for _, r := range sub.Pool {
			a, ok := b.fresh[r]
			if !ok {
				a = r.From
			}
			for left := n; left > 0 && a.IsValid() && a.Compare(r.To) <= 0; a = a.Next() {
				if _, known := b.leases[a]; !known && a != sub.Server && a != sub.Gateway {
					out = append(out, a)
					left--
				}
			}
		}
	}
	return out
}

// held tells whether mac has addr leased just now.
func (b *book) held(addr netip.Addr, mac string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.leases[addr]
	return ok && l.MAC == mac && !l.Declined && b.now().Before(l.Expires)
}

// decline notes that another machine was found at addr. It gives false where addr was not mac's.
func (b *book) decline(ctx context.Context, mac string, name node.Name, addr netip.Addr) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if l, ok := b.leases[addr]; !ok || l.MAC != mac {
		if o, ok := b.offers[addr]; !ok || o.mac != mac {
			return false, nil
		}
	}
	now := b.now()
	l := Lease{Addr: addr, MAC: mac, Node: name, Expires: now.Add(declineHold), Declined: true}
	if err := b.store.PutDHCPLease(ctx, l, now); err != nil {
		return false, fmt.Errorf("keep decline of %s: %w", addr, err)
	}
	b.put(l)
	delete(b.offers, addr)
	return true, nil
}

// release ends the lease; the entry stays, so that the node gets the same address again if it can.
func (b *book) release(ctx context.Context, mac string, addr netip.Addr) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.leases[addr]
	if !ok || l.MAC != mac || l.Declined {
		return false, nil
	}
	now := b.now()
	l.Expires = now
	if err := b.store.PutDHCPLease(ctx, l, now); err != nil {
		return false, fmt.Errorf("keep release of %s: %w", addr, err)
	}
	b.put(l)
	return true, nil
}

// forget drops what was offered to mac: it took another server's offer.
func (b *book) forget(mac string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(mac)
}

func (b *book) drop(mac string) {
	for a, o := range b.offers {
		if o.mac == mac {
			delete(b.offers, a)
		}
	}
}

func inPool(pool []Range, addr netip.Addr) bool {
	for _, r := range pool {
		if r.From.Compare(addr) <= 0 && addr.Compare(r.To) <= 0 {
			return true
		}
	}
	return false
}

// broadcast is the highest address of an IPv4 prefix. Prefixes of 31 and 32 bits have no broadcast address (RFC 3021).
func broadcast(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		a[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(a)
}
