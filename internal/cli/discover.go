package cli

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func nodeDiscoveredCmd(t *terminal) *cobra.Command {
	var forget string
	c := &cobra.Command{
		Use:   "discovered",
		Short: "List machines that netbooted and are no node yet",
		Long: `List machines that netbooted and are no node yet. On interfaces with "discovery: on"
in the configuration they are given the stateless image, report their hardware, and
wait for "mimeo node accept", or become nodes by the rules of "accept" in the
configuration. On other interfaces they are not answered.`,
		Example: "  mimeo node discovered\n  mimeo node discovered --forget 52-54-00-00-00-01",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			if forget != "" {
				var gone api.Affected
				if err := c.Do(cmd.Context(), http.MethodDelete, "/v1/discovered/"+url.PathEscape(forget), nil, &gone); err != nil {
					return err
				}
				if t.json {
					return t.printJSON(gone)
				}
				return nil
			}
			var list []api.Discovered
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/discovered", nil, &list); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(list)
			}
			rows := [][]string{{"ID", "INTERFACE", "ADDRESS", "FIRMWARE", "ARCH", "MACHINE", "SERIAL", "BMC", "SWITCH PORT", "MEMORY", "DISKS", "SEEN"}}
			for _, d := range list {
				row := []string{d.ID, d.Interface, dash(d.Addr), dash(string(d.Firmware)), dash(string(d.Arch)), "-", "-", "-", "-", "-", "(not reported yet)", ago(d.Seen)}
				if h := d.Hardware; h != nil {
					disks := []string{}
					for _, k := range h.Disks {
						disks = append(disks, strings.TrimSpace(k.Name+" "+size(k.Size)+" "+k.Serial))
					}
					bmc := ""
					if h.BMC != nil {
						bmc = h.BMC.Addr
					}
					plug := ""
					for _, n := range h.NICs {
						if w := n.Switch; w != nil && strings.EqualFold(n.MAC, d.MAC) {
							plug = cmp.Or(w.Name, w.Chassis) + " " + w.Port
						}
					}
					row = append(row[:5], dash(strings.TrimSpace(h.Vendor+" "+h.Product)), dash(h.Serial), dash(bmc), dash(plug), size(h.Memory), dash(strings.Join(disks, ", ")), ago(d.Seen))
				}
				rows = append(rows, row)
			}
			table(t.out, rows)
			for _, d := range list {
				if d.Note != "" {
					fmt.Fprintf(t.out, "%s: %s\n", d.ID, d.Note)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&forget, "forget", "", "take `ID` off the list, until it asks again")
	return c
}

func nodeAcceptCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use:   "accept ID NAME [KEY=VALUE...]",
		Short: "Make a discovered machine a node",
		Long: `Make a discovered machine a node: with its network cards, the one that it booted from
first, its firmware and architecture, its hardware, and the address of its BMC where
that answered from within. More keys are those of "mimeo node set"; what is said here
goes before what the machine said. It boots anew as this node within half a minute.`,
		Example: `  mimeo node accept 52-54-00-00-00-01 n41 groups=rack3
  mimeo node accept 52-54-00-00-00-01 n41 bmc=redfish://10.0.9.41`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := api.DiscoveredAccept{ID: args[0], Name: node.Name(args[1]), Set: map[string]string{}}
			if err := parseSet(args[2:], req.Set); err != nil {
				return fmt.Errorf("accept: %w", err)
			}
			return t.nodes(cmd, http.MethodPost, "/v1/discovered", req)
		},
	}
}
