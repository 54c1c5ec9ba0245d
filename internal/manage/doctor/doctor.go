// Package doctor looks at the machine that a management node runs on, and says what is in its way.
package doctor

import (
	"context"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"mimeo/internal/manage/config"
)

// State is how bad a finding is.
type State string

// The states. With Bad, something that is configured cannot work.
const (
	OK   State = "ok"
	Warn State = "warning"
	Bad  State = "bad"
)

// Finding is one thing that was looked at.
type Finding struct {
	Name  string `json:"name"` // what was looked at: "interface eth1"
	State State  `json:"state"`
	Text  string `json:"text"`           // what was found
	Hint  string `json:"hint,omitempty"` // what to do about it
}

// Options say what to look at.
type Options struct {
	Config  config.Config // complete
	User    string        // as whom mimeod runs
	Version string        // of the programs
	Listen  time.Duration // how long to wait for other DHCP servers; 0 means 3 s
}

// doctor collects what is found.
type doctor struct {
	Options
	list []Finding
}

func (d *doctor) add(state State, name, hint, format string, args ...any) {
	d.list = append(d.list, Finding{Name: name, State: state, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// Look looks at everything, and changes nothing; in a bucket it writes an object, and deletes it. It takes a few seconds. On each interface with DHCP one request goes out, of a MAC
// address that no machine has.
func Look(ctx context.Context, o Options) []Finding {
	if o.Listen == 0 {
		o.Listen = 3 * time.Second
	}
	d := &doctor{Options: o}
	d.interfaces()
	d.servers(ctx)
	d.ports()
	d.firewall(ctx)
	d.folders()
	d.buckets(ctx)
	d.stores()
	d.programs()
	d.namespaces()
	d.images()
	d.clock()
	return d.list
}

// interfaces looks at the networks on which nodes are served.
func (d *doctor) interfaces() {
	if len(d.Config.Interfaces) == 0 {
		d.add(Bad, "interfaces", "name one in the configuration, or with --interface", "none is named: no node is answered")
	}
	for _, i := range d.Config.Interfaces {
		name := "interface " + i.Name
		f, err := net.InterfaceByName(i.Name)
		if err != nil {
			d.add(Bad, name, "there are: "+interfaceNames(), "it is not there")
			continue
		}
		addrs, err := f.Addrs()
		var v4 *net.IPNet
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
				v4 = n
				break
			}
		}
		switch {
		case err != nil:
			d.add(Bad, name, "", "its addresses cannot be read: %v", err)
		case v4 == nil:
			d.add(Bad, name, "give it one that stays, for mimeod to be found at", "it has no IPv4 address")
		case f.Flags&net.FlagUp == 0:
			d.add(Bad, name, "ip link set "+i.Name+" up", "%s, but it is down", v4)
		case f.Flags&net.FlagRunning == 0:
			d.add(Warn, name, "look at the cable and the switch's port", "%s, but nothing is on the other end of the cable", v4)
		default:
			d.add(OK, name, "", "%s, DHCP %s", v4, i.DHCP)
		}
	}
}

func interfaceNames() string {
	all, err := net.Interfaces()
	if err != nil {
		return err.Error()
	}
	text := ""
	for _, f := range all {
		if f.Flags&net.FlagLoopback == 0 {
			text += " " + f.Name
		}
	}
	if text == "" {
		return "none but loopback"
	}
	return text[1:]
}

// servers listens for other DHCP servers.
func (d *doctor) servers(ctx context.Context) {
	type answer struct {
		from []string
		err  error
	}
	answers := make([]answer, len(d.Config.Interfaces))
	var g errgroup.Group
	for n, i := range d.Config.Interfaces {
		if f, err := net.InterfaceByName(i.Name); i.DHCP == "off" || err != nil || f.Flags&net.FlagUp == 0 {
			continue
		}
		g.Go(func() error {
			answers[n].from, answers[n].err = otherServers(ctx, i.Name, d.Listen)
			return nil
		})
	}
	_ = g.Wait()
	for n, i := range d.Config.Interfaces {
		name, a := "DHCP on "+i.Name, answers[n]
		switch {
		case a.err != nil:
			d.add(Warn, name, "run this as root, or with the capability for raw packets", "other servers could not be looked for: %v", a.err)
		case i.DHCP == "full" && len(a.from) > 0:
			d.add(Bad, name, "use dhcp: proxy, or switch the other off", "%s gives addresses there as well: nodes take whichever is first", join(a.from))
		case i.DHCP == "proxy" && len(a.from) == 0:
			d.add(Warn, name, "use dhcp: full where there is no other server", "no other server answered: nodes get no address")
		case i.DHCP == "proxy":
			d.add(OK, name, "", "%s gives the addresses", join(a.from))
		case i.DHCP == "full":
			d.add(OK, name, "", "no other server answered")
		}
	}
}
