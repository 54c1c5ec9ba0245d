package agent

import (
	"errors"

	"mimeo/internal/agent/hwinfo"
	"mimeo/internal/cluster/node"
	"mimeo/internal/imaging/capture"
	"mimeo/internal/imaging/deploy"
	"mimeo/internal/imaging/manifest"
)

// opened is the chosen disk, open.
type opened interface {
	deploy.Target
	Plan() (capture.Plan, error)
	Identity() manifest.Disk
	Close() error
}

func openDisk(d hwinfo.Disk, write bool) (opened, error) {
	return nil, errors.New("disks cannot be opened yet")
}

func volumes(d hwinfo.Disk, m *manifest.Manifest) ([]volume, error) {
	return nil, errors.New("disks cannot be opened yet")
}

func (j *job) arch() node.Arch { return hwinfo.Arch() }
