// Package ipmi switches a node's power through its BMC's IPMI 2.0 over LAN (RMCP+).
package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"mimeo/internal/manage/power"
)

// Options say how to reach a BMC.
type Options struct {
	Host        string // ADDRESS or ADDRESS:PORT; the port is 623 where it is left out
	User        string // at most 16 bytes
	Password    string // at most 20 bytes
	CipherSuite int    // 3 or 17; 0 means 17, then 3

	Wait  time.Duration // for an answer, at first; 0 means 1 s
	Reach power.Reach   // how long to wait for a power state
}

// Limits of 22.28 and 22.30.
const (
	maxUser     = 16
	maxPassword = 20
)

// methodTime bounds a method whose context has no deadline: some round trips, each with its repeats, twice.
const methodTime = 60 * time.Second

// switchTime bounds one that waits for power states too: a cycle waits for two.
const switchTime = 5 * time.Minute

// logins is how often a lost session is made anew for one command.
const logins = 3

// Client is a power.Controller. Make one with Open.
type Client struct {
	o      Options
	host   string
	port   string
	suites []suite

	turn      chan struct{} // one method at a time
	s         *session      // nil where there is none
	conn      net.Conn
	privilege byte            // that sessions may rise to
	least     byte            // that they rise to for any command
	sensors   map[byte]string // their names by number, once the sensor records were read
}

// Open makes a client; it does not speak to the BMC yet.
func Open(o Options) (*Client, error) {
	if o.Wait == 0 {
		o.Wait = time.Second
	}
	c := &Client{o: o, host: strings.Trim(o.Host, "[]"), port: "623", turn: make(chan struct{}, 1), privilege: privilegeOperator}
	if h, p, err := net.SplitHostPort(o.Host); err == nil {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, c.errorf(power.ErrRefused, fmt.Sprintf("cannot have the port %q", p), "want ipmi://ADDRESS or ipmi://ADDRESS:PORT", nil)
		}
		c.host, c.port = h, p
	}
	switch o.CipherSuite {
	case 0:
		c.suites = []suite{suite17, suite3}
	case 3:
		c.suites = []suite{suite3}
	case 17:
		c.suites = []suite{suite17}
	default:
		return nil, c.errorf(power.ErrSuite, fmt.Sprintf("shall be spoken to with cipher suite %d, which is not known here", o.CipherSuite), "bmc.cipher_suite may be 3 or 17, or be left out", nil)
	}
	switch {
	case c.host == "":
		return nil, c.errorf(power.ErrRefused, "has no address", "want ipmi://ADDRESS or ipmi://ADDRESS:PORT", nil)
	case len(o.User) > maxUser:
		return nil, c.errorf(power.ErrDenied, fmt.Sprintf("cannot have a user %q: IPMI knows at most %d bytes", o.User, maxUser), "use Redfish, or another account", nil)
	case len(o.Password) > maxPassword:
		return nil, c.errorf(power.ErrDenied, fmt.Sprintf("cannot have a password of %d bytes: IPMI knows at most %d", len(o.Password), maxPassword), "use Redfish, or a shorter password", nil)
	}
	return c, nil
}

// Network functions and commands (appendix G).
const (
	fnChassis = 0x00
	fnSensor  = 0x04
	fnApp     = 0x06
	fnStorage = 0x0a

	cmdChassisStatus  = 0x01
	cmdChassisControl = 0x02
	cmdIdentify       = 0x04
	cmdSetBootOption  = 0x08
	cmdGetBootOption  = 0x09
	cmdSetPrivilege   = 0x3b
	cmdCloseSession   = 0x3c
)

// Chassis Control's actions (28.3).
const (
	controlOff   = 0
	controlOn    = 1
	controlReset = 3
	controlSoft  = 5
)

// Status asks for the power state.
func (c *Client) Status(ctx context.Context) (st power.State, err error) {
	st = power.StateUnknown
	err = c.alone(ctx, methodTime, func(ctx context.Context) (err error) {
		st, err = c.status(ctx)
		return err
	})
	return st, err
}

// On switches on and waits until the BMC says so.
func (c *Client) On(ctx context.Context) error {
	return c.alone(ctx, switchTime, func(ctx context.Context) error { return c.to(ctx, power.StateOn, controlOn) })
}

// Off cuts the power and waits until the BMC says so.
func (c *Client) Off(ctx context.Context) error {
	return c.alone(ctx, switchTime, func(ctx context.Context) error { return c.to(ctx, power.StateOff, controlOff) })
}

