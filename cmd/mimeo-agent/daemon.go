package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/agent"
	"mimeo/internal/agent/bringup"
	"mimeo/internal/agent/console"
	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/agent/uplink"
	"mimeo/internal/cluster/node"
)

// runCmd is the agent on a running system, with image files as its disks.
func runCmd() *cobra.Command {
	var c agent.Config
	var name string
	cmd := &cobra.Command{
		Use:   "run --server URL --pin HEX --token TOKEN --node NODE --disk-image FILE",
		Short: "Take tasks from a management node as a guest on this system",
		Long: `Takes tasks from a management node on a system that runs already, with image files
in place of disks. Nothing but these files is written to: there are no NFS mounts, no
shell and no reboot. After a deploy the filesystems in the image are mounted for a
moment, to give the system in it its identity. What a node in its stateless image
would do at the end is printed instead: "reboot" or "poweroff". This is for tests and
for trying things.

Exit codes: 0 the server said how to go on, and it was printed; 1 failed; 2 the
command line cannot be understood; 130 interrupted.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Node, c.Version = node.Name(name), version
			if c.BootID == "" {
				c.BootID = newBootID()
			}
			c.Log = func(format string, args ...any) {
				fmt.Fprintf(cmd.ErrOrStderr(), "mimeo-agent: "+format+"\n", args...)
			}
			action, err := agent.Run(cmd.Context(), c)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), action)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Server, "server", "", "https URL of the management node's API")
	f.StringVar(&c.Pin, "pin", "", "SHA-256 of its key's SubjectPublicKeyInfo, hexadecimal")
	f.StringVar(&c.Token, "token", "", "bearer token of this node")
	f.StringVar(&name, "node", "", "name of this node")
	f.StringArrayVar(&c.Images, "disk-image", nil, "image file that stands in for a disk (may be repeated)")
	f.BoolVar(&c.Once, "once", false, "end after the first task")
	f.StringVar(&c.BootID, "boot-id", "", "tell the server this boot ID (default: a new one)")
	for _, n := range []string{"server", "pin", "token", "node", "disk-image"} {
		cmd.MarkFlagRequired(n)
	}
	return cmd
}

// newBootID makes an ID of the kind that the kernel has: each start of a guest agent stands for a boot.
func newBootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	if err != nil {
		return fmt.Sprintf("process-%d", os.Getpid())
	}
	return strings.TrimSpace(string(b))
}

// hwinfoCmd prints what this machine is made of.
func hwinfoCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "hwinfo",
		Short: "Print what this machine is made of",
		Long: `Prints what the agent reports of this machine: firmware, processor, memory, network
cards and disks, with all that a disk rule may name.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			h := hwinfo.Read("/", "")
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(h)
			}
			return hwinfo.Print(cmd.OutOrStdout(), h)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, whose fields stay as they are")
	return cmd
}

// systemCmd is the agent in the stateless image. Process 1 starts it.
func systemCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "system",
		Short:  "Make the stateless image ready and take tasks (started by process 1)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, args []string) error { return system(cmd.Context()) },
	}
}

func system(ctx context.Context) error {
	if os.Getppid() != 1 {
		return fmt.Errorf("this command is for process 1 of the stateless image")
	}
	log := console.Open().Printf
	p, err := bringup.ReadParams()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait, err := bringup.System(ctx, p, log)
	if err != nil {
		log("failed: %v", err)
		return err
	}
	defer wait()
	defer cancel()
	action, err := agent.Run(ctx, agent.Config{Server: p.Server, Pin: p.Pin, Token: p.Token, Node: p.Node, BootID: bringup.BootID(),
		Build: p.Build, Version: version, BootMAC: bootMAC(p), BootTime: console.Uptime, Own: true, Log: log})
	switch {
	case err != nil:
		log("failed: %v", err)
		return err
	case action == agent.ActionPowerOff:
		return exitStatus(bringup.ExitPowerOff)
	}
	return exitStatus(bringup.ExitReboot)
}

// serviceCmd is the agent in a stateless system that has an init of its own, which starts it.
func serviceCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "service",
		Short: "Stay beside a stateless system's own init (started by it)",
		Long: `Keeps the node's address, gives the system its SSH host key, makes the mounts and runs
the postscripts of its profile, once a boot, and reports. Systemd starts it by itself; another init
of a stateless system has to start it when the network card is up.`,
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE:   func(cmd *cobra.Command, args []string) error { return service(cmd.Context()) },
	}
}

func service(ctx context.Context) error {
	log := func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) } // to the system's journal
	p, err := bringup.ReadParams()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait, err := bringup.Service(ctx, log)
	if err != nil {
		return err
	}
	defer wait()
	defer cancel()
	_, err = agent.Run(ctx, agent.Config{Server: p.Server, Pin: p.Pin, Token: p.Token, Node: p.Node, BootID: bringup.BootID(),
		Build: p.Build, Version: version, BootMAC: bootMAC(p), BootTime: console.Uptime, Own: true, Service: true, Ready: notifyReady, Log: log})
	if ctx.Err() != nil {
		return nil // the system goes down, or the service was stopped
	}
	return err
}

// notifyReady tells systemd that the service is up (sd_notify(3)); elsewhere nobody listens.
func notifyReady() {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	if path[0] == '@' {
		path = "\x00" + path[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	defer c.Close()
	c.Write([]byte("READY=1"))
}

// bootMAC returns the MAC of the card that the machine booted from: the one that got the address.
func bootMAC(p bringup.Params) string {
	if i, err := net.InterfaceByName(bringup.Card()); err == nil {
		return i.HardwareAddr.String()
	}
	if mac, err := uplink.ParseBootIF(p.BootIF); err == nil {
		return mac.String()
	}
	return ""
}
