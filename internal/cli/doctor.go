package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func doctorCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Look at the management node's machine, and say what is in mimeod's way",
		Long: `Looks at this machine, which must be the management node: configuration, interfaces,
other DHCP servers, ports, firewall, disks, what builds stateless images, the clock.
It is "mimeod check", whose flags may follow. Takes a few seconds and changes nothing.`,
		Example: `  mimeo doctor
  mimeo doctor --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			line := []string{"check"}
			if t.json {
				line = append(line, "--json")
			}
			return becomeDaemon(line...)
		},
	}
}

func setupCmd() *cobra.Command {
	return &cobra.Command{
		Use: "setup", Short: "Set the management node up: ask, write its configuration, check its machine",
		Long: `Asks on which network nodes are served, listens for another DHCP server there, asks
where images are kept, writes the configuration file where you agree, and looks at
this machine as "mimeo doctor" does. It is "mimeod setup", which has flags for scripts.`,
		Example: `  mimeo setup`,
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, args []string) error { return becomeDaemon("setup") },
	}
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
