package cli

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

func wipeCmd(t *terminal) *cobra.Command {
	var watch, yes bool
	req := api.JobNew{Kind: api.TaskWipe}
	c := &cobra.Command{
		Use:   "wipe RANGE",
		Short: "Erase the disks of nodes, and prove it",
		Long: `Erase the disks of nodes. All that they hold is lost.

The disk of each node is its only one, or the one that its disk.* rule names; a
node where none or several match fails, untouched. --all-disks erases every disk
that is not removable. Nodes and disks are named, and asked about.

  auto          the first of the next three that the disk can do; the job says which
  secure-erase  the disk's own command, which reaches what no address does:
                ATA SECURITY ERASE UNIT, NVMe Sanitize or Format, SCSI SANITIZE
  discard       all blocks are given back, where it is promised that they read as
                zeros from then on; both ends and a thousand places are read
  zero          zeros are written to every block, and all are read back
  crypto        the disk forgets the key with which it encrypts (NVMe, SCSI)

A method that is named is never replaced by another: a disk that cannot do it
fails, untouched. The partition tables go first, so that nothing boots from a disk
that was wiped in part. A command that a disk works at by itself cannot be stopped.

A wipe that is done has a certificate: "mimeo job certificate JOB". The nodes'
boot state is disk then, and there is nothing on it to boot.`,
		Example: `  mimeo wipe n07 --watch
  mimeo wipe "n[01-40]" --method secure-erase --yes
  mimeo wipe n07 --all-disks --method zero
  mimeo job certificate j12`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains(api.WipeMethods, req.Method) {
				return usagef("wipe: method %q is none of %s", req.Method, strings.Join(api.WipeMethods, ", "))
			}
			req.Range = args[0]
			nodes, err := t.wipePreflight(cmd, &req, yes)
			if err != nil {
				return err
			}
			req.Skip = nodes > 1
			return t.startJobs(cmd, req, later{}, watch)
		},
	}
	f := c.Flags()
	f.StringVar(&req.Method, "method", api.WipeAuto, "`HOW`: "+strings.Join(api.WipeMethods, ", "))
	f.BoolVar(&req.AllDisks, "all-disks", false, "every disk that is not removable, not the one of the disk rule")
	f.BoolVarP(&watch, "watch", "w", false, "show progress until all jobs end")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.IntVar(&req.Max, "max", 0, "at most `N` nodes at a time; the others wait for their turn")
	f.BoolVar(&req.FailFast, "fail-fast", false, "begin no more once one has failed")
	f.IntVar(&req.Tries, "tries", 0, "netboots before giving up (3)")
	f.StringVar(&req.Key, "key", "", "the same key twice gives the same jobs (for scripts)")
	return c
}

// wipePreflight names what will be erased, and asks, also where it is one disk.
func (t *terminal) wipePreflight(cmd *cobra.Command, req *api.JobNew, yes bool) (int, error) {
	c, err := connect()
	if err != nil {
		return 0, err
	}
	var p api.Preflight
	if err := c.Do(cmd.Context(), http.MethodPost, "/v1/jobs/preflight", req, &p); err != nil {
		return 0, err
	}
	fit := t.showPreflight(p, false)
	if fit == 0 || req.FailFast && fit < len(p.Nodes) {
		return len(p.Nodes), nil // it is refused, with the reason
	}
	shown, disks, unknown := 0, 0, 0
	var nodes []api.NodeStatus
	for _, n := range p.Nodes {
		nodes = append(nodes, api.NodeStatus{Node: node.Node{Name: n.Node}})
		if n.Problem != nil {
			continue
		}
		list := n.Disks
		if n.Disk != nil {
			list = []api.Disk{*n.Disk}
		}
		disks += len(list)
		text := make([]string, 0, len(list))
		for _, d := range list {
			text = append(text, d.Describe())
		}
		if len(list) == 0 {
			unknown++
			text = []string{"the disk that its rule matches when it looks; none is known yet"}
			if req.AllDisks {
				text = []string{"all of its disks; none is known yet"}
			}
		}
		if shown++; shown <= maxProblems {
			fmt.Fprintf(t.err, "%s: %s\n", n.Node, strings.Join(text, "; "))
		}
	}
	if shown > maxProblems {
		fmt.Fprintf(t.err, "... and %d more nodes\n", shown-maxProblems)
	}
	req.Range = exactly(nodes)
	if yes {
		return len(p.Nodes), nil
	}
	what := count(disks, "disk")
	if unknown > 0 {
		what = fmt.Sprintf("%s, and those of %s that have not reported any,", what, count(unknown, "node"))
	}
	return len(p.Nodes), t.ask(fmt.Sprintf("erase %s by %s? All data on them is lost", what, req.Method))
}

