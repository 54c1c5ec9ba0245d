package server

import (
	"context"
	"log/slog"
	"net"

	"mimeo/internal/cluster/api"
	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/config"
	"mimeo/internal/manage/hook"
	"mimeo/internal/manage/inventory"
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
	for _, i := range s.ifaces {
		now.Interfaces[i.Name] = 0
		if f, err := net.InterfaceByName(i.Name); err == nil && f.Flags&net.FlagRunning != 0 {
			now.Interfaces[i.Name] = 1
		}
	}
	return now, nil
}

func newHooks(cfg config.Config, box hook.Box, log *slog.Logger) *hook.Hooks {
	o := hook.Options{Box: box, Folder: cfg.Hooks.Folder, Log: log}
	for _, w := range cfg.Hooks.Web {
		o.Web = append(o.Web, hook.Web{URL: w.URL, Secret: w.Secret, Events: w.Events})
	}
	return hook.New(o)
}

// ending is told of each job that ends, in the transaction that ends it.
func (s *Server) ending(t *inventory.Tx, j api.Job) error { return s.hooks.Keep(t, j) }

// ended is told of each job that has ended, and does not wait.
func (s *Server) ended(j api.Job) {
	s.counts.Ended(j)
	s.hooks.Wake()
}
