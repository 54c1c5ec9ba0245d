// Package nfs serves folders to nodes by NFS version 3, read-only.
//
// Mount and file service share one TCP port and there is no port mapper, so a node mounts with
// "vers=3,nolock,proto=tcp,port=4449,mountport=4449,mountproto=tcp".
package nfs

import (
	"log/slog"
	"net"
)

// Server serves exports.
type Server struct {
	Addr    string            // host:port; empty means :4449
	Exports map[string]string // path that nodes mount, as /postscripts, to the folder
	Log     *slog.Logger      // nil means silent

	listener net.Listener
}
