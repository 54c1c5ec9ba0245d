package ipmi

import (
	"context"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
)

// NextBoot is not read yet.
func (c *Client) NextBoot(context.Context) (power.NextBoot, error) {
	return power.NextBoot{}, c.errorf(power.ErrCannot, "cannot do this", "", nil)
}

func (c *Client) Identify(context.Context, bool) error {
	return c.errorf(power.ErrCannot, "cannot do this", "", nil)
}

func (c *Client) Sensors(context.Context) ([]api.Sensor, error) {
	return nil, c.errorf(power.ErrCannot, "cannot do this", "", nil)
}

func (c *Client) Log(context.Context) ([]api.LogEntry, error) {
	return nil, c.errorf(power.ErrCannot, "cannot do this", "", nil)
}

func (c *Client) ClearLog(context.Context) error {
	return c.errorf(power.ErrCannot, "cannot do this", "", nil)
}