// SoftOff asks the operating system to shut down; it does nothing where the node is off.
func (c *Client) SoftOff(ctx context.Context) error {
	return c.alone(ctx, methodTime, func(ctx context.Context) error {
		if st, err := c.status(ctx); err != nil || st == power.StateOff {
			return err
		}
		return c.control(ctx, controlSoft)
	})
}

// Cycle switches off and on, each seen: the BMC's own power cycle fails on most where the node is off, and says
// nothing of when it is on again.
func (c *Client) Cycle(ctx context.Context) error {
	return c.alone(ctx, switchTime, func(ctx context.Context) error {
		if err := c.to(ctx, power.StateOff, controlOff); err != nil {
			return err
		}
		return c.to(ctx, power.StateOn, controlOn)
	})
}

// Reset restarts the machine.
func (c *Client) Reset(ctx context.Context) error {
	return c.alone(ctx, switchTime, func(ctx context.Context) error {
		st, err := c.status(ctx)
		if err != nil {
			return err
		}
		if st != power.StateOn {
			return c.errorf(power.ErrState, "cannot reset a node that is off", "switch it on instead", nil)
		}
		if err := c.control(ctx, controlReset); err != nil {
			return err
		}
		return c.to(ctx, power.StateOn, controlOn)
	})
}

// Close ends the session: BMCs have few.
func (c *Client) Close() error {
	c.turn <- struct{}{}
	defer func() { <-c.turn }()
	c.hangUp(context.Background())
	return nil
}

func (c *Client) to(ctx context.Context, want power.State, action byte) error {
	return c.o.Reach.To(ctx, c.host, want, c.status, func(ctx context.Context) error { return c.control(ctx, action) })
}

func (c *Client) status(ctx context.Context) (power.State, error) {
	data, err := c.command(ctx, "chassis status", fnChassis, cmdChassisStatus, nil)
	switch {
	case err != nil:
		return power.StateUnknown, err
	case len(data) < 1:
		return power.StateUnknown, c.errorf(power.ErrRefused, "answers nothing to chassis status", "", nil)
	case data[0]&1 == 1:
		return power.StateOn, nil
	}
	return power.StateOff, nil
}

func (c *Client) control(ctx context.Context, action byte) error {
	_, err := c.command(ctx, "chassis control", fnChassis, cmdChassisControl, []byte{action})
	return err
}

// alone runs f when no other method runs, with a deadline where the context has none.
func (c *Client) alone(ctx context.Context, limit time.Duration, f func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok && limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
		return f(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// codeError is a completion code (table 5-2).
type codeError byte

func (e codeError) Error() string {
	texts := map[codeError]string{0x80: "no such parameter", 0x81: "another sets parameters just now", 0x82: "read-only parameter", 0xc0: "busy", 0xc1: "unknown command", 0xc3: "took too long",
		0xc7: "wrong length", 0xc9: "out of range", 0xcc: "invalid data", 0xd2: "the BMC is starting", 0xd4: "not enough privilege", 0xd5: "not in this state", 0xd6: "switched off", 0xff: "unspecified error"}
	if t, ok := texts[e]; ok {
		return fmt.Sprintf("%s (%#02x)", t, byte(e))
	}
	return fmt.Sprintf("completion code %#02x", byte(e))
}

// privilegeFor is what a command needs (appendix G): to look at the power, the sensors and the log, a user will do.
func privilegeFor(fn, cmd byte) byte {
	if fn == fnChassis && cmd == cmdChassisStatus || fn == fnSensor || fn == fnStorage && cmd != cmdClearSEL {
		return privilegeUser
	}
	return privilegeOperator
}

// command sends a command in a session, which it makes where there is none, or anew where the old one was lost.
func (c *Client) command(ctx context.Context, what string, fn, cmd byte, data []byte) ([]byte, error) {
	need := privilegeFor(fn, cmd)
	for try := 1; ; try++ {
		if c.s == nil {
			if err := c.login(ctx); err != nil {
				return nil, err
			}
		}
		if c.s.sends = sends; time.Since(c.s.used) > idleTime {
			c.s.sends = idleSends
		}
		err := c.s.raise(ctx, max(need, c.least))
		var status statusError
		if errors.As(err, &status) {
			if c.privilege == privilegeOperator { // some BMCs know no operators
				c.hangUp(ctx)
				c.privilege, c.least = privilegeAdmin, privilegeAdmin
				continue
			}
			return nil, c.lacks(what, err)
		}
		var code byte
		var reply []byte
		if err == nil {
			code, reply, err = c.s.call(ctx, fn, cmd, data)
		}
		if err != nil {
			c.drop()
			if try < logins && ctx.Err() == nil {
				continue // the BMC has restarted, or forgotten the session
			}
			return nil, c.silent(ctx, what, err)
		}
		c.s.used = time.Now()
		switch code {
		case 0x00:
			return reply, nil
		case 0xc0, 0xc3, 0xce, 0xcf, 0xd1, 0xd2, 0xd5:
			return nil, c.errorf(power.ErrBusy, "cannot do it just now ("+what+")", "try again in a minute", codeError(code))
		case 0xd4:
			if c.s.privilege < c.privilege { // it wants more than the specification says
				c.least = c.privilege
				continue
			}
			return nil, c.lacks(what, codeError(code))
		}
		return nil, c.errorf(power.ErrRefused, "refuses "+what, "", codeError(code))
	}
}

func (c *Client) lacks(what string, cause error) error {
	return c.errorf(power.ErrDenied, fmt.Sprintf("does not let user %q do this (%s)", c.o.User, what), "give the account the privilege of an operator in the BMC", cause)
}

// login makes a session: the strongest suite first; an operator's privilege, then an administrator's, then a user's.
func (c *Client) login(ctx context.Context) error {
	var last error
	for pause := c.o.Wait; ; pause = min(2*pause, 8*c.o.Wait) {
		last = c.loginOnce(ctx)
		if !errors.Is(last, power.ErrBusy) {
			return last
		}
		// All its sessions are taken, perhaps by ones that were lost: they end after a minute.
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pause):
		}
	}
}

