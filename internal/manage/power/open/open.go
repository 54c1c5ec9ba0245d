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

// schemes are the ways to a BMC, by the scheme of its URL.
var schemes = map[string]func(u *url.URL, bmc node.BMC, password string) (power.Controller, error){
	"ipmi": func(u *url.URL, bmc node.BMC, password string) (power.Controller, error) {
		return ipmi.Open(ipmi.Options{Host: u.Host, User: bmc.User, Password: password, CipherSuite: bmc.CipherSuite})
	},
	"redfish": openRedfish("https"),
	// Without TLS, for labs and BMCs behind a tunnel.
	"redfish+http": openRedfish("http"),
	"manual":       func(*url.URL, node.BMC, string) (power.Controller, error) { return power.ByHand{}, nil },
}

func openRedfish(scheme string) func(*url.URL, node.BMC, string) (power.Controller, error) {
	return func(u *url.URL, bmc node.BMC, password string) (power.Controller, error) {
		base := url.URL{Scheme: scheme, Host: u.Host, Path: u.Path}
		return redfish.Open(redfish.Options{URL: base.String(), User: bmc.User, Password: password, Insecure: bmc.Insecure})
	}
}

// Controller opens a BMC by the scheme of its URL: ipmi://HOST[:PORT], redfish://HOST[:PORT][/redfish/v1/Systems/ID],
// redfish+http:// likewise, manual: or nothing for a node that a person switches. It does not speak to the BMC yet.
func Controller(bmc node.BMC, password string) (power.Controller, error) {
	if bmc.URL == "" {
		return power.ByHand{}, nil
	}
	u, err := url.Parse(bmc.URL)
	if err != nil {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %q: %v", bmc.URL, err), Hint: hint}
	}
	if u.User != nil {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %s: an address holds no account", u.Redacted()), Hint: "set bmc.user, and the password apart: it is kept sealed"}
	}
	f, ok := schemes[strings.ToLower(u.Scheme)]
	if !ok {
		return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %s: no such scheme", bmc.URL), Hint: hint}
	}
	return f(u, bmc, password)
}

const hint = "want ipmi://ADDRESS, redfish://ADDRESS or manual:"
