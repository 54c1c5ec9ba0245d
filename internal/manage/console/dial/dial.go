// Package dial finds the way to a node's serial console: by its BMC's URL, and by what the BMC says of itself.
package dial

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/console"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/ipmi"
	"mimeo/internal/manage/power/redfish"
)

// Open finds the way to a node's console; it does not go it yet. dir keeps what was learnt of the node's BMC. Where last is
// a way of the same node, BMC and account, it is given back.
func Open(n node.Node, password, dir string, last console.Way) (console.Way, error) {
	who := account{n.Name, n.BMC, password}
	if w, ok := last.(*way); ok && w.account == who {
		return w, nil
	}
	u, err := url.Parse(n.BMC.URL)
	if err != nil {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %q: %v", n.BMC.URL, err)}
	}
	w := &way{account: who, dir: dir, url: u}
	switch scheme := strings.ToLower(u.Scheme); scheme {
	case "ipmi":
		if w.sol, err = ipmi.NewSOL(w.ipmi(u.Host)); err != nil {
			return nil, err
		}
		w.text = "IPMI Serial over LAN"
	case "redfish", "redfish+http":
		w.text = "Redfish"
	default:
		return nil, &api.Error{Code: "by_hand", Message: fmt.Sprintf("BMC address %s leads to no serial console", n.BMC.URL), Hint: "consoles are reached by ipmi:// and redfish://"}
	}
	return w, nil
}

type account struct {
	node     node.Name
	bmc      node.BMC
	password string
}

// way is a console.Way.
type way struct {
	account
	dir  string
	url  *url.URL
	text string
	sol  *ipmi.SOL // once it is known to lead there
}

func (w *way) String() string { return w.text }

func (w *way) ipmi(host string) ipmi.Options {
	return ipmi.Options{Host: host, User: w.bmc.User, Password: w.password, CipherSuite: w.bmc.CipherSuite}
}

// Dial goes the way.
func (w *way) Dial(ctx context.Context, force bool) (console.Line, error) {
	if w.text == "IPMI Serial over LAN" {
		return w.serialOverLAN(ctx, force)
	}
	c, err := w.ask(ctx)
	if err != nil {
		return nil, err
	}
	switch {
	case c.SSH:
		if c.Port == 0 {
			c.Port = 22
		}
		w.text = "SSH to its BMC"
		return dialSSH(ctx, sshOptions{host: w.url.Hostname(), port: c.Port, user: w.bmc.User, password: w.password, command: c.Command,
			keyFile: filepath.Join(w.dir, "ssh-host-key"), anyKey: w.bmc.Insecure})
	case c.IPMI:
		w.text = "Serial over LAN, as its Redfish service says"
		if w.sol == nil {
			if w.sol, err = ipmi.NewSOL(w.ipmi(net.JoinHostPort(w.url.Hostname(), "623"))); err != nil {
				return nil, err
			}
		}
		return w.serialOverLAN(ctx, force)
	}
	return nil, &power.Error{Kind: power.ErrCannot, BMC: w.url.Hostname(), Text: "says by Redfish of no serial console that is switched on, by SSH or IPMI",
		Hint: fmt.Sprintf(`switch it on in the BMC; where it has one that it does not tell of, "mimeo node set %s bmc=ipmi://%s" may reach it`, w.node, w.url.Hostname())}
}

func (w *way) serialOverLAN(ctx context.Context, force bool) (console.Line, error) {
	l, err := w.sol.Dial(ctx, force)
	if err != nil {
		return nil, err // a nil *ipmi.Line would be no nil Line
	}
	return l, nil
}

// ask reads from the BMC how its console is reached.
func (w *way) ask(ctx context.Context) (redfish.Console, error) {
	base := url.URL{Scheme: "https", Host: w.url.Host, Path: w.url.Path}
	if strings.EqualFold(w.url.Scheme, "redfish+http") {
		base.Scheme = "http"
	}
	c, err := redfish.Open(redfish.Options{URL: base.String(), User: w.bmc.User, Password: w.password, Insecure: w.bmc.Insecure})
	if err != nil {
		return redfish.Console{}, err
	}
	defer c.Close()
	return c.Console(ctx)
}
