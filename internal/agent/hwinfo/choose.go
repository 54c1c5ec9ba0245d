package hwinfo

import (
	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
)

// ChooseDisk is api.ChooseDisk on the disks of this machine.
func ChooseDisk(rule node.DiskRule, disks []Disk) (Disk, error) {
	known := make([]api.Disk, len(disks))
	for i, d := range disks {
		known[i] = d.Disk
	}
	i, err := api.ChooseDisk(rule, known)
	if err != nil {
		return Disk{}, err
	}
	return disks[i], nil
}