func (c *Client) loginOnce(ctx context.Context) error {
	suites, tries := c.suites, sends
	for i := 0; i < len(suites); i++ {
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(c.host, c.port))
		if err != nil {
			return c.silent(ctx, "a new session", err)
		}
		s, err := login(ctx, conn, c.o.Wait, tries, suites[i], c.o.User, c.o.Password, c.privilege)
		if err == nil {
			c.s, c.conn, c.suites = s, conn, suites[i:i+1] // what it knows once it will know again
			return nil
		}
		conn.Close()
		var status statusError
		if errors.As(err, &status) && (status == 0x09 || status == 0x0a) && c.privilege != privilegeUser {
			// Some BMCs know no operators, and some accounts may only look.
			c.privilege = map[byte]byte{privilegeOperator: privilegeAdmin, privilegeAdmin: privilegeUser}[c.privilege]
			i--
			continue
		}
		what := kind(err)
		last := i == len(suites)-1
		switch {
		case ctx.Err() != nil:
			return c.silent(ctx, "a new session", err)
		case !last && what == power.ErrSuite:
			continue
		case !last && errors.Is(err, errSilent):
			tries = idleSends // some BMCs do not answer at all to a suite that they do not know; most are not there
			continue
		case what == power.ErrDenied:
			return c.errorf(what, fmt.Sprintf("refused user %q", c.o.User), `set the account with "mimeo node set NODE bmc.user=USER" and "--password-stdin", then try again`, err)
		case what == power.ErrSuite:
			return c.errorf(what, "does not know cipher suite "+names(suites), "allow it in the BMC, or leave bmc.cipher_suite out", nil)
		case what == power.ErrBusy:
			return c.errorf(what, "has no free session", "end other users' sessions, or try again in a minute", nil)
		}
		return c.silent(ctx, "a new session", err)
	}
	return c.errorf(power.ErrSuite, "was given no cipher suite", "", nil)
}

func names(suites []suite) string {
	var out []string
	for _, s := range suites {
		out = append(out, strconv.Itoa(int(s.id)))
	}
	return strings.Join(out, " or ")
}

// silent is the error for a BMC that gave no answer, or for a caller that would not wait for it.
func (c *Client) silent(ctx context.Context, what string, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	var no syscall.Errno
	if errors.As(err, &no) && (no == syscall.ENETUNREACH || no == syscall.EHOSTUNREACH) {
		return c.errorf(power.ErrUnreachable, "cannot be reached from here", `see which way packets take: "ip route get `+c.host+`"`, no)
	}
	if errors.Is(err, errSilent) || ctx.Err() != nil {
		err = ctx.Err()
	}
	return c.errorf(power.ErrUnreachable, "does not answer ("+what+")", "see whether its address is right, UDP port "+c.port+" can be reached from here, and IPMI over LAN is switched on", err)
}

// hangUp ends the session politely, drop without a word.
func (c *Client) hangUp(ctx context.Context) {
	if c.s != nil {
		c.s.close(ctx)
	}
	c.drop()
}

func (c *Client) drop() {
	if c.conn != nil {
		c.conn.Close()
	}
	c.s, c.conn = nil, nil
}

func (c *Client) errorf(kind error, text, hint string, cause error) error {
	return &power.Error{Kind: kind, BMC: c.host, Text: text, Hint: hint, Cause: cause}
}
