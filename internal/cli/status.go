package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/client"
)

func statusCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show what the management node is doing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var s api.ServerStatus
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/status", nil, &s); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(s)
			}
			room := size(s.StoreBytes)
			if s.FreeBytes > 0 {
				room += ", " + size(s.FreeBytes) + " free"
			}
			rows := [][]string{{"version", s.Version}, {"started", ago(s.Started)}, {"state", s.StateDir},
				{"store", room},
				{"nodes", fmt.Sprint(s.Nodes)}, {"active jobs", fmt.Sprint(s.ActiveJobs)}}
			if s.Copy != nil {
				rows = append(rows, []string{"copy", copyText(s.Copy)})
			}
			for _, i := range s.Interfaces {
				rows = append(rows, []string{"interface", strings.TrimSpace(i.Name + " " + i.Addr + ", DHCP " + i.DHCP)})
				for _, n := range i.Networks {
					if n.Size > 0 {
						rows = append(rows, []string{"pool", fmt.Sprintf("%s: %d of %d free", n.Network, n.Free, n.Size)})
					}
				}
			}
			table(t.out, rows)
			for _, i := range s.Interfaces {
				t.warnFull(i.Networks)
			}
			return nil
		},
	}
}

func loginCmd(t *terminal) *cobra.Command {
	var a client.Access
	c := &cobra.Command{
		Use:   "login https://ADDRESS:4443",
		Short: "Remember a management node and a token for this user",
		Long: `Remember a management node and a token for this user. The pin is the SHA-256 of
the server's key; mimeod prints it when it starts. The token is read from
standard input unless MIMEO_TOKEN holds it.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.Server, a.Token = args[0], os.Getenv("MIMEO_TOKEN")
			if a.Token == "" {
				if isTTY(t.in) {
					fmt.Fprint(t.err, "token: ")
				}
				if _, err := fmt.Fscanln(t.in, &a.Token); err != nil {
					return usagef("no token: %w", err)
				}
			}
			var s api.ServerStatus
			if err := client.New(a).Do(cmd.Context(), http.MethodGet, "/v1/status", nil, &s); err != nil {
				return err
			}
			f := client.UserFile()
			if f == "" {
				return fmt.Errorf("no home folder to keep the token in: set MIMEO_SERVER, MIMEO_PIN and MIMEO_TOKEN instead")
			}
			if err := os.MkdirAll(filepath.Dir(f), 0o700); err != nil {
				return err
			}
			b, err := json.MarshalIndent(a, "", "  ")
			if err != nil {
				return err
			}
			if err := os.WriteFile(f, append(b, '\n'), 0o600); err != nil {
				return err
			}
			fmt.Fprintf(t.err, "signed in to %s, version %s; kept in %s\n", a.Server, s.Version, f)
			return nil
		},
	}
	c.Flags().StringVar(&a.Pin, "pin", "", "SHA-256 of the server's key")
	return c
}

// copyText is how the copying to the second store stands, in a line.
func copyText(c *api.StoreCopy) string {
	text := c.To + ": " + c.State
	switch {
	case c.State == "copying" && c.Total > 0:
		text += fmt.Sprintf(" %s, %d %%", c.Revision, 100*c.Done/c.Total)
	case c.State == "done":
		text += fmt.Sprintf(" %s, %d revisions", ago(c.Since), c.There)
	case c.Error != nil:
		text += " " + ago(c.Since) + ": " + c.Error.Message
		if c.Error.Hint != "" {
			text += " (" + c.Error.Hint + ")"
		}
	}
	if n := len(c.Problems); n > 0 {
		text += fmt.Sprintf("; %d cannot be copied, the first: %s", n, c.Problems[0])
	}
	return text
}
