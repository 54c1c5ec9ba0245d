package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func doctorCmd() *cobra.Command {
	return daemonCmd(&cobra.Command{
		Use: "doctor [FLAGS OF MIMEOD]", Short: "Look at the management node's machine, and say what is in mimeod's way",
		Long: `Looks at this machine, which must be the management node: configuration, interfaces,
other DHCP servers, ports, firewall, disks, what builds stateless images, the clock.
It is "mimeod check", whose flags may follow. Takes a few seconds and changes nothing.`,
		Example: `  mimeo doctor
  mimeo doctor --json`,
	}, "check")
}

func setupCmd() *cobra.Command {
	return daemonCmd(&cobra.Command{
		Use: "setup [FLAGS OF MIMEOD]", Short: "Set the management node up: ask, write its configuration, check its machine",
		Long: `Asks on which network nodes are served, listens for another DHCP server there, asks
where images are kept, writes the configuration file where you agree, and looks at
this machine as "mimeo doctor" does. It is "mimeod setup", whose flags may follow:
with --interface and --yes nothing is asked.`,
		Example: `  mimeo setup
  mimeo setup --interface eth1=proxy --store dir:/srv/images --yes`,
	}, "setup")
}

// daemonCmd makes a command one of mimeod, with all that follows it.
func daemonCmd(c *cobra.Command, word string) *cobra.Command {
	c.DisableFlagParsing = true
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if slices.ContainsFunc(args, func(a string) bool { return a == "--help" || a == "-h" }) {
			return cmd.Help()
		}
		return becomeDaemon(append([]string{word}, args...)...)
	}
	return c
}

// becomeDaemon runs mimeod, which knows its machine, in the place of this program.
func becomeDaemon(args ...string) error {
	path := ""
	if own, err := os.Executable(); err == nil {
		path, _ = exec.LookPath(filepath.Join(filepath.Dir(own), "mimeod"))
	}
	for _, p := range []string{"mimeod", "/usr/sbin/mimeod"} {
		if path == "" {
			path, _ = exec.LookPath(p)
		}
	}
	if path == "" {
		return &api.Error{Code: "not_found", Message: "there is no mimeod on this machine", Hint: "type this on the management node"}
	}
	return fmt.Errorf("start %s: %w", path, syscall.Exec(path, append([]string{"mimeod"}, args...), os.Environ()))
}
