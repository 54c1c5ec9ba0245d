// Package open finds the power controller that a BMC's URL asks for.
package open

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/command"
	"mimeo/internal/manage/power/ipmi"
	"mimeo/internal/manage/power/redfish"
	"mimeo/internal/manage/power/wake"
)

// Options are what controllers need beside what is said of a node.
type Options struct {
	Pace       *power.Pace        // of the power-ons; nil means none
	Programs   map[string]Program // that exec:NAME may name
	Interfaces []string           // that serve nodes, for magic packets
}

// Program is one of the site's own that switches nodes.
type Program struct {
	Run     []string // absolute path, arguments
	Timeout time.Duration
}

// With makes an opener: it finds a controller by the scheme of the URL in BMC.URL. That is ipmi://HOST[:PORT],
// redfish://HOST[:PORT][/redfish/v1/Systems/ID], redfish+http:// likewise (without TLS, for labs and BMCs behind a
// tunnel), exec:NAME, wol: with an interface or an address, manual: or nothing for a node that a person switches. It does
// not speak to the BMC yet.
func With(o Options) power.Opener {
	return func(n node.Node, password string) (power.Controller, error) { return o.open(n, password) }
}

func (o Options) open(n node.Node, password string) (power.Controller, error) {
	if n.BMC.URL == "" {
		return power.ByHand{}, nil
	}
	u, err := url.Parse(n.BMC.URL)
	if err != nil {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %q: %v", n.BMC.URL, err), Hint: hint}
	}
	if u.User != nil {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %s: an address holds no account", u.Redacted()), Hint: "set bmc.user, and the password apart: it is kept sealed"}
	}
	reach := power.Reach{Pace: o.Pace}
	switch scheme := strings.ToLower(u.Scheme); scheme {
	case "manual":
		return power.ByHand{}, nil
	case "exec":
		p, ok := o.Programs[u.Opaque]
		if !ok || len(p.Run) == 0 {
			return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %s: there is no such command", n.BMC.URL), Hint: "commands are named by power.exec in the configuration of mimeod, which must start anew to see them"}
		}
		return command.Open(command.Options{Name: u.Opaque, Program: p.Run, Timeout: p.Timeout, Node: n, Secret: password, Reach: reach}), nil
	case "wol":
		return wake.Open(wake.Options{Node: n, To: u.Opaque + u.Host, Interfaces: o.Interfaces, Password: password, Pace: o.Pace})
	case "ipmi":
		return ipmi.Open(ipmi.Options{Host: u.Host, User: n.BMC.User, Password: password, CipherSuite: n.BMC.CipherSuite, Reach: reach})
	case "redfish", "redfish+http":
		base := url.URL{Scheme: "https", Host: u.Host, Path: u.Path}
		if scheme == "redfish+http" {
			base.Scheme = "http"
		}
		return redfish.Open(redfish.Options{URL: base.String(), User: n.BMC.User, Password: password, Insecure: n.BMC.Insecure, Reach: reach})
	}
	return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %s: no such scheme", n.BMC.URL), Hint: hint}
}

const hint = "want ipmi://ADDRESS, redfish://ADDRESS, exec:NAME, wol: or manual:"
