package ipmi

import (
	"context"
	"errors"

	"mimeo/internal/manage/power"
)

// identifyTime is for how long the light burns where a BMC cannot leave it on, in seconds.
const identifyTime = 240

// Identify switches the identify light on until it is switched off (28.5). A BMC of before IPMI 2.0 knows no "until":
// there it burns for four minutes.
func (c *Client) Identify(ctx context.Context, on bool) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error {
		data := []byte{0}
		if on {
			data = []byte{identifyTime, 1}
		}
		_, err := c.command(ctx, "chassis identify", fnChassis, cmdIdentify, data)
		if on && errors.Is(err, power.ErrRefused) {
			_, err = c.command(ctx, "chassis identify", fnChassis, cmdIdentify, []byte{identifyTime})
		}
		return err
	})
}

// is tells whether a BMC refused with a completion code.
func is(err error, code byte) bool { return errors.Is(err, codeError(code)) }
