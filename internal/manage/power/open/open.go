// Package open finds the power controller that a BMC's URL asks for.
package open

import (
	"context"
	"fmt"
	"net/url"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
	"mimeo/internal/manage/power/ipmi"
	"mimeo/internal/manage/power/redfish"
)

// Controller opens a BMC by the scheme of its URL.
func Controller(bmc node.BMC, password string) (power.Controller, error) {
	if bmc.URL == "" || bmc.URL == "manual:" {
		return manual{}, nil
	}
	u, err := url.Parse(bmc.URL)
	if err != nil {
		return nil, fmt.Errorf("BMC address: %w", err)
	}
	switch u.Scheme {
	case "ipmi":
		return ipmi.Open(ipmi.Options{Host: u.Host, User: bmc.User, Password: password, CipherSuite: bmc.CipherSuite})
	case "redfish", "redfish+http":
		u.Scheme = map[string]string{"redfish": "https", "redfish+http": "http"}[u.Scheme]
		return redfish.Open(redfish.Options{URL: u.String(), User: bmc.User, Password: password, Insecure: bmc.Insecure})
	}
	return nil, &api.Error{Code: "bad_request", Message: fmt.Sprintf("BMC address %s: no such scheme", bmc.URL), Hint: "want ipmi://, redfish:// or manual:"}
}

// manual is a node that a person switches.
type manual struct{}

func (manual) Status(context.Context) (power.State, error)       { return power.StateUnknown, nil }
func (manual) On(context.Context) error                          { return power.ErrByHand }
func (manual) Off(context.Context) error                         { return power.ErrByHand }
func (manual) SoftOff(context.Context) error                     { return power.ErrByHand }
func (manual) Cycle(context.Context) error                       { return power.ErrByHand }
func (manual) Reset(context.Context) error                       { return power.ErrByHand }
func (manual) SetNextBoot(context.Context, power.NextBoot) error { return power.ErrByHand }
func (manual) Close() error                                      { return nil }
