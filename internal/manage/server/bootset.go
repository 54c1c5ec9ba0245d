package server

import (
	"context"
	"fmt"
	"time"

	"mimeo/internal/boot/netboot"
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/stateless"
)

// ofJob tells whether a boot state comes and goes with a job.
func ofJob(b node.BootState) bool {
	return b == node.BootCapture || b == node.BootDeploy || b == node.BootWipe
}

// canBoot refuses a boot state that could only fail.
func (s *Server) canBoot(nodes []node.Node, req api.BootSet) error {
	if req.State == node.BootDisk {
		return nil
	}
	if req.Profile != "" && req.State == node.BootMemtest {
		return &api.Error{Code: "bad_request", Message: "memtest has no profile"}
	}
	good, read := map[string]bool{}, map[string]bool{}
	for _, n := range nodes {
		if req.State == node.BootMemtest {
			if err := s.canMemtest(n); err != nil {
				return err
			}
			continue
		}
		if req.Profile != "" {
			n.Profile = req.Profile
		}
		if err := s.canNetboot(n, good); err != nil {
			return err
		}
		profile := orDefault(n.Profile, netboot.DefaultProfile)
		if read[profile] {
			continue
		}
		if _, err := stateless.LoadProfile(s.cfg.State, profile); err != nil {
			return err
		}
		read[profile] = true
	}
	return nil
}

// canMemtest refuses to test the memory of a node that could not start the test.
func (s *Server) canMemtest(n node.Node) error {
	if len(n.NICs) == 0 {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s has no network card to boot from", n.Name), Hint: fmt.Sprintf("mimeo node set %s mac=ADDRESS", n.Name)}
	}
	if why := netboot.NoMemtest(n.Firmware, n.Arch, n.Knobs); why != "" {
		return &api.Error{Code: "bad_request", Message: fmt.Sprintf("%s: %s", n.Name, why)}
	}
	l, err := stateless.ReadLoaders(s.cfg.State)
	if _, have := l.Files[netboot.FileMemtestBIOS]; err != nil || !have {
		return &api.Error{Code: "no_image", Message: "memtest86+ is not among the loaders", Hint: "build a stateless image, which fetches it: mimeo stateless build imaging"}
	}
	return nil
}

// onceAgain is how long a node that boots something once may ask for its script again: loaders do so where an answer was
// lost, and that is no second boot.
const onceAgain = 20 * time.Second

// onceOver tells whether a node that asks for its script has had what it boots once, though nobody saw it load that.
func (s *Server) onceOver(n node.Node) bool {
	if !n.BootOnce || n.Boot == node.BootDisk {
		return false
	}
	first, again := s.once.LoadOrStore(n.Name, time.Now())
	return again && time.Since(first.(time.Time)) > onceAgain
}

// booted takes note that a node has loaded what it boots once: the next time it boots its disk.
func (s *Server) booted(ctx context.Context, n node.Node) {
	if _, active := s.jobs.OfNode(n.Name); active || !n.BootOnce || n.Boot == node.BootDisk {
		return
	}
	if err := s.endOnce(context.WithoutCancel(ctx), n); err != nil {
		s.log.Error("boot state is not set", "node", n.Name, "err", err)
	}
}
