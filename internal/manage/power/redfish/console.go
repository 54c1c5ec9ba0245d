package redfish

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

// Console is how a BMC says that its system's serial console is reached.
type Console struct {
	IPMI bool // by Serial over LAN
	SSH  bool
	Port int // of SSH; 0 means 22
	// Command is what must be typed to get from the BMC's own command line to the console; empty where SSH leads to the
	// console at once.
	Command string
}

// serialProtocol is a way to a console (ComputerSystem.HostSerialConsole of DSP2046).
type serialProtocol struct {
	ServiceEnabled       *bool
	Port                 int
	SharedWithManagerCLI bool
	ConsoleEntryCommand  string
}

func (p *serialProtocol) on() bool { return p != nil && (p.ServiceEnabled == nil || *p.ServiceEnabled) }

// Console asks for the ways to the serial console: of the system, or else of its manager, as older BMCs have it.
func (c *Client) Console(ctx context.Context) (way Console, err error) {
	err = c.alone(ctx, methodTime, func(ctx context.Context) error {
		s, err := c.system(ctx)
		if err != nil {
			return err
		}
		var host struct {
			SerialConsole struct{ IPMI, SSH *serialProtocol }
		}
		if err := c.do(ctx, call{method: http.MethodGet, path: c.path}, &host); err != nil {
			return err
		}
		if p := host.SerialConsole.SSH; p.on() && p.Port >= 0 && p.Port < 1<<16 {
			way.SSH, way.Port = true, p.Port
			if p.SharedWithManagerCLI || p.ConsoleEntryCommand != "" {
				way.Command = strings.TrimSpace(p.ConsoleEntryCommand)
			}
			// Behind the BMC's own command line, without the command that leads on, is no console.
			way.SSH = !p.SharedWithManagerCLI || way.Command != ""
		}
		way.IPMI = host.SerialConsole.IPMI.on()
		if way.SSH || way.IPMI {
			return nil
		}
		for _, m := range s.Links.ManagedBy[:min(len(s.Links.ManagedBy), 4)] {
			var manager struct {
				SerialConsole struct {
					ServiceEnabled        *bool
					ConnectTypesSupported []string
				}
			}
			if err := c.do(ctx, call{method: http.MethodGet, path: m.ID}, &manager); err != nil {
				return err
			}
			on := manager.SerialConsole.ServiceEnabled
			way.IPMI = way.IPMI || (on == nil || *on) && slices.Contains(manager.SerialConsole.ConnectTypesSupported, "IPMI")
		}
		return nil
	})
	return way, err
}
