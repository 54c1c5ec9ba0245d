// Package open finds the power controller that a BMC's URL asks for.
package open

import (
	"context"
	"fmt"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

// Controller opens a BMC by the scheme of its URL.
func Controller(bmc node.BMC, password string) (power.Controller, error) {
	if bmc.URL == "" || bmc.URL == "manual:" {
		return manual{}, nil
	}
	return nil, fmt.Errorf("BMC %s: no such scheme", bmc.URL)
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
