package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// otherServers asks for an address with a MAC that nobody has, and returns who offers one. Mimeo itself does not: it answers nodes only.
func otherServers(ctx context.Context, name string, wait time.Duration) ([]string, error) {
	var mac [6]byte
	rand.Read(mac[:])
	mac[0] = mac[0]&^1 | 2 // one's own choice, of one machine
	c, err := nclient4.New(name, nclient4.WithTimeout(wait), nclient4.WithRetry(1), nclient4.WithHWAddr(mac[:]))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ask, err := dhcpv4.NewDiscovery(mac[:], dhcpv4.WithBroadcast(true))
	if err != nil {
		return nil, err
	}
	var found []string
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	// Every answer is turned down, so that all that come are seen until the time is up.
	_, err = c.SendAndRead(ctx, c.RemoteAddr(), ask, func(p *dhcpv4.DHCPv4) bool {
		if p.MessageType() == dhcpv4.MessageTypeOffer {
			if from := p.ServerIdentifier().String(); !slices.Contains(found, from) {
				found = append(found, from)
			}
		}
		return false
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, nclient4.ErrNoResponse) {
		return nil, err
	}
	slices.Sort(found)
	return found, nil
}

func join(list []string) string { return strings.Join(list, ", ") }

// port is one that mimeod listens on.
type port struct {
	what, network, addr string
	nodes               bool // only where nodes are served
}

// ports looks whether somebody else has mimeod's ports.
func (d *doctor) ports() {
	c := d.Config
	list := []port{{"API", "tcp", c.HTTPS, false}, {"boot files", "tcp", c.HTTP, false}, {"NFS", "tcp", c.NFS, true}, {"TFTP", "udp", c.TFTP, true}}
	for _, i := range c.Interfaces {
		if i.DHCP != "off" {
			list = append(list, port{"DHCP", "udp", ":67", true})
			break
		}
	}
	for _, p := range list {
		if p.nodes && len(c.Interfaces) == 0 {
			continue
		}
		name := fmt.Sprintf("port %s/%s", strings.TrimPrefix(p.addr, ":"), p.network)
		err := bind(p)
		switch {
		case err == nil:
			d.add(OK, name, "", "%s: free", p.what)
		case errors.Is(err, os.ErrPermission):
			d.add(Warn, name, "run this as root", "%s: who has it could not be looked at", p.what)
		default:
			who := holder(p)
			if who == "mimeod" {
				d.add(OK, name, "", "%s: mimeod has it", p.what)
			} else {
				d.add(Bad, name, "stop it, or give mimeod another port", "%s: %s has it", p.what, who)
			}
		}
	}
}

func bind(p port) error {
	if p.network == "tcp" {
		l, err := net.Listen("tcp", p.addr)
		if err == nil {
			err = l.Close()
		}
		return err
	}
	l, err := net.ListenPacket("udp", p.addr)
	if err == nil {
		err = l.Close()
	}
	return err
}

// holder names the program that has a port, as ss knows it.
func holder(p port) string {
	_, number, err := net.SplitHostPort(p.addr)
	if err != nil {
		return "another program"
	}
	out, err := exec.Command("ss", "-Hlnp", map[string]string{"tcp": "-t", "udp": "-u"}[p.network], "sport", "=", ":"+number).Output()
	if err != nil {
		return "another program"
	}
	// users:(("dnsmasq",pid=1,fd=4))
	if _, rest, ok := strings.Cut(string(out), `users:(("`); ok {
		if name, _, ok := strings.Cut(rest, `"`); ok {
			return name
		}
	}
	return "another program"
}

// OtherServers listens for a few seconds, and returns the addresses of the DHCP servers that answer on an interface.
func OtherServers(ctx context.Context, name string) ([]string, error) {
	return otherServers(ctx, name, 3*time.Second)
}
