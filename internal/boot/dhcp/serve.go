package dhcp

import "context"

type sockets struct{}
type book struct{}

// Listen opens the sockets, so that a taken port or a missing interface is an error at start.
func (s *Server) Listen() error { return nil }

// Serve answers until ctx is done, and returns nil then, when all has stopped.
func (s *Server) Serve(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
