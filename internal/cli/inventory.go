package cli

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/roster"
)

func inventoryCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "inventory", Short: "Write nodes and groups to a file, and read them from one"}
	c.AddCommand(inventoryExportCmd(t), inventoryImportCmd(t))
	return c
}

func inventoryExportCmd(t *terminal) *cobra.Command {
	var format string
	c := &cobra.Command{
		Use: "export [RANGE]", Short: "Write nodes and groups as YAML or CSV",
		Long: `Write what was said of nodes and groups to standard output, all of them or the
nodes of RANGE and the groups from which they inherit. What nodes inherit or have
shown of themselves is not in it, so that an import gives the same inventory.

BMC passwords are never written: they do not leave the management node. Keep its
state folder safe, or set them anew where you import.`,
		Example: "  mimeo inventory export > nodes.yaml\n  mimeo inventory export @rack3 --format csv > rack3.csv",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			path := "/v1/inventory"
			if len(args) > 0 {
				path += "?range=" + url.QueryEscape(args[0])
			}
			var inv api.Inventory
			if err := c.Do(cmd.Context(), http.MethodGet, path, nil, &inv); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(inv)
			}
			text, err := roster.Write(roster.Format(format), inv)
			if err != nil {
				return usageError{err}
			}
			_, err = t.out.Write(text)
			return err
		},
	}
	c.Flags().StringVar(&format, "format", "yaml", "yaml or csv")
	return c
}

// maxFile bounds a file that is imported, in bytes. The server takes less.
const maxFile = 64 << 20

func inventoryImportCmd(t *terminal) *cobra.Command {
	var format string
	var f consent
	var replace bool
	c := &cobra.Command{
		Use: "import FILE", Short: "Make and change nodes and groups as a YAML or CSV file says",
		Long: `Make and change nodes and groups as a file says, all of it or nothing. What would
change is shown first, and where it is more than one node, it asks.

Nodes and groups that the file does not name stay as they are, and so do keys that
it does not give; an empty value, or an empty cell in CSV, unsets. With --replace,
of nodes and groups that it names, keys that it does not give are unset as well
(but for bmc.password, which an export never has).

CSV: the first line names the columns: name, kind (node or group; node if there is
no such column), and keys. docs/formats/inventory.md describes both forms.`,
		Example: `  mimeo inventory import nodes.csv --dry-run
  mimeo inventory import nodes.yaml --yes
  mimeo inventory export | sed s/ops/root/ | mimeo inventory import - --format yaml --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			inv, err := t.readInventory(args[0], roster.Format(format))
			if err != nil {
				return err
			}
			req := api.InventoryPut{Inventory: inv, Replace: replace}
			return t.plan(cmd, f, http.MethodPost, "/v1/inventory", func(dry bool, expect string) any {
				req.DryRun, req.Expect = dry, expect
				return req
			})
		},
	}
	c.Flags().StringVar(&format, "format", "", "yaml or csv; told by the file's name otherwise")
	c.Flags().BoolVar(&replace, "replace", false, "unset the keys that the file does not give, of what it names")
	f.flags(c)
	return c
}

func (t *terminal) readInventory(path string, f roster.Format) (inv api.Inventory, err error) {
	if f == "" {
		if f, err = roster.FormatOf(path); err != nil {
			return inv, usageError{err}
		}
	}
	in := t.in
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return inv, err
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return inv, fmt.Errorf("%s: %w", path, err)
	}
	if len(text) > maxFile {
		return inv, fmt.Errorf("%s: it has more than %d bytes", path, maxFile)
	}
	inv, err = roster.Read(f, text)
	var wrong roster.Errors
	if errors.As(err, &wrong) {
		return inv, &api.Error{Code: "bad_request", Message: "nothing was changed: " + path + ": " + strings.ReplaceAll(wrong.Error(), "\n", "\n  "+path+": "), Hint: `"mimeo node set --help" lists the keys; docs/formats/inventory.md describes the file`}
	}
	return inv, err
}