func jobCertificateCmd(t *terminal) *cobra.Command {
	var check, key string
	c := &cobra.Command{
		Use:   "certificate [JOB]",
		Short: "Show the certificate of a wipe, or list all",
		Long: `Show the certificate of a wipe: which disks, how, when, and how it was checked, signed
by the management node. With --json it is printed as it is to be kept. Without JOB all
certificates are listed; they stay when jobs and nodes are removed.

--check reads a certificate that was kept, needs no server, and says whether it is as
it was signed; --key is the key that it must be signed with ("mimeo job certificate"
shows it), without which anybody's signature counts.`,
		Example: `  mimeo job certificate j12
  mimeo job certificate j12 --json > n07-wiped.json
  mimeo job certificate --check n07-wiped.json --key q83v...`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if check != "" {
				if len(args) > 0 {
					return usagef("certificate: --check reads a file and takes no JOB")
				}
				return t.checkCertificate(check, key)
			}
			c, err := connect()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				var list []api.CertificateEntry
				if err := c.Do(cmd.Context(), http.MethodGet, "/v1/certificates", nil, &list); err != nil {
					return err
				}
				if t.json {
					return t.printJSON(list)
				}
				rows := [][]string{{"JOB", "NODE", "ISSUED", "DISKS"}}
				for _, e := range list {
					rows = append(rows, []string{e.Job, string(e.Node), moment(e.Issued), strings.Join(e.Disks, " ")})
				}
				table(t.out, rows)
				return nil
			}
			var s api.SignedCertificate
			if err := c.Do(cmd.Context(), http.MethodGet, "/v1/jobs/"+url.PathEscape(args[0])+"/certificate", nil, &s); err != nil {
				return err
			}
			if t.json {
				return t.printJSON(s)
			}
			return t.showCertificate(s)
		},
	}
	c.Flags().StringVar(&check, "check", "", "`FILE` with a certificate to check")
	c.Flags().StringVar(&key, "key", "", "public `KEY` that it must be signed with")
	return c
}

// readCertificate takes a certificate out of its envelope, if the signature is right.
func readCertificate(s api.SignedCertificate) (c api.Certificate, err error) {
	var text bytes.Buffer
	if err := json.Compact(&text, s.Certificate); err != nil {
		return c, fmt.Errorf("read the certificate: %w", err)
	}
	if s.Algorithm != "ed25519" || len(s.Key) != ed25519.PublicKeySize || !ed25519.Verify(s.Key, text.Bytes(), s.Signature) {
		return c, &api.Error{Code: "refused", Message: "the certificate is not as it was signed"}
	}
	if err := json.Unmarshal(text.Bytes(), &c); err != nil {
		return c, fmt.Errorf("read the certificate: %w", err)
	}
	if c.Version != api.CertificateVersion {
		return c, fmt.Errorf("the certificate has version %d, this program reads %d", c.Version, api.CertificateVersion)
	}
	return c, nil
}

func (t *terminal) checkCertificate(file, key string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var s api.SignedCertificate
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if key != "" && key != base64.StdEncoding.EncodeToString(s.Key) {
		return &api.Error{Code: "refused", Message: fmt.Sprintf("%s was signed with another key, %s", file, base64.StdEncoding.EncodeToString(s.Key))}
	}
	return t.showCertificate(s)
}

func (t *terminal) showCertificate(s api.SignedCertificate) error {
	c, err := readCertificate(s)
	if err != nil {
		return err
	}
	if t.json {
		return t.printJSON(c)
	}
	rows := [][]string{{"certificate", "job " + c.Job + ", node " + string(c.Node)}, {"issued", c.Issued.Local().Format(time.RFC3339)},
		{"machine", dash(strings.TrimSpace(strings.Join([]string{c.Machine.Vendor, c.Machine.Product}, " ")))}, {"machine's serial", dash(c.Machine.Serial)}, {"machine's UUID", dash(c.Machine.UUID)}}
	for _, d := range c.Disks {
		rows = append(rows, []string{"", ""}, []string{"disk", dash(d.Disk.Model)}, []string{"serial", dash(d.Disk.Serial)}, []string{"WWN", dash(d.Disk.WWN)}, []string{"size", api.DiskSize(d.Disk.Size)},
			[]string{"asked for", d.Asked}, []string{"done by", d.Method + ": " + d.Command}, []string{"begun", d.Start.Local().Format(time.RFC3339)}, []string{"ended", d.End.Local().Format(time.RFC3339)},
			[]string{"checked", d.Verified + fmt.Sprintf(" (%d bytes)", d.Read)})
		for _, n := range d.Notes {
			rows = append(rows, []string{"note", n})
		}
	}
	rows = append(rows, []string{"", ""}, []string{"agent, build", c.Agent + ", " + c.Build}, []string{"server", c.Server}, []string{"key", base64.StdEncoding.EncodeToString(s.Key)}, []string{"signature", "right (ed25519)"})
	table(t.out, rows)
	return nil
}
