package lldp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mimeo/internal/cluster/api"
)

// joinEvery is how often cards are looked for that were not there before, or not up.
const joinEvery = 2 * time.Second

// groups are the addresses that switches send to: the nearest bridge, the nearest that is no two-port relay, and the
// nearest of a customer (table 7-1).
var groups = [][8]uint8{{0x01, 0x80, 0xc2, 0, 0, 0x0e}, {0x01, 0x80, 0xc2, 0, 0, 0x03}, {0x01, 0x80, 0xc2, 0, 0, 0x00}}

// Listener remembers what was heard. Its methods may be called from several goroutines.
type Listener struct {
	file *os.File
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	heard map[string]api.HardwareSwitch // by interface
}

// Listen begins to listen on all network cards; it needs CAP_NET_RAW. Nothing is sent, and no card is switched on.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, etherType>>8|etherType&0xff<<8)
	if err != nil {
		return nil, fmt.Errorf("listen to LLDP: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Listener{file: os.NewFile(uintptr(fd), "lldp"), stop: cancel, heard: map[string]api.HardwareSwitch{}}
	l.done.Go(func() { l.joinNew(ctx) })
	l.done.Go(l.read)
	return l, nil
}

// Close ends it.
func (l *Listener) Close() {
	l.stop()
	l.file.Close()
	l.done.Wait()
}

// Heard returns what switches said of the ports of network cards, by the names of the cards' interfaces.
func (l *Listener) Heard() map[string]api.HardwareSwitch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.heard)
}

func (l *Listener) joinNew(ctx context.Context) {
	tick := time.NewTicker(joinEvery)
	defer tick.Stop()
	joined := map[int]bool{}
	for {
		l.join(joined)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// join has the cards take the frames, which go to addresses that are nobody's.
func (l *Listener) join(joined map[int]bool) {
	cards, err := net.Interfaces()
	if err != nil {
		return // next time
	}
	raw, err := l.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for _, c := range cards {
			if joined[c.Index] || len(c.HardwareAddr) != 6 {
				continue
			}
			joined[c.Index] = true
			for _, g := range groups {
				m := unix.PacketMreq{Ifindex: int32(c.Index), Type: unix.PACKET_MR_MULTICAST, Alen: 6, Address: g}
				if unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m) != nil {
					delete(joined, c.Index)
				}
			}
		}
	})
}

func (l *Listener) read() {
	raw, err := l.file.SyscallConn()
	if err != nil {
		return
	}
	b := make([]byte, 9216)
	for {
		var n int
		var from unix.Sockaddr
		var err2 error
		err := raw.Read(func(fd uintptr) bool {
			n, from, err2 = unix.Recvfrom(int(fd), b, 0)
			return !errors.Is(err2, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		at, ok := from.(*unix.SockaddrLinklayer)
		if err2 != nil || !ok || at.Pkttype == unix.PACKET_OUTGOING {
			continue // a card that went down says so
		}
		card, err := net.InterfaceByIndex(at.Ifindex)
		if err != nil {
			continue
		}
		s, err := Parse(b[:n])
		l.mu.Lock()
		switch {
		case errors.Is(err, ErrGone):
			delete(l.heard, card.Name)
		case err == nil:
			l.heard[card.Name] = s
		}
		l.mu.Unlock()
	}
}
