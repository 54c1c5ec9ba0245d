// Package ipmi switches a node's power through its BMC by IPMI 2.0 over LAN (RMCP+, "lanplus").
package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"mimeo/internal/cluster/api"
	"mimeo/internal/manage/power"
)

const (
	defaultPort = 623
	callTime    = 5 * time.Second  // for one answer; slow BMCs take 2 s
	resend      = 2                // of a packet without an answer
	tries       = 3                // sessions for one command
	stateFor    = 90 * time.Second // for a new power state to show
)

// Client is a power.Controller. It opens a session when it is first needed, and another when that is lost.
type Client struct {
	host   string
	port   int
	o      Options
	conn   *client.Client
	suites []types.CipherSuiteID
}

// Options say how to reach a BMC.
type Options struct {
	Host        string // address, or ADDRESS:PORT
	User        string
	Password    string
	CipherSuite int // 3 or 17; 0 means 17, then 3
}

// Open makes a client; it does not speak to the BMC yet.
func Open(o Options) (*Client, error) {
	c := &Client{host: o.Host, port: defaultPort, o: o, suites: []types.CipherSuiteID{types.CipherSuiteID17, types.CipherSuiteID3}}
	if h, p, err := net.SplitHostPort(o.Host); err == nil {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return nil, fmt.Errorf("BMC address %s: port %q", o.Host, p)
		}
		c.host, c.port = h, n
	}
	if o.CipherSuite != 0 {
		c.suites = []types.CipherSuiteID{types.CipherSuiteID(o.CipherSuite)}
	}
	if len(o.Password) > 20 {
		return nil, c.errorf("denied", "takes passwords of at most 20 characters (IPMI 2.0 section 22.30), and this one has more", "use Redfish, or a shorter password")
	}
	return c, nil
}

// Status asks for the power state.
func (c *Client) Status(ctx context.Context) (power.State, error) {
	st := power.StateUnknown
	err := c.call(ctx, func(ctx context.Context, conn *client.Client) error {
		r, err := conn.GetChassisStatus(ctx)
		if err == nil {
			st = power.StateOff
			if r.PowerIsOn {
				st = power.StateOn
			}
		}
		return err
	})
	return st, err
}

// On switches on and waits until the BMC says so.
func (c *Client) On(ctx context.Context) error {
	return c.switchTo(ctx, power.StateOn, chassis.ChassisControlPowerUp)
}

// Off cuts the power and waits until the BMC says so.
func (c *Client) Off(ctx context.Context) error {
	return c.switchTo(ctx, power.StateOff, chassis.ChassisControlPowerDown)
}

func (c *Client) switchTo(ctx context.Context, want power.State, cmd chassis.ChassisControl) error {
	if st, err := c.Status(ctx); err != nil || st == want {
		return err
	}
	if err := c.control(ctx, cmd); err != nil {
		return err
	}
	return c.wait(ctx, want)
}

// SoftOff asks the operating system to shut down.
func (c *Client) SoftOff(ctx context.Context) error {
	return c.control(ctx, chassis.ChassisControlSoftShutdown)
}

// Cycle switches off and on, each seen; on where it was off. BMCs differ in what their own power cycle does to a
// machine that is off.
func (c *Client) Cycle(ctx context.Context) error {
	if err := c.Off(ctx); err != nil {
		return err
	}
	return c.On(ctx)
}

// Reset restarts the machine.
func (c *Client) Reset(ctx context.Context) error {
	if err := c.control(ctx, chassis.ChassisControlHardReset); err != nil {
		return err
	}
	return c.wait(ctx, power.StateOn)
}

// SetNextBoot sets the boot flags (IPMI 2.0 section 28.13, parameter 5).
func (c *Client) SetNextBoot(ctx context.Context, b power.NextBoot) error {
	device, ok := map[power.Device]types.BootDeviceSelector{power.DeviceNone: types.BootDeviceSelectorNoOverride, power.DevicePXE: types.BootDeviceSelectorForcePXE,
		power.DeviceDisk: types.BootDeviceSelectorForceHardDrive}[b.Device]
	if !ok {
		return fmt.Errorf("boot device %q", b.Device)
	}
	kind := types.BIOSBootTypeLegacy
	if b.UEFI {
		kind = types.BIOSBootTypeEFI
	}
	return c.call(ctx, func(ctx context.Context, conn *client.Client) error {
		return conn.SetBootDevice(ctx, device, kind, b.Persistent)
	})
}

