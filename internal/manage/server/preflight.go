package server

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/manifest"
	"mimeo/internal/manage/job"
)

func (s *Server) preflight(r *http.Request) (any, error) {
	req, err := read[api.JobNew](r)
	if err != nil {
		return nil, err
	}
	p, err := s.plan(r.Context(), req)
	if err != nil {
		return nil, err
	}
	out := api.Preflight{Image: p.image, Rev: p.rev.Rev}
	if p.manifest != nil {
		out.Used, out.Need = p.manifest.Content.Used, p.manifest.Needed()
	}
	out.Nodes, err = s.look(r.Context(), p)
	return out, err
}

// look says of each node of a plan whether it can take it. Of what only a report of its hardware says, which may be out
// of date, a node that is asked for alone is warned only: it looks itself, before it writes anything.
func (s *Server) look(ctx context.Context, p plan) ([]api.PreflightNode, error) {
	out := []api.PreflightNode{}
	good := map[string]bool{}
	for _, n := range p.nodes {
		l := api.PreflightNode{Node: n.Name}
		problem := func(err error) {
			if err != nil && l.Problem == nil {
				l.Problem = badRequest(err)
			}
		}
		problem(s.canNetboot(n, good))
		// The profile and the postscripts are looked at before any node is touched.
		problem(s.furnish(ctx, &api.Task{Kind: p.req.Kind, Image: p.image}, n, netip.IPv4Unspecified()))
		if r, ok := s.jobs.OfNode(n.Name); ok {
			problem(job.Busy(n.Name, r.ID))
		}
		f, err := s.db.Facts(ctx, n.Name)
		if err != nil {
			return nil, err
		}
		reported := check(p.req.Kind, p.manifest, n, f.Hardware)
		if p.req.AllDisks {
			reported = finding{}
			l.Disks = fixedDisks(f.Hardware)
		}
		l.Disk, l.Warnings = reported.disk, reported.warnings
		if len(p.nodes) > 1 && reported.problem != nil {
			problem(reported.problem)
		} else if reported.problem != nil {
			l.Warnings = append([]string{reported.problem.Message}, l.Warnings...)
		}
		switch {
		case n.BMC.URL == "" || n.BMC.URL == "manual:":
			l.Warnings = append(l.Warnings, "it has no BMC: a person must switch it on")
		case strings.HasPrefix(n.BMC.URL, "wol:"):
			l.Warnings = append(l.Warnings, "Wake-on-LAN switches it on, and not off: a person must reboot it where it is on")
		}
		out = append(out, l)
	}
	return out, nil
}

// finding is what a node's last report says to a plan.
type finding struct {
	disk     *api.Disk
	problem  *api.Error
	warnings []string
}

// GPT types by which a firmware finds what to boot, UEFI 2.10 section 5.3.3 table 5.7, GRUB's manual and the Power
// Architecture Platform Reference.
const (
	gptESP  = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	gptBIOS = "21686148-6449-6e6f-744e-656564454649"
	gptPReP = "9e1a2d38-c612-4316-aa26-8b49521e5a8b"
)

// check compares what a node has reported with what a job needs: the one disk, its size and sectors, the architecture
// and what its firmware boots from. m is nil for a capture.
func check(kind api.TaskKind, m *manifest.Manifest, n node.Node, hw *api.Hardware) (f finding) {
	stop := func(hint, format string, args ...any) {
		if f.problem == nil {
			f.problem = &api.Error{Code: "unfit", Message: string(n.Name) + ": " + fmt.Sprintf(format, args...), Hint: hint}
		}
	}
	if hw == nil {
		f.warnings = append(f.warnings, "it has not reported its disks yet: it looks itself, before it writes anything")
	} else if i, err := api.ChooseDisk(n.Disk, hw.Disks); err != nil {
		e := toAPIError(err)
		stop(e.Hint, "%s", e.Message)
	} else if kind != api.TaskCapture {
		f.disk = &hw.Disks[i]
	}
	if m == nil {
		return f
	}
	const reported = `this is as it was last reported; one node alone is not held back by it`
	if d := f.disk; d != nil {
		if d.SectorSize > 0 {
			if why := m.OtherSectors(d.SectorSize); why != "" {
				stop(reported, "the disk %s has sectors of %d bytes, the image was captured from one with %d: %s", d.Name, d.SectorSize, m.Disk.SectorSize, why)
			}
		}
		if need := m.Needed(); d.Size < need {
			stop(reported, "the disk %s is too small: the image needs %s, it has %s: %s", d.Name, api.DiskSize(need), api.DiskSize(d.Size), m.NeededBy())
		}
	}
	if n.Arch != "" && m.Source.Arch != "" && string(n.Arch) != m.Source.Arch {
		stop("", "the image was captured on %s, the node is %s", m.Source.Arch, n.Arch)
	}
	var esp, bios, prep bool
	for _, p := range m.Table.Partitions {
		esp = esp || p.Type == gptESP || p.Type == "ef" && m.Table.Kind == "mbr"
		bios = bios || p.Type == gptBIOS
		prep = prep || p.Type == gptPReP || p.Type == "41" && m.Table.Kind == "mbr"
	}
	switch n.Firmware {
	case node.UEFI, node.UEFIHTTP:
		if !esp {
			stop("", "it boots by UEFI, and the image has no EFI system partition")
		}
	case node.OpenFirmware:
		if !prep {
			stop("", "it boots by Open Firmware, and the image has no PReP partition")
		}
	case node.BIOS:
		if m.Table.Kind == "gpt" && !bios {
			f.warnings = append(f.warnings, "it boots by BIOS, and the image's GPT has no BIOS boot partition: it may not boot")
		}
	}
	return f
}
