package server

import (
	"context"
	"fmt"

	"mimeo/internal/cluster/node"
	"mimeo/internal/manage/power"
)

// withPower opens the way to a node's power for the length of f, when it is its turn.
func (s *Server) withPower(ctx context.Context, n node.Node, f func(power.Controller) error) error {
	password, err := s.db.BMCPassword(ctx, n.Name)
	if err != nil {
		return err
	}
	if err := s.power.Do(ctx, n.BMC, password, f); err != nil {
		return fmt.Errorf("%s: %w", n.Name, err)
	}
	return nil
}
