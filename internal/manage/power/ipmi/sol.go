package ipmi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"mimeo/internal/manage/power"
)

// Commands for payloads (chapter 24) and about sessions (22.20).
const (
	cmdSessionInfo     = 0x3d
	cmdActivate        = 0x48
	cmdDeactivate      = 0x49
	cmdPayloadStatus   = 0x4a
	cmdPayloadInstance = 0x4b
)

// solInstance is the one that all BMCs have.
const solInstance = 1

// dialTime bounds Dial where its context has no deadline.
const dialTime = 60 * time.Second

// SOL reaches a machine's serial console through its BMC's Serial over LAN (chapter 15). Its sessions are apart from
// those of a Client. The serial port's speed stays what it is in the BMC.
type SOL struct {
	o    Options
	mine []uint32 // sessions in which it had the console, newest last
}

// NewSOL makes one; it does not speak to the BMC yet.
func NewSOL(o Options) (*SOL, error) {
	if _, err := Open(o); err != nil {
		return nil, err
	}
	return &SOL{o: o}, nil
}

// Dial opens the console, encrypted and authenticated. Most BMCs give it to one session at a time: where another one has
// it the error is of the kind power.ErrTaken and says whose that is, as far as the BMC tells; with force it is taken from
// there. One that an earlier Dial left behind is always taken over. Calls of Dial must not overlap.
func (s *SOL) Dial(ctx context.Context, force bool) (*Line, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, dialTime)
		defer cancel()
	}
	c, err := Open(s.o)
	if err != nil {
		return nil, err
	}
	answer, err := s.activate(ctx, c, force)
	if errors.Is(err, codeError(0xd4)) && c.privilege == privilegeOperator {
		// Which privilege the console needs is a setting of the BMC, often an administrator's.
		c.hangUp(ctx)
		c.privilege, c.least = privilegeAdmin, privilegeAdmin
		answer, err = s.activate(ctx, c, force)
	}
	if err != nil {
		c.hangUp(context.WithoutCancel(ctx))
		return nil, err
	}
	if wait := c.o.Wait; len(answer) < 6 {
		c.hangUp(context.WithoutCancel(ctx))
		return nil, c.errorf(power.ErrRefused, fmt.Sprintf("answers %d bytes to activate payload", len(answer)), "", nil)
	} else {
		return newLine(c.s, c.conn, c.host, wait, solLimit(answer)), nil
	}
}

// activate asks for the console, and takes it from another session where it may.
func (s *SOL) activate(ctx context.Context, c *Client, force bool) (answer []byte, err error) {
	// A command that every BMC knows makes the session, so that its ID is known before anything else.
	if _, err := c.command(ctx, "chassis status", fnChassis, cmdChassisStatus, nil); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		if c.s != nil && !slices.Contains(s.mine, c.s.id) {
			s.mine = append(s.mine[max(0, len(s.mine)-7):], c.s.id)
		}
		// Encrypted, authenticated; 0 beside: the machine's CTS, DCD and DSR are up at once.
		answer, err = c.command(ctx, "activate payload", fnApp, cmdActivate, []byte{payloadSOL, solInstance, 0xc0, 0, 0, 0})
		switch {
		case is(err, 0x80):
		case is(err, 0xc1):
			return nil, c.errorf(power.ErrCannot, "has no Serial over LAN", "its serial console may be reached otherwise, see its own page", nil)
		case is(err, 0x81):
			return nil, c.errorf(power.ErrRefused, "has Serial over LAN switched off", "switch it on in the BMC, for this user too (ipmitool sol set enabled true; ipmitool sol payload enable)", nil)
		case is(err, 0x82):
			return nil, c.errorf(power.ErrTaken, "has no free console", "end another one there", nil)
		case is(err, 0x83):
			return nil, c.errorf(power.ErrRefused, "gives its console only without encryption", "allow encryption of Serial over LAN in the BMC", nil)
		default:
			return answer, err
		}
		id, who := s.owner(ctx, c)
		ours := id != 0 && slices.Contains(s.mine, id)
		if !force && !ours || try > 3 {
			return nil, c.errorf(power.ErrTaken, "has given its console to another session"+who, "end that one, or take it from there with --force; one that broke off ends by itself after a minute", nil)
		}
		if _, err := c.command(ctx, "deactivate payload", fnApp, cmdDeactivate, []byte{payloadSOL, solInstance, 0, 0, 0, 0}); err != nil && !is(err, 0x80) {
			return nil, err
		}
	}
}

// owner asks which session has the console, and whose that is (24.5, 22.20). Many BMCs tell nothing.
func (s *SOL) owner(ctx context.Context, c *Client) (id uint32, who string) {
	got, err := c.command(ctx, "payload instance", fnApp, cmdPayloadInstance, []byte{payloadSOL, solInstance})
	if err != nil || len(got) < 4 {
		return 0, ""
	}
	if id = binary.LittleEndian.Uint32(got); id == 0 {
		return 0, ""
	}
	got, err = c.command(ctx, "session info", fnApp, cmdSessionInfo, append([]byte{0xff}, got[:4]...))
	if err != nil || len(got) < 6 {
		return id, ""
	}
	who = fmt.Sprintf(" of its user %d", got[3]&0x3f)
	if len(got) >= 18 && got[5]&0x0f != 0 { // a LAN channel: address, MAC address, port
		if a, ok := netip.AddrFromSlice(got[6:10]); ok && !a.IsUnspecified() {
			who += " from " + a.String()
		}
	}
	return id, who
}
