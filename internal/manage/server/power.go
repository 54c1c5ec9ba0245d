package server

import (
	"context"
	"fmt"
	"time"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

// keepSessions is how long a session with a BMC stays open for the next command. BMCs end idle ones after a minute.
const keepSessions = 20 * time.Second

// withPower opens the way to a node's power for the length of f, when it is its turn.
func (s *Server) withPower(ctx context.Context, n node.Node, f func(power.Controller) error) error {
	password, err := s.db.BMCPassword(ctx, n.Name)
	if err != nil {
		return err
	}
	if err := s.power.Do(ctx, n, password, f); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}
