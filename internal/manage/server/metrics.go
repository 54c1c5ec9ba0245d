package server

import (
	"context"
	"net"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/metrics"
)

// lookNow is what metrics ask for.
func (s *Server) lookNow(ctx context.Context) (metrics.Now, error) {
	nodes, err := s.db.Nodes(ctx)
	if err != nil {
		return metrics.Now{}, err
	}
	now := metrics.Now{Nodes: map[node.BootState]int{node.BootDisk: 0}, Jobs: s.jobs.Active(), FreeBytes: s.storeFree(), Interfaces: map[string]int64{}}
	for _, n := range nodes {
		now.Nodes[n.Boot]++
	}
	st, err := s.store.Stats(ctx)
	if err != nil {
		return metrics.Now{}, err
	}
	now.StoreBytes = st.PackBytes
	load := s.chunks.Load()
	now.RequestBytes, now.Waiting = load.Bytes, load.Waiting
	for _, i := range s.ifaces {
		now.Interfaces[i.Name] = 0
		if f, err := net.InterfaceByName(i.Name); err == nil && f.Flags&net.FlagRunning != 0 {
			now.Interfaces[i.Name] = 1
		}
	}
	return now, nil
}
