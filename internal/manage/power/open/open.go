// Package open finds the power controller that a BMC's URL asks for.
package open

import (
	"fmt"
	"net/url"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/ipmi"
	"mimeo/internal/manage/power/redfish"
)

// Options are what controllers need beside what is said of a node.
type Options struct {
	Pace *power.Pace // of the power-ons; nil means none
}

// With makes an opener: it finds a controller by the scheme of the URL in BMC.URL. That is ipmi://HOST[:PORT],
// redfish://HOST[:PORT][/redfish/v1/Systems/ID], redfish+http:// likewise (without TLS, for labs and BMCs behind a
// tunnel), manual: or nothing for a node that a person switches. It does not speak to the BMC yet.
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

const hint = "want ipmi://ADDRESS, redfish://ADDRESS or manual:"
