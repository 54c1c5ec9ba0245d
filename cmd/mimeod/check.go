package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"mimeo/internal/manage/config"
	"mimeo/internal/manage/doctor"
)

// runner is as whom mimeod runs here: the package's user where there is one, else who calls.
func runner() string {
	if u, err := user.Lookup("mimeo"); err == nil && os.Geteuid() == 0 {
		return u.Username
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return ""
}

func checkCmd(given func() (config.Config, error)) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "check", Short: "Look at this machine, and say what is in mimeod's way",
		Long: `Looks at the configuration and at this machine: interfaces, other DHCP servers on
their networks, ports, firewall, disks, the programs and user namespaces that
stateless images are built with, the images themselves, the clock. Takes a few
seconds and changes nothing; on each interface with DHCP one request goes out.
Run it as root. "mimeo doctor" is the same.

Exit codes: 0 nothing is bad; 1 something is, and mimeod cannot work as configured.`,
		Example: `  mimeod check
  mimeod check --interface eth1=proxy --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := given()
			if err != nil {
				return err
			}
			return report(cmd, cfg, asJSON)
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON, whose fields stay as they are")
	return c
}

// report prints what doctor finds, and fails where something is bad.
func report(cmd *cobra.Command, cfg config.Config, asJSON bool) error {
	found := doctor.Look(cmd.Context(), doctor.Options{Config: cfg, User: runner()})
	bad := 0
	for _, f := range found {
		if f.State == doctor.Bad {
			bad++
		}
	}
	if asJSON {
		enc := json.NewEncoder(cmd.OutOrStdout())
		enc.SetIndent("", "  ")
		if err := enc.Encode(found); err != nil {
			return err
		}
	} else {
		printFindings(cmd.OutOrStdout(), found)
	}
	switch bad {
	case 0:
		return nil
	case 1:
		return errors.New("one thing is bad: mimeod cannot work as it is configured")
	}
	return fmt.Errorf("%d things are bad: mimeod cannot work as it is configured", bad)
}

func printFindings(w io.Writer, found []doctor.Finding) {
	for _, f := range found {
		fmt.Fprintf(w, "%-8s %s: %s\n", f.State, f.Name, f.Text)
		if f.Hint != "" {
			fmt.Fprintf(w, "%-8s   -> %s\n", "", f.Hint)
		}
	}
}
