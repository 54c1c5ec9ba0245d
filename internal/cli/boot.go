package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func bootCmd(t *terminal) *cobra.Command {
	req := api.BootSet{}
	var keyFile string
	var yes bool
	c := &cobra.Command{
		Use:   "boot RANGE [disk | shell | stateless | memtest | discover] [PROFILE]",
		Short: "Show or change what nodes boot next",
		Long: `Show or change what nodes boot next, and from then on:

  disk       their own disk; the state in which every job leaves them
  shell      the stateless image, with a shell on its console and by SSH, for rescue
  stateless  the system in RAM of PROFILE, or of the node's own profile, with its
             mounts and postscripts: how nodes without disks live
  memtest    memtest86+ (amd64), until another state is set and the node restarted;
             what it finds is on the node's screen and serial console alone
  discover   the stateless image, to report its hardware anew; with --once it goes
             back to its disk then

Nodes are not restarted unless --cycle says so; with several it asks.`,
		Example: `  mimeo boot n07                       # what does it boot?
  mimeo boot n07 shell --cycle --ssh-key ~/.ssh/id_ed25519.pub
  mimeo boot n07 disk --cycle
  mimeo boot "n[01-40]" stateless compute --cycle
  mimeo boot n07 discover --once --cycle
  mimeo boot explain n07               # what would it be offered now, and why?`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				nodes, err := t.hit(cmd, args[0])
				if err != nil {
					return err
				}
				if t.json {
					return t.printJSON(nodes)
				}
				t.listNodes(nodes)
				return nil
			}
			req.Range, req.State = args[0], node.BootState(args[1])
			if len(args) == 3 {
				req.Profile = args[2]
			}
			if keyFile != "" {
				b, err := os.ReadFile(keyFile)
				if err != nil {
					return err
				}
				for _, l := range strings.Split(string(b), "\n") {
					if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "#") {
						req.SSHKeys = append(req.SSHKeys, l)
					}
				}
			}
			if req.Cycle && !yes {
				nodes, err := t.hit(cmd, req.Range)
				if err != nil {
					return err
				}
				if err := t.confirm(yes, nodes, "they are power-cycled now"); err != nil {
					return err
				}
				req.Range = exactly(nodes)
			}
			err := t.nodes(cmd, http.MethodPost, "/v1/boot", req)
			if err == nil && req.State == node.BootMemtest {
				fmt.Fprintln(t.err, "what memtest86+ finds is on the nodes' screens and serial consoles alone: Mimeo does not learn it")
			}
			return err
		},
	}
	c.Flags().BoolVar(&req.Once, "once", false, "for one boot, then disk again")
	c.Flags().BoolVar(&req.Cycle, "cycle", false, "power-cycle them now")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask, however many are power-cycled")
	c.Flags().StringVar(&keyFile, "ssh-key", "", "public key `file` that may sign in as root to the shell or stateless system")
	c.AddCommand(&cobra.Command{
		Use: "explain NODE", Short: "Say what a node would be offered now, and why",
		Long: `Say what a node would be offered now, if it netbooted: by which firmware, at which
address, the loader, the script that the loader fetches, and why. Nothing changes.
What it was offered the last times is in "mimeo node events".`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var e api.BootExplain
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/nodes/"+url.PathEscape(args[0])+"/boot", nil, &e); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(e)
			}
			firmware := dash(string(e.Firmware))
			switch e.From {
			case "learnt":
				firmware += ", learnt from its requests"
			case "own", "group":
				firmware += ", as was set"
			}
			table(t.out, [][]string{{"node", string(e.Node)}, {"firmware", firmware}, {"arch", dash(string(e.Arch))}, {"dhcp", dash(e.DHCP)}, {"address", dash(e.Address)},
				{"boots", e.Decision}, {"why", e.Why}, {"loader", dash(e.Loader)}})
			if e.Script != "" {
				fmt.Fprintf(t.out, "\n%s\n", strings.TrimRight(e.Script, "\n"))
			}
			return nil
		},
	})
	return c
}
