package server

import (
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
	good, read := map[string]bool{}, map[string]bool{}
	for _, n := range nodes {
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
