package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func statelessCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "stateless", Short: "Build, list, show and remove stateless images"}
	c.AddCommand(statelessBuildCmd(t), statelessListCmd(t), statelessShowCmd(t), statelessRmCmd(t))
	return c
}

func statelessBuildCmd(t *terminal) *cobra.Command {
	var archs []string
	c := &cobra.Command{
		Use:   "build [PROFILE]",
		Short: "Build the stateless image of a profile (imaging, where none is named)",
		Long: `Build the stateless image of a profile: vmlinuz, initrd.img and rootimg, from
Debian packages. The image in use is replaced only when the new one is whole.

Images for other architectures are built without running a program of theirs.`,
		Example: `  mimeo stateless build imaging
  mimeo stateless build imaging --arch amd64,arm64,ppc64el`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req := api.StatelessNew{Profile: "imaging"}
			if len(args) > 0 {
				req.Profile = args[0]
			}
			for _, a := range archs {
				req.Archs = append(req.Archs, node.Arch(a))
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var last api.StatelessProgress
			err = c.Stream(cmd.Context(), http.MethodPost, "/v1/stateless", req, func(data []byte) error {
				last = api.StatelessProgress{}
				if err := json.Unmarshal(data, &last); err != nil {
					return err
				}
				if last.Line != "" {
					fmt.Fprintln(t.err, last.Line)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if last.Error != nil {
				return last.Error
			}
			if !last.Finished {
				return &api.Error{Code: "failed", Message: "the server's answer broke off; the image in use is unchanged unless the build ends well", Hint: `see "mimeo stateless list" in a while`}
			}
			return t.statelessOut(last.Built)
		},
	}
	c.Flags().StringSliceVar(&archs, "arch", nil, "amd64, arm64, ppc64el, with commas; the management node's own where left out")
	return c
}

func (t *terminal) statelessOut(built []api.Stateless) error {
	if t.json {
		return t.printJSON(built)
	}
	rows := [][]string{{"PROFILE", "ARCH", "BUILD", "BUILT", "KERNEL", "VMLINUZ", "INITRD.IMG", "ROOTIMG", "TOTAL", "IN USE"}}
	for _, s := range built {
		var total int64
		for _, f := range s.Files {
			total += f.Size
		}
		use := "-"
		if s.InUse {
			use = "yes"
		}
		rows = append(rows, []string{s.Profile, string(s.Arch), s.Build[:min(12, len(s.Build))], moment(s.Created), s.Kernel,
			size(s.Files["vmlinuz"].Size), size(s.Files["initrd.img"].Size), size(s.Files["rootimg"].Size), size(total), use})
	}
	table(t.out, rows)
	return nil
}

func statelessListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List stateless images", Aliases: []string{"ls"}, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var built []api.Stateless
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/stateless", nil, &built); err != nil {
				return err
			}
			return t.statelessOut(built)
		},
	}
}

func statelessShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "show PROFILE", Short: "Show a profile's stateless images: files, hashes, packages", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var built []api.Stateless
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/stateless/"+url.PathEscape(args[0]), nil, &built); err != nil {
				return err
			}
			if err := t.statelessOut(built); err != nil || t.json {
				return err
			}
			for _, s := range built {
				fmt.Fprintf(t.out, "\n%s %s, build %s\n", s.Profile, s.Arch, s.Build)
				for _, name := range []string{"vmlinuz", "initrd.img", "rootimg"} {
					fmt.Fprintf(t.out, "  %-10s  sha256 %s\n", name, s.Files[name].SHA256)
				}
				if len(s.Packages) > 0 {
					fmt.Fprintf(t.out, "  %s: %s\n", count(len(s.Packages), "package"), strings.Join(s.Packages, " "))
				}
			}
			return nil
		},
	}
}

func statelessRmCmd(t *terminal) *cobra.Command {
	var arch string
	var yes bool
	c := &cobra.Command{
		Use: "rm PROFILE", Short: "Remove a profile's stateless images", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				if err := t.ask(fmt.Sprintf("remove the stateless images of %s %s?", args[0], arch)); err != nil {
					return err
				}
			}
			c, err := connect()
			if err != nil {
				return err
			}
			path := "/v1/stateless/" + url.PathEscape(args[0])
			if arch != "" {
				path += "?arch=" + url.QueryEscape(arch)
			}
			var a api.Affected
			if err := c.Do(cmd.Context(), http.MethodDelete, path, nil, &a); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(a)
			}
			fmt.Fprintf(t.err, "removed %s\n", strings.Join(a.Names, ", "))
			return nil
		},
	}
	c.Flags().StringVar(&arch, "arch", "", "only this architecture")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return c
}