// Close ends the session: BMCs have few.
func (c *Client) Close() error {
	c.hangUp()
	return nil
}

func (c *Client) hangUp() {
	if c.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c.conn.Close(ctx) // the BMC ends a session by itself when it hears nothing
	c.conn = nil
}

func (c *Client) control(ctx context.Context, cmd chassis.ChassisControl) error {
	return c.call(ctx, func(ctx context.Context, conn *client.Client) error {
		_, err := conn.ChassisControl(ctx, cmd)
		return err
	})
}

// wait polls until the BMC says the wanted state.
func (c *Client) wait(ctx context.Context, want power.State) error {
	ctx, cancel := context.WithTimeout(ctx, stateFor)
	defer cancel()
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 3*time.Second) {
		st, err := c.Status(ctx)
		if err == nil && st == want {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("it says %s", st)
			}
			return c.errorf("power", fmt.Sprintf("did not come to power state %s: %v", want, err), "look at the BMC's own page")
		case <-time.After(pause):
		}
	}
}

// call runs f in a session. A session that was lost is opened anew; every command here may be sent twice.
func (c *Client) call(ctx context.Context, f func(context.Context, *client.Client) error) (err error) {
	for try := range tries {
		if try > 0 {
			select {
			case <-ctx.Done():
				return err
			case <-time.After(time.Duration(try) * time.Second):
			}
		}
		if c.conn == nil {
			if err = c.connect(ctx); err != nil {
				var denied *api.Error
				if errors.As(err, &denied) && denied.Code == "denied" {
					return err
				}
				continue
			}
		}
		cctx, cancel := context.WithTimeout(ctx, callTime*(resend+1))
		err = f(cctx, c.conn)
		cancel()
		if err == nil {
			return nil
		}
		c.hangUp()
		err = c.errorf("power", "does not do it: "+err.Error(), "")
	}
	return err
}

// connect opens a session with the first cipher suite that the BMC takes.
func (c *Client) connect(ctx context.Context) (err error) {
	var denied, answered bool
	for _, suite := range c.suites {
		conn, err := client.NewClient(c.host, c.port, c.o.User, c.o.Password)
		if err != nil {
			return err
		}
		conn.WithTimeout(callTime).WithRetry(resend).WithCipherSuiteID(suite).WithMaxPrivilegeLevel(types.PrivilegeLevelOperator)
		cctx, cancel := context.WithTimeout(ctx, 4*callTime)
		err = conn.Connect(cctx)
		cancel()
		if err == nil {
			c.conn = conn
			return nil
		}
		hctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn.Close(hctx)
		cancel()
		text := strings.ToLower(err.Error())
		switch {
		case errors.Is(err, client.ErrRAKPAuthentication), strings.Contains(text, "rakp"), strings.Contains(text, "user"):
			denied = true
		case strings.Contains(text, "open session"):
			answered = true
		default:
			return c.errorf("unreachable", fmt.Sprintf("cannot be reached on UDP port %d: %v", c.port, last(err)), "see whether its address is right, IPMI over LAN is switched on, and it can be reached from here")
		}
	}
	switch {
	case denied:
		return c.errorf("denied", fmt.Sprintf("refused user %q", c.o.User), `set the account with "mimeo node set NODE bmc.user=USER" and "--password-stdin", then try again`)
	case answered:
		return c.errorf("refused", fmt.Sprintf("takes none of the cipher suites %v", c.suites), "set bmc.cipher_suite to 3 or 17, as the BMC is configured")
	}
	return c.errorf("unreachable", "cannot be reached", "")
}

// last is the innermost cause, without the library's words around it.
func last(err error) error {
	for errors.Unwrap(err) != nil {
		err = errors.Unwrap(err)
	}
	return err
}

func (c *Client) errorf(code, text, hint string) error {
	return &api.Error{Code: code, Message: "BMC " + c.host + " " + text, Hint: hint}
}
