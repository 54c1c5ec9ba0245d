package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func dhcpCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{
		Use:   "dhcp",
		Short: "Show addresses that were given, and how other DHCP servers are told of Mimeo",
		Example: `  mimeo dhcp networks                  # how full are the pools?
  mimeo dhcp leases                    # who has which address?
  mimeo dhcp leases "n[01-16]"
  mimeo dhcp snippet kea               # for the DHCP server of the site`,
	}
	c.AddCommand(dhcpLeasesCmd(t), dhcpNetworksCmd(t), dhcpSnippetCmd(t))
	return c
}

func dhcpStatus(cmd *cobra.Command) (s api.DHCPStatus, err error) {
	c, err := connect()
	if err != nil {
		return s, err
	}
	return s, c.Do(cmd.Context(), http.MethodGet, "/v1/dhcp", nil, &s)
}

func dhcpLeasesCmd(t *terminal) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "leases [RANGE]",
		Short: "Show which address each node was given, and until when",
		Long: `Show which address each node was given, and until when. "conflict" is an address
at which another machine was found: nobody gets it until the time. Leases that
have ended are shown with --all; their nodes get the same address again.`,
		Example: `  mimeo dhcp leases
  mimeo dhcp leases n07 --all
  mimeo --json dhcp leases`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := dhcpStatus(cmd)
			if err != nil {
				return err
			}
			var only []node.Name
			if len(args) == 1 {
				hit, err := t.hit(cmd, args[0])
				if err != nil {
					return err
				}
				for _, n := range hit {
					only = append(only, n.Name)
				}
			}
			s.Leases = slices.DeleteFunc(s.Leases, func(l api.DHCPLease) bool {
				return !all && l.State == api.LeaseEnded || len(args) == 1 && !slices.Contains(only, l.Node)
			})
			if t.json {
				return t.printJSON(s.Leases)
			}
			rows := [][]string{{"ADDRESS", "NODE", "MAC", "STATE", "UNTIL"}}
			for _, l := range s.Leases {
				rows = append(rows, []string{l.Addr, dash(string(l.Node)), l.MAC, l.State, moment(l.Expires)})
			}
			table(t.out, rows)
			t.warnFull(s.Networks)
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "also those that have ended")
	return c
}

func dhcpNetworksCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "networks",
		Short: "Show the networks in which nodes are served, and how full their pools are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := dhcpStatus(cmd)
			if err != nil {
				return err
			}
			if t.json {
				return t.printJSON(s.Networks)
			}
			rows := [][]string{{"INTERFACE", "DHCP", "NETWORK", "POOL", "LEASED", "CONFLICTS", "RESERVED", "FREE", "REFUSED"}}
			for _, n := range s.Networks {
				network := n.Network
				if n.Server == "" {
					network += " (relay)"
				}
				if n.DHCP != "full" {
					rows = append(rows, []string{n.Interface, n.DHCP, network, "-", "-", "-", "-", "-", "-"})
					continue
				}
				rows = append(rows, []string{n.Interface, n.DHCP, network, dash(strings.Join(n.Pool, ",")),
					fmt.Sprint(n.Leased), fmt.Sprint(n.Conflicts), fmt.Sprint(n.Reserved), fmt.Sprint(n.Free), fmt.Sprint(n.Refused)})
			}
			table(t.out, rows)
			t.warnFull(s.Networks)
			return nil
		},
	}
}

func dhcpSnippetCmd(t *terminal) *cobra.Command {
	var iface string
	c := &cobra.Command{
		Use:   "snippet dnsmasq|isc|kea",
		Short: "Print what the site's own DHCP server needs to boot the nodes",
		Long: `Print what the site's own DHCP server needs to boot the nodes, where mimeod shall
answer no DHCP at all (dhcp: off): the nodes that are known, with their fixed
addresses, and the boot file of each firmware. Other machines are left alone.
Nodes that are added later are not in it: print it anew then.`,
		Example: `  mimeo dhcp snippet dnsmasq >/etc/dnsmasq.d/mimeo.conf
  mimeo dhcp snippet isc --interface eth1 >/etc/dhcp/mimeo.conf
  mimeo dhcp snippet kea`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var s api.DHCPSnippet
			q := url.Values{"server": {args[0]}, "interface": {iface}}
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/dhcp/snippet?"+q.Encode(), nil, &s); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(s)
			}
			fmt.Fprint(t.out, s.Text)
			if s.Note != "" {
				fmt.Fprintln(t.err, "mimeo: note:", s.Note)
			}
			return nil
		},
	}
	c.Flags().StringVar(&iface, "interface", "", "of mimeod, through which the nodes are reached; default: the one with dhcp off")
	return c
}

// warnFull tells of pools that have nothing left to give.
func (t *terminal) warnFull(networks []api.DHCPNetwork) {
	for _, n := range networks {
		if text := full(n); text != "" {
			fmt.Fprintln(t.err, "mimeo: warning:", text)
			fmt.Fprintln(t.err, "mimeo: hint: enlarge \"pool\" or shorten \"lease\" in the configuration of mimeod, or give nodes fixed addresses (mimeo node set n07 ip=ADDRESS)")
		}
	}
}

// full says that a pool is all in use, or "".
func full(n api.DHCPNetwork) string {
	if n.Size == 0 || n.Free > 0 {
		return ""
	}
	text := fmt.Sprintf("the pool of %s on %s is all in use: %d leased, %d conflicts, %d reserved", n.Network, n.Interface, n.Leased, n.Conflicts, n.Reserved)
	if n.RefusedAt != nil {
		text += fmt.Sprintf("; %d requests found no address, the last %s", n.Refused, ago(*n.RefusedAt))
	}
	return text
}
