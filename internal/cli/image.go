package cli

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
)

func imageCmd(t *terminal) *cobra.Command {
	c := &cobra.Command{Use: "image", Short: "List, show, look into, mount, compare, verify, sign, keep and remove images"}
	c.AddCommand(imageListCmd(t), imageShowCmd(t), imageFilesCmd(t), imageCatCmd(t), imageDiffCmd(t), imageMountCmd(t), imageExportCmd(t), imageImportCmd(t), imageBootTestCmd(t), imageVerifyCmd(t), imageSignCmd(t), imageRmCmd(t), imageSetCmd(t), imageRetainCmd(t), imagePinCmd(t, true), imagePinCmd(t, false))
	return c
}

func imageListCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List images and their revisions", Aliases: []string{"ls"},
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := connect()
			if err != nil {
				return err
			}
			var images []api.Image
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/images", nil, &images); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(images)
			}
			rows := [][]string{{"IMAGE", "CAPTURED", "OF", "DISK", "IN USE", "NEW", "STORED", ""}}
			for _, im := range images {
				for _, r := range im.Revisions {
					rows = append(rows, []string{fmt.Sprintf("%s@%d", r.Image, r.Rev), moment(r.Created), dash(r.Node), size(r.DiskSize), size(r.Used), size(r.New), size(r.Stored), untrusted(r)})
				}
			}
			table(t.out, rows)
			return nil
		},
	}
}

// untrusted says of a revision that it cannot be deployed.
func untrusted(r api.Revision) string {
	switch {
	case r.Trusted:
		return ""
	case len(r.Signatures) == 0:
		return "not signed"
	}
	return "signed by nobody who is trusted"
}

// splitImage reads NAME or NAME@REV. Without a revision it asks for the newest.
func (t *terminal) splitImage(cmd *cobra.Command, arg string) (name string, rev int, err error) {
	name, after, ok := strings.Cut(arg, "@")
	if ok {
		if rev, err = strconv.Atoi(after); err != nil || rev < 1 {
			return "", 0, usagef("%q: want NAME or NAME@REV", arg)
		}
		return name, rev, nil
	}
	c, err := connect()
	if err != nil {
		return "", 0, err
	}
	var im api.Image
	if err := c.Do(cmd.Context(), http.MethodGet, "/v1/images/"+url.PathEscape(name), nil, &im); err != nil {
		return "", 0, err
	}
	for _, r := range im.Revisions {
		rev = max(rev, r.Rev)
	}
	if rev == 0 {
		return "", 0, &api.Error{Code: "not_found", Message: fmt.Sprintf("the image %q has no revision yet", name), Hint: `"mimeo image list" shows all`}
	}
	return name, rev, nil
}

func imagePath(name string, rev int) string {
	return fmt.Sprintf("/v1/images/%s/%d", url.PathEscape(name), rev)
}

// shownManifest is the part of a manifest that a person reads. docs/formats/manifest.md has the whole.
type shownManifest struct {
	Source struct {
		Node  string `json:"node"`
		Job   string `json:"job"`
		Agent string `json:"agent"`
		Arch  string `json:"arch"`
	} `json:"source"`
	Disk struct {
		Size       int64  `json:"size"`
		SectorSize int    `json:"sector_size"`
		Model      string `json:"model"`
		Serial     string `json:"serial"`
	} `json:"disk"`
	Table struct {
		Kind  string   `json:"kind"`
		ID    string   `json:"id"`
		Notes []string `json:"notes"`
	} `json:"table"`
	Volumes []struct {
		Partition int    `json:"partition"`
		Off       int64  `json:"off"`
		Len       int64  `json:"len"`
		Type      string `json:"type"`
		UUID      string `json:"uuid"`
		Label     string `json:"label"`
		Method    string `json:"method"`
		Reason    string `json:"reason"`
		Used      int64  `json:"used"`
	} `json:"volumes"`
	Warnings []string `json:"warnings"`
}

func imageShowCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME[@REV]", Short: "Show a revision: its disk, volumes and sizes",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var d struct {
				api.Revision
				Manifest json.RawMessage `json:"manifest"`
				BootTest *api.BootTest   `json:"boot_test,omitempty"`
			}
			if err := c.Do(cmd.Context(), http.MethodGet, imagePath(name, rev), nil, &d); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(d)
			}
			var m shownManifest
			if err := json.Unmarshal(d.Manifest, &m); err != nil {
				return fmt.Errorf("read the manifest of %s@%d: %w", name, rev, err)
			}
			table(t.out, [][]string{
				{"image", fmt.Sprintf("%s@%d", d.Image, d.Rev)}, {"root hash", d.ID}, {"captured", moment(d.Created)},
				{"of", fmt.Sprintf("%s, job %s, agent %s, %s", dash(m.Source.Node), dash(m.Source.Job), m.Source.Agent, m.Source.Arch)},
				{"disk", fmt.Sprintf("%s, sectors of %d bytes, %s serial %s", size(m.Disk.Size), m.Disk.SectorSize, dash(m.Disk.Model), dash(m.Disk.Serial))},
				{"table", strings.TrimSpace(m.Table.Kind + " " + m.Table.ID)},
				{"in use", size(d.Used)}, {"new", size(d.New)}, {"stored", size(d.Stored)}, {"boot test", bootTestLine(d.BootTest)},
				{"signature", signedBy(d.Revision)},
			})
			for _, n := range append(m.Table.Notes, m.Warnings...) {
				fmt.Fprintln(t.out, "note:", n)
			}
			fmt.Fprintln(t.out)
			rows := [][]string{{"PART", "START", "SIZE", "TYPE", "LABEL", "UUID", "IN USE", "HOW"}}
			for _, v := range m.Volumes {
				how := v.Method
				if v.Reason != "" {
					how += ": " + v.Reason
				}
				rows = append(rows, []string{strconv.Itoa(v.Partition), size(v.Off), size(v.Len), v.Type, dash(v.Label), dash(v.UUID), size(v.Used), how})
			}
			table(t.out, rows)
			return nil
		},
	}
}

func imageVerifyCmd(t *terminal) *cobra.Command {
	return &cobra.Command{
		Use: "verify NAME[@REV]", Short: "Read a revision back and check every byte of it",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var last api.VerifyProgress
			var said time.Time
			err = c.Stream(cmd.Context(), http.MethodPost, imagePath(name, rev)+"/verify", nil, func(data []byte) error {
				if err := json.Unmarshal(data, &last); err != nil {
					return err
				}
				if !t.json && last.Total > 0 && time.Since(said) > time.Second {
					said = time.Now()
					end := "\n"
					if isTTY(t.err) {
						end = "\r"
					}
					fmt.Fprintf(t.err, "verifying %s@%d: %3d %%  %s of %s   %s", name, rev, last.Done*100/last.Total, size(last.Done), size(last.Total), end)
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
				return &api.Error{Code: "failed", Message: fmt.Sprintf("verify %s@%d: the server's answer broke off", name, rev), Hint: "try again"}
			}
			if t.json {
				return t.printJSON(last)
			}
			fmt.Fprintf(t.out, "%s@%d is whole: %s read back and checked\n", name, rev, size(last.Done))
			return nil
		},
	}
}

func imageRmCmd(t *terminal) *cobra.Command {
	var yes, dry bool
	c := &cobra.Command{
		Use: "rm NAME@REV", Short: "Remove a revision",
		Long: `Takes a revision off the list. What it took in the store is freed by the next
"mimeo store gc", which runs once a day by itself; "mimeo store stats NAME" shows how
much that is. A revision that is being deployed, or pinned, cannot be removed.

Look first: --dry-run says what removing it would free, and changes nothing.`,
		Example: `  mimeo image rm rocky9@1 --dry-run
  mimeo image rm rocky9@1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !strings.Contains(args[0], "@") {
				return usagef("rm wants NAME@REV, so that nothing newer goes by mistake")
			}
			name, rev, err := t.splitImage(cmd, args[0])
			if err != nil {
				return err
			}
			if dry {
				return t.rmDryRun(cmd, name, rev)
			}
			if !yes {
				if err := t.ask(fmt.Sprintf("remove %s@%d for good?", name, rev)); err != nil {
					return err
				}
			}
			c, err := connect()
			if err != nil {
				return err
			}
			var a api.Affected
			if err := c.Do(cmd.Context(), http.MethodDelete, imagePath(name, rev), nil, &a); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(a)
			}
			fmt.Fprintf(t.err, "removed %s@%d\n", name, rev)
			return nil
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.Flags().BoolVar(&dry, "dry-run", false, "say what it would free, and change nothing")
	return c
}

// rmDryRun says what removing a revision would free.
func (t *terminal) rmDryRun(cmd *cobra.Command, name string, rev int) error {
	c, err := connect()
	if err != nil {
		return err
	}
	var u api.StoreUsage
	if err := c.Do(cmd.Context(), http.MethodGet, "/v1/maintenance/usage?image="+url.QueryEscape(name), nil, &u); err != nil {
		return err
	}
	for _, im := range u.Images {
		for _, r := range im.Revisions {
			if r.Rev != rev {
				continue
			}
			if t.json {
				return t.printJSON(r)
			}
			fmt.Fprintf(t.out, "%s@%d takes %s in the store; removing it would free %s, others have the rest too\n", name, rev, size(r.Stored), size(r.Unique))
			return nil
		}
	}
	return &api.Error{Code: "not_found", Message: fmt.Sprintf("no image %q", fmt.Sprintf("%s@%d", name, rev)), Hint: `"mimeo image list" shows all`}
}
